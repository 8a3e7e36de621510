"""Whose file of unsaved steps it is: of a worker that lives, or of one that is gone."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kimiflow.errors import StoreError
from kimiflow.logs import get_logger
from kimiflow.scheduling.spill import Spill, recover
from kimiflow.stores.memory import MemoryStore
from tests.stores.contract.making import NOW, claim_one, issue, now_granted, pending, refreshing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from kimiflow.stores.base import Outcome, Step

REPOSITORY = Path(__file__).parents[2]

# Takes the place of a file as a worker does, and waits to be killed.
CHILD = """
import sys
from pathlib import Path
from kimiflow.scheduling.spill import _write
path = Path(sys.argv[1])
held = _write(path, path.read_text())
print("held", flush=True)
sys.stdin.read()
"""


async def unsaved(store: MemoryStore) -> Step:
    await issue(store, pending())
    return now_granted(await claim_one(store), NOW)


async def test_a_file_of_a_process_with_our_number_is_recovered(tmp_path: Path) -> None:
    """In a container every process has the number of the one before."""
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    spill.keep([await unsaved(store)])
    (file,) = tmp_path.glob("unsaved-*")
    assert file.name.split("-")[1] == str(os.getpid())
    assert await recover(tmp_path, store, get_logger()) == 0
    spill.close()
    assert await recover(tmp_path, store, get_logger()) == 1
    (snapshot,) = await store.snapshots()
    assert snapshot.grant is not None
    assert not list(tmp_path.iterdir())


async def test_a_file_of_an_older_kimiflow_is_recovered(tmp_path: Path) -> None:
    """It knows nothing of when a refresh token ends."""
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    spill.keep([await unsaved(store)])
    spill.close()
    (file,) = tmp_path.glob("unsaved-*")
    steps = json.loads(file.read_text())
    for step in steps:
        del step["before"]["refresh_token_expires_at"], step["after"]["refresh_token_expires_at"]
    file.write_text(json.dumps(steps))
    assert await recover(tmp_path, store, get_logger()) == 1
    (snapshot,) = await store.snapshots()
    assert snapshot.grant is not None
    assert snapshot.grant.refresh_token_expires_at is None


async def test_a_file_of_a_worker_that_lives_is_left_to_it(tmp_path: Path) -> None:
    """It holds the lease: to commit its step without the lease would free the row in the middle of a refresh."""
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    spill.keep([await unsaved(store)])
    spill.close()
    (file,) = tmp_path.glob("unsaved-*")
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(file)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        assert await recover(tmp_path, store, get_logger()) == 0
    finally:
        child.kill()
        child.communicate()
    assert await recover(tmp_path, store, get_logger()) == 1


async def test_each_version_of_the_file_is_locked(tmp_path: Path) -> None:
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    step = await unsaved(store)
    for number in range(1, 4):
        spill.keep([step] * number)
        assert await recover(tmp_path, store, get_logger()) == 0
        (file,) = tmp_path.iterdir()
        assert len(json.loads(file.read_text())) == number
    spill.keep([])
    assert not list(tmp_path.iterdir())
    spill.close()


class Picky(MemoryStore):
    """Meets a defect at every step of one account."""

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        if any(step.claim.account.name == "odd" for step in steps):
            raise StoreError("no such column")
        return await super().commit(steps)


async def test_a_step_that_is_refused_keeps_no_other_back_and_is_not_thrown_away(tmp_path: Path) -> None:
    store, spill = Picky(), Spill(tmp_path, get_logger())
    await issue(store, pending("a", "ann"), pending("o", "odd"), pending("b", "bob"))
    spill.keep([now_granted(claim, NOW) for claim in await store.claim_due("A", NOW, 60.0, 10)])
    spill.close()
    assert await recover(tmp_path, store, get_logger()) == 0
    assert [s.account.name for s in await store.snapshots() if s.grant] == ["ann", "bob"]
    (file,) = tmp_path.iterdir()
    # Who can write it does; the others were written before.
    store.__class__ = MemoryStore
    assert await recover(tmp_path, store, get_logger()) == 3
    assert [s.account.name for s in await store.snapshots() if s.grant] == ["ann", "bob", "odd"]
    assert not file.exists()


async def test_a_full_disk_leaves_the_file_before_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    step = await unsaved(store)
    spill.keep([step])
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        spill.keep([step, step])
    assert [(each, each.read_bytes()) for each in tmp_path.iterdir()] == [(file, before)]
    # Still its own, and still in order.
    assert await recover(tmp_path, store, get_logger()) == 0
    spill.keep([step, step])
    spill.close()
    assert await recover(tmp_path, store, get_logger()) == 2


async def test_a_home_that_cannot_be_made_does_not_stop_the_worker(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file stands where the folder should")
    spill = Spill(tmp_path / "home", get_logger())
    spill.keep([await unsaved(MemoryStore())])
    spill.close()
    assert (tmp_path / "home").is_file()


async def test_a_refresh_that_a_dead_worker_announced_is_free_for_the_next(tmp_path: Path) -> None:
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    await issue(store, pending())
    await store.commit([now_granted(await claim_one(store), NOW, next_attempt_at=NOW)])
    spill.keep([refreshing(await claim_one(store), NOW)])
    spill.close()
    assert await recover(tmp_path, store, get_logger()) == 1
    assert len(await store.claim_due("B", NOW, 60.0, 10)) == 1


async def test_a_file_of_another_database_waits_for_its_own(tmp_path: Path) -> None:
    """One home may be used with several databases, and only one of them has the row that the tokens belong to."""
    store, spill, other = MemoryStore(), Spill(tmp_path, get_logger()), MemoryStore()
    spill.keep([await unsaved(store)])
    spill.close()
    await issue(other, pending("two", "bob"))
    assert await recover(tmp_path, other, get_logger()) == 0
    assert await recover(tmp_path, store, get_logger()) == 1
    (snapshot,) = await store.snapshots()
    assert snapshot.grant is not None


async def test_what_was_signed_out_meanwhile_is_not_kept(tmp_path: Path) -> None:
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    spill.keep([await unsaved(store)])
    spill.close()
    (snapshot,) = await store.snapshots()
    await store.sign_out([snapshot.account.id], NOW, forget=False)
    assert await recover(tmp_path, store, get_logger()) == 1
    assert not list(tmp_path.iterdir())


async def test_an_announced_refresh_whose_answer_was_lost_is_recovered_once(tmp_path: Path) -> None:
    """The store has it already, lease and all: no second row of history, and the lease ends with its worker."""
    store, spill = MemoryStore(), Spill(tmp_path, get_logger())
    await issue(store, pending())
    await store.commit([now_granted(await claim_one(store), NOW, next_attempt_at=NOW)])
    step = refreshing(await claim_one(store), NOW)
    (account,) = [snapshot.account for snapshot in await store.snapshots()]
    await store.commit([step])
    before = await store.history(account.id)
    spill.keep([step])
    spill.close()
    assert await recover(tmp_path, store, get_logger()) == 1
    assert await store.history(account.id) == before
    assert len(await store.claim_due("B", NOW, 60.0, 10)) == 1

"""What is particular to SQLite: the file, its locks, its faults."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from kimiflow.errors import InvalidSetting, SchemaMismatch, StoreError, StoreUnavailable
from kimiflow.model import Sealed
from kimiflow.stores.base import Outcome
from kimiflow.stores.sql import SqlStore

from .contract.making import NOW, TTL, account, beginning, claim_one, granted, issue, now_granted, pending, poll

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    opened = SqlStore(url, busy_timeout=0.2)
    await opened.open()
    yield opened
    await opened.close()


async def pragma(store: SqlStore, engine: str, name: str) -> object:
    async with getattr(store._backend, engine).connect() as connection:
        return await connection.scalar(sa.text(f"PRAGMA {name}"))


async def test_the_pragmas_are_really_set(store: SqlStore) -> None:
    # A connection that was made before the switch to WAL learns of it when it reads.
    assert await store.snapshots() == []
    for engine in ("writer", "reader"):
        assert await pragma(store, engine, "journal_mode") == "wal"
        assert await pragma(store, engine, "busy_timeout") == 200
    assert await pragma(store, "writer", "synchronous") == 2
    assert await pragma(store, "writer", "foreign_keys") == 1
    assert await pragma(store, "writer", "cache_size") == -32768
    assert await pragma(store, "writer", "wal_autocheckpoint") == 8000
    assert await pragma(store, "reader", "query_only") == 1


async def test_a_transaction_takes_the_write_lock_before_it_looks(store: SqlStore, tmp_path: Path) -> None:
    async with store._backend.writer.begin():
        other = sqlite3.connect(tmp_path / "kimiflow.db", timeout=0, isolation_level=None)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


async def test_the_files_are_their_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        path = tmp_path / "new" / "deeper" / "kimiflow.db"
        store = SqlStore(f"sqlite:///{path}")
        await store.open()
        await issue(store, pending())
        files = sorted(path.parent.iterdir())
        assert [file.name for file in files] == ["kimiflow.db", "kimiflow.db-shm", "kimiflow.db-wal"]
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        for folder in (path.parent, path.parent.parent):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        await store.close()
        assert [file.name for file in path.parent.iterdir()] == ["kimiflow.db"]
    finally:
        os.umask(old)


async def test_a_relative_path_is_where_it_was_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqlStore("sqlite+aiosqlite:///here.db")
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.open()
    await store.close()
    assert (tmp_path / "here.db").exists()


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:///x.db?timeout=5",
        "sqlite://user:hunter2@host/x.db",
        "sqlite+pysqlite:///x.db",
        "hunter2",
    ],
)
def test_urls_that_cannot_be_meant(url: str) -> None:
    with pytest.raises(InvalidSetting, match="KIMIFLOW_DATABASE_URL") as caught:
        SqlStore(url)
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint


async def test_a_locked_database_is_unavailable(store: SqlStore, tmp_path: Path) -> None:
    await issue(store, pending())
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        await store.claim_due("A", NOW, TTL, 10)
    assert 0.15 < time.monotonic() - started < 2.0
    assert str(caught.value).splitlines()[0] == (
        f"the database {tmp_path / 'kimiflow.db'} is locked by another program"
    )
    assert len(str(caught.value).splitlines()) == 2
    # Readers wait for nobody.
    assert len(await store.snapshots()) == 1
    other.execute("ROLLBACK")
    other.close()
    assert len(await store.claim_due("A", NOW, TTL, 10)) == 1


async def test_passing_over_everything_that_is_due_needs_no_lock(store: SqlStore, tmp_path: Path) -> None:
    await store.add_accounts([account("ann"), account("bob", provider="other")])
    await store.begin([beginning(pending("a", "ann")), beginning(pending("b", "bob", next_attempt_at=NOW + 5))])
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for skipped in ({"kimi", "other"}, {"kimi"}):
        assert await store.claim_due("A", NOW, TTL, 10, skip_providers=skipped) == []
    other.execute("ROLLBACK")
    other.close()


async def test_a_lock_that_is_let_go_is_waited_for(url: str, tmp_path: Path) -> None:
    store = SqlStore(url, busy_timeout=5.0)
    await store.open()
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    adding = asyncio.create_task(store.add_accounts([account()]))
    await asyncio.sleep(0.1)
    assert not adding.done()
    other.execute("COMMIT")
    other.close()
    assert await adding == [account()]
    await store.close()


async def test_a_database_locked_at_the_start(url: str, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await SqlStore(url, busy_timeout=0.1).open()
    other.close()


async def test_a_file_that_is_no_database(url: str, tmp_path: Path) -> None:
    path = tmp_path / "kimiflow.db"
    path.write_text("This is a diary, and no database at all.\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="is no SQLite database") as caught:
        await SqlStore(url).open()
    assert not isinstance(caught.value, StoreUnavailable)
    assert path.read_bytes() == before


async def test_a_damaged_database(url: str, tmp_path: Path) -> None:
    store = SqlStore(url)
    await store.open()
    await issue(store, *(pending(f"r{n}", f"n{n}") for n in range(500)))
    await store.close()
    path = tmp_path / "kimiflow.db"
    data = bytearray(path.read_bytes())
    data[40_960:] = b"\xa5" * (len(data) - 40_960)
    path.write_bytes(data)
    await store.open()
    with pytest.raises(StoreError, match="is damaged") as caught:
        await store.snapshots()
    assert not isinstance(caught.value, StoreUnavailable)
    await store.close()


async def test_another_programs_database(url: str, tmp_path: Path) -> None:
    path = tmp_path / "kimiflow.db"
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE diary (day TEXT)")
    other.commit()
    other.close()
    before = path.read_bytes()
    with pytest.raises(SchemaMismatch, match="another program") as caught:
        await SqlStore(url).open()
    assert "KIMIFLOW_DATABASE_URL" in caught.value.hint
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["kimiflow.db"]


async def test_a_second_store_in_a_process_does_not_end_the_locks_of_the_first(
    store: SqlStore, url: str, tmp_path: Path
) -> None:
    """Whoever closes a file ends all locks that the process has on it. Then another process that closes the database
    takes itself for the last, and removes the log that is still written to.
    """
    await store.add_accounts([account()])
    second = SqlStore(url)
    await second.open()
    path = tmp_path / "kimiflow.db"
    passing = (
        f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('SELECT * FROM accounts').fetchall(); c.close()"
    )
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", passing], check=True)
    assert (tmp_path / "kimiflow.db-wal").exists()
    await second.close()


async def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened: Is a directory"):
        await SqlStore(f"sqlite:///{tmp_path}").open()


async def test_a_store_that_is_not_open(url: str) -> None:
    store = SqlStore(url)
    for act in (store.next_due(), store.add_accounts([account()]), store.changed(0)):
        with pytest.raises(StoreError, match="is not open"):
            await act
    await store.open()
    await store.close()
    with pytest.raises(StoreError, match="is not open"):
        await store.next_due()
    await store.open()
    assert await store.next_due() is None
    await store.close()
    await store.close()


async def test_no_error_shows_a_secret(store: SqlStore, tmp_path: Path) -> None:
    await issue(store, pending())
    claim = await claim_one(store)
    secret = "hunter2-" * 5
    step = now_granted(claim, NOW, secret)
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("CREATE TRIGGER refuse BEFORE UPDATE ON authorizations BEGIN SELECT RAISE(ABORT, 'refused'); END")
    other.close()
    with pytest.raises(StoreError, match="refused") as caught:
        await store.commit([step])
    seen: BaseException | None = caught.value
    while seen is not None:
        assert secret not in repr(seen) + str(seen)
        assert seen.__suppress_context__ or seen.__context__ is None
        seen = seen.__cause__
    assert (await store.snapshots())[0].authorizations == (claim.authorization,)


async def test_the_database_itself_refuses_what_must_not_be(store: SqlStore, tmp_path: Path) -> None:
    await issue(store, granted("old"))
    await issue(store, pending("new"), beside_grant=True)
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("PRAGMA foreign_keys = ON")
    for statement in (
        "UPDATE authorizations SET state = 'granted'",
        "UPDATE authorizations SET state = 'requested'",
        "UPDATE authorizations SET state = 'lost'",
        "UPDATE authorizations SET account_id = 'nobody'",
        "INSERT INTO accounts SELECT 'other', name, provider, device_id, proxy, created_at, 0, NULL FROM accounts",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            other.execute(statement)
    other.execute("DELETE FROM accounts")
    for table in ("authorizations", "history"):
        assert other.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
    other.close()


async def test_a_cancelled_caller_leaves_a_store_that_works(store: SqlStore) -> None:
    await issue(store, *(pending(f"r{n}", f"n{n}") for n in range(100)))
    for n in range(60):
        at = NOW + n * TTL
        task = asyncio.create_task(store.claim_due("A", at, TTL, 100))
        await asyncio.sleep(n * 0.0001)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert len(await store.snapshots()) == 100
    claims = await store.claim_due("B", NOW + 100 * TTL, TTL, 100)
    assert len(claims) == 100
    assert await store.commit([poll(claim, NOW) for claim in claims]) == [Outcome.COMMITTED] * 100


async def test_a_failure_in_the_middle_writes_nothing(store: SqlStore, tmp_path: Path) -> None:
    await issue(store, *(pending(f"r{n}", f"n{n}") for n in range(50)))
    claims = await store.claim_due("A", NOW, TTL, 100)
    other = sqlite3.connect(tmp_path / "kimiflow.db", isolation_level=None)
    other.execute("CREATE TRIGGER refuse BEFORE INSERT ON history BEGIN SELECT RAISE(ABORT, 'refused'); END")
    before = await store.snapshots()
    with pytest.raises(StoreError):
        await store.commit([poll(claim, NOW + 1) for claim in claims])
    assert await store.snapshots() == before
    other.execute("DROP TRIGGER refuse")
    other.close()
    assert await store.commit([poll(claim, NOW + 1) for claim in claims]) == [Outcome.COMMITTED] * 50


async def test_changes_by_another_process_are_heard(store: SqlStore, url: str) -> None:
    while await store.changed(0):
        pass
    act = "import asyncio,sys; from tests.stores.test_sqlite import add_bob; asyncio.run(add_bob(sys.argv[1]))"
    child = subprocess.Popen([sys.executable, "-c", act, url], cwd=REPOSITORY)
    assert await store.changed(30) is True
    assert await asyncio.to_thread(child.wait) == 0
    assert [s.account.name for s in await store.snapshots()] == ["bob"]


async def add_bob(url: str) -> None:
    store = SqlStore(url)
    await store.open()
    await store.add_accounts([account("bob")])
    await store.close()


async def test_own_changes_are_heard_at_once(store: SqlStore) -> None:
    delays = []
    for n in range(5):
        while await store.changed(0):
            pass
        waiting = asyncio.create_task(store.changed(10))
        await asyncio.sleep(0.01)
        await store.add_accounts([account(f"n{n}")])
        done = time.monotonic()
        assert await waiting is True
        delays.append(time.monotonic() - done)
    assert min(delays) < 0.05


async def test_times_are_kept_to_the_last_bit(store: SqlStore) -> None:
    times = [NOW + n / 7919 for n in range(1, 400)]
    await issue(store, *(pending(f"r{n:03}", f"n{n:03}", next_attempt_at=at) for n, at in enumerate(times)))
    claims = await store.claim_due("A", NOW + 1, TTL, 1000)
    assert [claim.authorization.next_attempt_at for claim in claims] == times


async def test_a_kill_loses_nothing_that_was_reported(url: str, tmp_path: Path) -> None:
    store = SqlStore(url)
    await store.open()
    await store.add_accounts([account(f"n{n}") for n in range(200)])
    await store.begin([beginning(pending(f"r{n}", f"n{n}")) for n in range(200)])
    await store.close()
    number = 0
    for turn in range(6):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.stores.children", "commit_for_ever", url],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        reported = int(await asyncio.to_thread(child.stdout.readline))
        await asyncio.sleep(0.05 + turn * 0.037)
        child.send_signal(signal.SIGKILL)
        rest = await asyncio.to_thread(child.stdout.read)
        child.wait()
        child.stdout.close()
        # The last line may be cut short by the kill.
        lines = rest.split("\n")[:-1]
        number = int(lines[-1]) if lines else reported
        await store.open()
        snapshots = await store.snapshots()
        seen = {snapshot.authorizations[0].updated_at for snapshot in snapshots}
        # All of one batch or nothing of it, and none older than what was reported.
        assert len(snapshots) == 200
        assert seen in ({NOW + 10 * number}, {NOW + 10 * (number + 1)})
        committed = round((seen.pop() - NOW) / 10)
        assert len(await store.history("acc-n7")) == 1 + committed
        await store.sign_out([s.account.id for s in snapshots], NOW, forget=True)
        await store.add_accounts([account(f"n{n}") for n in range(200)])
        await store.begin([beginning(pending(f"r{n}", f"n{n}")) for n in range(200)])
        await store.close()
    with sqlite3.connect(tmp_path / "kimiflow.db") as raw:
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
    raw.close()


async def test_sealed_text_is_kept_as_it_is(store: SqlStore) -> None:
    token = Sealed("key." + "Az09-_" * 4_000)
    await issue(store, pending())
    claim = await claim_one(store)
    step = now_granted(claim, NOW)
    step = replace(step, authorization=step.authorization._replace(access_token=token))
    await store.commit([step])
    assert await store.any_sealed() == token

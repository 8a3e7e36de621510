"""What arrived while the store was away, kept in a file until the store has it.

As soon as a commit has to wait, the steps that wait are written, sealed as they are, to one file of this worker in the
home; when they are committed the file goes. So they outlive the process, however it ends, and the next process that opens
the store commits them. Their claims decide as always: what is still the newest is written or merged, the rest is not.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from kimiflow.errors import StoreError, StoreUnavailable
from kimiflow.files import Irregular, open_regular, read_regular, remove_file, sync_folder
from kimiflow.model import Account, Authorization, Sealed, State, Transition
from kimiflow.scheduling.reserve import Reserve, tidy
from kimiflow.stores.base import Claim, Outcome, Step

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from kimiflow.stores.base import Store

__all__ = ["Spill", "commit_of_the_dead", "kept_aside", "recover"]

_PATTERN = "unsaved-*.json"
_LOCKS = os.name != "nt"
_ADDED_LATER: dict[str, Any] = {"refresh_token_expires_at": None, "origin": None, "refresh_token_digest": None}
"""Fields that a file of an older kimiflow does not have."""


class Spill:
    """The file of one worker, locked for as long as the worker lives.

    :param folder: the home.
    """

    def __init__(self, folder: Path, log: FilteringBoundLogger) -> None:
        self._path = folder / f"unsaved-{os.getpid()}-{secrets.token_hex(4)}.json"
        self._log = log
        self._written = 0
        self._held: int | None = None
        self._reserve = Reserve(folder, log, _lock)

    def room(self, in_use: int, most: int) -> int:
        """For how many steps there is room; see :meth:`Reserve.room`."""
        return self._reserve.room(in_use, most)

    def keep(self, steps: Sequence[Step]) -> bool:
        """Makes the file hold exactly ``steps``, durably; without any, there is no file. Returns whether it does.

        Does not raise: a disk that is full must not stop the worker from trying the store again. It is logged.
        """
        if not steps and not self._written:
            return True
        try:
            if steps:
                given_up = self._reserve.release()
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                held = _write(self._path, json.dumps([_to_json(step) for step in steps]))
                self._let_go()
                self._held = held
                # For the replies that are still on their way.
                self._reserve.take_back(given_up)
            else:
                remove_file(self._path)
                self._let_go()
        except OSError as error:
            self._log.error("unsaved_not_written", file=str(self._path), reason=error.strerror, steps=len(steps))
            return False
        if len(steps) > self._written:
            self._log.warning("unsaved_written", file=str(self._path), steps=len(steps))
        self._written = len(steps)
        return True

    def close(self) -> None:
        """Leaves the file, where there is one, to the next process."""
        self._reserve.release()
        self._let_go()

    def _let_go(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            os.close(held)


async def recover(folder: Path, store: Store, log: FilteringBoundLogger) -> int:
    """Commits what earlier processes could not; returns how many steps there were.

    A file is removed once its steps have been committed. One that cannot be read, or with a step that the store does not
    take, is left, and logged. One whose worker lives is left to it: it still has the leases, and may be about to go on
    with them. One of another store, which the same home was used with, waits for that one.

    :raises StoreUnavailable: where the store is away again; the files stay.
    """
    count = 0
    if _LOCKS:
        tidy(folder, _lock)
    for path in kept_aside(folder):
        try:
            # Whoever put a link there, or a pipe, was not kimiflow.
            with os.fdopen(open_regular(path, follow=False), "rb") as file:
                if not _abandoned(path, file.fileno()):
                    continue
                steps = [_from_json(entry) for entry in json.loads(file.read())]
                outcomes = await commit_of_the_dead(steps, store)
                if await _of_another_store(steps, outcomes, store):
                    log.info("unsaved_of_another_store", file=str(path), steps=len(steps))
                    continue
                remove_file(path)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, Irregular) else str(error)
            log.error("unsaved_not_readable", file=str(path), reason=reason)  # noqa: TRY400 - the reason is enough
            continue
        except StoreUnavailable:
            raise
        except StoreError as error:
            # The others of the file were written, and will be told from this one when it is tried again.
            log.error("unsaved_refused", file=str(path), reason=error.message)  # noqa: TRY400 - the reason is enough
            continue
        kept = sum(outcome.is_written for outcome in outcomes)
        log.warning("unsaved_recovered", file=str(path), steps=len(steps), written=kept)
        count += len(steps)
    return count


async def _of_another_store(steps: Sequence[Step], outcomes: Sequence[Outcome], store: Store) -> bool:
    """Whether not one of the accounts is here. One that signed out is; only to forget it takes it away."""
    if any(outcome is not Outcome.GONE for outcome in outcomes):
        return False
    here = {snapshot.account.id for snapshot in await store.snapshots()}
    return bool(steps) and here.isdisjoint(step.claim.account.id for step in steps)


async def commit_of_the_dead(steps: Sequence[Step], store: Store) -> list[Outcome]:
    """What a worker that is gone would have committed, with its leases ended, because it goes on with nothing.

    Each step goes as it was handed in, so that the store knows it again where it was written and only the answer lost.

    :raises StoreError: where a step meets a defect; all others were written.
    """
    given_back = [Step(_claim_after(step), step.authorization) for step in steps if step.keep_lease]
    try:
        return (await store.commit([*steps, *given_back]))[: len(steps)]
    except StoreUnavailable:
        raise
    except StoreError:
        if len(steps) == 1:
            raise
    defect, outcomes = None, list[Outcome]()
    for step in steps:
        try:
            outcomes += await commit_of_the_dead([step], store)
        except StoreUnavailable:
            raise
        except StoreError as error:
            defect = error
    if defect is not None:
        raise defect
    return outcomes


def _claim_after(step: Step) -> Claim:
    return replace(step.claim, authorization=step.authorization)


def kept_aside(folder: Path, key_ids: Collection[str] = ()) -> list[Path]:
    """The files that wait for the store; with ``key_ids``, those that hold a secret sealed with one of these keys."""
    found = sorted(folder.glob(_PATTERN))
    return found if not key_ids else [path for path in found if _mentions(path, key_ids)]


def _mentions(path: Path, key_ids: Collection[str]) -> bool:
    try:
        text = read_regular(path, sys.maxsize, follow=False).decode(errors="replace")
    except (FileNotFoundError, Irregular):
        return False
    return any(f'"{key_id}.' in text for key_id in key_ids)


def _abandoned(path: Path, descriptor: int) -> bool:
    """Whether the worker that wrote the file is gone; it stays locked for us.

    Told by a lock, which ends with its process however that ends. A process number would not tell: in a container it is
    the same after each start.
    """
    if not _LOCKS:
        return _is_gone(int(path.name.split("-")[1]))
    if not _lock(descriptor):
        return False
    # Its worker may have put another in its place meanwhile.
    return os.path.samestat(os.fstat(descriptor), path.lstat())


def _is_gone(number: int) -> bool:
    try:
        os.kill(number, 0)
    except OSError:
        return True
    return False


def _write(path: Path, text: str) -> int | None:
    """Puts a file in the place of the one before; returns what holds its lock."""
    draft = path.with_suffix(".tmp")
    draft.unlink(missing_ok=True)  # where an earlier one could not be removed
    descriptor = open_regular(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, follow=False)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        held = descriptor if _LOCKS and _lock(descriptor) else None
        draft.replace(path)
    except BaseException:
        os.close(descriptor)
        # Where the disk is full it would only take more of it.
        draft.unlink(missing_ok=True)
        raise
    if held is None:
        os.close(descriptor)
    sync_folder(path.parent)
    return held


if sys.platform == "win32":

    def _lock(descriptor: int) -> bool:
        del descriptor
        return False

else:

    def _lock(descriptor: int) -> bool:
        import fcntl  # noqa: PLC0415 - not everywhere

        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def _to_json(step: Step) -> dict[str, Any]:
    return {
        "account": asdict(step.claim.account),
        "before": _fields(step.claim.authorization),
        "after": _fields(step.authorization),
        "owner": step.claim.owner,
        "generation": step.claim.generation,
        "keep_lease": step.keep_lease,
        "history": [
            [
                t.at,
                t.from_state.value if t.from_state else None,
                t.to_state.value if t.to_state else None,
                t.event,
                t.detail,
            ]
            for t in step.history
        ],
    }


def _fields(authorization: Authorization[Sealed]) -> dict[str, Any]:
    return authorization._asdict() | {"state": authorization.state.value}


def _from_json(entry: dict[str, Any]) -> Step:
    def state(value: str | None) -> State | None:
        return None if value is None else State(value)

    def authorization(fields: dict[str, Any]) -> Authorization[Sealed]:
        return Authorization(**_ADDED_LATER | fields | {"state": State(fields["state"])})

    before, after = authorization(entry["before"]), authorization(entry["after"])
    account = Account(**entry["account"])
    history = tuple(
        Transition(at, state(source), state(target), event, detail)
        for at, source, target, event, detail in entry["history"]
    )
    claim = Claim(account, before, entry["owner"], entry["generation"], interrupted=False)
    return Step(claim, after, history, keep_lease=entry.get("keep_lease", False))

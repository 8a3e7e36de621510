"""Folders that follow the store: at every rotation a new file, at a sign-out none. Never a refresh token.

It is driven by the store's feed of changes, so that what other processes refresh is seen too; one look at the store
serves all accounts and all folders. After a look it rests ten times as long as that took: however many accounts
there are and however often they change, it costs at most a tenth of a processor.

No folder holds anything else up. What is done in one is done aside, and waited for a few seconds: one that does not
answer is said so, and left until it does.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kimiflow.errors import KimiFlowError, StoreError, UsageError
from kimiflow.formats import find_format
from kimiflow.formats.base import Grant
from kimiflow.formats.folder import KeptFolder, Wanted
from kimiflow.neighbours.aside import Aside
from kimiflow.status import Token

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable, Mapping, Sequence

    from kimiflow.engine import Engine
    from kimiflow.formats.base import Format
    from kimiflow.formats.folder import Report
    from kimiflow.model import Account, Authorization, Sealed
    from kimiflow.stores.base import Snapshot
    from kimiflow.vault import Vault

__all__ = ["Syncing", "Target", "parse_target", "stems"]

_AT_LEAST: Final = 0.05
"""Seconds between two looks, in which changes gather."""

_AT_MOST: Final = 60.0
"""Seconds after which files are looked at though nothing was heard: somebody may have removed one."""

_AGAIN: Final = 5.0
"""Seconds after a file that could not be written."""

_PATIENCE: Final = 5.0
"""Seconds that a folder has for a round, in which it may wait for a lock; then it is taken for one that hangs."""


@dataclass(frozen=True, slots=True)
class Target:
    """A folder, and what is to be in it."""

    format: Format
    folder: Path


def parse_target(text: str) -> Target:
    """``FORMAT:DIR`` as a person types it.

    :raises UsageError: where it is something else.
    """
    name, colon, folder = text.partition(":")
    if not (colon and folder):
        raise UsageError(f"{text!r} is not FORMAT:DIR, such as cliproxyapi:~/.cli-proxy-api")
    return Target(find_format(name), Path(folder).expanduser().absolute())


def stems(accounts: Iterable[Account]) -> dict[str, str]:
    """A file name for each account, by its id: its name, made different where only upper and lower case differ.

    On many disks ``Work`` and ``work`` are one file.
    """
    taken: set[str] = set()
    made: dict[str, str] = {}
    for account in sorted(accounts, key=lambda each: (each.created_at, each.id)):
        stem = account.name if account.name.casefold() not in taken else f"{account.name}-{account.id[:8]}"
        taken.add(stem.casefold())
        made[account.id] = stem
    return made


class Syncing:
    """Keeps folders in step with an engine's store."""

    def __init__(self, engine: Engine, targets: Sequence[Target]) -> None:
        self._engine = engine
        self._vault: Vault | None = None
        owner = str(engine.settings.home)
        self._folders = [
            (KeptFolder(each.format, each.folder, owner), Aside(str(each.folder), _PATIENCE)) for each in targets
        ]
        self._told: set[tuple[str, str]] = set()

    async def start(self) -> None:
        """Takes the folders, and brings them up to date.

        :raises UsageError: where one of them cannot be used, or two are the same.
        """
        self._vault = await self._engine.vault()
        places = await asyncio.gather(*(self._place(folder, aside) for folder, aside in self._folders))
        if len(set(places)) < len(places):
            raise UsageError("two --sync options have the same folder", hint="Each format needs a folder of its own.")
        await asyncio.gather(*(self._take(folder, aside) for folder, aside in self._folders))
        await self._look()

    async def _place(self, folder: KeptFolder, aside: Aside) -> str:
        """Which folder it is, whatever it was called."""
        try:
            return await aside.run(lambda: os.path.realpath(folder.path))
        except TimeoutError:
            return str(folder.path)

    async def _take(self, folder: KeptFolder, aside: Aside) -> None:
        with suppress(TimeoutError):  # which the first look tells about
            if not await aside.run(folder.take):
                self._engine.log.info("sync_standing_by", folder=str(folder.path))

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the store until ``stop`` is set; what was committed until then is in the files when it returns."""
        stopping = asyncio.ensure_future(stop.wait())
        clock = self._engine.clock
        try:
            while not stop.is_set():
                moved, started = self._engine.moved, clock.monotonic()
                clean = await self._look_in_any_case()
                took = clock.monotonic() - started
                await _either(stopping, asyncio.sleep(max(_AT_LEAST, 10 * took)), None)
                await _either(stopping, moved.wait(), _AT_MOST if clean else _AGAIN)
            await self._look_in_any_case()
        finally:
            stopping.cancel()
            for folder, aside in self._folders:
                if not aside.is_busy:
                    folder.let_go()

    async def _look_in_any_case(self) -> bool:
        try:
            return await self._look()
        except Exception:
            # A worker lives for months, and would follow nothing for the rest of them.
            self._engine.log.exception("sync_failed")
            return False

    async def _look(self) -> bool:
        """One look at the store, and what follows from it. Returns whether everything could be done."""
        log = self._engine.log
        try:
            snapshots = await self._engine.store.snapshots()
        except StoreError as error:
            log.warning("sync_delayed", reason=error.message)
            return False
        names = stems(each.account for each in snapshots)
        wanted = {
            each.account.id: self._wanted(each, grant, names[each.account.id])
            for each in snapshots
            if (grant := each.grant) is not None
        }
        rounds = await asyncio.gather(*(self._round(folder, aside, wanted) for folder, aside in self._folders))
        problems = set().union(*rounds)
        for path, reason in sorted(problems - self._told):
            log.warning("not_synced", path=path, reason=reason)
        self._told = problems
        return not problems

    async def _round(self, folder: KeptFolder, aside: Aside, wanted: Mapping[str, Wanted]) -> set[tuple[str, str]]:
        """What follows for one folder; returns what could not be done."""

        def work() -> Report | None:
            return folder.bring_up_to_date(wanted) if folder.take() else None

        try:
            report = await aside.run(work)
        except (KimiFlowError, OSError) as error:
            reason = error.message if isinstance(error, KimiFlowError) else error.strerror or str(error)
            return {(str(folder.path), reason)}
        if report is None:
            return set()
        if report.written or report.removed:
            self._engine.log.info("synced", folder=str(folder.path), written=report.written, removed=report.removed)
        return set(report.problems)

    def _wanted(self, snapshot: Snapshot, grant: Authorization[Sealed], stem: str) -> Wanted:
        return Wanted(
            stem,
            (grant.id, grant.token_version),
            lambda: self._access_token(grant),
            lambda: self._grant(snapshot.account, grant),
        )

    def _access_token(self, grant: Authorization[Sealed]) -> str:
        assert self._vault is not None  # noqa: S101 - start has seen to it
        assert grant.access_token is not None  # noqa: S101 - granted and refreshing hold one
        return self._vault.open(grant.access_token, grant.id, "access_token").reveal()

    def _grant(self, account: Account, grant: Authorization[Sealed]) -> Grant:
        """What is written down. The refresh token is not even opened."""
        token = Token(
            account=account.name,
            access_token=self._access_token(grant),
            token_type=grant.token_type or "Bearer",
            expires_at=grant.token_expires_at,
            scope=grant.scope,
            device_id=account.device_id,
        )
        provider = self._engine.providers.get(account.provider)
        return Grant(token, account.provider, provider.api_base if provider else None, self._engine.clock.now())


async def _either(stopping: asyncio.Future[Any], waiting: Coroutine[Any, Any, object], timeout: float | None) -> None:
    """Waits for one of the two, or until time is up."""
    task = asyncio.ensure_future(waiting)
    await asyncio.wait({stopping, task}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

"""What ``KimiFlow`` runs on: the store, the vault, the client, and a scheduler that comes to life when it is needed.

An engine drives nothing by itself. Whoever waits for an account says so (:meth:`Engine.driving`), and for that long it
is driven here, in the background, beside all the others that are waited for; :meth:`Engine.run` drives everything.

There is one scheduler, and it outlives all who wait: they may be cancelled at any moment, the replies to what was sent
for them land nevertheless. To close an engine waits for everything that it has started, whoever is cancelled meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import Counter
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from kimiflow.batching import Batched
from kimiflow.belonging import Belonging
from kimiflow.descriptors import affordable
from kimiflow.errors import (
    NotSaved,
    StillPending,
    StoreError,
    StoreReplaced,
    StoreUnavailable,
    UnknownAccount,
    UsageError,
)
from kimiflow.finishing import begin, finish, outlast
from kimiflow.keys.loading import load_vault
from kimiflow.logs import get_logger
from kimiflow.model import valid_account_name
from kimiflow.scheduler import Scheduler
from kimiflow.scheduling.chores import Chores
from kimiflow.scheduling.limits import Limits
from kimiflow.scheduling.spill import Spill, recover
from kimiflow.storetime import StoreClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator, Mapping, Sequence
    from typing import Any, Literal, TypeVar

    import httpx

    from kimiflow.client import Client
    from kimiflow.clock import Clock
    from kimiflow.http.transports import Transports
    from kimiflow.model import Account, Authorization, Sealed
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Snapshot, Store
    from kimiflow.vault import Vault

    T = TypeVar("T")

__all__ = ["Engine"]

_NEWS_GATHER: Final = 0.05
"""Seconds in which changes that the store tells of gather."""
_AFTER_A_SURPRISE: Final = 5.0


class Scope:
    """Which accounts are to be driven: those that somebody waits for, or all while a worker runs."""

    def __init__(self) -> None:
        self._waited_for: Counter[str] = Counter()
        self._workers = 0

    def __call__(self) -> Collection[str] | None:
        """Their ids; ``None`` for all."""
        return None if self._workers else self._waited_for

    @contextmanager
    def with_all(self) -> Iterator[None]:
        """All of them, while the block runs."""
        self._workers += 1
        try:
            yield
        finally:
            self._workers -= 1

    @contextmanager
    def including(self, account_ids: Collection[str]) -> Iterator[None]:
        """These as well, while the block runs."""
        self._waited_for.update(account_ids)
        try:
            yield
        finally:
            self._waited_for.subtract(account_ids)
            for account_id in account_ids:
                if self._waited_for[account_id] <= 0:
                    del self._waited_for[account_id]


class Engine:
    """The machinery of one ``KimiFlow``.

    :param draw: a random number in [0, 1) for jitter.
    :param transport_for: replaces the HTTP transports, which are then the caller's to close.
    :param limits: replaces those that fit the settings; for tests that cannot wait for a lease.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        clock: Clock,
        draw: Callable[[], float],
        transport_for: Callable[[Account, str], httpx.AsyncBaseTransport] | None = None,
        *,
        limits: Limits | None = None,
    ) -> None:
        self.settings = settings
        self._store = store
        self.stamp = store.stamp
        """See :meth:`Store.stamp`. Asked for every token, by who has looked himself whether he may."""
        self.belonging = Belonging(self)
        self.clock = StoreClock(clock, store)
        self.providers = settings.all_providers()
        self.log = get_logger()
        self._draw = draw
        self._transports: Transports | None = None
        self._transport_for = transport_for
        self._limits = limits or Limits.for_timeout(settings.http_timeout, affordable(settings.concurrency))
        self._vault: Vault | None = None
        self._scope = Scope()
        self._making = asyncio.Lock()
        """Held while the vault or the scheduler is made: of each there is one, however many need it at once."""
        self._scheduler: Scheduler | None = None
        self._driving: asyncio.Task[None] | None = None
        self._told = False
        """Somebody has been told what ended the scheduler."""
        self._spill = Spill(settings.home, self.log)
        self._feed: asyncio.Task[None] | None = None
        self._started: set[asyncio.Task[Any]] = set()
        self._runs: set[asyncio.Future[None]] = set()
        """One for each :meth:`run` that has not ended."""
        self._moved = asyncio.Event()
        self._moved_of: dict[str, asyncio.Event] = {}
        self._snapshots = Batched(self._find_snapshots, self.start)
        self._due = Batched(self._make_due, self.start)

    @property
    def store(self) -> Store:
        """The store, for whoever may use it here and now.

        :raises UsageError: as :meth:`check`.
        """
        self.belonging.check()
        return self._store

    @property
    def closed(self) -> bool:
        """Set before anything is let go of; whoever waits for news looks at it."""
        return self.belonging.closed

    def check(self, *, in_its_loop: bool = True) -> None:
        """Says whether it may be used, here and now.

        :raises UsageError: where it is not open; where it belongs to another loop; or in a forked process.
        """
        if in_its_loop:
            self.belonging.check()
        else:
            self.belonging.check_open()

    async def open(self) -> None:
        """Opens the store, and listens for what others change in it.

        :raises UsageError: where it was opened before.
        """
        self.belonging.begin()
        try:
            await self._store.open()
            try:
                await self.clock.synchronise()
                await recover(self.settings.home, self._store, self.log)
            except BaseException:
                # Nobody will close what was not entered.
                await self._store.close()
                raise
        except BaseException:
            self.belonging.give_up()
            raise
        self.belonging.enter()
        self._feed = asyncio.create_task(self._follow_store(), name="kimiflow-feed")

    async def close(self, *, failing: bool = False) -> None:
        """Lets requests in flight land and be committed, then lets go of everything. Not cut short by a cancellation.

        Does nothing in a forked process: whatever there is to let go of is the parent's.

        :param failing: something else is being raised already, which is not to be hidden by what ended the scheduler.
        :raises NotSaved: where something arrived that could be saved nowhere.
        :raises UsageError: where it was opened in another loop, which alone can close it.
        :raises StoreReplaced: and whatever else ended the scheduler, unless somebody was told.
        """
        if self.belonging.left_behind:
            return
        self.belonging.leave()
        self._notify()
        await finish(self._close())
        if not (failing or self._told):
            self._tell_what_ended_the_scheduler()

    def _tell_what_ended_the_scheduler(self) -> None:
        failure = None
        if self._driving is not None and self._driving.done() and not self._driving.cancelled():
            failure = self._driving.exception()
        if failure is not None:
            self._told = True
            raise failure

    async def _close(self) -> None:
        await outlast(*self._started)
        if self._scheduler is not None:
            self._scheduler.stop()
            await outlast(self._driving, *self._runs)
            if self._driving is not None and not self._driving.cancelled():
                self._driving.exception()  # looked at, so that asyncio does not report it as forgotten
        if self._feed is not None:
            self._feed.cancel()
            await outlast(self._feed)
        self._spill.close()
        if self._transports is not None:
            await self._transports.aclose()
        await self._store.close()
        if self._scheduler is not None and (lost := self._scheduler.not_saved()):
            raise not_saved(lost, self.settings)

    def start(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs ``work`` beside whoever asks for it; :meth:`close` waits for it.

        :raises UsageError: where it was closed.
        """
        try:
            self.belonging.check()
        except UsageError:
            work.close()
            raise
        task = begin(work, name)
        self._started.add(task)
        task.add_done_callback(self._started.discard)
        return task

    def awaited(self) -> list[str]:
        """Accounts whose request is with a server, sorted: its reply may hold the only copy of a token.

        :raises UsageError: in a forked process.
        """
        self.belonging.check_process()
        return [] if self._scheduler is None else self._scheduler.awaited()

    @property
    def longest_stop(self) -> float:
        """Seconds that :meth:`close` may wait for replies and for the store."""
        return self._limits.longest_stop

    def give_up(self) -> list[str]:
        """For a process that ends here and now: what has arrived is kept aside; returns :meth:`awaited`, now in doubt.

        :raises NotSaved: where something arrived that could be saved nowhere.
        :raises UsageError: in a forked process.
        """
        self.belonging.check_process()
        if self._scheduler is None:
            return []
        awaited = self._scheduler.give_up()
        if lost := self._scheduler.not_saved():
            raise not_saved(sorted({*lost, *awaited}), self.settings)
        return awaited

    async def run(self, *, until_settled: bool, stop: asyncio.Event | None) -> None:
        """Drives everything in the store until ``stop``, or until no sign-in is on its way."""
        scheduler = await self._running_scheduler()
        chores = Chores(self._store, self.clock, self.log, name=scheduler.owner, in_flight=lambda: scheduler.in_flight)
        over = asyncio.get_running_loop().create_future()
        self._runs.add(over)
        try:
            async with chores.done():
                try:
                    with self._scope.with_all():
                        scheduler.wake()
                        await self._until(stop or asyncio.Event(), settled=until_settled)
                finally:
                    await finish(scheduler.landed())
        finally:
            self._runs.discard(over)
            over.set_result(None)

    async def _until(self, stop: asyncio.Event, *, settled: bool) -> None:
        """Until ``stop`` is set; with ``settled`` also until no sign-in is on its way."""
        assert self._driving is not None  # noqa: S101 - the scheduler runs
        ends = [asyncio.ensure_future(stop.wait())]
        if settled:
            ends.append(asyncio.ensure_future(self._all_settled()))
        try:
            await asyncio.wait({*ends, self._driving}, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                if end.done():
                    end.result()
            self._tell_what_ended_the_scheduler()
        finally:
            for end in ends:
                end.cancel()

    async def _all_settled(self) -> Literal[True]:
        while True:
            moved = self._moved
            with suppress(StoreError):  # the scheduler meets the same, and says so
                if await self._store.count_on_their_way() == 0:
                    return True
            await self.wait_for(moved, None)

    async def vault(self) -> Vault:
        """The vault; made, with its key, when a secret is first needed.

        :raises VaultError: where the key is missing or is another one.
        """
        if self._vault is None:
            self.belonging.check()
            async with self._making:
                if self._vault is None:
                    self._vault = load_vault(self.settings, await self._store.any_sealed())
        return self._vault

    async def synchronise(self) -> None:
        """Has :attr:`clock` ask the store for the time, where that is due."""
        self.belonging.check()
        await self.clock.synchronise()

    async def snapshot(self, name: str) -> Snapshot:
        """One account as it is now.

        :raises UnknownAccount: where there is none of that name.
        """
        self.belonging.check()
        found = await self._snapshots(valid_account_name(name))
        if found is None:
            raise unknown(name)
        return found

    async def _find_snapshots(self, names: Sequence[str]) -> Mapping[str, Snapshot]:
        await self.clock.synchronise()
        return {snapshot.account.name: snapshot for snapshot in await self._store.snapshots(names)}

    async def make_due(self, grant: Authorization[Sealed]) -> None:
        """A grant is to be refreshed now, unless its tokens are newer by now."""
        await self._due((grant.id, grant.token_version))
        if self._scheduler is not None:
            self._scheduler.wake()

    async def _make_due(self, tokens_seen: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], None]:
        await self._store.hasten(tokens_seen, self.clock.now())
        return {}

    @asynccontextmanager
    async def driving(self, account_ids: Collection[str]) -> AsyncIterator[None]:
        """Drives these accounts while the block runs; others, in any process, may drive them too."""
        with self._scope.including(account_ids):
            if account_ids:
                (await self._running_scheduler()).wake()
            yield

    @property
    def moved(self) -> asyncio.Event:
        """Set once anything changes from now on; take it before looking, then wait for it."""
        return self._moved

    def moved_of(self, account_id: str) -> asyncio.Event:
        """The same, for one account; others that change meanwhile wake nobody who waits for this one."""
        return self._moved_of.setdefault(account_id, asyncio.Event())

    def stirred(self) -> None:
        """Something was written here that is to be acted on at once."""
        self._notify()
        if self._scheduler is not None:
            self._scheduler.wake()

    async def wait_for(self, moved: asyncio.Event, deadline: float | None) -> None:
        """Waits for ``moved``, at most a second, so that nothing depends on a notice that was lost.

        :raises StillPending: where ``deadline``, in monotonic seconds, has passed.
        :raises UsageError: where it was closed.
        """
        self.belonging.check()
        self._tell_what_ended_the_scheduler()
        left = 1.0 if deadline is None else min(1.0, deadline - self.clock.monotonic())
        if left <= 0:
            raise StillPending("time was up")
        with suppress(TimeoutError):
            async with asyncio.timeout(left):
                await moved.wait()

    def transport_for(self, account: Account, url: str) -> httpx.AsyncBaseTransport:
        """The transport for a request of ``account`` to ``url``; its connections are shared by all accounts.

        :raises InvalidSetting: where the account's proxy cannot be used.
        """
        if self._transport_for is None:
            from kimiflow.http.transports import Transports  # noqa: PLC0415 - most commands make no request

            proxy = self.settings.proxy
            self._transport_for = self._transports = Transports(
                proxy=proxy.get_secret_value() if proxy else None,
                connections=self.settings.concurrency,
            )
        return self._transport_for(account, url)

    async def _running_scheduler(self) -> Scheduler:
        vault = await self.vault()
        self.belonging.check()
        if self._scheduler is None:
            # Nothing is awaited from here on, so that there is one.
            self._scheduler = self._make_scheduler(vault)
            self._driving = begin(self._scheduler.run(), "kimiflow-scheduler")
        return self._scheduler

    def make_client(self) -> Client:
        """What speaks to the authorization servers, over the connections of this engine."""
        from kimiflow import identity  # noqa: PLC0415 - most commands make no request
        from kimiflow.client import Client  # noqa: PLC0415 - likewise

        return Client(
            self.providers,
            identity.local(),
            timeout=self.settings.http_timeout,
            transport_for=self.transport_for,
            clock=self.clock,
        )

    def _make_scheduler(self, vault: Vault) -> Scheduler:
        return Scheduler(
            self._store,
            vault,
            self.make_client(),
            self.providers,
            owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            clock=self.clock,
            draw=self._draw,
            pacing=self.settings.pacing,
            limits=self._limits,
            log=self.log,
            scope=self._scope,
            on_step=self._notify_of,
            keep=self._spill.keep,
            room=self._spill.room,
        )

    async def _follow_store(self) -> None:
        """Tells everybody here when anybody anywhere has committed something."""
        while True:
            try:
                if await self._store.changed(30.0):
                    self.stirred()
                    # Many commits in a row are one piece of news; those of this process have been told already.
                    await asyncio.sleep(_NEWS_GATHER)
            except StoreUnavailable as error:
                if isinstance(error, StoreReplaced) and self._scheduler is not None:
                    self._scheduler.wake()  # which ends with it
                # Whoever needs the store meets the same trouble and reports it; here it is only waited out.
                await asyncio.sleep(1.0)
            except Exception:  # without this task nobody would hear of anything any more
                self.log.exception("news_failed")
                await asyncio.sleep(_AFTER_A_SURPRISE)

    def _notify(self) -> None:
        """Something has changed, and nobody knows what."""
        waited_for, self._moved_of = self._moved_of, {}
        for moved in waited_for.values():
            moved.set()
        self._notify_of("")

    def _notify_of(self, account_id: str) -> None:
        if (of_this := self._moved_of.pop(account_id, None)) is not None:
            of_this.set()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def unknown(name: str) -> UnknownAccount:
    """The error for a name that no account has."""
    return UnknownAccount(f"there is no account {name}", hint=f"Sign in with: kimiflow login {name}", account=name)


def not_saved(names: Collection[str], settings: Settings) -> NotSaved:
    """The error for replies that are lost, because there was no place to save them."""
    return NotSaved(
        f"what the server said last could be saved neither in the database nor in {settings.home}: {', '.join(names)}",
        hint="See how they are with: kimiflow status; who is expired then, signs in with: kimiflow login NAME",
        account=next(iter(names)) if len(names) == 1 else None,
    )

"""What ``KimiFlow`` runs on: the store, the vault, the client, and a scheduler that comes to life when it is needed.

An engine drives nothing by itself. Whoever waits for an account says so (:meth:`Engine.driving`), and for that long it
is driven here, in the background, beside all the others that are waited for; :meth:`Engine.run` drives everything.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections import Counter
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from kimiflow.errors import StillPending, StoreUnavailable, UnknownAccount
from kimiflow.keys.loading import load_vault
from kimiflow.logs import get_logger
from kimiflow.model import valid_account_name
from kimiflow.scheduler import Scheduler
from kimiflow.scheduling.chores import Chores
from kimiflow.scheduling.limits import Limits
from kimiflow.scheduling.spill import Spill, recover
from kimiflow.storetime import StoreClock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    import httpx

    from kimiflow.client import Client
    from kimiflow.clock import Clock
    from kimiflow.http.transports import Transports
    from kimiflow.model import Account
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Snapshot, Store
    from kimiflow.vault import Vault

__all__ = ["Engine"]


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
        self.store = store
        self.clock = StoreClock(clock, store)
        self.providers = settings.all_providers()
        self.log = get_logger()
        self._draw = draw
        self._transports: Transports | None = None
        self._transport_for = transport_for
        self._limits = limits or Limits.for_timeout(settings.http_timeout, settings.concurrency)
        self._vault: Vault | None = None
        self._client: Client | None = None
        self._interest: Counter[str] = Counter()
        self._background: tuple[Scheduler, asyncio.Task[None]] | None = None
        self._schedulers: set[Scheduler] = set()
        self._spills: list[Spill] = []
        self._feed: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()
        self.closed = False
        """Set before anything is let go of; whoever waits for news looks at it."""

    async def open(self) -> None:
        """Opens the store, and listens for what others change in it."""
        await self.store.open()
        try:
            await self.clock.synchronise()
            await recover(self.settings.home, self.store, self.log)
        except BaseException:
            # Nobody will close what was not entered.
            await self.store.close()
            raise
        self._feed = asyncio.create_task(self._follow_store(), name="kimiflow-feed")

    async def close(self) -> None:
        """Lets requests in flight land and be committed, then lets go of everything."""
        self.closed = True
        self._notify()
        for scheduler in self._schedulers:
            scheduler.stop()
        if self._background is not None:
            await asyncio.gather(self._background[1], return_exceptions=True)
        if self._feed is not None:
            self._feed.cancel()
            await asyncio.gather(self._feed, return_exceptions=True)
        for spill in self._spills:
            spill.close()
        if self._transports is not None:
            await self._transports.aclose()
        await self.store.close()

    async def run(self, *, until_settled: bool, stop: asyncio.Event | None) -> None:
        """Drives everything in the store until ``stop``, or until no sign-in is on its way."""
        scheduler = await self._make_scheduler(None)
        stopper = asyncio.create_task(_stop_on(scheduler, stop)) if stop is not None else None
        chores = Chores(self.store, self.clock, self.log, name=scheduler.owner, in_flight=lambda: scheduler.in_flight)
        try:
            async with chores.done():
                await scheduler.run(until_settled=until_settled)
        finally:
            self._schedulers.discard(scheduler)
            if stopper is not None:
                stopper.cancel()
                await asyncio.gather(stopper, return_exceptions=True)

    async def vault(self) -> Vault:
        """The vault; made, with its key, when a secret is first needed.

        :raises VaultError: where the key is missing or is another one.
        """
        if self._vault is None:
            self._vault = load_vault(self.settings, await self.store.any_sealed())
        return self._vault

    async def snapshot(self, name: str) -> Snapshot:
        """One account as it is now.

        :raises UnknownAccount: where there is none of that name.
        """
        await self.clock.synchronise()
        found = await self.store.snapshots([valid_account_name(name)])
        if not found:
            raise unknown(name)
        return found[0]

    @asynccontextmanager
    async def driving(self, account_ids: Collection[str]) -> AsyncIterator[None]:
        """Drives these accounts while the block runs; others, in any process, may drive them too."""
        self._interest.update(account_ids)
        try:
            if account_ids:
                if self._background is None:
                    scheduler = await self._make_scheduler(self._interest)
                    task = asyncio.create_task(scheduler.run(), name="kimiflow-scheduler")
                    self._background = scheduler, task
                self._background[0].wake()
            yield
        finally:
            self._interest.subtract(account_ids)
            for account_id in account_ids:
                if self._interest[account_id] <= 0:
                    del self._interest[account_id]

    @property
    def moved(self) -> asyncio.Event:
        """Set once anything changes from now on; take it before looking, then wait for it."""
        return self._moved

    def stirred(self) -> None:
        """Something was written here that is to be acted on at once."""
        self._notify()
        for scheduler in self._schedulers:
            scheduler.wake()

    async def wait_for(self, moved: asyncio.Event, deadline: float | None) -> None:
        """Waits for ``moved``, at most a second, so that nothing depends on a notice that was lost.

        :raises StillPending: where ``deadline``, in monotonic seconds, has passed.
        """
        if self._background is not None and self._background[1].done():
            await self._background[1]
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

    async def _make_scheduler(self, only: Collection[str] | None) -> Scheduler:
        vault = await self.vault()
        if self._client is None:
            from kimiflow import identity  # noqa: PLC0415 - likewise
            from kimiflow.client import Client  # noqa: PLC0415

            self._client = Client(
                self.providers,
                identity.local(),
                timeout=self.settings.http_timeout,
                transport_for=self.transport_for,
                clock=self.clock,
            )
        spill = Spill(self.settings.home, self.log)
        self._spills.append(spill)
        scheduler = Scheduler(
            self.store,
            vault,
            self._client,
            self.providers,
            owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            clock=self.clock,
            draw=self._draw,
            pacing=self.settings.pacing,
            limits=self._limits,
            log=self.log,
            only=only,
            on_step=lambda _account_id: self._notify(),
            keep=spill.keep,
        )
        self._schedulers.add(scheduler)
        return scheduler

    async def _follow_store(self) -> None:
        """Tells everybody here when anybody anywhere has committed something."""
        while True:
            try:
                if await self.store.changed(30.0):
                    self.stirred()
            except StoreUnavailable:
                # Whoever needs the store meets the same trouble and reports it; here it is only waited out.
                await asyncio.sleep(1.0)

    def _notify(self) -> None:
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()


def unknown(name: str) -> UnknownAccount:
    """The error for a name that no account has."""
    return UnknownAccount(f"there is no account {name}", hint=f"Sign in with: kimiflow login {name}", account=name)


async def _stop_on(scheduler: Scheduler, stop: asyncio.Event) -> None:
    await stop.wait()
    scheduler.stop()

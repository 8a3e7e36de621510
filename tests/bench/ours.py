"""kimiflow itself: the real scheduler on the real stores."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from kimiflow import advance, identity
from kimiflow.client import Client
from kimiflow.clock import SystemClock
from kimiflow.http.http1 import Http1Transport
from kimiflow.logs import get_logger
from kimiflow.model import Account, State
from kimiflow.pacing import Pacing
from kimiflow.provider import BUILT_IN, on_host
from kimiflow.scheduler import Scheduler
from kimiflow.scheduling.limits import Limits
from kimiflow.secret import Secret
from kimiflow.stores.base import Beginning
from kimiflow.stores.registry import open_store
from kimiflow.storetime import StoreClock
from kimiflow.vault import Vault
from kimiflow.wire import MAX_BODY

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kimiflow.stores.base import Store

    from .place import Place

__all__ = ["KEY", "Rig", "drive_until", "filled", "rig"]

KEY = bytes(range(32))
SOME_TOKEN = "t" * 400
"""As long as a JWT of the kind that is common."""


class Rig:
    """A store with accounts in it, and what is needed to drive them."""

    def __init__(self, place: Place, store: Store, *, tls: bool = False, concurrency: int = 256) -> None:
        self.store = store
        self.vault = Vault(KEY)
        self.clock = StoreClock(SystemClock(), store)
        # Those that everybody has; the second stays idle.
        self.providers = BUILT_IN | {"kimi": on_host(BUILT_IN["kimi"], place.https if tls else place.http)}
        self.transport = Http1Transport(place.tls, max_body=MAX_BODY)
        self.concurrency = concurrency
        self.committed = 0

    def scheduler(self, on_step: Callable[[str], None] = lambda _: None) -> Scheduler:
        client = Client(
            self.providers,
            identity.local(),
            timeout=30.0,
            transport_for=lambda _account, _url: self.transport,
            clock=self.clock,
        )
        return Scheduler(
            self.store,
            self.vault,
            client,
            self.providers,
            owner=f"bench-{random.random()}",
            clock=self.clock,
            draw=random.random,
            pacing=Pacing(),
            limits=Limits.for_timeout(30.0, self.concurrency),
            log=get_logger(),
            on_step=on_step,
        )


async def filled(
    store: Store, count: int, *, state: State, due: Callable[[int], float], batch: int = 5_000, first: int = 0
) -> None:
    """Puts ``count`` accounts into ``store``, all in ``state``; account ``i`` is due at ``due(i)``."""
    vault, now = Vault(KEY), time.time()
    for start in range(first, first + count, batch):
        numbers = range(start, min(start + batch, first + count))
        accounts = [Account(f"{i:032d}", f"account-{i}", "kimi", f"device-{i}", None, now) for i in numbers]
        await store.add_accounts(accounts)
        beginnings = []
        for i, account in zip(numbers, accounts, strict=True):
            authorization, history = advance.begin(f"{i:032d}", account.id, now)
            changes: dict[str, Any] = {"state": state, "next_attempt_at": due(i), "user_code": "ABCD-EFGH"}
            if state is State.PENDING:
                changes |= {
                    "interval": 5.0,
                    "code_expires_at": now + 86_400.0,
                    "verification_uri": "https://example.com/device",
                    "device_code": Secret(f"{i:08d}".ljust(64, "d")),
                }
            else:
                changes |= {
                    "token_type": "Bearer",
                    "scope": "kimi-code",
                    "token_expires_at": due(i) + 300.0,
                    "access_token": Secret(SOME_TOKEN),
                    "refresh_token": Secret(f"{id(store)}-{i}.0"),
                }
            begun = authorization._replace(**changes)
            beginnings.append(Beginning(vault.seal_authorization(begun), history))
        assert all(await store.begin(beginnings))


@asynccontextmanager
async def rig(place: Place, url: str, **options: Any) -> AsyncIterator[Rig]:
    """A rig on a store of its own."""
    store = open_store(url)
    await store.open()
    made = Rig(place, store, **options)
    await made.clock.synchronise()
    try:
        yield made
    finally:
        await made.transport.aclose()
        await store.close()


async def drive_until(made: Rig, steps: int) -> float:
    """Runs the scheduler until ``steps`` results have been committed; returns the seconds that took."""
    done = asyncio.Event()

    def count(_account_id: str) -> None:
        made.committed += 1
        if made.committed >= steps:
            done.set()

    made.committed = 0
    scheduler = made.scheduler(count)
    started = time.perf_counter()
    task = asyncio.create_task(scheduler.run())
    await done.wait()
    seconds = time.perf_counter() - started
    scheduler.stop()
    await task
    return seconds

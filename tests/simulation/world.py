"""One run: accounts, workers, a server, people who approve, and the weather."""

from __future__ import annotations

import asyncio
import random
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kimiflow import advance
from kimiflow.model import Account
from kimiflow.provider import BUILT_IN
from kimiflow.sandbox.authority import Authority
from kimiflow.sandbox.settings import Settings as ServerSettings
from kimiflow.scheduling.limits import Limits
from kimiflow.settings import load_settings
from kimiflow.stores.base import Beginning
from kimiflow.stores.memory import MemoryStore
from kimiflow.vault import Vault

from ..virtual import START, VirtualLoop
from .faults import CALM, Weather, draw_weather
from .judge import Judge
from .worker import Worker

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import httpx

    from kimiflow.stores.base import Snapshot, Store

__all__ = ["World", "accounts_of", "simulate"]

_FEW, _MANY, _EVERY = 8, 250, 50


class World:
    """Everything of one run, made from a seed."""

    def __init__(self, loop: VirtualLoop, seed: int, *, store: Store | None = None) -> None:
        self.loop = loop
        self.rng = random.Random(seed)
        self.weather: Weather = CALM
        self.store: Store = store or MemoryStore()
        self.vault = Vault(self.rng.randbytes(32), random_bytes=self.rng.randbytes)
        with tempfile.TemporaryDirectory() as empty:
            self.settings = load_settings(home=empty, http_timeout=10.0)
        self.providers = BUILT_IN
        self.lease = Limits.for_timeout(self.settings.http_timeout, 64).lease
        self.authority = Authority(
            ServerSettings(interval=5.0, code_lifetime=900.0, token_lifetime=600.0), random.Random(seed)
        )
        self.judge = Judge(self)
        self.workers: list[Worker] = []
        self.issued_to: dict[str, str] = {}
        self.replies: dict[tuple[str, ...], tuple[float, httpx.Response]] = {}
        """The last reply of the server to each request, and when it was given."""
        self.kept_aside: dict[str, str] = {}
        """What workers could not commit, by their names: outlives them."""
        self.store_away_until = 0.0
        self.approved: dict[str, float] = {}
        self.denied: set[str] = set()
        self.signed_out: set[str] = set()
        self.clock_tolerance = 0.05
        self._background: set[asyncio.Task[None]] = set()
        self._ids = 0

    def server_now(self) -> float:
        return START + self.loop.virtual_now

    def in_background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(coroutine)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def new_id(self) -> str:
        self._ids += 1
        return f"{self._ids:08d}"

    def start_worker(self) -> Worker:
        skew = self.weather.skew * (2 * self.rng.random() - 1)
        worker = Worker(self, f"worker-{len(self.workers)}", skew)
        self.workers.append(worker)
        return worker

    @property
    def living(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.dead]

    # What people do

    async def log_in(self, name: str) -> None:
        now = self.server_now()
        (account,) = await self.store.add_accounts([Account(self.new_id(), name, "kimi", f"device-{name}", None, now)])
        authorization, history = advance.begin(self.new_id(), account.id, now)
        await self.store.begin([Beginning(self.vault.seal_authorization(authorization), history)])
        for worker in self.living:
            worker.scheduler.wake()

    async def decide(self, name: str, *, approve: bool) -> bool:
        """What a person does who has seen the code; whether there was one to decide about.

        Nobody decides at the last moment: who cannot reach the server from then on is not to blame.
        """
        (snapshot,) = await self.store.snapshots([name])
        flow = snapshot.on_its_way
        if flow is None or flow.user_code is None or (flow.code_expires_at or 0.0) < self.server_now() + 400.0:
            return False
        if approve:
            self.authority.approve(flow.user_code, self.server_now())
            self.approved[name] = self.server_now()
        else:
            self.authority.deny(flow.user_code, self.server_now())
            self.denied.add(name)
        return True

    async def sign_out(self, name: str) -> None:
        (snapshot,) = await self.store.snapshots([name])
        await self.store.sign_out([snapshot.account.id], self.server_now())
        self.signed_out.add(name)

    def authority_knows(self, snapshot: Snapshot) -> bool:
        """Whether the stored access token is one that the server honours now."""
        grant = snapshot.grant
        assert grant is not None
        assert grant.access_token is not None
        token = self.vault.open(grant.access_token, grant.id, "access_token").reveal()
        return self.authority.introspect(token, self.server_now()) is not None

    async def end(self) -> None:
        for worker in self.workers:
            await worker.bury()
        for task in list(self._background):
            task.cancel()
        await asyncio.sleep(0)


async def _run(world: World, accounts: int, weather: Weather | None) -> None:
    rng = world.rng
    drawn = draw_weather(rng)
    # A worker of many accounts comes by more awaits; it is to crash as often, not to do nothing else.
    rarer = _FEW / max(accounts, _FEW)
    world.weather = weather or replace(drawn, crash=drawn.crash * rarer, pause=drawn.pause * rarer)
    workers = rng.randrange(1, 5)
    for _ in range(workers):
        world.start_worker()
    undecided = []
    for i in range(accounts):
        await world.log_in(f"account-{i}")
        undecided.append(f"account-{i}")
        if rng.random() < 0.2:
            await asyncio.sleep(rng.random() * 5)
    leaving = {name for name in undecided if rng.random() < 0.1}
    ignored = {name for name in undecided if rng.random() < 0.1}
    storm_ends = world.loop.time() + rng.uniform(600.0, 2_400.0)
    while world.loop.time() < storm_ends:
        await asyncio.sleep(rng.uniform(1.0, 60.0))
        if rng.random() < world.weather.store_away:
            world.store_away_until = world.loop.time() + rng.choice((1.0, 10.0, 90.0)) * rng.random()
        for name in list(undecided):
            if name not in ignored and rng.random() < 0.3 and await world.decide(name, approve=rng.random() < 0.9):
                undecided.remove(name)
        if leaving and rng.random() < 0.2:
            name = min(leaving)
            leaving.discard(name)
            await world.sign_out(name)
        while len(world.living) < workers:
            world.start_worker()
    # The storm is over: what was approved in time must now come to rest, however bad it was.
    world.weather = CALM
    while len(world.living) < workers:
        world.start_worker()
    await asyncio.sleep(2_000.0)


def accounts_of(seed: int) -> int:
    """How many accounts the run of a seed has: hundreds in one of fifty, which takes as long as the others together.

    Most mistakes show with a few, and the more runs there are the more of the weather is seen; what only a crowd
    brings about is batches that are full, lanes that are taken, and commits that gather.
    """
    return _MANY if seed % _EVERY == _EVERY - 1 else _FEW


def simulate(seed: int, *, accounts: int | None = None, weather: Weather | None = None) -> World:
    """One run, from its seed. The same seed gives the same run.

    :param accounts: how many, where it is not to be :func:`accounts_of` the seed.
    :param weather: the faults, where they are not to be drawn.
    :raises Violation: where a promise was broken.
    """
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    world = World(loop, seed)
    try:
        loop.run_until_complete(_run(world, accounts_of(seed) if accounts is None else accounts, weather))
        loop.run_until_complete(world.judge.verdict())
        return world
    finally:
        loop.run_until_complete(world.end())
        asyncio.set_event_loop(None)
        loop.close()

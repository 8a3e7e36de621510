"""A worker process that can crash and pause: the real scheduler, with everything that it touches made unreliable."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

from kimiflow import identity
from kimiflow.client import Client
from kimiflow.errors import StoreUnavailable
from kimiflow.logs import get_logger
from kimiflow.scheduler import Scheduler
from kimiflow.scheduling.limits import Limits
from kimiflow.scheduling.spill import _from_json, _to_json, commit_of_the_dead
from kimiflow.storetime import StoreClock

from ..virtual import VirtualClock
from .network import Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.stores.base import Outcome, Step, Store

    from .world import World

__all__ = ["UnreliableStore", "Worker"]


class Crash(BaseException):
    """The process is gone. Nothing of it may catch this."""


class Worker:
    """One process. ``dead`` workers touch nothing any more: each of their awaits waits for ever."""

    def __init__(self, world: World, name: str, skew: float) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.paused_until = 0.0
        store: Any = UnreliableStore(self, world.store)
        clock = StoreClock(VirtualClock(world.loop, skew), store)
        network = Network(world, self)
        client = Client(
            world.providers,
            identity.local(),
            timeout=world.settings.http_timeout,
            transport_for=lambda _account, _url: network,
            clock=clock,
        )
        self.scheduler = Scheduler(
            store,
            world.vault,
            client,
            world.providers,
            owner=name,
            clock=clock,
            draw=random.Random(world.rng.random()).random,
            pacing=world.settings.pacing,
            limits=Limits.for_timeout(world.settings.http_timeout, 64),
            log=get_logger(),
            keep=self._keep,
        )
        self._store = store
        self.task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        await self._recover()
        await self.scheduler.run()

    def _keep(self, steps: Sequence[Step]) -> bool:
        """As in the file of unsaved steps, which outlives the process."""
        if not self.dead:
            self.world.kept_aside[self.name] = json.dumps([_to_json(step) for step in steps])
        return True

    async def _recover(self) -> None:
        """What a process does before all else, and who watches over it starts it again until it has been done."""
        dead = [worker.name for worker in self.world.workers if worker.dead]
        for name in dead:
            while steps := [_from_json(step) for step in json.loads(self.world.kept_aside.get(name, "[]"))]:
                try:
                    await commit_of_the_dead(steps, self._store)
                except StoreUnavailable:
                    await asyncio.sleep(1.0)
                else:
                    self.world.kept_aside.pop(name, None)
                    self.world.judge.counts["steps recovered"] += len(steps)

    async def touch(self, _where: str) -> None:
        """Before and after everything that reaches outside: here a process may die, or stop for a while."""
        weather, rng = self.world.weather, self.world.rng
        if rng.random() < weather.crash:
            self.crash()
        elif rng.random() < weather.pause:
            self.paused_until = self.world.loop.time() + self.world.lease * (0.5 + rng.random())
        while not self.dead and self.paused_until > self.world.loop.time():
            await asyncio.sleep(self.paused_until - self.world.loop.time())
        if self.dead:
            await asyncio.get_running_loop().create_future()

    def crash(self) -> None:
        """As by ``kill -9``: whatever is under way stays as it is."""
        if not self.dead:
            self.dead = True
            self.world.judge.crashed(self)

    async def bury(self) -> None:
        """Lets go of the tasks of a dead worker, and of a living one at the end of the world."""
        self.dead = True
        # A living one would end only when everything has landed, and gives back what waits.
        self.scheduler.give_up()
        self.scheduler._open.clear()
        for queue in self.scheduler._lanes._queues.values():
            queue.items.clear()
        tasks = [self.task, *self.scheduler._lanes.tasks, *self.scheduler._in_grace]
        writer = self.scheduler._committer._writer
        if writer is not None:
            tasks.append(writer)
        for task in tasks:
            task.cancel()
        # Their clean-up meets a store and a network that never answer, so it is cancelled until it gives in.
        for _ in range(20):
            await asyncio.sleep(0)
            for task in asyncio.all_tasks():
                if task in tasks and not task.done():
                    task.cancel()


class UnreliableStore:
    """A store as one worker sees it: it may fail before or after it has done what it was asked."""

    def __init__(self, worker: Worker, store: Store) -> None:
        self._worker = worker
        self._store = store

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        async def unreliable(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, method, *args, **kwargs)

        return unreliable

    async def now(self, local: float) -> float:
        """The server's time, as a database server would tell it; ``local`` is off by the worker's skew."""
        now = self._worker.world.server_now
        return await self._call("now", lambda: _answer(now()))

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        worker = self._worker
        worker.world.judge.committing(worker, steps)

        async def commit() -> list[Outcome]:
            outcomes = await self._store.commit(steps)
            worker.world.judge.committed(worker, steps, outcomes)
            return outcomes

        return await self._call("commit", commit)

    async def _call(self, name: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        world, worker = self._worker.world, self._worker
        await worker.touch(name)
        if world.loop.time() < world.store_away_until or world.rng.random() < world.weather.store_fails_before:
            raise StoreUnavailable("the store is away")
        result = await method(*args, **kwargs)
        await asyncio.sleep(world.rng.random() * 0.01)
        await worker.touch(name)
        if world.rng.random() < world.weather.store_fails_after:
            raise StoreUnavailable("the store's answer was lost")
        return result


async def _answer(value: float) -> float:
    return value

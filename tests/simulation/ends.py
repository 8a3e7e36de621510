"""One engine with many callers, ended at any await; and what its home and its store hold afterwards.

Where the rest of the simulation has workers that are killed, this has one process that is told to end: its callers are
cancelled, all its tasks are, an exception goes by, or it has simply nothing more to do. Whatever the moment, each reply
that comes is committed, or in the file of unsaved steps, where the next process finds it.
"""

from __future__ import annotations

import asyncio
import base64
import random
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args
from urllib.parse import parse_qsl

import httpx

from kimiflow.errors import KimiFlowError, StoreError, StoreUnavailable
from kimiflow.flow import KimiFlow
from kimiflow.http.framing import RawReply
from kimiflow.http.http1 import Http1Transport, _ForSure
from kimiflow.sandbox.authority import Authority
from kimiflow.sandbox.settings import Settings as ServerSettings
from kimiflow.scheduling.limits import Limits
from kimiflow.settings import load_settings
from kimiflow.stores.memory import MemoryStore

from ..processes.judge import misdeeds
from ..virtual import START, VirtualClock, VirtualLoop

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Sequence

    from kimiflow.http.http1 import Target
    from kimiflow.stores.base import Outcome, Step

__all__ = ["Lost", "end_once"]

HowItEnds = Literal[
    "left", "exception", "cancelled", "cancelled twice", "everything cancelled", "everything cancelled twice"
]
KEY = base64.b64encode(b"k" * 32).decode()
REQUEST_TIMEOUT = 10.0
_FOR_EVER = 200_000
"""Turns of the loop that no story takes."""


class Lost(AssertionError):
    """A promise was broken."""


class CountingLoop(VirtualLoop):
    """Does something once, at a turn that is drawn before: between two turns every task stands at an await."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.turns_left = -1
        self.then: Callable[[], object] = bool

    def _run_once(self) -> None:
        self.turns += 1
        if self.turns > _FOR_EVER:
            self.turns = 0
            raise Lost("it does not end")
        if self.turns_left == 0:
            self.call_soon(self.then)
        self.turns_left -= 1
        super()._run_once()  # type: ignore[misc]


class SlowStore(MemoryStore):
    """Takes its time, and may be away."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.away_until = 0.0
        self._opened = False

    async def open(self) -> None:
        self._opened = True

    async def close(self) -> None:
        self._opened = False

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        await self._turn()
        outcomes = await super().commit(steps)
        await self._turn()
        return outcomes

    async def claim_due(self, *args: Any, **kwargs: Any) -> Any:
        await self._turn()
        return await super().claim_due(*args, **kwargs)

    async def snapshots(self, *args: Any) -> Any:
        await self._turn()
        return await super().snapshots(*args)

    async def hasten(self, *args: Any) -> None:
        await self._turn()
        await super().hasten(*args)

    async def _turn(self) -> None:
        if not self._opened:
            raise StoreError("the store is not open")
        await asyncio.sleep(self.rng.random() * 0.05)
        if asyncio.get_running_loop().time() < self.away_until:
            raise StoreUnavailable("the store is away")


class Wire(Http1Transport):
    """Stands in for sockets, and keeps what :meth:`Http1Transport.exchange` promises about being cancelled."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    async def exchange(
        self, target: Target, headers: list[tuple[bytes, bytes]], body: bytes, *, timeout: float
    ) -> RawReply:
        scene, loop = self._scene, asyncio.get_running_loop()
        await asyncio.sleep(scene.rng.random() * 0.1)
        reply: asyncio.Future[RawReply] = _ForSure(loop=loop)
        loop.call_later(timeout, lambda: None if reply.done() else reply.set_exception(TimeoutError()))
        device_id = dict(headers)[b"X-Msh-Device-Id"].decode()
        scene.beside(scene.serve(target, dict(parse_qsl(body.decode())), device_id, reply))
        try:
            return await reply
        except asyncio.CancelledError:
            return reply.result()

    async def aclose(self) -> None:
        pass


@dataclass
class Scene:
    """A server, a store, a home, and one process after the other."""

    loop: CountingLoop
    rng: random.Random
    home: Path

    def __post_init__(self) -> None:
        self.authority = Authority(ServerSettings(approve="auto", token_lifetime=600.0), random.Random(1))
        self.store = SlowStore(self.rng)
        self.latency = self.rng.choice((0.01, 0.5, 3.0))
        self.requests_left = -1
        """Until the moment is near."""
        self._server: set[asyncio.Task[Any]] = set()
        """Tasks that are no part of a process."""

    def beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs what is no part of the process: nobody who ends that one ends it."""
        task = self.loop.create_task(work)
        self._server.add(task)
        task.add_done_callback(self._server.discard)

    async def serve(
        self, target: Target, form: dict[str, str], device_id: str, reply: asyncio.Future[RawReply]
    ) -> None:
        if self.requests_left == 0:
            self.loop.turns_left = self.rng.randrange(40)
        self.requests_left -= 1
        await asyncio.sleep(self.rng.random() * self.latency)
        endpoint: Any = "device_authorization" if target.url.path.endswith("device_authorization") else "token"
        exchange = self.authority.arrive(endpoint, form, device_id, self.now())
        await asyncio.sleep(self.rng.random() * self.latency)
        said = self.authority.act(exchange, self.now())
        await asyncio.sleep(self.rng.random() * self.latency)
        self.authority.complete(exchange, self.now(), said.status, delivered=not reply.done())
        if not reply.done():
            reply.set_result(RawReply(said.status, [], httpx.Response(said.status, json=said.body).content))

    def now(self) -> float:
        return START + self.loop.virtual_now

    @asynccontextmanager
    async def process(self) -> AsyncIterator[KimiFlow]:
        settings = load_settings(home=str(self.home), key=KEY, http_timeout=REQUEST_TIMEOUT)
        wire = Wire(self)
        flow = KimiFlow(
            settings,
            self.store,
            clock=VirtualClock(self.loop),
            draw=self.rng.random,
            transport_for=lambda _account, _url: wire,
            limits=Limits.for_timeout(REQUEST_TIMEOUT, self.rng.choice((2, 8, 64))),
        )
        async with flow:
            yield flow

    def _tasks(self) -> list[asyncio.Task[Any]]:
        """Those of the process, in an order that can be replayed as far as their names tell one."""
        return sorted(asyncio.all_tasks(self.loop) - self._server, key=lambda task: task.get_name())

    def cancel_everything(self) -> None:
        for task in self._tasks():
            task.cancel()

    def end_process(self) -> list[str]:
        """What is left of a process goes with it; returns what there was of kimiflow's own."""
        left = self._tasks()
        for task in left:
            task.cancel()
        return [task.get_name() for task in left if task.get_name().startswith("kimiflow")]

    async def close(self) -> None:
        """Lets go of everything. After a mistake tasks are left that give in only when they are told again and again."""
        self._server.discard(asyncio.current_task())  # type: ignore[arg-type]
        for _ in range(50):
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.sleep(REQUEST_TIMEOUT if others else 0)


async def _caller(scene: Scene, flow: KimiFlow, names: Sequence[str]) -> None:
    """Somebody who wants something, and may not wait for it to the end."""
    rng, name = scene.rng, scene.rng.choice(names)
    await asyncio.sleep(rng.random() * rng.choice((0.0, 0.0, 1.0, 20.0)))
    wanted: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: flow.token(name),
        *[lambda: flow.refresh(name)] * 6,
        flow.run,
        lambda: flow.run(until_settled=True),
        lambda: flow.login(f"new-{rng.randrange(4)}"),
        lambda: flow.wait(f"new-{rng.randrange(4)}"),
        lambda: flow.login(name, force=True),
    ]
    with suppress(KimiFlowError, TimeoutError):
        await asyncio.wait_for(rng.choice(wanted)(), rng.choice((None, 0.1, 1.0, 10.0)))


async def _life(scene: Scene, names: Sequence[str], how: HowItEnds) -> None:
    """One process, which has many callers when the moment comes."""
    rng = scene.rng
    ended = asyncio.Event()
    main = asyncio.current_task()
    assert main is not None

    def end() -> None:
        ended.set()
        if rng.random() < 0.4:
            scene.store.away_until = scene.loop.time() + rng.choice((1.0, 5.0, 100.0)) * rng.random()
        cancel = main.cancel if how.startswith("cancelled") else scene.cancel_everything
        if "cancelled" in how:
            cancel()
        if "twice" in how:
            scene.loop.call_later(rng.random() * 2.0, cancel)

    async with scene.process() as flow:
        callers = [asyncio.create_task(_caller(scene, flow, names)) for _ in range(rng.randrange(1, 40))]
        scene.loop.then, scene.loop.turns_left = end, int(10 ** rng.uniform(0.0, 3.0))
        if rng.random() < 0.7:
            scene.requests_left, scene.loop.turns_left = rng.randrange(6), 3_000
        try:
            await ended.wait()
            if how == "exception":
                raise ZeroDivisionError
        finally:
            scene.loop.turns_left = scene.requests_left = -1
            if rng.random() < 0.5:  # else they are still there when the context is left
                for caller in callers:
                    caller.cancel()


async def _scene(scene: Scene, how: HowItEnds) -> int:
    story = asyncio.current_task()
    assert story is not None
    scene._server.add(story)
    names = [f"account-{number}" for number in range(scene.rng.randrange(1, 12))]
    async with scene.process() as flow:
        await flow.begin(names)
        async for _ in flow.follow(names):
            pass
    for _ in range(scene.rng.randrange(1, 3)):
        life = asyncio.create_task(_life(scene, names, how))
        await asyncio.wait({life})
        if left := scene.end_process():
            raise Lost(f"when the context was left ({how}) this went on: {left}")
        with suppress(asyncio.CancelledError, ZeroDivisionError):
            life.result()
        scene.store.away_until = 0.0
    # Whatever was left of leases is over by now; a new process needs nobody's help.
    await asyncio.sleep(200.0)
    issued = sum(entry.issued_refresh_token is not None for entry in scene.authority.log)
    async with scene.process() as flow:
        for name in names:
            token = await flow.refresh(name, timeout=100.0)  # one that is in doubt is left alone for a while
            if scene.authority.introspect(token.access_token, scene.now()) is None:
                raise Lost(f"{name} has a token that the server does not honour")
    left = sorted(path.name for path in scene.home.iterdir() if path.name.startswith("unsaved"))
    if left:
        raise Lost(f"these files were not taken up: {left}")
    if found := misdeeds(scene.authority.log):
        raise Lost(str(found))
    return issued


def end_once(seed: int) -> tuple[HowItEnds, int]:
    """One story from its seed: how its processes ended, and how many tokens the server had issued by then.

    :raises Lost: where a promise was broken.
    """
    rng = random.Random(seed)
    loop = CountingLoop()
    asyncio.set_event_loop(loop)
    how: HowItEnds = rng.choice(get_args(HowItEnds))
    try:
        with tempfile.TemporaryDirectory() as home:
            scene = Scene(loop, rng, Path(home))
            try:
                return how, loop.run_until_complete(_scene(scene, how))
            except KimiFlowError as error:
                raise Lost(f"after it was ended ({how}): {error}") from error
            finally:
                loop.run_until_complete(scene.close())
    finally:
        asyncio.set_event_loop(None)
        loop.close()

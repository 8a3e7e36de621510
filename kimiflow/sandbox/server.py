"""The sandbox on a socket: in the running event loop, or until a signal comes for the command line."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from kimiflow.sandbox.authority import Authority
from kimiflow.sandbox.faults import Endpoint, Fault, Faults, parse_fault, scoped
from kimiflow.sandbox.service import Service
from kimiflow.sandbox.settings import Options, Policy, Settings
from kimiflow.sandbox.threads import ThreadedSandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Self, Unpack

    from uvicorn.server import ServerState

    from kimiflow.sandbox.log import Kind, LogEntry
    from kimiflow.sandbox.quota import Tell
    from kimiflow.sandbox.records import PendingCode

__all__ = ["Sandbox", "serve"]

HOST: Final = "127.0.0.1"

_KEEP_ALIVE: Final = 75
"""Seconds that an idle connection is kept; long, so that it is not closed just as the next poll sets out."""

_GRACE: Final = 2.0
"""Seconds that replies under way get when the server stops; those that a fault holds back get none."""


class Sandbox:
    """A Kimi-compatible authorization server on loopback.

    ::

        async with Sandbox(interval=1, approve="auto") as sandbox:
            ...  # sandbox.url

    It runs in the loop that enters it, installs no signal handler and logs nothing. Entered again after it was
    left, it listens on the same port and remembers everything, as a server does after an outage.

    :param port: 0 takes a free one.
    :param faults: what goes wrong, as `parse_fault` reads it, or ready-made.
    :param clock: Unix time in seconds. Faults that wait do so in real seconds.
    :param seed: makes codes, tokens and the dice for faults the same each time.
    :param options: see `Settings`.
    :raises OSError: on entering, where the port is taken.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        faults: Iterable[str | Fault] = (),
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        self.settings = Settings(**options)
        self.port = port
        self.faults = Faults(parse_fault(fault) if isinstance(fault, str) else fault for fault in faults)
        # Two generators, so that adding a fault does not change the codes.
        # They have to be repeatable, and what they make opens nothing.
        self.authority = Authority(self.settings, random.Random(seed))  # noqa: S311
        self.service = Service(self.authority, self.faults, random.Random(seed))  # noqa: S311
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._state: ServerState | None = None
        self._closing: asyncio.Event | None = None
        self._lost: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, without a slash at the end; the port is known once it listens."""
        return f"http://{HOST}:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen; requests are answered from here on."""
        # Slow to import, and whoever only wants the authority or a fault's name should not wait for them.
        from uvicorn.config import Config  # noqa: PLC0415
        from uvicorn.server import ServerState  # noqa: PLC0415

        from kimiflow.sandbox.app import create_app  # noqa: PLC0415
        from kimiflow.sandbox.protocol import SandboxProtocol  # noqa: PLC0415

        if self._server is not None:
            raise RuntimeError("the sandbox is running already")
        closing, lost = asyncio.Event(), asyncio.Event()
        app = create_app(self.service, self._clock, closing)
        config = Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE,
            proxy_headers=False,
        )
        config.load()
        state = ServerState()
        listener = _listen(self.port)
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: SandboxProtocol(config, state, lost.set), sock=listener, backlog=1024
            )
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self.authority.base_url = self.url
        self._state, self._closing, self._lost = state, closing, lost

    async def stop(self) -> None:
        """Stop listening, let replies under way end, close all connections."""
        server, state, closing, lost = self._server, self._state, self._closing, self._lost
        if server is None or state is None or closing is None or lost is None:
            return
        self._server = None
        closing.set()
        server.close()
        for connection in list(state.connections):
            connection.shutdown()
        with suppress(TimeoutError):
            async with asyncio.timeout(_GRACE):
                await _emptied(state, lost)
        for connection in list(state.connections):
            # A client that does not read its reply; it has had its time.
            connection.transport.abort()
        await _emptied(state, lost)
        await server.wait_closed()

    def now(self) -> float:
        """The sandbox's time, Unix seconds."""
        return self._clock()

    def approve(self, user_code: str) -> PendingCode:
        """Let the device in. :raises UserCodeError: where there is nothing to decide."""
        return self.authority.approve(user_code, self._clock())

    def deny(self, user_code: str) -> PendingCode:
        """Keep the device out. :raises UserCodeError: where there is nothing to decide."""
        return self.authority.deny(user_code, self._clock())

    def approve_device(self, device_id: str) -> PendingCode:
        """`approve` the newest device code of a device."""
        return self.authority.approve_device(device_id, self._clock())

    def deny_device(self, device_id: str) -> PendingCode:
        """`deny` the newest device code of a device."""
        return self.authority.deny_device(device_id, self._clock())

    def set_policy(self, device_id: str, policy: Policy) -> None:
        """Decide about the device codes that a device will be issued."""
        self.authority.set_policy(device_id, policy)

    def revoke(self, device_id: str) -> None:
        """End the newest grant of a device. :raises LookupError: where it has none."""
        self.authority.revoke(device_id, self._clock())

    def expire(self, device_id: str) -> None:
        """End the access tokens of a device before their time. :raises LookupError: where it has none."""
        self.authority.expire(device_id, self._clock())

    def pending(self) -> list[PendingCode]:
        """The codes that wait for a person, the oldest first, at most 100."""
        return self.authority.pending(self._clock())

    def is_valid(self, access_token: str) -> bool:
        """Whether an API would take the access token now."""
        return self.authority.introspect(access_token, self._clock()) is not None

    def inject(
        self,
        fault: str | Fault,
        *,
        endpoint: Endpoint | None = None,
        times: int | None = None,
        probability: float | None = None,
        device_id: str | None = None,
    ) -> None:
        """Let something go wrong from now on; ``inject("503/20", endpoint="poll", times=3)``.

        What is given here overrides what the text says.

        :raises FaultError: where that makes no fault.
        """
        self.faults.add(scoped(fault, endpoint=endpoint, times=times, probability=probability, device_id=device_id))

    def limit(self, device_id: str, seconds: float, *, status: int = 429, tell: Tell = "header") -> None:
        """Let the quota of a device's account be used up for so many seconds; completions are refused until then.

        :param status: 429, or 403 for ``access_terminated_error``, as Kimi answers where the week's quota is used up.
        :param tell: how a client can learn when it is back; ``/v1/usages`` always says so.
        """
        self.service.api.limit(device_id, seconds, self._clock(), status=status, tell=tell)

    def set_profile(self, device_id: str, **fields: object) -> None:
        """What ``/v1/me`` says of a device's account: these fields in place of its own, ``None`` for one left out."""
        self.service.api.set_profile(device_id, **fields)

    def clear_faults(self) -> None:
        """From now on nothing goes wrong."""
        self.faults.clear()

    def log(self, kind: Kind | None = None, device_id: str | None = None) -> list[LogEntry]:
        """The entries so far, of one kind, of one device, or all; in the order of completion."""
        return self.authority.log.select(kind, device_id)

    def counts(self) -> dict[str, int]:
        """How often what happened; see `Log.counts`. What never happened is missing."""
        return dict(self.authority.log.counts)

    @staticmethod
    def in_thread(
        *,
        port: int = 0,
        faults: Iterable[str | Fault] = (),
        clock: Callable[[], float] = time.time,
        seed: int | None = None,
        **options: Unpack[Options],
    ) -> ThreadedSandbox:
        """The same with a thread and a loop of its own, for ``with`` instead of ``async with``."""
        return ThreadedSandbox(Sandbox(port=port, faults=faults, clock=clock, seed=seed, **options))


async def serve(sandbox: Sandbox, on_listening: Callable[[str], None]) -> None:
    """Run ``sandbox`` until Ctrl-C or SIGTERM, then return. For the main thread.

    ``on_listening`` is called with the URL once requests are answered.

    :raises OSError: where the port is taken.
    """
    stop = asyncio.Event()
    with _on_signals(stop.set):
        async with sandbox:
            on_listening(sandbox.url)
            await stop.wait()


@contextmanager
def _on_signals(callback: Callable[[], None]) -> Iterator[None]:
    """Call ``callback`` in the loop on Ctrl-C and SIGTERM, instead of what they do by themselves."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        # Not the loop's own add_signal_handler, which Windows does not have.
        signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(callback))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(port: int) -> socket.socket:
    # The protocol is named because asyncio turns Nagle's algorithm off only where it is. Head and body are two
    # writes, and the second would wait 40 ms for the first to be acknowledged.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # On Windows this would let two servers share the port instead of freeing it early.
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.setblocking(False)  # noqa: FBT003 - takes no keyword
    except BaseException:
        listener.close()
        raise
    return listener


async def _emptied(state: ServerState, lost: asyncio.Event) -> None:
    while state.connections:
        lost.clear()
        await lost.wait()
    if state.tasks:
        await asyncio.wait(state.tasks)

"""Client and server of the fuzz test: every request meets the reply that was drawn for it."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import TYPE_CHECKING, get_args
from urllib.parse import parse_qs

from kimiflow import events
from kimiflow.client import Client
from kimiflow.clock import SystemClock
from kimiflow.http.transports import Transports
from kimiflow.model import Account
from kimiflow.provider import Provider
from kimiflow.secret import Secret
from kimiflow.wire import Identity
from tests.core.samples import polling, refreshing

from .replies import Ending, Reply, draw

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

ALLOWED: dict[str, tuple[type, ...]] = {
    "device": (events.DeviceCodeIssued, events.AccessDenied, events.AttemptFailed),
    "poll": (
        events.AuthorizationPending,
        events.SlowDown,
        events.AccessTokenIssued,
        events.AccessDenied,
        events.ExpiredToken,
        events.InvalidGrant,
        events.AttemptFailed,
    ),
    "refresh": (events.AccessTokenIssued, events.AccessDenied, events.InvalidGrant, events.AttemptFailed),
}
assert all(set(kinds) <= set(get_args(events.Event)) for kinds in ALLOWED.values())

_PATHS = {"/api/oauth/device_authorization", "/api/oauth/token"}
_MARKER = re.compile(r"[ar]t-([0-9a-f]{24})|dc-([0-9a-f]{24})")


class Broken(AssertionError):
    """A promise of the client that did not hold; the message says with which seed."""


def client_of(url: str, transports: Transports, *, timeout: float) -> Client:
    provider = Provider("kimi", f"{url}/api/oauth/device_authorization", f"{url}/api/oauth/token", "the-client")
    identity = Identity("kimiflow", "1", "host", "Linux amd64")
    return Client({"kimi": provider}, identity, timeout=timeout, transport_for=transports, clock=SystemClock())


def account(name: str) -> Account:
    """Its device id tells the server which reply it is to get."""
    return Account(name, name, "kimi", name, None, 0.0)


class Connection:
    """One connection, from the server's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> bytes:
        """The head of the next request; empty where the client has hung up."""
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""

    async def body(self, head: bytes) -> bytes:
        (length,) = re.findall(rb"content-length: (\d+)", head.lower())
        return await self.reader.readexactly(int(length))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def hung_up(self) -> None:
        with suppress(OSError):
            while await self.reader.read(65_536):
                pass

    def reset(self) -> None:
        raw: socket.socket = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@asynccontextmanager
async def serving(script: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[str]:
    """Runs ``script`` for each connection; yields the server's URL."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await script(Connection(reader, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        running = list(tasks)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


class Fuzz:
    """``cases`` requests, each answered by what its number and the seed say.

    :param timeout: what the client gives an exchange, in seconds.
    :param patience: how much longer it may take on a busy machine.
    """

    def __init__(
        self, seed: int, cases: range, *, lanes: int = 24, timeout: float = 0.15, patience: float = 5.0
    ) -> None:
        self.seed = seed
        self.timeout = timeout
        self.patience = patience
        self.counts: Counter[str] = Counter()
        self._todo = iter(cases)
        self._lanes = lanes
        self._requests: Counter[str] = Counter()
        self._stray: list[str] = []

    async def run(self) -> Counter[str]:
        """How often which event came of it. :raises Broken: where a promise did not hold."""
        transports = Transports()
        try:
            async with serving(self._serve) as url:
                client = client_of(url, transports, timeout=self.timeout)
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._lanes):
                        group.create_task(self._lane(client))
        except* Broken as broken:
            raise broken.exceptions[0] from None
        finally:
            await transports.aclose()
        if self._stray:
            raise Broken(f"seed {self.seed}: requests that nobody made: {self._stray[:3]}")
        return self.counts

    def _facts(self, number: int) -> tuple[str, str, str, Random]:
        rng = Random(f"{self.seed}-{number}")
        method = rng.choice(("device", "poll", "poll", "refresh", "refresh"))
        return method, f"secret/{rng.getrandbits(96):024x}+", f"{rng.getrandbits(96):024x}", rng

    def _reply(self, number: int) -> Reply:
        _, secret, marker, rng = self._facts(number)
        return draw(rng, marker=marker, stale=f"{rng.getrandbits(96):024x}", secret=secret)

    async def _lane(self, client: Client) -> None:
        for number in self._todo:
            await self._one(client, number)

    async def _one(self, client: Client, number: int) -> None:
        method, secret, marker, _ = self._facts(number)
        who, started = account(str(number)), time.monotonic()
        where = f"seed {self.seed}, case {number} ({method})"
        try:
            if method == "device":
                event: events.Event = await client.request_device_authorization(who)
            elif method == "poll":
                event = await client.poll(who, polling(Secret(secret)))
            else:
                event = await client.refresh(who, refreshing(Secret(secret)))
        except Exception as error:
            raise Broken(f"{where}: raised {error!r} for {self._reply(number)!r:.600}") from error
        self.counts[type(event).__name__] += 1
        took = time.monotonic() - started
        if took > self.timeout + self.patience:
            raise Broken(f"{where}: took {took:.1f} s")
        if not isinstance(event, ALLOWED[method]):
            raise Broken(f"{where}: {event!r} is no event of this request")
        if self._requests[str(number)] > 1:
            raise Broken(f"{where}: sent {self._requests[str(number)]} times")
        told = _everything_in(event)
        for found in _MARKER.findall(told):
            held = found[0] or found[1]
            # A reply that was tampered with may carry a marker that nobody ever made, but never another's.
            if held != marker and held in self._reply_text(number, without=marker):
                raise Broken(f"{where}: holds what came after the reply, or belongs to another: {event!r}")
        if method != "device" and secret in _shown_in(event):
            raise Broken(f"{where}: shows the secret: {event!r}")

    def _reply_text(self, number: int, *, without: str) -> str:
        """The markers that stand in the replies to neighbours, and after this one."""
        texts = []
        for each in range(max(0, number - 3 * self._lanes), number + 3 * self._lanes):
            _, _, marker, rng = self._facts(each)
            texts += [marker, f"{rng.getrandbits(96):024x}"]
        return " ".join(text for text in texts if text != without)

    async def _serve(self, connection: Connection) -> None:
        while head := await connection.head():
            path = head.split(b" ", 2)[1].decode()
            (device,) = re.findall(rb"x-msh-device-id: (\d+)", head.lower())
            self._requests[device.decode()] += 1
            reply = self._reply(int(device))
            if not reply.early:
                body = await connection.body(head)
                self._look_at(path, int(device), body)
            for n, piece in enumerate(reply.pieces):
                if n:
                    await asyncio.sleep(reply.pause)
                await connection.send(piece)
            match reply.ending:
                case Ending.CLOSES:
                    return
                case Ending.RESETS:
                    connection.reset()
                    return
            if reply.early:
                body = await connection.body(head)
                self._look_at(path, int(device), body)

    def _look_at(self, path: str, number: int, body: bytes) -> None:
        method, secret, _, _ = self._facts(number)
        form = {key: value for key, (value,) in parse_qs(body.decode()).items()}
        sent = form.get("device_code") or form.get("refresh_token")
        if path not in _PATHS or sent != (None if method == "device" else secret):
            self._stray.append(f"{path} {form}")


def _everything_in(event: events.Event) -> str:
    """All text of an event, its secrets too."""
    match event:
        case events.AccessTokenIssued(tokens=tokens):
            refresh = tokens.refresh_token.reveal() if tokens.refresh_token else ""
            return f"{tokens.access_token.reveal()} {refresh} {event!r}"
        case events.DeviceCodeIssued(device_authorization=issued):
            return f"{issued.device_code.reveal()} {event!r}"
    return repr(event)


def _shown_in(event: events.Event) -> str:
    """What of an event is stored in clear, and shown."""
    match event:
        case events.AccessTokenIssued(tokens=tokens):
            return f"{tokens.token_type} {tokens.scope}"
        case events.DeviceCodeIssued(device_authorization=issued):
            return f"{issued.user_code} {issued.verification_uri} {issued.verification_uri_complete}"
    return repr(event)

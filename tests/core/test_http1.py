"""The transport alone: one connection, many exchanges, and the time that each of them has."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow.http.deadline import LAST_LOOK
from kimiflow.http.http1 import Http1Transport, Target
from kimiflow.wire import MAX_BODY

from .raw_server import Connection, RawServer, answering, certificate, http, raw_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from kimiflow.http.framing import RawReply

LONG = 30.0


@asynccontextmanager
async def transport_of(tls: ssl.SSLContext | None = None) -> AsyncIterator[Http1Transport]:
    transport = Http1Transport(tls or ssl.create_default_context(), max_body=MAX_BODY)
    try:
        yield transport
    finally:
        await transport.aclose()


def target_at(url: str, headers: list[tuple[bytes, bytes]] | None = None) -> Target:
    return Target("POST", httpx.URL(f"{url}/token"), [(b"Host", b"x")] if headers is None else headers)


async def post(transport: Http1Transport, url: str, body: bytes = b"a=b", *, timeout: float = LONG) -> RawReply:
    return await transport.exchange(target_at(url), [(b"X-Own", b"1")], body, timeout=timeout)


class TestBothWaysIn:
    async def test_put_the_same_bytes_on_the_wire(self) -> None:
        async with raw_server(answering(http(b"1"), http(b"2"))) as server, transport_of() as transport:
            raw = await post(transport, server.url)
            request = httpx.Request(
                "POST",
                f"{server.url}/token",
                headers=[("Host", "x"), ("X-Own", "1"), ("Content-Length", "3")],
                content=b"a=b",
            )
            response = await transport.handle_async_request(request)
        assert server.requests[0] == b"POST /token HTTP/1.1\r\nHost: x\r\nX-Own: 1\r\nContent-Length: 3\r\n\r\na=b"
        assert server.requests[0] == server.requests[1]
        assert (raw.body, await response.aread()) == (b"1", b"2")
        assert (
            raw.headers == response.headers.raw == [(b"Content-Type", b"application/json"), (b"Content-Length", b"1")]
        )
        assert server.connections == 1, "they share connections"

    async def test_end_where_the_caller_ends_them(self) -> None:
        async with raw_server(SlowServer()) as server, transport_of() as transport:
            request = httpx.Request("POST", f"{server.url}/token", content=b"a=b")
            for exchange in (transport.handle_async_request(request), post(transport, server.url)):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await exchange

    async def test_refuse_a_line_break_in_a_header(self) -> None:
        with pytest.raises(httpx.LocalProtocolError):
            target_at("http://127.0.0.1:1", [(b"X", b"a\r\nEvil: 1")])
        request = httpx.Request("POST", "http://127.0.0.1:1", headers=[(b"X", b"a\nEvil: 1")])
        async with transport_of() as transport:
            with pytest.raises(httpx.LocalProtocolError):
                await transport.handle_async_request(request)


class Clock:
    """The event loop's own, which stands still until it is told; sockets go on."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now

    async def advance(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(5):  # what was due rings, and whoever waited for it sees it
            await asyncio.sleep(0)


@pytest.fixture
async def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", clock)
    return clock


class SlowServer:
    """Answers each request when it is told to."""

    def __init__(self) -> None:
        self.asked = asyncio.Semaphore(0)
        self.answer = asyncio.Semaphore(0)

    async def __call__(self, connection: Connection, seen: RawServer) -> None:
        while request := await connection.request():
            seen.requests.append(request)
            self.asked.release()
            await self.answer.acquire()
            await connection.send(http(b"%d" % len(seen.requests)))


@pytest.mark.asyncio(loop_factories=["asyncio"])  # the only one whose time can be told to stand still
class TestEachExchangeHasItsOwnTime:
    """Though one connection serves many, and has one alarm for all of them."""

    @asynccontextmanager
    async def asking(self, slow: SlowServer) -> AsyncIterator[Callable[[float], Awaitable[asyncio.Task[RawReply]]]]:
        """Sends a request with this time-out; it has arrived, and is not answered."""
        async with raw_server(slow) as server, transport_of() as transport:

            async def ask(timeout: float) -> asyncio.Task[RawReply]:
                task = asyncio.create_task(post(transport, server.url, timeout=timeout))
                await slow.asked.acquire()
                return task

            yield ask
            assert server.connections == 1

    async def test_the_time_of_the_one_before_does_not_count(self, clock: Clock) -> None:
        async with self.asking(slow := SlowServer()) as ask:
            for number in (b"1", b"2", b"3"):
                exchange = await ask(10.0)
                await clock.advance(9.0)
                slow.answer.release()
                assert (await exchange).body == number

    async def test_all_of_it_and_a_last_look_may_pass_and_no_more(self, clock: Clock) -> None:
        async with self.asking(SlowServer()) as ask:
            exchange = await ask(10.0)
            await clock.advance(9.9)
            await clock.advance(0.2)
            assert not exchange.done()
            await clock.advance(LAST_LOOK)
            with pytest.raises(TimeoutError):
                await exchange

    async def test_a_short_one_after_a_long_one_ends_in_its_time(self, clock: Clock) -> None:
        async with self.asking(slow := SlowServer()) as ask:
            exchange = await ask(1_000.0)
            slow.answer.release()
            await exchange
            exchange = await ask(10.0)
            await clock.advance(10.0)
            await clock.advance(LAST_LOOK)
            with pytest.raises(TimeoutError):
                await exchange

    async def test_a_long_one_after_a_short_one_has_all_of_its_time(self, clock: Clock) -> None:
        async with self.asking(slow := SlowServer()) as ask:
            exchange = await ask(10.0)
            slow.answer.release()
            await exchange
            exchange = await ask(1_000.0)
            await clock.advance(10.0)
            await clock.advance(980.0)
            slow.answer.release()
            assert (await exchange).body == b"2"

    async def test_one_that_follows_a_last_look_has_all_of_its_time(self, clock: Clock) -> None:
        async with self.asking(slow := SlowServer()) as ask:
            exchange = await ask(10.0)
            await clock.advance(10.0)
            slow.answer.release()  # the reply comes when the transport looks once more
            assert (await exchange).body == b"1"
            exchange = await ask(10.0)
            await clock.advance(LAST_LOOK)
            assert not exchange.done()
            await clock.advance(9.0)
            assert not exchange.done()
            await clock.advance(1.0)
            await clock.advance(LAST_LOOK)
            with pytest.raises(TimeoutError):
                await exchange

    async def test_an_alarm_that_rang_while_nothing_was_sent_is_set_again(self, clock: Clock) -> None:
        async with self.asking(slow := SlowServer()) as ask:
            exchange = await ask(10.0)
            slow.answer.release()
            await exchange
            await clock.advance(20.0)
            exchange = await ask(10.0)
            await clock.advance(10.0)
            await clock.advance(LAST_LOOK)
            with pytest.raises(TimeoutError):
                await exchange


class TestAConnectionIsNotUsedAgain:
    """Where the rest of a reply may still come."""

    async def test_after_a_time_out(self) -> None:
        async def script(connection: Connection, seen: RawServer) -> None:
            if seen.connections == 1:
                await connection.request()
                await asyncio.sleep(0.3)
                await connection.send(http(b"too late"))
                await connection.hung_up()
            else:
                await answering(http(b"mine"))(connection, seen)

        async with raw_server(script) as server, transport_of() as transport:
            with pytest.raises(TimeoutError):
                await post(transport, server.url, timeout=0.1)
            await asyncio.sleep(0.3)
            assert (await post(transport, server.url)).body == b"mine"

    async def test_after_it_was_cancelled(self) -> None:
        asked = asyncio.Event()

        async def script(connection: Connection, seen: RawServer) -> None:
            await connection.request()
            asked.set()
            await asyncio.sleep(0.05)
            await connection.send(http(b"%d" % seen.connections))
            await connection.hung_up()

        async with raw_server(script) as server, transport_of() as transport:
            # As an application's request: one of kimiflow's own is heard out, see test_client.
            first = asyncio.create_task(transport.handle_async_request(httpx.Request("POST", server.url)))
            await asked.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert (await post(transport, server.url)).body == b"2"


class TestConnecting:
    async def test_takes_part_of_the_time(self) -> None:
        """A handshake that is never answered."""

        async def script(connection: Connection, _: RawServer) -> None:
            await connection.hung_up()

        async with raw_server(script) as server, transport_of() as transport:
            started = time.monotonic()
            with pytest.raises(TimeoutError):
                await post(transport, server.url.replace("http:", "https:"), timeout=0.1)
            assert time.monotonic() - started < LONG / 3

    async def test_that_took_all_of_it_sends_nothing(self, tmp_path: Path) -> None:
        """The process stood still in the handshake. What was sent now, nobody would wait for; it may be a token."""
        trusted, context = certificate(tmp_path)
        greeted = threading.Event()
        context.sni_callback = lambda *_: greeted.set()
        ours = ssl.create_default_context(cafile=str(trusted))
        async with raw_server(answering(http(b"")), context) as server, transport_of(ours) as transport:
            exchange = asyncio.create_task(post(transport, server.url, timeout=0.5))
            while not greeted.is_set():
                await asyncio.sleep(0)
            time.sleep(0.6)
            with pytest.raises(TimeoutError):
                await exchange
            await asyncio.sleep(0.05)
        assert server.requests == []

    async def test_to_nobody_is_an_error_and_no_time_out(self) -> None:
        async with raw_server(answering()) as server:
            gone = server.url
        async with transport_of() as transport:
            with pytest.raises(httpx.ConnectError):
                await post(transport, gone)


class TestManyExchangesOverTLS:
    async def test_share_a_connection(self, tmp_path: Path) -> None:
        trusted, context = certificate(tmp_path)
        ours = ssl.create_default_context(cafile=str(trusted))
        replies = [http(b"%d" % n) for n in range(5)]
        async with raw_server(answering(*replies), context) as server, transport_of(ours) as transport:
            assert [(await post(transport, server.url)).body for _ in replies] == [b"0", b"1", b"2", b"3", b"4"]
        assert server.connections == 1

"""The client in the hands of servers that are broken, hostile, or both."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
import tracemalloc
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import cycle, repeat
from typing import TYPE_CHECKING

import pytest

from kimiflow.events import AccessTokenIssued, AttemptFailed, AuthorizationPending
from kimiflow.http.transports import Transports
from kimiflow.secret import Secret
from tests.core.samples import polling, refreshing

from .harness import Connection, Fuzz, account, client_of, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from kimiflow.client import Client

CASES = int(os.environ.get("KIMIFLOW_FUZZ_CASES", "2000"))

SECRET = Secret("the-secret")
MIB = 1 << 20


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@asynccontextmanager
async def facing(script: Callable[[Connection], Awaitable[None]], *, timeout: float) -> AsyncIterator[Client]:
    transports = Transports()
    try:
        async with serving(script) as url:
            yield client_of(url, transports, timeout=timeout)
    finally:
        await transports.aclose()


def tokens(name: str) -> bytes:
    body = json.dumps({"access_token": name, "refresh_token": f"{name}-refresh"}).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def test_whatever_is_replied_becomes_an_event_of_its_own_request() -> None:
    """It raises nothing, sends nothing twice, follows nothing, shows no secret, and mixes nothing up."""
    counts = await Fuzz(2024, range(CASES)).run()
    assert counts.total() == CASES
    assert counts["AccessTokenIssued"] > CASES // 20, counts


def endless(head: bytes, body: Iterable[bytes], most: int = 32 * MIB) -> Callable[[Connection], Awaitable[None]]:
    """A script: a reply of up to ``most`` bytes, as fast as it is read."""

    async def script(connection: Connection) -> None:
        await connection.body(await connection.head())
        await connection.send(head)
        sent = 0
        for piece in body:
            sent += len(piece)
            if sent > most:
                break
            await connection.send(piece)
            await asyncio.sleep(0)
        await connection.hung_up()

    return script


BLOCK = b" " * 65_536
OK = b"HTTP/1.1 200 OK\r\n"
FLOODS = {
    "a body with its length": endless(OK + b"Content-Length: %d\r\n\r\n" % (32 * MIB), repeat(BLOCK)),
    "a body in chunks": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", repeat(b"10000\r\n" + BLOCK + b"\r\n")),
    "a body to the end of the connection": endless(OK + b"\r\n", repeat(BLOCK)),
    "one chunk": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n7fffffff\r\n", repeat(BLOCK)),
    "chunks of a byte": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", repeat(b"1\r\nx\r\n" * 500)),
    "a chunk's extension": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n1;", repeat(BLOCK)),
    "trailers": endless(OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", repeat(b"Trailer: x\r\n" * 2_000)),
    "headers": endless(OK, repeat(b"Header: x\r\n" * 2_000)),
    "one header": endless(OK + b"X: ", repeat(BLOCK)),
    "a status line": endless(b"HTTP/1.1 200 ", repeat(BLOCK)),
    "interim replies": endless(b"", repeat(b"HTTP/1.1 100 Continue\r\n\r\n" * 1_000)),
    "interim replies with headers": endless(
        b"", cycle([b"HTTP/1.1 103 Early Hints\r\n", b"X: y\r\n" * 2_000, b"\r\n"])
    ),
    "empty lines": endless(b"", repeat(b"\r\n" * 8_000)),
    "noise": endless(b"", repeat(bytes(range(256)) * 256)),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_reply_without_end_costs_little(flood: str) -> None:
    """Of 32 MiB, and of what never comes to an end, no more than a few are ever in memory."""
    async with facing(FLOODS[flood], timeout=0.3) as client:
        tracemalloc.start()
        try:
            started = time.monotonic()
            assert isinstance(await client.poll(account("1"), polling(SECRET)), AttemptFailed)
            took = time.monotonic() - started
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The server, which is in this process too, holds some of what it has not got rid of.
    assert peak < 8 * MIB
    assert took < 5.0


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * (MIB // 3 - 10) + b"0]}",
        b'{"a":[' + b"1," * (MIB // 2 - 10) + b"0]}",
        b'{"a":' * (MIB // 5),
        b"[" * (MIB - 1),
        b'{"expires_in":' + b"9" * (MIB - 40) + b"}",
        b'{"expires_in":0.' + b"0" * (MIB - 40) + b"1}",
        b'{"interval":"' + b"9" * (MIB - 40) + b'"}',
        b'{"error":"' + b"\\u0007" * (MIB // 6 - 10) + b'"}',
        b'{"message":"' + b"the-secret" * (MIB // 10 - 10) + b'"}',
        b'{"error_description":"' + b"\xff" * (MIB - 60) + b'"}',
    ],
    ids=["lists", "numbers", "depth", "brackets", "digits", "zeros", "a string of digits", "bells", "echoes", "bytes"],
)
async def test_a_mebibyte_made_to_be_hard_to_read(body: bytes) -> None:
    async def script(connection: Connection) -> None:
        while head := await connection.head():
            await connection.body(head)
            await connection.send(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)

    async with facing(script, timeout=10.0) as client:
        tracemalloc.start()
        started = time.process_time()
        try:
            event = await client.poll(account("1"), polling(SECRET))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            worked = time.process_time() - started
            tracemalloc.stop()
    assert isinstance(event, AttemptFailed)
    assert "the-secret" not in repr(event)
    assert peak < 48 * MIB
    assert worked < 5.0


@pytest.mark.parametrize("pause", [0.01, 0.2])
async def test_a_body_that_drips_in_ends_in_time_and_without_haste(pause: float) -> None:
    async def script(connection: Connection) -> None:
        await connection.body(await connection.head())
        await connection.send(OK + b"Content-Length: 1000000\r\n\r\n")
        while True:
            await connection.send(b" ")
            await asyncio.sleep(pause)

    async with facing(script, timeout=1.0) as client:
        started, worked = time.monotonic(), time.process_time()
        event = await client.poll(account("1"), polling(SECRET))
        took, worked = time.monotonic() - started, time.process_time() - worked
    assert isinstance(event, AttemptFailed)
    assert event.error == "timeout"
    assert 0.9 < took < 5.0
    assert worked < 0.5  # of a second and more in which there was almost nothing to do


@pytest.mark.parametrize("when", ["with the reply", "while idle"])
async def test_what_follows_a_reply_unasked_is_nobodys(when: str) -> None:
    """Not even where the process had no time to look at it before the next request."""

    async def script(connection: Connection) -> None:
        number = 0
        while head := await connection.head():
            await connection.body(head)
            number += 1
            mine = tokens(f"asked-for-{number}")
            if when == "with the reply":
                await connection.send(mine + tokens("unasked"))
            else:
                await connection.send(mine)
                await asyncio.sleep(0.02)
                await connection.send(tokens("unasked"))

    async with facing(script, timeout=5.0) as client:
        for _ in range(3):
            event = await client.refresh(account("1"), refreshing(SECRET))
            assert isinstance(event, AccessTokenIssued)
            # Each time on a connection of its own, as its first.
            assert event.tokens.access_token.reveal() == "asked-for-1"
            await asyncio.sleep(0.1)


@asynccontextmanager
async def elsewhere(script: Callable[[Connection], Awaitable[None]]) -> AsyncIterator[str]:
    """A server in a thread of its own, which goes on while this one stands still; yields its URL."""
    started, over = Future[str](), threading.Event()

    async def main() -> None:
        async with serving(script) as url:
            started.set_result(url)
            await asyncio.to_thread(over.wait)

    with ThreadPoolExecutor(1) as thread:
        server = thread.submit(asyncio.run, main())
        try:
            yield await asyncio.wrap_future(started)
        finally:
            over.set()
            await asyncio.wrap_future(server)


async def test_what_arrives_unasked_while_the_process_stands_still_is_nobodys() -> None:
    """The next request is about to leave, and the loop has not looked at the connection since."""
    said = threading.Event()

    async def script(connection: Connection) -> None:
        number = 0
        while head := await connection.head():
            await connection.body(head)
            number += 1
            await connection.send(tokens(f"asked-for-{number}"))
            await asyncio.sleep(0.05)
            await connection.send(tokens("unasked"))
            said.set()

    transports = Transports()
    async with elsewhere(script) as url:
        client = client_of(url, transports, timeout=5.0)
        assert isinstance(await client.refresh(account("1"), refreshing(SECRET)), AccessTokenIssued)
        said.wait(30)  # this thread stands still, and meanwhile bytes arrive
        event = await client.refresh(account("2"), refreshing(SECRET))
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.access_token.reveal() == "asked-for-1"
        await transports.aclose()


async def test_a_reply_that_came_while_the_process_stood_still_is_read() -> None:
    """Its time is up by then, but it may hold the only copy of a token."""
    arrived, replied = threading.Event(), threading.Event()

    async def script(connection: Connection) -> None:
        await connection.body(await connection.head())
        arrived.set()
        await asyncio.sleep(0.1)
        await connection.send(tokens("in-time"))
        replied.set()
        await connection.hung_up()

    timeout, transports = 1.0, Transports()
    async with elsewhere(script) as url:
        client = client_of(url, transports, timeout=timeout)
        request = asyncio.create_task(client.refresh(account("1"), refreshing(SECRET)))
        while not arrived.is_set():
            await asyncio.sleep(0.005)
        replied.wait(30)
        time.sleep(timeout)
        assert isinstance(await request, AccessTokenIssued)
        await transports.aclose()


async def test_a_reply_before_its_request_is_no_reply() -> None:
    """A server that speaks first is not understood, and what it says meets no request."""

    async def script(connection: Connection) -> None:
        await connection.send(tokens("unasked"))
        await connection.hung_up()

    async with facing(script, timeout=0.5) as client:
        for number in range(5):
            event = await client.poll(account(str(number)), polling(SECRET))
            # Whether the bytes are there before the request has left is a matter of microseconds.
            assert isinstance(event, (AttemptFailed, AccessTokenIssued))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/elsewhere", "//127.0.0.2/", "https://elsewhere.example/"])
async def test_a_redirect_is_never_followed(status: int, path: str) -> None:
    requests: list[bytes] = []

    async def script(connection: Connection) -> None:
        while head := await connection.head():
            requests.append(head.split(b"\r\n")[0])
            await connection.body(head)
            await connection.send(
                b"HTTP/1.1 %d Gone\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % (status, path.encode())
            )

    async with facing(script, timeout=5.0) as client:
        event = await client.refresh(account("1"), refreshing(SECRET))
    assert isinstance(event, AttemptFailed)
    assert requests == [b"POST /api/oauth/token HTTP/1.1"]


async def test_interim_replies_before_the_real_one() -> None:
    async def script(connection: Connection) -> None:
        while head := await connection.head():
            await connection.body(head)
            body = b'{"error": "authorization_pending"}'
            await connection.send(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000)
            await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    async with facing(script, timeout=10.0) as client:
        assert await client.poll(account("1"), polling(SECRET)) == AuthorizationPending()

"""The client over real sockets: whatever a network or a server does to it, an event comes of it, in time.

Directly it speaks kimiflow's own transport, through a proxy httpx's; what matters is tested with both.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import ssl
import time
import tracemalloc
import zlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import httpx
import pytest

from kimiflow import wire
from kimiflow.client import Client
from kimiflow.errors import InvalidSetting, UnknownProvider
from kimiflow.events import (
    AccessTokenIssued,
    AttemptFailed,
    AuthorizationPending,
    DeviceCodeIssued,
    InvalidGrant,
    SlowDown,
)
from kimiflow.http.transports import Transports
from kimiflow.provider import Provider
from kimiflow.secret import Secret
from kimiflow.wire import Identity

from .raw_server import Connection, RawServer, answering, certificate, http, raw_server
from .samples import IDENTITY, NOW, account, polling, refreshing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from kimiflow.model import Account

CODE = Secret("the-device-code")
REFRESH_TOKEN = Secret("the-refresh-token")
PENDING = json.dumps({"error": "authorization_pending"}).encode()
TOKENS = json.dumps({"access_token": "new-access", "refresh_token": "new-refresh", "expires_in": 900}).encode()
DEVICE = json.dumps(
    {"device_code": "dc", "user_code": "AB-CD", "verification_uri": "https://kimi.example/device"}
).encode()

PROXY_VARIABLES = [f"{name}_proxy" for name in ("http", "https", "all", "no")]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the person who runs the tests has set."""
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class StoppedClock:
    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return 0.0


def provider_at(url: str) -> Provider:
    return Provider("kimi", f"{url}/api/oauth/device_authorization", f"{url}/api/oauth/token", "the-client")


@asynccontextmanager
async def client_for(
    url: str, *, timeout: float = 5.0, identity: Identity = IDENTITY, proxy: str | None = None
) -> AsyncIterator[Client]:
    transports = Transports(proxy=proxy)
    try:
        yield Client(
            {"kimi": provider_at(url)},
            identity,
            timeout=timeout,
            transport_for=transports,
            clock=StoppedClock(),
        )
    finally:
        await transports.aclose()


async def poll_answered_by(
    script: Callable[[Connection, RawServer], Any], *, timeout: float = 5.0, polls: int = 1
) -> list[Any]:
    """What polls of a server that runs ``script`` become."""
    async with raw_server(script) as server, client_for(server.url, timeout=timeout) as client:
        return [await client.poll(account(), polling(CODE)) for _ in range(polls)]


async def poll_once(script: Callable[[Connection, RawServer], Any], *, timeout: float = 5.0) -> Any:
    return (await poll_answered_by(script, timeout=timeout))[0]


class TestWhatIsSent:
    async def test_every_byte_of_a_poll(self) -> None:
        async with raw_server(answering(http(PENDING))) as server, client_for(server.url) as client:
            assert await client.poll(account(), polling(CODE)) == AuthorizationPending()
        head, _, body = server.requests[0].partition(b"\r\n\r\n")
        line, *headers = head.decode("ascii").split("\r\n")
        assert line == "POST /api/oauth/token HTTP/1.1"
        assert dict(each.split(": ", 1) for each in headers) == {
            "Host": f"127.0.0.1:{server.port}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "Content-Type": "application/x-www-form-urlencoded",
            "Content-Length": str(len(body)),
            "User-Agent": "kimiflow/1.2.3",
            "X-Msh-Platform": "kimiflow",
            "X-Msh-Version": "1.2.3",
            "X-Msh-Device-Name": "host",
            "X-Msh-Device-Model": "Linux amd64",
            "X-Msh-Device-Id": "device-1",
        }
        assert len(headers) == 11
        assert parse_qs(body.decode()) == {
            "client_id": ["the-client"],
            "device_code": ["the-device-code"],
            "grant_type": ["urn:ietf:params:oauth:grant-type:device_code"],
        }

    async def test_each_step_goes_to_its_endpoint(self) -> None:
        script = answering(http(DEVICE), http(TOKENS), http(TOKENS))
        async with raw_server(script) as server, client_for(server.url) as client:
            assert isinstance(await client.request_device_authorization(account()), DeviceCodeIssued)
            assert isinstance(await client.poll(account(), polling(CODE)), AccessTokenIssued)
            assert isinstance(await client.refresh(account(), refreshing(REFRESH_TOKEN)), AccessTokenIssued)
        assert [request.split(b" ", 2)[1] for request in server.requests] == [
            b"/api/oauth/device_authorization",
            b"/api/oauth/token",
            b"/api/oauth/token",
        ]

    async def test_an_odd_host_name_never_keeps_a_request_from_leaving(self) -> None:
        odd = Identity("ki\u00b5flow", "\r\nX-Evil: 1", "  \u96fb\u8166 ", "\x1b[2J")
        async with (
            raw_server(answering(http(PENDING))) as server,
            client_for(server.url, identity=odd) as client,
        ):
            assert await client.poll(account(device_id="d\u00e9"), polling(CODE)) == AuthorizationPending()
        request = server.requests[0]
        assert b"User-Agent: kiflow/X-Evil: 1\r\n" in request
        assert b"X-Msh-Device-Name: unknown\r\n" in request
        assert b"X-Msh-Device-Model: [2J\r\n" in request
        assert b"X-Msh-Device-Id: d\r\n" in request
        assert b"\r\nX-Evil" not in request

    async def test_connections_are_kept_alive_and_shared_by_all_accounts(self) -> None:
        replies = [http(PENDING)] * 4
        async with raw_server(answering(*replies)) as server, client_for(server.url) as client:
            for name in ("work", "home", "work", "away"):
                await client.poll(account(id=name, name=name), polling(CODE))
        assert (server.connections, len(server.requests)) == (1, 4)

    async def test_an_account_whose_provider_is_gone_says_so(self) -> None:
        async with client_for("https://auth.example") as client:
            with pytest.raises(UnknownProvider, match=r"'corp' of account work is not known"):
                await client.poll(account(provider="corp"), polling(CODE))


class TestWhatComesBack:
    @pytest.mark.parametrize(
        ("sent", "event"),
        [
            pytest.param(http(PENDING), AuthorizationPending(), id="pending with 200"),
            pytest.param(http(PENDING, "400 Bad Request"), AuthorizationPending(), id="pending with 400"),
            pytest.param(http(PENDING, "503 X", "Retry-After: 7"), AuthorizationPending(7.0), id="Retry-After"),
            pytest.param(
                http(b'{"error": "slow_down"}', "429 X", "retry-after: Tue, 14 Nov 2023 22:14:20 GMT"),
                SlowDown(None, 60.0),
                id="Retry-After as a date",
            ),
            pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + http(PENDING), AuthorizationPending(), id="100 first"),
            pytest.param(
                b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n" * 3 + http(PENDING),
                AuthorizationPending(),
                id="103 first, three times",
            ),
            pytest.param(
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\n"
                + PENDING[:5] + b"\r\n%x\r\n" % len(PENDING[5:]) + PENDING[5:] + b"\r\n0\r\nX-Trailer: 1\r\n\r\n",
                AuthorizationPending(),
                id="chunked",
            ),
            pytest.param(b"HTTP/1.1 200 OK\r\n\r\n" + PENDING, AuthorizationPending(), id="until the end"),
            pytest.param(b"HTTP/1.0 400 X\r\n\r\n" + PENDING, AuthorizationPending(), id="HTTP/1.0"),
            pytest.param(
                b"HTTP/1.1 204 No Content\r\n\r\n",
                AttemptFailed("invalid_response", "the body is empty"),
                id="204",
            ),
            pytest.param(
                b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n",
                AttemptFailed("invalid_response", "the body is empty"),
                id="204 that promises a body",
            ),
            pytest.param(
                b"HTTP/1.1 304 Not Modified\r\n\r\n", AttemptFailed("http_304", "the body is empty"), id="304"
            ),
            pytest.param(
                http(b"<html>", "502 Bad Gateway", "Retry-After: 3"),
                AttemptFailed("http_502", "the body is a web page, not JSON", 3.0),
                id="a gateway's page",
            ),
        ],
    )  # fmt: skip
    async def test_reaches_the_parser_whole(self, sent: bytes, event: object) -> None:
        assert await poll_once(answering(sent)) == event

    async def test_in_pieces_of_one_byte(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            for byte in http(PENDING):
                await connection.send(bytes([byte]))
                await asyncio.sleep(0)

        assert await poll_once(script) == AuthorizationPending()

    async def test_a_redirect_is_not_followed_with_a_secret_in_the_body(self) -> None:
        async with raw_server(answering(http(TOKENS))) as elsewhere:
            for status in ("301 X", "302 X", "303 X", "307 X", "308 X"):
                script = answering(http(b"", status, f"Location: {elsewhere.url}/api/oauth/token"))
                assert await poll_once(script) == AttemptFailed(f"http_{status[:3]}", "the body is empty")
        assert elsewhere.connections == 0


GARBAGE = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
    "random bytes": bytes(range(256)) * 4,
    "nothing at all": b"",
    "half a status line": b"HTTP/1.",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a header without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000,
    "HTTP/2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "a body cut short": b'HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n{"error": "authoriz',
    "a chunk size that is no number": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "chunks without an end": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n",
}


OK = b"HTTP/1.1 200 OK\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(TOKENS), TOKENS)
ODD = {
    "gzip": http(gzip.compress(TOKENS), "200 OK", "Content-Encoding: gzip"),
    "gzip by its old name": http(gzip.compress(TOKENS), "200 OK", "content-encoding:X-GZIP"),
    "gzip, and nobody says so": http(gzip.compress(TOKENS)),
    "gzip twice": http(gzip.compress(gzip.compress(TOKENS)), "200 OK", "Content-Encoding: gzip, gzip"),
    "gzip with a wrong checksum": http(gzip.compress(TOKENS)[:-8] + bytes(8), "200 OK", "Content-Encoding: gzip"),
    "gzip that was undone, but for its header": http(TOKENS, "200 OK", "Content-Encoding: gzip"),
    "gzip in chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n"
    % (len(gzip.compress(TOKENS)), gzip.compress(TOKENS)),
    "deflate": http(zlib.compress(TOKENS), "200 OK", "Content-Encoding: deflate"),
    "deflate without its header": http(zlib.compress(TOKENS)[2:-4], "200 OK", "Content-Encoding: deflate"),
    "a blank before the colon": OK + b"Content-Length : %d\r\n\r\n" % len(TOKENS) + TOKENS,
    "a folded header": OK + b"X-Trace: one\r\n two\r\nContent-Length: %d\r\n\r\n" % len(TOKENS) + TOKENS,
    "a folded length": OK + b"Content-Length:\r\n\t%d\r\n\r\n" % len(TOKENS) + TOKENS,
    "line breaks without a carriage return": http(TOKENS).replace(b"\r\n", b"\n"),
    "both kinds of line break": http(TOKENS).replace(b"\r\n", b"\n", 2),
    "chunks without carriage returns": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"0\r\n\r\n").replace(
        b"\r\n", b"\n"
    ),
    "a line that is no header": OK + b"nonsense\r\nContent-Length: %d\r\n\r\n" % len(TOKENS) + TOKENS,
    "a header with a zero byte": OK + b"X: a\0b\r\nContent-Length: %d\r\n\r\n" % len(TOKENS) + TOKENS,
    "the same length twice": OK + b"Content-Length: %d\r\n" % len(TOKENS) * 2 + b"\r\n" + TOKENS,
    "two lengths": OK + b"Content-Length: 3\r\nContent-Length: 33\r\n\r\n" + TOKENS,
    "a length that is no number": OK + b"Content-Length: many\r\n\r\n" + TOKENS,
    "a negative length": OK + b"Content-Length: -1\r\n\r\n" + TOKENS,
    "a body shorter than promised": OK + b"Content-Length: 9999\r\n\r\n" + TOKENS,
    "an empty line in front": b"\r\n" + http(TOKENS),
    "two empty lines in front": b"\r\n\r\n" + http(TOKENS),
    "two blanks in the status line": http(TOKENS).replace(b"1.1 ", b"1.1  "),
    "a version of its own": http(TOKENS).replace(b"HTTP/1.1", b"HTTP/2"),
    "a version in small letters": http(TOKENS).replace(b"HTTP/1.1", b"http/1.1"),
    "chunked with a parameter": OK + b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNK + b"0\r\n\r\n",
    "a long chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n00000000" + CHUNK + b"0\r\n\r\n",
    "gzip in two members": http(
        gzip.compress(TOKENS[:20]) + gzip.compress(TOKENS[20:]), "200 OK", "Content-Encoding: gzip"
    ),
    "a zero byte behind": http(TOKENS + b"\0"),
    "a semicolon behind": http(TOKENS + b";\n"),
    "two marks in front": http(b"\xef\xbb\xbf" * 2 + TOKENS),
    "a tab in a text": http(TOKENS[:-1] + b', "nickname": "a\tb"}'),
    "chunks without the last": OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK,
    "chunks that go wrong behind the body": OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK + b"zz\r\n",
    "chunks that are none": OK + b"Transfer-Encoding: chunked\r\n\r\n" + TOKENS,
    "an encoding that is none": OK + b"Transfer-Encoding: identity\r\n\r\n" + TOKENS,
    "UTF-8 with a mark in front": http(TOKENS.decode().encode("utf-8-sig")),
    "UTF-16": http(TOKENS.decode().encode("utf-16")),
    "UTF-16 without a mark": http(TOKENS.decode().encode("utf-16-le")),
    "UTF-16, the other way round": http(TOKENS.decode().encode("utf-16-be")),
    "UTF-32": http(TOKENS.decode().encode("utf-32")),
}


TOO_SHORT = {
    "a length counted in characters": OK + b"Content-Length: %d\r\n\r\n" % (len(TOKENS) - 3) + TOKENS,
    "no length, but a body": OK + b"Content-Length: 0\r\n\r\n" + TOKENS,
    "204 with a body": b"HTTP/1.1 204 No Content\r\n\r\n" + TOKENS,
}


class TestAReplyInAnOddForm:
    """It may hold the only copy of a token: what can be read is read."""

    @pytest.mark.parametrize("sent", [*ODD.values(), *TOO_SHORT.values()], ids=[*ODD, *TOO_SHORT])
    async def test_is_read(self, sent: bytes) -> None:
        event = await poll_once(answering(sent))
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.access_token.reveal() == "new-access"

    @pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
    async def test_is_read_when_it_comes_byte_by_byte(self, sent: bytes) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            for byte in sent:
                await connection.send(bytes([byte]))
                await asyncio.sleep(0)

        assert isinstance(await poll_once(script), AccessTokenIssued)

    async def test_is_read_when_only_its_end_does_not_come_in_time(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            await connection.send(OK + b"Content-Length: 9999\r\n\r\n" + TOKENS)
            await connection.hung_up()

        async with raw_server(script) as server, client_for(server.url, timeout=0.2) as client:
            assert isinstance(await client.poll(account(), polling(CODE)), AccessTokenIssued)

    async def test_is_read_from_behind_a_proxy_too(self) -> None:
        """httpx's own transport stands between."""
        for sent in (ODD["gzip"], ODD["a body shorter than promised"], ODD["chunks without the last"]):
            async with raw_server(answering(sent)) as server, client_for(server.url, proxy=server.url) as client:
                assert isinstance(await client.poll(account(), polling(CODE)), AccessTokenIssued)

    async def test_does_not_fill_the_memory(self) -> None:
        bomb = gzip.compress(b'{"access_token": "' + b"a" * (64 << 20) + b'"}', 1)
        event = await poll_once(answering(http(bomb, "200 OK", "Content-Encoding: gzip")))
        assert isinstance(event, AttemptFailed)
        assert "longer than" in (event.description or "")


class TestWhenTheReplyIsBroken:
    @pytest.mark.parametrize("sent", GARBAGE.values(), ids=GARBAGE)
    async def test_it_is_a_failed_attempt(self, sent: bytes) -> None:
        event = await poll_once(answering(sent))
        assert isinstance(event, AttemptFailed)
        # Who answers nonsense is alive; who breaks off in the middle may not be.
        assert event.error in {"connection_failed", "invalid_response"}
        assert event.reached == (event.error == "invalid_response")

    async def test_a_reset_before_the_reply(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            connection.reset()

        event = await poll_once(script)
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.reached) == ("connection_failed", False)

    async def test_a_reset_in_the_middle_of_the_body(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            await connection.send(http(TOKENS)[:-10])
            await asyncio.sleep(0.02)
            connection.reset()

        event = await poll_once(script)
        assert isinstance(event, AttemptFailed)
        assert event.error == "connection_failed"

    async def test_nobody_listens(self) -> None:
        async with raw_server(answering()) as server:
            gone = server.url
        async with client_for(gone) as client:
            event = await client.poll(account(), polling(CODE))
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.reached) == ("connection_failed", False)

    async def test_the_host_has_no_address(self) -> None:
        async with client_for("https://no-such-host.invalid") as client:
            event = await client.poll(account(), polling(CODE))
        assert isinstance(event, AttemptFailed)
        assert event.error == "connection_failed"

    async def test_the_request_is_never_sent_again_by_itself(self) -> None:
        """A refresh token that may have reached the server is spent, as far as anybody knows."""

        async def script(connection: Connection, seen: RawServer) -> None:
            seen.requests.append(await connection.request())
            connection.reset()

        async with raw_server(script) as server, client_for(server.url) as client:
            assert isinstance(await client.refresh(account(), refreshing(REFRESH_TOKEN)), AttemptFailed)
        assert len(server.requests) == 1

    async def test_what_follows_a_reply_is_not_taken_for_the_next_one(self) -> None:
        async def script(connection: Connection, seen: RawServer) -> None:
            if seen.connections == 1:
                await connection.request()
                await connection.send(http(PENDING) + http(TOKENS))  # one request, two replies
                await connection.hung_up()
            else:
                await answering(http(b'{"error": "slow_down"}'))(connection, seen)

        assert await poll_answered_by(script, polls=2) == [AuthorizationPending(), SlowDown()]

    async def test_a_connection_that_was_closed_while_idle_is_not_used_again(self) -> None:
        script = answering(http(PENDING, "200 OK", "Connection: close"))
        assert await poll_answered_by(script, polls=3) == [AuthorizationPending()] * 3


class TestNothingTakesForever:
    async def test_a_server_that_says_nothing(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            await connection.hung_up()

        event = await poll_once(script, timeout=0.1)
        assert event == AttemptFailed("timeout", "no complete reply within 0.1 s", reached=False)

    async def test_a_body_that_drips_in(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                await connection.send(b" ")
                await asyncio.sleep(0.01)

        started = time.monotonic()
        event = await poll_once(script, timeout=0.2)
        assert isinstance(event, AttemptFailed)
        assert event.error == "timeout"
        assert time.monotonic() - started < 1.0, "each byte came in time; the whole did not"

    async def test_interim_replies_without_an_end(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            while True:
                await connection.send(b"HTTP/1.1 102 Processing\r\n\r\n")
                await asyncio.sleep(0.01)

        event = await poll_once(script, timeout=0.2)
        assert isinstance(event, AttemptFailed)
        assert event.error == "timeout"

    async def test_a_task_that_is_cancelled_hears_the_reply_to_what_has_left(self) -> None:
        """It may hold the only copy of a token, and nobody could ask for it again."""
        waiting, cancelled = asyncio.Event(), asyncio.Event()

        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            waiting.set()
            await cancelled.wait()
            await connection.send(http(TOKENS))

        async with raw_server(script) as server, client_for(server.url) as client:
            task = asyncio.create_task(client.refresh(account(), refreshing(REFRESH_TOKEN)))
            await waiting.wait()
            for _ in range(3):
                task.cancel()
                await asyncio.sleep(0)
            assert not task.done()
            cancelled.set()
            event = await task
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.access_token.reveal() == "new-access"

    async def test_but_no_longer_than_its_time_out(self) -> None:
        waiting = asyncio.Event()

        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            waiting.set()
            await connection.hung_up()

        async with raw_server(script) as server, client_for(server.url, timeout=0.2) as client:
            task = asyncio.create_task(client.refresh(account(), refreshing(REFRESH_TOKEN)))
            await waiting.wait()
            task.cancel()
            event = await task
        assert isinstance(event, AttemptFailed)
        assert event.error == "timeout"

    async def test_to_be_cancelled_before_anything_has_left_is_to_stop_at_once(self) -> None:
        async with client_for("http://127.0.0.1:9") as client:
            task = asyncio.create_task(client.refresh(account(), refreshing(REFRESH_TOKEN)))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task


class TestABodyOfManyMiB:
    SIZE = 32 << 20
    PIECE = b" " * 65_536

    @pytest.mark.parametrize("framing", ["length", "chunked", "until the end"])
    async def test_is_read_to_the_first_mebibyte_and_no_further(self, framing: str) -> None:
        written = 0

        async def script(connection: Connection, _: RawServer) -> None:
            nonlocal written
            written = 0
            await connection.request()
            header = {
                "length": b"Content-Length: %d\r\n" % self.SIZE,
                "chunked": b"Transfer-Encoding: chunked\r\n",
                "until the end": b"",
            }[framing]
            await connection.send(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n")
            for _ in range(self.SIZE // len(self.PIECE)):
                frame = b"%x\r\n%s\r\n" % (len(self.PIECE), self.PIECE) if framing == "chunked" else self.PIECE
                await connection.send(frame)
                written += len(self.PIECE)

        async with raw_server(script) as server, client_for(server.url) as client:
            await client.poll(account(), polling(CODE))  # so that only the exchange itself is measured
            tracemalloc.start()
            try:
                event = await client.poll(account(), polling(CODE))
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert event == AttemptFailed("invalid_response", f"the body is longer than {wire.MAX_BODY} bytes")
        assert peak < 6 << 20
        assert written < self.SIZE / 2, "the client hung up long before the end"

    async def test_exactly_one_mebibyte_is_read(self) -> None:
        body = PENDING + b" " * (wire.MAX_BODY - len(PENDING))
        assert await poll_once(answering(http(body))) == AuthorizationPending()
        event = await poll_once(answering(http(body + b" ")))
        assert isinstance(event, AttemptFailed)


@pytest.fixture(scope="module")
def signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate that nobody vouches for, and a server's TLS with it."""
    return certificate(tmp_path_factory.mktemp("tls"))


class TestTLS:
    async def test_a_certificate_that_nobody_vouches_for_is_refused(self, signed: tuple[Path, ssl.SSLContext]) -> None:
        async with raw_server(answering(http(TOKENS)), signed[1]) as server, client_for(server.url) as client:
            event = await client.poll(account(), polling(CODE))
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.reached) == ("connection_failed", False)
        assert "certificate" in (event.description or "").lower()
        assert server.requests == []

    async def test_one_that_the_person_trusts_is_not(
        self, signed: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(signed[0]))
        async with raw_server(answering(http(TOKENS)), signed[1]) as server, client_for(server.url) as client:
            assert isinstance(await client.poll(account(), polling(CODE)), AccessTokenIssued)

    async def test_through_a_proxy_the_tunnel_hides_the_request(
        self, signed: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SSL_CERT_FILE", str(signed[0]))
        async with (
            raw_server(answering(http(TOKENS)), signed[1]) as server,
            raw_server(tunnel) as proxy,
            client_for(server.url, proxy=proxy.url) as client,
        ):
            assert isinstance(await client.poll(account(), polling(CODE)), AccessTokenIssued)
        (seen,) = proxy.requests
        assert seen.startswith(b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n" % server.port)
        assert b"the-device-code" not in seen

    async def test_and_a_refused_certificate_is_refused_there_too(self, signed: tuple[Path, ssl.SSLContext]) -> None:
        async with (
            raw_server(answering(http(TOKENS)), signed[1]) as server,
            raw_server(tunnel) as proxy,
            client_for(server.url, proxy=proxy.url) as client,
        ):
            event = await client.poll(account(), polling(CODE))
        assert isinstance(event, AttemptFailed)
        assert server.requests == []


async def tunnel(connection: Connection, seen: RawServer) -> None:
    """A proxy that connects to wherever it is told."""
    request = await connection.request()
    seen.requests.append(request)
    host, _, port = request.split(b" ", 2)[1].decode().partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    await connection.send(b"HTTP/1.1 200 Connection established\r\n\r\n")

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()

    pumps = [
        asyncio.create_task(pump(connection.reader, writer)),
        asyncio.create_task(pump(reader, connection.writer)),
    ]
    try:
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
    finally:
        writer.close()
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        await writer.wait_closed()


class TestProxies:
    """An account's own comes first, then the one for all, then the environment's."""

    NOWHERE = "http://auth.example.invalid"

    async def poll_through(self, mine: str | None, *, proxy: str | None = None, url: str = NOWHERE) -> Any:
        async with client_for(url, proxy=proxy) as client:
            return await client.poll(account(proxy=mine), polling(CODE))

    async def test_an_accounts_own(self) -> None:
        async with (
            raw_server(answering(http(PENDING))) as proxy,
            raw_server(answering(http(TOKENS))) as other,
        ):
            assert await self.poll_through(proxy.url, proxy=other.url) == AuthorizationPending()
        assert proxy.requests[0].startswith(b"POST http://auth.example.invalid/api/oauth/token HTTP/1.1\r\n")
        assert other.connections == 0

    async def test_the_one_for_all(self) -> None:
        async with raw_server(answering(http(PENDING))) as proxy:
            assert await self.poll_through(None, proxy=proxy.url) == AuthorizationPending()

    async def test_one_with_a_password_that_the_environment_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        async with raw_server(answering(http(PENDING))) as proxy:
            monkeypatch.setenv("WORK_PROXY", f"http://me:hunter2@127.0.0.1:{proxy.port}")
            assert await self.poll_through("env:WORK_PROXY") == AuthorizationPending()
        credentials = base64.b64encode(b"me:hunter2")
        assert b"Proxy-Authorization: Basic " + credentials in proxy.requests[0]

    async def test_a_variable_that_is_missing_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("WORK_PROXY", raising=False)
        with pytest.raises(InvalidSetting, match="the environment has no WORK_PROXY"):
            await self.poll_through("env:WORK_PROXY")

    @pytest.mark.parametrize("value", ["http://me:hunter2@h:99999", "me:hunter2@h:1", "gopher://me:hunter2@h:70"])
    async def test_a_variable_that_is_no_proxy_is_named_and_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("WORK_PROXY", value)
        with pytest.raises(InvalidSetting, match="WORK_PROXY") as caught:
            await self.poll_through("env:WORK_PROXY")
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
    async def test_the_environments(self, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
        async with raw_server(answering(http(PENDING))) as proxy:
            monkeypatch.setenv(variable, f"127.0.0.1:{proxy.port}")  # as curl allows it: without a scheme
            assert await self.poll_through(None) == AuthorizationPending()

    @pytest.mark.parametrize("exempt", ["auth.example.invalid", ".invalid", "*", "auth.example.invalid:80,x"])
    async def test_unless_no_proxy_says_otherwise(self, monkeypatch: pytest.MonkeyPatch, exempt: str) -> None:
        async with raw_server(answering(http(TOKENS))) as proxy:
            monkeypatch.setenv("http_proxy", proxy.url)
            monkeypatch.setenv("no_proxy", exempt)
            event = await self.poll_through(None, url=f"{self.NOWHERE}:80")
        assert isinstance(event, AttemptFailed)
        assert proxy.connections == 0

    async def test_the_environments_are_not_for_loopback_where_plain_http_would_leave_the_machine(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with (
            raw_server(answering(http(PENDING))) as server,
            raw_server(answering(http(TOKENS))) as proxy,
        ):
            monkeypatch.setenv("http_proxy", proxy.url)
            assert await self.poll_through(None, url=server.url) == AuthorizationPending()
        assert proxy.connections == 0

    @pytest.mark.parametrize("value", ["gopher://me:hunter2@h:70", "http://me:hunter2@h:99999"])
    async def test_one_of_the_environments_that_cannot_be_used_is_named_and_not_shown(
        self, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.setenv("all_proxy", value)
        with pytest.raises(InvalidSetting, match="ALL_PROXY") as caught:
            await self.poll_through(None)
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize(
        "answer",
        [
            http(b"denied", "407 Proxy Authentication Required"),
            b"",
            b"garbage\r\n\r\n",
        ],
        ids=["407", "nothing", "garbage"],
    )
    async def test_one_that_refuses_is_a_failed_attempt_without_its_password(
        self, monkeypatch: pytest.MonkeyPatch, answer: bytes
    ) -> None:
        for scheme in ("http", "https"):
            async with raw_server(answering(answer)) as proxy:
                monkeypatch.setenv("WORK_PROXY", f"http://me:hunter2@127.0.0.1:{proxy.port}")
                event = await self.poll_through("env:WORK_PROXY", url=f"{scheme}://auth.example.invalid")
            assert isinstance(event, AttemptFailed)
            assert "hunter2" not in repr(event)

    async def test_one_that_is_not_there(self) -> None:
        async with raw_server(answering()) as proxy:
            gone = proxy.url
        event = await self.poll_through(gone)
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.reached) == ("connection_failed", False)

    async def test_through_one_a_body_that_drips_ends_in_time_as_well(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while True:
                await connection.send(b" ")
                await asyncio.sleep(0.01)

        async with (
            raw_server(script) as proxy,
            client_for(self.NOWHERE, timeout=0.2, proxy=proxy.url) as client,
        ):
            event = await client.poll(account(), polling(CODE))
        assert isinstance(event, AttemptFailed)
        assert event.error == "timeout"

    async def test_and_so_does_one_of_many_mebibytes(self) -> None:
        async def script(connection: Connection, _: RawServer) -> None:
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 33554432\r\n\r\n")
            for _ in range(512):
                await connection.send(b" " * 65_536)

        async with raw_server(script) as proxy:
            event = await self.poll_through(proxy.url)
        assert event == AttemptFailed("invalid_response", f"the body is longer than {wire.MAX_BODY} bytes")


class TestWhateverATransportRaises:
    """The shell in front of any httpx transport, where no socket is needed."""

    @staticmethod
    async def refresh_over(handler: Callable[[httpx.Request], httpx.Response]) -> Any:
        transport = httpx.MockTransport(handler)

        def transport_for(_account: Account, _url: str) -> httpx.AsyncBaseTransport:
            return transport

        client = Client(
            {"kimi": provider_at("https://auth.example")},
            IDENTITY,
            timeout=5.0,
            transport_for=transport_for,
            clock=StoppedClock(),
        )
        return await client.refresh(account(), refreshing(REFRESH_TOKEN))

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (httpx.ConnectError("refused"), "connection_failed"),
            (httpx.ReadTimeout("slow"), "timeout"),
            (httpx.PoolTimeout("full"), "timeout"),
            (httpx.RemoteProtocolError("illegal status line"), "invalid_response"),
            (httpx.ProxyError("407"), "connection_failed"),
            (httpx.InvalidURL("bad"), "connection_failed"),
            (ssl.SSLError(1, "handshake"), "connection_failed"),
            (ConnectionResetError(104, "reset"), "connection_failed"),
            (TimeoutError(), "timeout"),
        ],
        ids=lambda x: type(x).__name__ if isinstance(x, Exception) else x,
    )
    async def test_is_a_failed_attempt(self, error: Exception, code: str) -> None:
        def handler(_: httpx.Request) -> httpx.Response:
            raise error

        event = await self.refresh_over(handler)
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.reached) == (code, code == "invalid_response")

    async def test_without_the_secret_that_was_sent(self) -> None:
        def handler(request: httpx.Request) -> httpx.Response:
            msg = f"cannot send {request.content.decode()}"
            raise httpx.WriteError(msg)

        event = await self.refresh_over(handler)
        assert isinstance(event, AttemptFailed)
        assert "the-refresh-token" not in repr(event)
        assert "[redacted]" in (event.description or "")

    async def test_a_proper_reply_is_a_proper_event(self) -> None:
        event = await self.refresh_over(lambda _: httpx.Response(400, json={"error": "invalid_grant"}))
        assert event == InvalidGrant()

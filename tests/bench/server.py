"""The other side: an authorization server that does as little as it can, and counts.

It runs in a process of its own on a core of its own, so that it is not what is measured; what it can do at most is one
of the rows. Every device code is pending for ever. Refresh tokens rotate, ``NAME.0`` → ``NAME.1`` → …, and it knows the
number that comes next for each name, so a token that is used twice, or out of turn, is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

__all__ = ["main"]

_PENDING = b'{"error":"authorization_pending"}'
_REPLY = b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_PENDING_REPLY = _REPLY % (400, len(_PENDING), _PENDING)


class Counters:
    """What was asked for."""

    def __init__(self) -> None:
        self.polls = 0
        self.refreshes = 0
        self.out_of_turn = 0
        self.different = 0
        self.keep_codes = False
        self.codes: set[bytes] = set()
        self.next_of: dict[str, int] = {}


class Exchange(asyncio.Protocol):
    """One connection. Requests come whole in nearly every case; the rest is put together."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._buffer = data
            return
        head = data[:head_end].lower()
        at = head.find(b"content-length:")
        length = 0 if at < 0 else int(head[at + 15 :].split(b"\r\n", 1)[0])
        body = data[head_end + 4 :]
        if len(body) < length:
            self._buffer = data
            return
        self._buffer = body[length:]
        self._transport.write(self._answer(data, body[:length]))

    def _answer(self, message: bytes, body: bytes) -> bytes:
        counters = self._counters
        if b"device_code=" in body:
            counters.polls += 1
            if counters.keep_codes:
                counters.codes.add(body)
                counters.different = len(counters.codes)
            return _PENDING_REPLY
        if b"refresh_token=" in body:
            return self._refresh(body)
        if message.startswith(b"GET /counters"):
            state = {k: v for k, v in vars(counters).items() if isinstance(v, (int, float))}
            return _ok(state | {"cpu": sum(os.times()[:2])})
        if message.startswith(b"POST /reset"):
            counters.__init__()  # type: ignore[misc]
            counters.keep_codes = message.startswith(b"POST /reset/codes")
            return _ok({})
        return _ok({})

    def _refresh(self, body: bytes) -> bytes:
        counters = self._counters
        counters.refreshes += 1
        name, _, number = dict(parse_qsl(body.decode()))["refresh_token"].rpartition(".")
        n = int(number)
        if counters.next_of.setdefault(name, n) != n:
            counters.out_of_turn += 1
        counters.next_of[name] = n + 1
        return _ok(
            {
                "access_token": f"at.{name}.{n + 1}".ljust(400, "x"),
                "refresh_token": f"{name}.{n + 1}",
                "token_type": "Bearer",
                "expires_in": 900,
                "scope": "kimi-code",
            }
        )


def _ok(value: dict[str, object]) -> bytes:
    body = json.dumps(value).encode()
    return _REPLY % (200, len(body), body)


async def _serve(certificate: Path | None) -> None:
    counters, loop = Counters(), asyncio.get_running_loop()
    plain = await loop.create_server(lambda: Exchange(counters), "127.0.0.1", 0, backlog=4096)
    ports = {"http": plain.sockets[0].getsockname()[1]}
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        tls = await loop.create_server(lambda: Exchange(counters), "127.0.0.1", 0, ssl=context, backlog=4096)
        ports["https"] = tls.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()  # the parent is gone


def main(certificate: str | None, core: str | None) -> None:
    """Serves until standard input is closed; prints its ports first."""
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core)})
    run = asyncio.run
    with contextlib.suppress(ImportError):
        import uvloop

        run = uvloop.run
    run(_serve(Path(certificate) if certificate else None))


if __name__ == "__main__":
    main(*[argument or None for argument in [*sys.argv[1:], "", ""][:2]])

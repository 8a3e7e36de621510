"""HTTP/1.1 for small replies: an ``httpx`` transport over bare asyncio.

The authorization servers answer a POST of some hundred bytes with a few hundred more, thousands of times. For that,
httpx's own connection pool costs several times what the exchange does, and more with every connection. This transport
speaks httpx's types and does just what the protocol here needs: keep-alive, ``Content-Length`` and chunked bodies read
whole up to a bound, TLS, many connections to a host. It has no proxies (``transports`` takes httpx's own transport for
those), no compression, no HTTP/2, no redirects, and no retries: a request that may have reached the server is never sent
again from here.

A connection serves one request at a time. It goes back to the pool only if the reply was complete, well-formed and
followed by nothing; whatever else happens, it is closed. Framing is strict where leniency could confuse one
reply with the next (RFC 9112 §6.3, §11.2).
"""

from __future__ import annotations

import asyncio
import select
import sys
from typing import TYPE_CHECKING, Final, cast

import httpx

if TYPE_CHECKING:
    import ssl

__all__ = ["Http1Transport"]

_MAX_HEAD: Final = 64 * 1024
_MAX_LINE: Final = 1024
"""Of a chunk's size with its extensions, and of a trailer."""
_IDLE_FOR: Final = 25.0
"""Seconds that an idle connection is trusted; servers commonly close after 30 to 75."""

_Origin = tuple[str, str, int]
_RawReply = tuple[int, list[tuple[bytes, bytes]], bytes]


class Http1Transport(httpx.AsyncBaseTransport):
    """Connections to any number of hosts, shared by all who use it in one event loop.

    The caller bounds how many requests are in flight, and how long each may take (by cancelling it).

    :param tls: for ``https`` URLs; verification is the context's business.
    :param max_body: bytes of a body that are read; of a longer one just one byte more is returned.
    """

    def __init__(self, tls: ssl.SSLContext, *, max_body: int) -> None:
        self._tls = tls
        self._max_body = max_body
        self._idle: dict[_Origin, list[_Connection]] = {}
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange; the response's body has been read.

        :raises httpx.ConnectError: where there is no connection to be had.
        :raises httpx.ReadError: where it broke before the reply was complete.
        :raises httpx.RemoteProtocolError: where the reply is no HTTP/1.1.
        """
        url = request.url
        host = url.raw_host.decode("ascii")
        origin = (url.scheme, host, url.port or (443 if url.scheme == "https" else 80))
        stream = request.stream
        body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else await request.aread()
        connection = self._take_idle(origin) or await self._connect(origin)
        try:
            status, headers, content = await connection.exchange(_serialised(request, body))
        except BaseException:
            # Also when cancelled: the rest of this reply must not meet the next request.
            connection.abort()
            raise
        if connection.reusable and not self._closed:
            connection.idle_since = connection.loop.time()
            self._idle.setdefault(origin, []).append(connection)
        else:
            connection.abort()
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(content), request=request)

    async def aclose(self) -> None:
        """Closes every idle connection, and each busy one when its exchange is over."""
        self._closed = True
        connections = [c for idle in self._idle.values() for c in idle]
        self._idle.clear()
        for connection in connections:
            connection.abort()
        # The loop closes sockets in its next turn, also those of exchanges that were just cancelled.
        await asyncio.sleep(0)

    def _take_idle(self, origin: _Origin) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()  # the one used last is the least likely to have been closed
            fresh = connection.loop.time() - connection.idle_since < _IDLE_FOR
            if fresh and connection.alive and not connection.has_something_to_say():
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin) -> _Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(loop, self._max_body),
                host,
                port,
                ssl=self._tls if scheme == "https" else None,
                happy_eyeballs_delay=0.25,
            )
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError; ValueError: a host that IDNA refuses
            raise httpx.ConnectError(str(error) or type(error).__name__) from error
        return connection


def _serialised(request: httpx.Request, body: bytes) -> bytes:
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    for name, value in request.headers.raw:
        if b"\r" in value or b"\n" in value:
            msg = "a header value holds a line break"
            raise httpx.LocalProtocolError(msg)
        lines.append(b"%s: %s" % (name, value))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    """One connection; collects one reply at a time and hands it over through a future."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_body: int) -> None:
        self.loop = loop
        self.idle_since = 0.0
        self.reusable = False
        self._max_body = max_body
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[_RawReply] | None = None
        self._parser = _ReplyParser(max_body)
        self._ended = False

    @property
    def alive(self) -> bool:
        """Whether the other side has neither closed nor said anything unasked."""
        return not self._ended and self._transport is not None and not self._transport.is_closing()

    def has_something_to_say(self) -> bool:
        """Whether something has arrived that the loop has not looked at yet: the end, or bytes that nobody asked for.

        After a moment in which the process stood still, the next request would take them for its own reply.
        """
        raw = None if self._transport is None else self._transport.get_extra_info("socket")
        return raw is None or _readable(raw.fileno())

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def exchange(self, message: bytes) -> _RawReply:
        if not self.alive or self._transport is None:
            msg = "the connection was closed"
            raise httpx.ReadError(msg)
        self._reply = self.loop.create_future()
        self._parser = _ReplyParser(self._max_body)
        self.reusable = False
        self._transport.write(message)
        return await self._reply

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: the transports of other event loops (uvloop) do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self._reply is None or self._reply.done():
            self._ended = True  # nobody asked: whatever this is, it must not be taken for a reply
            self.abort()
            return
        try:
            complete = self._parser.feed(data)
        except _BadFraming as error:
            self._fail(httpx.RemoteProtocolError(str(error)))
        else:
            if complete:
                self.reusable = self._parser.reusable and not self._ended
                self._reply.set_result(self._parser.result())

    def eof_received(self) -> None:
        self._ended = True
        if self._reply is not None and not self._reply.done():
            if self._parser.ends_with_connection:
                self._reply.set_result(self._parser.result())
            else:
                self._fail(httpx.ReadError("the connection was closed before the reply was complete"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        if self._reply is not None and not self._reply.done():
            reason = str(exc) if exc else "the connection was closed before the reply was complete"
            self._fail(httpx.ReadError(reason))

    def _fail(self, error: httpx.TransportError) -> None:
        self.abort()
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error)


def _readable(descriptor: int) -> bool:
    if sys.platform == "win32":
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()  # which, unlike select, takes descriptors above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class _BadFraming(ValueError):
    """Not a reply that HTTP/1.1 allows."""


class _ReplyParser:
    """Finds the end of one reply in a stream of bytes. Fed with each piece that arrives, it keeps at most the bound."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._length: int | None = None
        self._chunked = False
        self._in_body = False
        self._chunk_left = -1  # bytes left of the chunk at hand; -1: a size line comes next
        self._in_trailers = False
        self.reusable = False
        self.ends_with_connection = False

    def result(self) -> _RawReply:
        return self._status, self._headers, bytes(self._body)

    def feed(self, data: bytes) -> bool:
        """Whether the reply is complete.

        :raises _BadFraming: where it is no HTTP/1.1.
        """
        self._buffer += data
        while not self._in_body:
            if not self._take_head():
                return False
        if self._chunked:
            return self._take_chunks()
        return self._take_plain()

    def _finish(self, *, truncated: bool = False) -> bool:
        self.reusable = self.reusable and not truncated and not self._buffer
        return True

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        # However the bytes are cut: of an end that is not there yet, three bytes may be.
        if (len(self._buffer) - 3 if end < 0 else end) > _MAX_HEAD:
            msg = "the reply's head is too long"
            raise _BadFraming(msg)
        if end < 0:
            return False
        lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        version, _, rest = lines[0].partition(b" ")
        if version not in {b"HTTP/1.1", b"HTTP/1.0"} or not rest[:3].isdigit() or rest[3:4] not in {b" ", b""}:
            msg = "the reply does not begin with an HTTP/1.1 status line"
            raise _BadFraming(msg)
        status = int(rest[:3])
        headers = []
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line or b"\0" in line:
                msg = "the reply has a malformed header"
                raise _BadFraming(msg)
            headers.append((name, value.strip(b" \t")))
        if 100 <= status < 200:
            if status == 101:
                msg = "the server switched protocols unasked"
                raise _BadFraming(msg)
            return True  # an interim reply; the real one follows
        self._status, self._headers = status, headers
        self._frame(version, status)
        self._in_body = True
        return True

    def _frame(self, version: bytes, status: int) -> None:
        """How long the body is (RFC 9112 §6.3)."""
        found = [(name.lower(), value) for name, value in self._headers]
        encodings = [value.lower() for name, value in found if name == b"transfer-encoding"]
        lengths = {v.strip() for name, value in found if name == b"content-length" for v in value.split(b",")}
        options = b",".join(value.lower() for name, value in found if name == b"connection")
        tokens = {token.strip() for token in options.split(b",")}
        self.reusable = b"close" not in tokens and (version == b"HTTP/1.1" or b"keep-alive" in tokens)
        if status in {204, 304}:
            self._length = 0
        elif encodings:
            if encodings != [b"chunked"]:
                msg = "the reply has a transfer encoding other than chunked"
                raise _BadFraming(msg)
            self._chunked = True
            self.reusable = self.reusable and not lengths
        elif lengths:
            (value,) = lengths if len(lengths) == 1 else (b"",)
            if not value.isdigit() or len(value) > 18:
                msg = "the reply's content length makes no sense"
                raise _BadFraming(msg)
            self._length = int(value)
        else:
            self.reusable = False
            self.ends_with_connection = True

    def _keep(self, size: int) -> bool:
        """Moves ``size`` bytes from the buffer to the body; whether that is more than may be kept."""
        room = self._max_body + 1 - len(self._body)
        self._body += self._buffer[: min(size, room)]
        del self._buffer[:size]
        return len(self._body) > self._max_body

    def _take_plain(self) -> bool:
        wanted = len(self._buffer) if self._length is None else self._length - len(self._body)
        if self._keep(min(wanted, len(self._buffer))):
            return self._finish(truncated=True)
        if self._length is not None and len(self._body) == self._length:
            return self._finish()
        return False

    def _take_chunks(self) -> bool:
        while True:
            if self._chunk_left > 0:
                taken = min(self._chunk_left, len(self._buffer))
                if self._keep(taken):
                    return self._finish(truncated=True)
                self._chunk_left -= taken
                if self._chunk_left:
                    return False
            line_end = self._buffer.find(b"\r\n")
            if (len(self._buffer) - 1 if line_end < 0 else line_end) > _MAX_LINE:
                msg = "the reply has a malformed chunk"
                raise _BadFraming(msg)
            if line_end < 0:
                return False
            line = bytes(self._buffer[:line_end])
            del self._buffer[: line_end + 2]
            if self._in_trailers:
                if not line:
                    return self._finish()
            elif self._chunk_left == 0:
                if line:
                    msg = "a chunk of the reply is longer than it says"
                    raise _BadFraming(msg)
                self._chunk_left = -1
            else:
                size = line.partition(b";")[0].strip()
                if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
                    msg = "the reply has a malformed chunk size"
                    raise _BadFraming(msg)
                self._chunk_left = int(size, 16)
                self._in_trailers = self._chunk_left == 0

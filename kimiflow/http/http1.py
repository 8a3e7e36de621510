"""HTTP/1.1 for small replies, over bare asyncio.

The authorization servers answer a POST of some hundred bytes with a few hundred more, thousands of times. For that,
httpx's own connection pool costs several times what the exchange does, and more with every connection. This transport
does just what the protocol here needs: keep-alive, ``Content-Length`` and chunked bodies read whole up to a bound, TLS,
many connections to a host. It has no proxies (``transports`` takes httpx's own transport for those), no HTTP/2, no
redirects, and no retries: a request that may have reached the server is never sent again from here.

It is an ``httpx`` transport for whoever has an ``httpx.Request``; who sends thousands to one URL makes a ``Target`` of
what they have in common, and is spared httpx's types, which cost more than the exchange.

A connection serves one request at a time. It goes back to the pool only if the reply was complete, well-formed and
followed by nothing; whatever else happens, it is closed.
"""

from __future__ import annotations

import asyncio
import math
import select
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import httpx

from kimiflow.http.deadline import LAST_LOOK, within
from kimiflow.http.framing import BadFraming, RawReply, ReplyParser

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

__all__ = ["CutOff", "Headers", "Http1Transport", "OutOfTime", "Target", "Unfinished"]

_IDLE_FOR: Final = 25.0
"""Seconds that an idle connection is trusted; servers commonly close after 30 to 75."""

Headers = list[tuple[bytes, bytes]]
_Origin = tuple[str, str, int]


class Unfinished(Exception):
    """A reply that is not complete, or not well-formed. ``so_far`` is what there is of it, once its head was there.

    What is missing may be no more than an end: then all that matters has come.
    """

    so_far: RawReply | None = None


class CutOff(Unfinished, httpx.ReadError):
    """The connection ended before the reply did."""


class OutOfTime(Unfinished, TimeoutError):
    """The reply was not complete in time."""


class Malformed(Unfinished, httpx.RemoteProtocolError):
    """It is no HTTP/1.1 from some place on."""


class Target:
    """What all requests to one URL have in common, put into bytes once.

    :raises httpx.LocalProtocolError: where a header's value holds a line break.
    """

    def __init__(self, method: str, url: httpx.URL, headers: Headers) -> None:
        self.method = method
        self.url = url
        self.headers = headers
        self._origin = _origin_of(url)
        self._head = _head(method, url, headers)

    def message(self, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
        """A whole request, with ``headers`` besides the common ones; their values hold no line break."""
        own = b"".join([b"%b: %b\r\n" % header for header in headers])
        return b"%b%bContent-Length: %d\r\n\r\n%b" % (self._head, own, len(body), body)

    @property
    def origin(self) -> _Origin:
        """Scheme, host and port."""
        return self._origin


class Http1Transport(httpx.AsyncBaseTransport):
    """Connections to any number of hosts, shared by all who use it in one event loop.

    The caller bounds how many requests are in flight.

    :param tls: for ``https`` URLs; verification is the context's business.
    :param max_body: bytes of a body that are read; of a longer one just one byte more is returned.
    """

    def __init__(self, tls: ssl.SSLContext, *, max_body: int) -> None:
        self._tls = tls
        self._max_body = max_body
        self._idle: dict[_Origin, list[_Connection]] = {}
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange, for as long as the caller lets it; the response's body has been read.

        :raises httpx.ConnectError: where there is no connection to be had.
        :raises CutOff: an ``httpx.ReadError``, where it broke before the reply was complete.
        :raises Malformed: an ``httpx.RemoteProtocolError``, where the reply is no HTTP/1.1.
        """
        stream = request.stream
        body = b"".join(stream) if isinstance(stream, httpx.ByteStream) else await request.aread()
        message = b"%b\r\n%b" % (_head(request.method, request.url, request.headers.raw), body)
        raw = await self._exchange(_origin_of(request.url), message, None)
        return httpx.Response(raw.status, headers=raw.headers, stream=httpx.ByteStream(raw.body), request=request)

    async def exchange(self, target: Target, headers: Headers, body: bytes, *, timeout: float) -> RawReply:
        """One exchange, in ``timeout`` seconds, connecting included; raises what :meth:`handle_async_request` does.

        Once the request has left it is not to be cancelled: the reply may hold the only copy of a token. A task that is
        cancelled meanwhile gets the reply, or what went wrong, all the same.

        :raises TimeoutError: where there was no connection in time, or the reply not complete (:class:`OutOfTime`).
        """
        return await self._exchange(target.origin, target.message(headers, body), timeout)

    async def aclose(self) -> None:
        """Closes every idle connection, and each busy one when its exchange is over."""
        self._closed = True
        connections = [c for idle in self._idle.values() for c in idle]
        self._idle.clear()
        for connection in connections:
            connection.abort()
        # The loop closes sockets in its next turn, also those of exchanges that were just cancelled.
        await asyncio.sleep(0)

    async def _exchange(self, origin: _Origin, message: bytes, seconds: float | None) -> RawReply:
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = math.inf if seconds is None else started + seconds
        connection = self._take_idle(origin, started)
        if connection is None:
            async with within(seconds):
                connection = await self._connect(origin)
            if loop.time() >= deadline:
                connection.abort()
                raise TimeoutError  # a request for whose reply nobody would wait is better not sent
        try:
            pending = connection.exchange(message, deadline, for_sure=seconds is not None)
            try:
                reply = await pending
            except asyncio.CancelledError:
                if pending.cancelled():
                    raise
                reply = pending.result()
        except BaseException:
            # Also when cancelled: the rest of this reply must not meet the next request.
            connection.abort()
            raise
        if connection.reusable and not self._closed:
            connection.idle_since = loop.time()
            self._idle.setdefault(origin, []).append(connection)
        else:
            connection.abort()
        return reply

    def _take_idle(self, origin: _Origin, now: float) -> _Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection = idle.pop()  # the one used last is the least likely to have been closed
            fresh = now - connection.idle_since < _IDLE_FOR
            if fresh and connection.alive and not connection.has_something_to_say():
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: _Origin) -> _Connection:
        scheme, host, port = origin
        loop = asyncio.get_running_loop()
        # Other loops (uvloop) do not know of it, and try one address after the other.
        options: dict[str, Any] = {"happy_eyeballs_delay": 0.25} if isinstance(loop, asyncio.BaseEventLoop) else {}
        try:
            _, connection = await loop.create_connection(
                lambda: _Connection(loop, self._max_body),
                host,
                port,
                ssl=self._tls if scheme == "https" else None,
                **options,
            )
        except (OSError, ValueError) as error:  # an ssl.SSLError is an OSError; ValueError: a host that IDNA refuses
            raise httpx.ConnectError(str(error) or type(error).__name__) from error
        return connection


def _origin_of(url: httpx.URL) -> _Origin:
    return url.scheme, url.raw_host.decode("ascii"), url.port or (443 if url.scheme == "https" else 80)


def _head(method: str, url: httpx.URL, headers: Headers) -> bytes:
    """Everything in front of the body but the empty line."""
    lines = [b"%b %b HTTP/1.1\r\n" % (method.encode("ascii"), url.raw_path)]
    for name, value in headers:
        if b"\r" in value or b"\n" in value:
            msg = "a header value holds a line break"
            raise httpx.LocalProtocolError(msg)
        lines.append(b"%b: %b\r\n" % (name, value))
    return b"".join(lines)


class _ForSure(asyncio.Future[RawReply]):
    """A reply that cannot be cancelled: a task that waits for it is, but hears of that when the reply is there."""

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ANN401 - as it is declared
        del msg
        return False


class _Connection(asyncio.Protocol):
    """One connection; collects one reply at a time and hands it over through a future."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_body: int) -> None:
        self.idle_since = 0.0
        self.reusable = False
        self._loop = loop
        self._max_body = max_body
        self._transport: asyncio.Transport | None = None
        self._unread: Callable[[], object] = bool
        self._reply: asyncio.Future[RawReply] | None = None
        self._parser = ReplyParser(max_body)
        self._ended = False
        self._deadline = math.inf
        self._alarm: asyncio.TimerHandle | None = None

    @property
    def alive(self) -> bool:
        """Whether the other side has neither closed nor said anything unasked."""
        return not self._ended and self._transport is not None and not self._transport.is_closing()

    def has_something_to_say(self) -> bool:
        """Whether something has arrived that the loop has not looked at yet: the end, or bytes that nobody asked for.

        After a moment in which the process stood still, the next request would take them for its own reply. Only for a
        connection that is alive: the descriptor of another may be somebody else's by now.
        """
        return bool(self._unread())

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def exchange(self, message: bytes, deadline: float, *, for_sure: bool) -> asyncio.Future[RawReply]:
        """Sends ``message``; the reply, unless it is not complete by ``deadline``, in the loop's time.

        :param for_sure: the reply is not to be cancelled.
        """
        reply = self._reply = _ForSure(loop=self._loop) if for_sure else self._loop.create_future()
        if not self.alive or self._transport is None:
            self._fail(httpx.ReadError("the connection was closed"))
            return reply
        self._parser = ReplyParser(self._max_body)
        self.reusable = False
        self._deadline = deadline
        if deadline < (math.inf if self._alarm is None else self._alarm.when()):
            self._set_alarm(deadline, self._time_is_up)
        self._transport.write(message)
        return reply

    # Time. Setting an alarm for each exchange would cost more than parsing its reply. So the connection's alarm stays
    # where it is while exchanges come and go; when it rings for one that has time left, it is set to the end of that.

    def _set_alarm(self, when: float, ring: Callable[[], None]) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = None if when == math.inf else self._loop.call_at(when, ring)

    def _time_is_up(self) -> None:
        self._alarm = None
        reply, now = self._reply, self._loop.time()
        if reply is None:
            return  # idle: the next exchange sets it anew
        if now < self._deadline:
            self._set_alarm(self._deadline, self._time_is_up)
        else:
            self._set_alarm(now + LAST_LOOK, lambda: self._give_up(reply))

    def _give_up(self, reply: asyncio.Future[RawReply]) -> None:
        if reply is self._reply:
            self._fail(OutOfTime())
        else:
            self._time_is_up()

    # What the event loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: the transports of other event loops (uvloop) do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)
        self._unread = _unread(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        if self._reply is None:
            self._ended = True  # nobody asked: whatever this is, it must not be taken for a reply
            self.abort()
            return
        try:
            reply = self._parser.feed(data)
        except BadFraming as error:
            self._fail(Malformed(str(error)))
        else:
            if reply is not None:
                self.reusable = self._parser.reusable and not self._ended
                self._succeed(reply)

    def eof_received(self) -> None:
        self._ended = True
        if self._reply is not None and self._parser.ends_with_connection:
            self._succeed(self._parser.so_far())
        else:
            self._fail(CutOff("the connection was closed before the reply was complete"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._set_alarm(math.inf, self._time_is_up)
        reason = str(exc) if exc else "the connection was closed before the reply was complete"
        self._fail(CutOff(reason))

    def _succeed(self, result: RawReply | None) -> None:
        reply, self._reply = self._reply, None
        if result and reply is not None and not reply.done():  # else cancelled, and about to be closed
            reply.set_result(result)

    def _fail(self, error: Exception) -> None:
        reply, self._reply = self._reply, None
        self.abort()
        if reply is not None and isinstance(error, Unfinished):
            error.so_far = self._parser.so_far()
        if reply is not None and not reply.done():
            reply.set_exception(error)


def _unread(descriptor: int) -> Callable[[], object]:
    """A function that says whether there is something to read."""
    if sys.platform == "win32":
        return lambda: select.select([descriptor], (), (), 0)[0]
    poll = select.poll()  # which, unlike select, takes descriptors above 1023
    poll.register(descriptor, select.POLLIN)
    return partial(poll.poll, 0)

"""The endpoints of the protocol as plain ASGI applications: bytes to the service, its delivery to the connection.

Plain ASGI, since a request object and a response object per poll would cost more than the protocol does.
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from kimiflow.sandbox.effects import Delivery, Ending
from kimiflow.sandbox.protocol import TRANSPORT, reset
from kimiflow.sandbox.records import ApiCall

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Literal

    from starlette.types import Receive, Scope, Send

    from kimiflow.sandbox.effects import Headers
    from kimiflow.sandbox.records import Exchange
    from kimiflow.sandbox.service import Service

__all__ = ["ApiEndpoint", "ProtocolEndpoint"]

_MOST_BYTES: Final = 1 << 16
_MOST_BYTES_OF_A_CALL: Final = 1 << 24
_PIECE: Final = 1 << 16


class _Endpoint(ABC):
    """From a request that has arrived whole to the end of its reply.

    :param closing: set once the server is to stop; ends whatever waits.
    """

    most_bytes = _MOST_BYTES

    def __init__(self, service: Service, clock: Callable[[], float], closing: asyncio.Event) -> None:
        self._service = service
        self._clock = clock
        self._closing = closing

    @abstractmethod
    def _arrive(self, scope: Scope, body: bytes) -> Exchange:
        """Hands the request to the service."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive, self.most_bytes)
        if body is None:
            await _hang_up(scope, receive)
            return
        service, clock = self._service, self._clock
        exchange = self._arrive(scope, body)
        if exchange.hold and not await self._stays(exchange.hold, receive):
            service.abandon(exchange, clock())
            await _hang_up(scope, receive)
            return
        delivery = service.act(exchange, clock())
        delivered = False
        try:
            delivered = await self._deliver(delivery, scope, receive, send)
        finally:
            service.complete(exchange, delivery, clock(), delivered=delivered)

    async def _deliver(self, delivery: Delivery, scope: Scope, receive: Receive, send: Send) -> bool:
        """Whether the connection was there until the end."""
        if delivery.delay and not await self._stays(delivery.delay, receive):
            await _hang_up(scope, receive)
            return False
        match delivery.ending:
            case Ending.WHOLE if delivery.pieces:
                return await self._stream(delivery, scope, receive, send)
            case Ending.WHOLE:
                return await _send(delivery, scope, send)
            case Ending.CUT_OFF:
                await _send(delivery, scope, send, more=True)
                await _hang_up(scope, receive)
            case Ending.CLOSE:
                await _hang_up(scope, receive)
            case Ending.RESET:
                reset(_transport(scope))
                await _until_gone(receive)
        return False

    async def _stream(self, delivery: Delivery, scope: Scope, receive: Receive, send: Send) -> bool:
        await send(
            {"type": "http.response.start", "status": delivery.status, "headers": _encoded(delivery.headers, None)}
        )
        for i, piece in enumerate(delivery.pieces):
            if i and delivery.pause and not await self._stays(delivery.pause, receive):
                await _hang_up(scope, receive)
                return False
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return _still_there(scope)

    async def _stays(self, seconds: float, receive: Receive) -> bool:
        """Wait; ``False`` as soon as the client has gone or the server is to stop."""
        gone = asyncio.create_task(_until_gone(receive))
        closing = asyncio.create_task(self._closing.wait())
        try:
            done, _ = await asyncio.wait(
                {gone, closing},
                timeout=None if math.isinf(seconds) else seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            gone.cancel()
            closing.cancel()
            await asyncio.gather(gone, closing, return_exceptions=True)
        return not done


class ProtocolEndpoint(_Endpoint):
    """One endpoint of the authorization server."""

    def __init__(
        self,
        service: Service,
        endpoint: Literal["device_authorization", "token", "revocation", "redirected"],
        clock: Callable[[], float],
        closing: asyncio.Event,
    ) -> None:
        super().__init__(service, clock, closing)
        self._endpoint = endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST" and self._endpoint != "redirected":
            await _send(Delivery(405, (("allow", "POST"),)), scope, send)
            return
        await super().__call__(scope, receive, send)

    def _arrive(self, scope: Scope, body: bytes) -> Exchange:
        content_type = device_id = ""
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == b"x-msh-device-id":
                device_id = value.decode("latin-1")
        return self._service.arrive(self._endpoint, content_type, body, device_id, self._clock())


class ApiEndpoint(_Endpoint):
    """All of the API: which path means what is for `Api` to say."""

    most_bytes = _MOST_BYTES_OF_A_CALL

    def _arrive(self, scope: Scope, body: bytes) -> Exchange:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        scheme, _, token = headers.get(b"authorization", "").partition(" ")
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        call = ApiCall(scope["method"], path, token.strip() if scheme.lower() == "bearer" else None, body)
        return self._service.arrive_api(call, headers.get(b"x-msh-device-id", ""), self._clock())


async def _read(receive: Receive, most: int) -> bytes | None:
    """The body; ``None`` where it is too long to be a request of this protocol, or the client left halfway."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece: bytes = message.get("body", b"")
        body += piece
        if len(body) > most:
            return None
        if not message.get("more_body", False):
            return body


async def _send(delivery: Delivery, scope: Scope, send: Send, *, more: bool = False) -> bool:
    """Whether the connection was there until the end. ``more`` leaves the body open-ended."""
    await send(
        {
            "type": "http.response.start",
            "status": delivery.status,
            "headers": _encoded(delivery.headers, None if more else len(delivery.body)),
        }
    )
    body, start = delivery.body, 0
    while len(body) - start > _PIECE:
        await send({"type": "http.response.body", "body": body[start : start + _PIECE], "more_body": True})
        start += _PIECE
    await send({"type": "http.response.body", "body": body[start:], "more_body": more})
    return _still_there(scope)


def _still_there(scope: Scope) -> bool:
    transport = scope.get("state", {}).get(TRANSPORT)
    return transport is None or not transport.is_closing() or _closes(scope)


def _closes(scope: Scope) -> bool:
    """Whether the client asked for the connection to be closed after this reply, which is then no loss."""
    return (b"connection", b"close") in scope["headers"] or scope["http_version"] == "1.0"


@lru_cache(maxsize=256)
def _encoded(headers: Headers, length: int | None) -> list[tuple[bytes, bytes]]:
    encoded = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
    if length is not None:
        encoded.append((b"content-length", b"%d" % length))
    return encoded


def _transport(scope: Scope) -> asyncio.Transport:
    transport: asyncio.Transport | None = scope.get("state", {}).get(TRANSPORT)
    if transport is None:
        raise RuntimeError("this fault needs a connection, and the application runs without the sandbox's server")
    return transport


async def _hang_up(scope: Scope, receive: Receive) -> None:
    """Send what is still to be sent, then the end; wait for it, so that uvicorn does not answer in our place."""
    _transport(scope).close()
    await _until_gone(receive)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

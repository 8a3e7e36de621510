"""The shell around ``wire``: sends a request, reads the reply, returns an event.

Nothing that a server or a network does makes it raise: silence and nonsense become ``AttemptFailed``. It follows no
redirect, reads at most ``wire.MAX_BODY`` bytes, asks for no compression, and bounds the whole exchange by one
time-out, so that a body that drips in cannot outlast a lease.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import httpx

from kimiflow import wire
from kimiflow.events import AttemptFailed
from kimiflow.network import in_words
from kimiflow.provider import find_provider

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kimiflow.clock import Clock
    from kimiflow.events import Event
    from kimiflow.model import Account
    from kimiflow.provider import Provider
    from kimiflow.secret import Secret
    from kimiflow.wire import Identity, Reply, TokenRequest

__all__ = ["Client"]

_LAST_LOOK: Final = 0.05


class Client:
    """Speaks to the authorization servers of all accounts.

    :param providers: by name.
    :param identity: what the device headers say of this machine.
    :param timeout: seconds for a whole exchange.
    :param transport_for: the transport for an account and a URL; the caller owns it and closes it.
    """

    def __init__(
        self,
        providers: Mapping[str, Provider],
        identity: Identity,
        *,
        timeout: float,
        transport_for: Callable[[Account, str], httpx.AsyncBaseTransport],
        clock: Clock,
    ) -> None:
        self._providers = providers
        self._identity = identity
        self._timeout = timeout
        self._transport_for = transport_for
        self._clock = clock
        # Longer than the limit of the whole exchange, which is the one that knows when to look once more.
        self._time_outs = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout + 1.0)}
        self._endpoints: dict[str, _Endpoint] = {}

    def provider_of(self, account: Account) -> Provider:
        """The provider of ``account``.

        :raises UnknownProvider: where it is no longer configured.
        """
        return find_provider(self._providers, account.provider, account=account.name)

    async def request_device_authorization(self, account: Account) -> Event:
        """RFC 8628 §3.1."""
        request = wire.device_authorization_request(self.provider_of(account))
        reply = await self._exchange(account, request)
        if isinstance(reply, AttemptFailed):
            return reply
        return wire.parse_device_authorization(reply, request)

    async def poll(self, account: Account, device_code: Secret) -> Event:
        """RFC 8628 §3.4."""
        request = wire.poll_request(self.provider_of(account), device_code)
        reply = await self._exchange(account, request)
        return reply if isinstance(reply, AttemptFailed) else wire.parse_poll(reply, request)

    async def refresh(self, account: Account, refresh_token: Secret) -> Event:
        """RFC 6749 §6."""
        request = wire.refresh_request(self.provider_of(account), refresh_token)
        reply = await self._exchange(account, request)
        return reply if isinstance(reply, AttemptFailed) else wire.parse_refresh(reply, request)

    async def _exchange(self, account: Account, request: TokenRequest) -> Reply | AttemptFailed:
        try:
            transport = self._transport_for(account, request.url)
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(None) as limit:
                alarm = loop.call_later(self._timeout, _allow_a_last_look, limit)
                try:
                    return await self._send(transport, account, request)
                finally:
                    alarm.cancel()
        except (TimeoutError, httpx.TimeoutException):
            return AttemptFailed("timeout", f"no complete reply within {self._timeout:g} s", reached=False)
        except httpx.RemoteProtocolError as error:
            # Somebody answered, but not in HTTP: the host is not dead.
            return AttemptFailed("invalid_response", _without_secrets(error, request))
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return AttemptFailed("connection_failed", _without_secrets(error, request), reached=False)

    async def _send(self, transport: httpx.AsyncBaseTransport, account: Account, request: TokenRequest) -> Reply:
        endpoint = self._endpoints.get(request.url)
        if endpoint is None:
            endpoint = self._endpoints[request.url] = _Endpoint(request.url, self._identity)
        response = await transport.handle_async_request(endpoint.message(account, request, self._time_outs))
        body = await _read(response)
        return wire.Reply(
            status=response.status_code,
            body=body[: wire.MAX_BODY],
            retry_after=wire.retry_after(response.headers.get("Retry-After"), self._clock.now()),
            truncated=len(body) > wire.MAX_BODY,
        )


async def _read(response: httpx.Response) -> bytes:
    """The body, or what there is of it when it has become too long."""
    stream = response.stream
    if isinstance(stream, httpx.ByteStream):
        # It has been read; going through an asynchronous iterator would cost more than the parsing.
        return b"".join(stream)
    body = bytearray()
    try:
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - an async transport has no other
        async for chunk in stream:
            body += chunk
            if len(body) > wire.MAX_BODY:
                break
    finally:
        await response.aclose()
    return bytes(body)


def _allow_a_last_look(limit: asyncio.Timeout) -> None:
    """Time is up, but a machine that was suspended finds its time-out and the reply in the same turn of the loop.

    The reply may hold the only copy of a token, and to cancel now would drop it: what has arrived is read first.
    """
    limit.reschedule(asyncio.get_running_loop().time() + _LAST_LOOK)


class _Endpoint:
    """What all requests to one URL have in common, worked out once: most of what an ``httpx.Request`` costs."""

    def __init__(self, url: str, identity: Identity) -> None:
        self._url = httpx.URL(url)
        headers = wire.identity_headers(identity, "")
        (_, platform), (_, version), *_ = headers
        common = httpx.Request(
            "POST",
            self._url,
            headers=[
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("User-Agent", f"{platform}/{version}"),
                *headers[:-1],
            ],
        ).headers
        del common["Content-Length"]
        self._common = common.raw
        self._device_id = headers[-1][0].encode()

    def message(
        self, account: Account, request: TokenRequest, extensions: dict[str, dict[str, float]]
    ) -> httpx.Request:
        headers = [
            *self._common,
            (self._device_id, wire.header_value(account.device_id).encode()),
            (b"Content-Length", b"%d" % len(request.body)),
        ]
        stream = httpx.ByteStream(request.body)
        return httpx.Request("POST", self._url, headers=headers, stream=stream, extensions=extensions)


def _without_secrets(error: Exception, request: TokenRequest) -> str:
    """A short reason: what failed, never what was sent."""
    text = in_words(error)
    for secret in request.secrets:
        text = text.replace(secret.reveal(), "[redacted]")
    return text[:200]

"""The shell around ``wire``: sends a request, reads the reply, returns an event.

Nothing that a server or a network does makes it raise: silence and nonsense become ``AttemptFailed``. It follows no
redirect, reads at most ``wire.MAX_BODY`` bytes, asks for no compression (and reads it all the same), and bounds the
whole exchange by one time-out, so that a body that drips in cannot outlast a lease.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import httpx

from kimiflow import wire
from kimiflow.events import AttemptFailed, DeviceCodeIssued
from kimiflow.http.deadline import within
from kimiflow.http.decoding import decoded
from kimiflow.http.framing import RawReply
from kimiflow.http.http1 import CutOff, Http1Transport, OutOfTime, Target, Unfinished
from kimiflow.http.network import in_words, is_ours
from kimiflow.provider import check_origin, check_revocation, find_provider, issuer_of
from kimiflow.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kimiflow.clock import Clock
    from kimiflow.events import Event
    from kimiflow.http.http1 import Headers
    from kimiflow.model import Account, Authorization
    from kimiflow.provider import Provider
    from kimiflow.secret import Secret
    from kimiflow.wire import Identity, Reply, TokenRequest

__all__ = ["Client"]


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
        self._targets: dict[str, Target] = {}

    def provider_of(self, account: Account) -> Provider:
        """The provider of ``account``.

        :raises UnknownProvider: where it is no longer configured.
        """
        return find_provider(self._providers, account.provider, account=account.name)

    async def request_device_authorization(self, account: Account) -> Event:
        """RFC 8628 §3.1."""
        provider = self.provider_of(account)
        request = wire.device_authorization_request(provider)
        reply = await self._exchange(account, request)
        if isinstance(reply, AttemptFailed):
            return reply
        event = wire.parse_device_authorization(reply, request)
        if isinstance(event, DeviceCodeIssued):
            return DeviceCodeIssued(replace(event.device_authorization, origin=provider.origin))
        return event

    async def poll(self, account: Account, authorization: Authorization[Secret]) -> Event:
        """RFC 8628 §3.4.

        :raises UsageError: where its provider is gone, or is not where its device code came from; nothing was sent.
        """
        assert authorization.device_code is not None  # noqa: S101 - a pending one has it
        beside = [secret for secret in (authorization.access_token, authorization.refresh_token) if secret is not None]
        request = wire.poll_request(self._issuer_of(account, authorization), authorization.device_code, *beside)
        reply = await self._exchange(account, request)
        return reply if isinstance(reply, AttemptFailed) else wire.parse_poll(reply, request)

    async def refresh(self, account: Account, authorization: Authorization[Secret]) -> Event:
        """RFC 6749 §6.

        :raises UsageError: where its provider is gone, or is not where its tokens came from; nothing was sent.
        """
        assert authorization.refresh_token is not None  # noqa: S101 - ``local_event`` has seen to it
        beside = [secret for secret in (authorization.access_token, authorization.device_code) if secret is not None]
        request = wire.refresh_request(self._issuer_of(account, authorization), authorization.refresh_token, *beside)
        reply = await self._exchange(account, request)
        return reply if isinstance(reply, AttemptFailed) else wire.parse_refresh(reply, request)

    async def revoke(
        self, account: Account, authorization: Authorization[Secret], *, timeout: float
    ) -> AttemptFailed | None:
        """RFC 7009 §2.1, in ``timeout`` seconds: what kept the server from taking the tokens back, if anything did.

        The refresh token goes first, and what the server says to that counts: with it the grant is over. The access
        token follows, because a server does not have to end it along with the grant; nor has it to take one back at all
        (§2.2.1), so what it says to that changes nothing. Without a refresh token, the access token is what counts.

        :raises UsageError: where its provider is gone, or would have it told elsewhere than where its tokens came from;
            nothing was sent.
        """
        provider = self.provider_of(account)
        check_revocation(provider, issuer_of(provider, authorization.origin), account.name)
        deadline = self._clock.monotonic() + timeout
        access_token, refresh_token = authorization.access_token, authorization.refresh_token
        held = [secret for secret in (access_token, refresh_token) if secret is not None]
        failed = None
        if refresh_token is not None:
            request = wire.revocation_request(provider, refresh_token, "refresh_token", *held)
            failed = await self._revoke(account, request, timeout)
        left = deadline - self._clock.monotonic()
        if access_token is not None and failed is None and left > 0:
            request = wire.revocation_request(provider, access_token, "access_token", *held)
            refused = await self._revoke(account, request, left)
            failed = refused if refresh_token is None else None
        return failed

    async def _revoke(self, account: Account, request: TokenRequest, timeout: float) -> AttemptFailed | None:
        reply = await self._exchange(account, request, timeout)
        return reply if isinstance(reply, AttemptFailed) else wire.parse_revocation(reply, request)

    def _issuer_of(self, account: Account, authorization: Authorization[Secret]) -> Provider:
        """The provider, where it is still the one that issued the secrets of ``authorization``.

        :raises UnknownProvider: where it is no longer configured.
        :raises InvalidSetting: where it is somewhere else now; the secrets are not for that server.
        """
        provider = self.provider_of(account)
        check_origin(provider, issuer_of(provider, authorization.origin), account.name)
        return provider

    async def _exchange(
        self, account: Account, request: TokenRequest, timeout: float | None = None
    ) -> Reply | AttemptFailed:
        timeout = self._timeout if timeout is None else timeout
        try:
            transport = self._transport_for(account, request.url)
            way: _Way = transport if isinstance(transport, Http1Transport) else _ThroughHttpx(transport)
            target = self._targets.get(request.url) or self._target(request.url)
            device_id = wire.header_value(account.device_id).encode()
            raw = await way.exchange(target, [(b"X-Msh-Device-Id", device_id)], request.body, timeout=timeout)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return self._made_out(error) or self._failed(error, request, timeout)
        reply = self._reply(raw)
        if raw.surplus and not wire.holds_an_object(reply):
            # A length counted in characters, or none at all: the rest of the body has come all the same.
            whole = self._reply(raw._replace(body=raw.body + raw.surplus))
            return whole if wire.holds_an_object(whole) else reply
        return reply

    def _reply(self, raw: RawReply) -> Reply:
        body = decoded(raw.body, raw.headers, wire.MAX_BODY)
        return wire.Reply(
            status=raw.status,
            body=body[: wire.MAX_BODY],
            retry_after=self._retry_after(raw.headers),
            truncated=len(body) > wire.MAX_BODY,
        )

    def _made_out(self, error: Exception) -> Reply | None:
        """The reply, where nothing but its end is missing: a wrong length must not cost a token."""
        if not isinstance(error, Unfinished) or error.so_far is None:
            return None
        reply = self._reply(error.so_far)
        return reply if wire.holds_an_object(reply) else None

    def _failed(self, error: Exception, request: TokenRequest, timeout: float) -> AttemptFailed:
        if isinstance(error, (TimeoutError, httpx.TimeoutException)):
            return AttemptFailed("timeout", f"no complete reply within {timeout:g} s", reached=False)
        if isinstance(error, httpx.RemoteProtocolError):
            # Somebody answered, but not in HTTP: the host is not dead.
            return AttemptFailed("invalid_response", _reason(error, request))
        return AttemptFailed("connection_failed", _reason(error, request), reached=None if is_ours(error) else False)

    def _target(self, url: str) -> Target:
        headers = wire.identity_headers(self._identity, "")[:-1]
        (_, platform), (_, version), *_ = headers
        common = httpx.Request(
            "POST",
            url,
            headers=[
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                ("Content-Type", "application/x-www-form-urlencoded"),
                ("User-Agent", f"{platform}/{version}"),
                *headers,
            ],
        )
        del common.headers["Content-Length"]
        target = self._targets[url] = Target("POST", common.url, common.headers.raw)
        return target

    def _retry_after(self, headers: Headers) -> float | None:
        for name, _ in headers:
            if name.lower() == b"retry-after":
                return wire.retry_after(httpx.Headers(headers)["Retry-After"], self._clock.now())
        return None


class _Way(Protocol):
    """How requests leave: kimiflow's own transport, or httpx's."""

    async def exchange(self, target: Target, headers: Headers, body: bytes, *, timeout: float) -> RawReply:
        """One POST and its reply, as ``Http1Transport.exchange`` does it."""


class _ThroughHttpx:
    """Any httpx transport: one that knows of proxies, or a test's."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def exchange(self, target: Target, headers: Headers, body: bytes, *, timeout: float) -> RawReply:
        # Longer than the limit of the whole exchange, which is the one that knows when to look once more.
        limits = dict.fromkeys(("connect", "read", "write", "pool"), timeout + 1.0)
        request = httpx.Request(
            target.method,
            target.url,
            headers=[*target.headers, *headers, (b"Content-Length", b"%d" % len(body))],
            stream=httpx.ByteStream(body),
            extensions={"timeout": limits},
        )
        received = bytearray()
        so_far: RawReply | None = None
        try:
            async with within(timeout):
                response = await self._transport.handle_async_request(request)
                so_far = RawReply(response.status_code, response.headers.raw, b"")
                await _read(response, received)
        except (TimeoutError, httpx.TransportError) as error:
            if so_far is None:
                raise
            late = isinstance(error, (TimeoutError, httpx.TimeoutException))
            unfinished = OutOfTime() if late else CutOff(str(error))
            unfinished.so_far = so_far._replace(body=bytes(received))
            raise unfinished from error
        return so_far._replace(body=bytes(received))


async def _read(response: httpx.Response, body: bytearray) -> None:
    """Adds to ``body`` what comes, until it has become too long."""
    stream = response.stream
    if isinstance(stream, httpx.ByteStream):
        body += b"".join(stream)
        return
    try:
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - an async transport has no other
        async for chunk in stream:
            body += chunk
            if len(body) > wire.MAX_BODY:
                break
    finally:
        await response.aclose()


def _reason(error: Exception, request: TokenRequest) -> str:
    """What failed, in short; never what was sent."""
    return redacted(in_words(error), request.secrets)[:200]

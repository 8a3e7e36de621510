"""What can happen to an authorization: a closed union, named by the RFCs' own codes.

``wire`` makes most of them from replies; the scheduler makes ``RefreshDue``, and ``ExpiredToken`` from our own
deadline; a person makes ``LoginRequested``. ``name`` is the name of the transition in ``machine``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias

if TYPE_CHECKING:
    from kimiflow.model import DeviceAuthorization, TokenSet


__all__ = [
    "AccessDenied",
    "AccessTokenIssued",
    "AttemptFailed",
    "AuthorizationPending",
    "DeviceCodeIssued",
    "Event",
    "ExpiredToken",
    "InvalidGrant",
    "LoginRequested",
    "RefreshDue",
    "SlowDown",
]


@dataclass(frozen=True, slots=True)
class LoginRequested:
    """A person asked for a sign-in."""

    name: ClassVar[str] = "login_requested"


@dataclass(frozen=True, slots=True)
class DeviceCodeIssued:
    """Device authorization response (RFC 8628 §3.2)."""

    name: ClassVar[str] = "device_code_issued"
    device_authorization: DeviceAuthorization


@dataclass(frozen=True, slots=True)
class AuthorizationPending:
    """Nobody has approved yet (RFC 8628 §3.5). ``retry_after``: seconds, where the reply asked for a wait."""

    name: ClassVar[str] = "authorization_pending"
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Poll less often, from now on (RFC 8628 §3.5). ``interval``: seconds, where the server sent one along."""

    name: ClassVar[str] = "slow_down"
    interval: float | None = None
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class AccessTokenIssued:
    """Access token response (RFC 6749 §5.1)."""

    name: ClassVar[str] = "access_token_issued"
    tokens: TokenSet


@dataclass(frozen=True, slots=True)
class AccessDenied:
    """The person said no (RFC 8628 §3.5), or before there is a grant, the server will never say yes (RFC 6749 §5.2)."""

    name: ClassVar[str] = "access_denied"
    error: str = "access_denied"
    description: str | None = None


@dataclass(frozen=True, slots=True)
class ExpiredToken:
    """The device code ran out (RFC 8628 §3.5), by the server's word or by our own deadline."""

    name: ClassVar[str] = "expired_token"
    description: str | None = None


@dataclass(frozen=True, slots=True)
class RefreshDue:
    """The access token nears its end; committed before the request leaves."""

    name: ClassVar[str] = "refresh_due"


@dataclass(frozen=True, slots=True)
class InvalidGrant:
    """The device code is spent, or the refresh token is no longer honoured (RFC 6749 §5.2)."""

    name: ClassVar[str] = "invalid_grant"
    error: str = "invalid_grant"
    description: str | None = None


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """An attempt that says nothing about a grant.

    No connection, a time-out, 5xx, 429, a body that is no OAuth reply; on a refresh, an OAuth error about this client.
    ``error`` is a short code (``connection_failed``, ``timeout``, ``http_503``, ``invalid_response``,
    ``interrupted``, or the OAuth code); ``retry_after`` is in seconds; ``reached`` tells whether the server answered,
    ``None`` where nothing was sent.
    """

    name: ClassVar[str] = "attempt_failed"
    error: str
    description: str | None = None
    retry_after: float | None = None
    reached: bool | None = True


Event: TypeAlias = (
    LoginRequested
    | DeviceCodeIssued
    | AuthorizationPending
    | SlowDown
    | AccessTokenIssued
    | AccessDenied
    | ExpiredToken
    | RefreshDue
    | InvalidGrant
    | AttemptFailed
)

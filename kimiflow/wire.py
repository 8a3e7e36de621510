"""Requests built and replies parsed; no IO, no clock.

A reply is parsed body first and status second, because servers disagree about statuses: Kimi and GitHub send
errors with 200, the RFC says 400, others 401, 403 or 429. An OAuth ``error`` in the body decides; the status only
where there is none. What is not an OAuth reply at all proves nothing and becomes ``AttemptFailed``.

Whatever a server sends is untrusted: numbers are made sane, text loses its control characters and is cut short
before it can reach a terminal, and whatever of our own secrets it echoes is struck out.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, quote_plus, urlencode, urlsplit

from kimiflow.events import (
    AccessDenied,
    AccessTokenIssued,
    AttemptFailed,
    AuthorizationPending,
    DeviceCodeIssued,
    ExpiredToken,
    InvalidGrant,
    SlowDown,
)
from kimiflow.model import DeviceAuthorization, TokenSet
from kimiflow.pacing import DEFAULT_INTERVAL, DEFAULT_TOKEN_LIFETIME
from kimiflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kimiflow.provider import Provider

__all__ = [
    "MAX_BODY",
    "Identity",
    "Reply",
    "TokenRequest",
    "device_authorization_request",
    "header_value",
    "holds_an_object",
    "identity_headers",
    "parse_device_authorization",
    "parse_poll",
    "parse_refresh",
    "poll_request",
    "refresh_request",
    "retry_after",
]

MAX_BODY: Final = 1 << 20
"""Bytes of a body that are read; no reply of this protocol comes near it."""

DEVICE_CODE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

_MAX_TEXT: Final = 300
_MAX_INTERVAL: Final = 300.0
_MAX_CODE_LIFETIME: Final = 86_400.0
_MAX_TOKEN_LIFETIME: Final = 366 * 86_400.0
_MAX_RETRY_AFTER: Final = 86_400.0
_DEFAULT_CODE_LIFETIME: Final = 900.0

# RFC 6749 §5.2: no later attempt of this client can fare better.
_FATAL: Final = frozenset({"invalid_client", "unauthorized_client", "unsupported_grant_type"})
_FATAL_AT_THE_START: Final = _FATAL | {"access_denied", "invalid_request", "invalid_scope"}
# Other servers' words for the RFCs' codes.
_ALIASES: Final = {
    "authorization_declined": "access_denied",
    "bad_verification_code": "invalid_grant",
    "code_expired": "expired_token",
    "device_not_found": "invalid_grant",
    "invalid_device_code": "invalid_grant",
    "invalid device code": "invalid_grant",
}
_TEMPORARY: Final = frozenset(
    {"server_error", "temporarily_unavailable", "slow_down", "authorization_pending", "rate_limit_exceeded"}
)
# RFC 6750 §3.1, and what servers say of a refresh token in place of ``invalid_grant``.
_OF_THE_TOKEN: Final = frozenset({"invalid_token", "expired_token", "insufficient_scope"})
_OAUTH_CODES: Final = _FATAL_AT_THE_START | _TEMPORARY | _OF_THE_TOKEN | {"invalid_grant"} | _ALIASES.keys()


_DECODER: Final = json.JSONDecoder(parse_int=float)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the ``X-Msh-*`` headers say of this program and machine; the device id is the account's."""

    platform: str
    version: str
    device_name: str
    device_model: str


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A POST of a form to the authorization server. ``secrets`` are struck out of what comes back."""

    url: str
    body: bytes
    secrets: tuple[Secret, ...] = ()

    def __repr__(self) -> str:
        return f"TokenRequest({self.url!r}, {len(self.body)} bytes)"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``retry_after`` in seconds; ``truncated`` where the body was longer than is read."""

    status: int
    body: bytes
    retry_after: float | None = None
    truncated: bool = False

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


def header_value(value: str) -> str:
    """Stripped, printable ASCII; ``unknown`` where nothing is left."""
    if value and value.isascii() and value.isprintable() and value == value.strip():
        return value
    return "".join(c for c in value if " " <= c <= "~").strip() or "unknown"


def identity_headers(identity: Identity, device_id: str) -> tuple[tuple[str, str], ...]:
    """The device headers that go with every request, to the authorization server and to the API."""
    return (
        ("X-Msh-Platform", header_value(identity.platform)),
        ("X-Msh-Version", header_value(identity.version)),
        ("X-Msh-Device-Name", header_value(identity.device_name)),
        ("X-Msh-Device-Model", header_value(identity.device_model)),
        ("X-Msh-Device-Id", header_value(device_id)),
    )


def device_authorization_request(provider: Provider) -> TokenRequest:
    """RFC 8628 §3.1."""
    form = {"client_id": provider.client_id}
    if provider.scope:
        form["scope"] = provider.scope
    return TokenRequest(provider.device_authorization_endpoint, urlencode(form).encode())


@lru_cache(maxsize=64)
def _form(client_id: str, grant_type: str, parameter: str) -> bytes:
    """The part of a form that all requests of a kind have in common; the secret follows."""
    return (urlencode({"client_id": client_id, "grant_type": grant_type}) + f"&{parameter}=").encode()


_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*")


def _quoted(secret: Secret) -> bytes:
    """As ``quote_plus`` has it; most codes and tokens are as they are."""
    value = secret.reveal()
    return (value if _UNRESERVED.fullmatch(value) else quote_plus(value)).encode()


def poll_request(provider: Provider, device_code: Secret) -> TokenRequest:
    """RFC 8628 §3.4."""
    form = _form(provider.client_id, DEVICE_CODE_GRANT, "device_code")
    body = form + _quoted(device_code)
    return TokenRequest(provider.token_endpoint, body, (device_code,))


def refresh_request(provider: Provider, refresh_token: Secret) -> TokenRequest:
    """RFC 6749 §6."""
    form = _form(provider.client_id, "refresh_token", "refresh_token")
    body = form + _quoted(refresh_token)
    return TokenRequest(provider.token_endpoint, body, (refresh_token,))


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks to wait (RFC 9110 §10.2.3): a number, or an HTTP date."""
    if value is None:
        return None
    text = value.strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        return min(float(text), _MAX_RETRY_AFTER)
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, IndexError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return min(max(when.timestamp() - now, 0.0), _MAX_RETRY_AFTER)


def _seconds(value: object, default: float, most: float) -> float:
    """A number where it parses and is positive, ``default`` where not, at most ``most``."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return default
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return default
    if math.isnan(number) or number <= 0:
        return default
    return min(number, most)


def _printable(value: object, secrets: Iterable[Secret]) -> str | None:
    """``value`` as one short line that is safe to show, or ``None`` where it is no text."""
    if not isinstance(value, str):
        return None
    for secret in secrets:
        clear = secret.reveal()
        if len(value) < len(clear):
            continue  # no form of it is shorter: so it is with every scope and every ``token_type``
        for form in (clear, quote_plus(clear), quote(clear, safe="")):
            # A server may echo the form that it was sent instead of the value in it.
            value = value.replace(form, "[redacted]")
    if not value.isprintable():
        value = "".join(c if c.isprintable() else " " for c in value)
    line = " ".join(value.split())
    if len(line) > _MAX_TEXT:
        line = f"{line[: _MAX_TEXT - 1]}…"
    return line or None


def _opaque(value: object) -> str | None:
    """A non-empty string that can be stored and sent; tokens and codes are opaque beyond that."""
    if not isinstance(value, str) or not value:
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def holds_an_object(reply: Reply) -> bool:
    """Whether the body is one JSON object from its first byte to its last."""
    return _json_object(reply) is not None


def _json_object(reply: Reply) -> Mapping[str, Any] | None:
    if reply.truncated:
        return None
    try:
        # UTF-8 by the RFC; some servers put a BOM in front, or send UTF-16. A stray byte in a nickname, or a number of ten
        # thousand digits, is no reason to lose the token beside it.
        parsed = _DECODER.decode(reply.body.decode(json.detect_encoding(reply.body), "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _error_code(body: Mapping[str, Any]) -> str | None:
    """The OAuth error code, also where a server puts it under ``message``."""
    code = body.get("error")
    if isinstance(code, str) and code.strip():
        code = code.strip()
        message = body.get("message")
        if code not in _OAUTH_CODES and isinstance(message, str) and message.strip().lower() in _OAUTH_CODES:
            code = message.strip().lower()
        return _ALIASES.get(code.lower(), code)
    message = body.get("message")
    if isinstance(message, str) and message.strip().lower() in _OAUTH_CODES:
        return _ALIASES.get(message.strip().lower(), message.strip().lower())
    return None


def _description(body: Mapping[str, Any], secrets: Iterable[Secret]) -> str | None:
    candidates = [body.get("error_description"), body.get("message"), body.get("detail")]
    nested = body.get("error")
    if isinstance(nested, dict):
        candidates += [nested.get("message"), nested.get("detail"), nested.get("code")]
    return next((text for text in (_printable(c, secrets) for c in candidates) if text), None)


def _short_code(code: str, secrets: Iterable[Secret]) -> str:
    return (_printable(code, secrets) or "invalid_response")[:64]


def _failed(reply: Reply, body: Mapping[str, Any] | None, secrets: Iterable[Secret]) -> AttemptFailed:
    """What a reply becomes that decides nothing."""
    code = _error_code(body) if body is not None else None
    description = _description(body, secrets) if body is not None else None
    if code is not None:
        return AttemptFailed(_short_code(code, secrets), description, reply.retry_after)
    if not 200 <= reply.status < 300:
        return AttemptFailed(f"http_{reply.status}", description or _about(reply, body is not None), reply.retry_after)
    return AttemptFailed("invalid_response", description or _about(reply, body is not None), reply.retry_after)


def _about(reply: Reply, is_json: bool) -> str:  # noqa: FBT001
    if reply.truncated:
        return f"the body is longer than {MAX_BODY} bytes"
    if not reply.body.strip():
        return "the body is empty"
    if is_json:
        return "the body lacks what the protocol asks for"
    if reply.body.lstrip()[:1] == b"<":
        return "the body is a web page, not JSON"
    return "the body is not JSON"


def parse_device_authorization(reply: Reply, request: TokenRequest) -> DeviceCodeIssued | AccessDenied | AttemptFailed:
    """RFC 8628 §3.2, and ``verification_url`` as some servers spell it."""
    secrets = request.secrets
    body = _json_object(reply)
    if body is None:
        return _failed(reply, None, secrets)
    code = _error_code(body)
    if code is not None:
        if code in _FATAL_AT_THE_START:
            return AccessDenied(code, _description(body, secrets))
        return _failed(reply, body, secrets)
    device_code = _opaque(body.get("device_code"))
    user_code = _printable(body.get("user_code"), secrets)
    uri = _web_address(body.get("verification_uri")) or _web_address(body.get("verification_url"))
    if device_code is None or user_code is None or uri is None:
        return _failed(reply, body, secrets)
    return DeviceCodeIssued(
        DeviceAuthorization(
            device_code=Secret(device_code),
            user_code=user_code,
            verification_uri=uri,
            verification_uri_complete=_web_address(body.get("verification_uri_complete"))
            or _web_address(body.get("verification_url_complete")),
            expires_in=_seconds(body.get("expires_in"), _DEFAULT_CODE_LIFETIME, _MAX_CODE_LIFETIME),
            interval=_seconds(body.get("interval"), DEFAULT_INTERVAL, _MAX_INTERVAL),
        )
    )


def _web_address(value: object) -> str | None:
    """A link that may be shown and opened: http or https, without anything that a terminal would act on."""
    if not isinstance(value, str) or not value.isprintable() or " " in value or len(value) > 2_000:
        return None
    try:
        parts = urlsplit(value)
    except ValueError:
        return None
    return value if parts.scheme in {"http", "https"} and parts.netloc else None


def _tokens(body: Mapping[str, Any], secrets: Iterable[Secret]) -> TokenSet | None:
    access_token = _opaque(body.get("access_token"))
    if access_token is None:
        return None
    refresh_token = _opaque(body.get("refresh_token"))
    return TokenSet(
        access_token=Secret(access_token),
        refresh_token=None if refresh_token is None else Secret(refresh_token),
        # Stored in clear.
        token_type=_printable(body.get("token_type"), secrets),
        scope=_printable(body.get("scope"), secrets),
        expires_in=_seconds(body.get("expires_in"), DEFAULT_TOKEN_LIFETIME, _MAX_TOKEN_LIFETIME),
    )


def parse_poll(
    reply: Reply, request: TokenRequest
) -> AuthorizationPending | SlowDown | AccessTokenIssued | AccessDenied | ExpiredToken | InvalidGrant | AttemptFailed:
    """RFC 8628 §3.5."""
    secrets = request.secrets
    body = _json_object(reply)
    if body is None:
        return _failed(reply, None, secrets)
    match _error_code(body):
        case "authorization_pending":
            return AuthorizationPending(reply.retry_after)
        case "slow_down":
            sent = _seconds(body.get("interval"), 0.0, _MAX_INTERVAL)
            return SlowDown(sent or None, reply.retry_after)
        case "access_denied":
            return AccessDenied("access_denied", _description(body, secrets))
        case "expired_token":
            return ExpiredToken(_description(body, secrets))
        case "invalid_grant":
            return InvalidGrant("invalid_grant", _description(body, secrets))
        case str(code) if code in _FATAL:
            return AccessDenied(code, _description(body, secrets))
        case None:
            tokens = _tokens(body, secrets)
            return AccessTokenIssued(tokens) if tokens else _failed(reply, body, secrets)
        case _:
            return _failed(reply, body, secrets)


def parse_refresh(
    reply: Reply, request: TokenRequest
) -> AccessTokenIssued | AccessDenied | InvalidGrant | AttemptFailed:
    """RFC 6749 §5 and §6.

    A 401 or 404 says that the grant is gone, and so does a 403 that carries an OAuth error. Any other 403 may be a web
    firewall's, be it HTML or ``{"error": "Forbidden"}``, and proves nothing.
    """
    secrets = request.secrets
    body = _json_object(reply)
    code = None if body is None else _error_code(body)
    if body is not None and code is None:
        tokens = _tokens(body, secrets)
        if tokens is not None:
            return AccessTokenIssued(tokens)
    description = None if body is None else _description(body, secrets)
    if code in {"invalid_grant", "invalid_token", "expired_token"}:
        return InvalidGrant(_short_code(code or "", secrets), description)
    if code is not None and (code in _FATAL or code == "access_denied"):
        return AccessDenied(code, description)
    if code in _TEMPORARY:
        return _failed(reply, body, secrets)
    if reply.status in {401, 404} or (reply.status == 403 and code in _OAUTH_CODES):
        return InvalidGrant(_short_code(code, secrets) if code is not None else f"http_{reply.status}", description)
    return _failed(reply, body, secrets)

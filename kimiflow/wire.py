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
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote_plus, urlencode, urlsplit

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
from kimiflow.pacing import DEFAULT_INTERVAL
from kimiflow.redaction import clear_of, holds, looks_like_a_token, redacted
from kimiflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kimiflow.provider import Provider

__all__ = [
    "MAX_BODY",
    "MISCONFIGURED",
    "About",
    "Identity",
    "Reply",
    "TokenRequest",
    "about",
    "device_authorization_request",
    "header_value",
    "holds_an_object",
    "identity_headers",
    "parse_device_authorization",
    "parse_poll",
    "parse_refresh",
    "parse_revocation",
    "poll_request",
    "refresh_request",
    "retry_after",
    "revocation_request",
]

MAX_BODY: Final = 1 << 20
"""Bytes of a body that are read; no reply of this protocol comes near it."""

DEVICE_CODE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"

_AROUND: Final = "\ufeff\0; \t\r\n"
"""What servers put around JSON."""
_MAX_TEXT: Final = 300
_MAX_INTERVAL: Final = 300.0
_MAX_CODE_LIFETIME: Final = 86_400.0
_MAX_TOKEN_LIFETIME: Final = 366 * 86_400.0
# Keycloak and Feishu; GitHub's and Google's.
_REFRESH_EXPIRES_IN: Final = ("refresh_expires_in", "refresh_token_expires_in")
_MAX_RETRY_AFTER: Final = 86_400.0
_GIVES_OUT: Final = ("access_token", "refresh_token", "id_token", "device_code")
_DEFAULT_CODE_LIFETIME: Final = 900.0


class About(Enum):
    """What a refusal is about, which says what can help."""

    GRANT = auto()
    """The device code or the refresh token: it is over, and only a person begins anew."""
    CLIENT = auto()
    """This program, as it is configured: every grant is as good as before, once a person has mended that."""
    REQUEST = auto()
    """How it was asked, or the way it took, or nobody knows what: proves nothing, and is tried again."""
    MOMENT = auto()
    """It passes by itself."""


_ABOUT: Final = {
    # RFC 6749 §5.2
    "invalid_grant": About.GRANT,
    "invalid_client": About.CLIENT,
    "unauthorized_client": About.CLIENT,
    "unsupported_grant_type": About.CLIENT,
    "invalid_request": About.REQUEST,
    "invalid_scope": About.REQUEST,
    # RFC 8628 §3.5
    "access_denied": About.GRANT,
    "expired_token": About.GRANT,
    "authorization_pending": About.MOMENT,
    "slow_down": About.MOMENT,
    # RFC 6749 §4.1.2.1
    "server_error": About.MOMENT,
    "temporarily_unavailable": About.MOMENT,
    # RFC 6750 §3.1, which servers also say of a refresh token
    "invalid_token": About.GRANT,
    "insufficient_scope": About.REQUEST,
    # OpenID Connect Core §3.1.2.6: a refresh can go no further without its person
    "interaction_required": About.GRANT,
    "login_required": About.GRANT,
    "consent_required": About.GRANT,
    # What servers say in their own words: GitHub, Slack, OpenAI, Google
    "bad_refresh_token": About.GRANT,
    "invalid_refresh_token": About.GRANT,
    "refresh_token_expired": About.GRANT,
    "refresh_token_invalidated": About.GRANT,
    "refresh_token_reused": About.GRANT,
    "token_expired": About.GRANT,
    "token_revoked": About.GRANT,
    "deleted_client": About.CLIENT,
    "device_flow_disabled": About.CLIENT,
    "disabled_client": About.CLIENT,
    "incorrect_client_credentials": About.CLIENT,
    "rate_limit_exceeded": About.MOMENT,
}
# Other servers' words for the RFCs' codes.
_ALIASES: Final = {
    "authorization_declined": "access_denied",
    "bad_verification_code": "invalid_grant",
    "code_expired": "expired_token",
    "device_not_found": "invalid_grant",
    "incorrect_device_code": "invalid_grant",
    "invalid_device_code": "invalid_grant",
    "invalid device code": "invalid_grant",
}
_OAUTH_CODES: Final = _ABOUT.keys() | _ALIASES.keys()
MISCONFIGURED: Final = "misconfigured"
"""The error of an attempt for which nothing was sent: the account's own settings do not allow it."""
_NO_CODE_AT_ALL: Final = {
    # What kimiflow says where there is no code, or no reply.
    "connection_failed": About.MOMENT,
    "interrupted": About.MOMENT,
    "timeout": About.MOMENT,
    "invalid_response": About.REQUEST,
    MISCONFIGURED: About.CLIENT,
}
_OF_THE_MOMENT: Final = frozenset({408, 425, 429})
_FINAL_AT_THE_START: Final = frozenset({"access_denied", "invalid_request", "invalid_scope"})
"""No later device authorization request of this client can fare better."""


def about(error: str) -> About:
    """What the error of a failed attempt is about: a code, or ``http_`` and the status of a reply without one.

    A 401, 403, 404 or 410 without a code may be a gateway's as well as the server's, and so says nothing of a grant.
    """
    found = _ABOUT.get(error) or _NO_CODE_AT_ALL.get(error)
    if found is None and error.startswith("http_") and error[5:].isdecimal():
        status = int(error[5:])
        found = About.MOMENT if status >= 500 or status in _OF_THE_MOMENT else None
    return found or About.REQUEST


_DECODER: Final = json.JSONDecoder(parse_int=float, strict=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """What the ``X-Msh-*`` headers say of this program and machine; the device id is the account's."""

    platform: str
    version: str
    device_name: str
    device_model: str


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A POST of a form to the authorization server. What comes back is shown without ``secrets``, all of the account's."""

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


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""What would end a header, or speak to a terminal."""
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9_.~-]*")


def _quoted(secret: Secret) -> bytes:
    """As ``quote_plus`` has it; most codes and tokens are as they are."""
    value = secret.reveal()
    return (value if _UNRESERVED.fullmatch(value) else quote_plus(value)).encode()


def poll_request(provider: Provider, device_code: Secret, *beside: Secret) -> TokenRequest:
    """RFC 8628 §3.4. What the account holds ``beside`` the code is not sent, and not shown where it comes back."""
    form = _form(provider.client_id, DEVICE_CODE_GRANT, "device_code")
    body = form + _quoted(device_code)
    return TokenRequest(provider.token_endpoint, body, (device_code, *beside))


def refresh_request(provider: Provider, refresh_token: Secret, *beside: Secret) -> TokenRequest:
    """RFC 6749 §6. What the account holds ``beside`` the token is not sent, and not shown where it comes back."""
    form = _form(provider.client_id, "refresh_token", "refresh_token")
    body = form + _quoted(refresh_token)
    return TokenRequest(provider.token_endpoint, body, (refresh_token, *beside))


def revocation_request(
    provider: Provider, token: Secret, hint: Literal["refresh_token", "access_token"], *held: Secret
) -> TokenRequest:
    """RFC 7009 §2.1; for a provider that has a revocation endpoint.

    What the account ``held`` besides is not sent, and not shown where it comes back.
    """
    assert provider.revocation_endpoint is not None  # noqa: S101 - the caller has seen to it
    form = urlencode({"client_id": provider.client_id, "token_type_hint": hint})
    body = f"{form}&token=".encode() + _quoted(token)
    return TokenRequest(provider.revocation_endpoint, body, (token, *held))


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


def _seconds(value: object, most: float) -> float | None:
    """A number where it parses and is positive, at most ``most``; ``None`` where it does not."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if math.isnan(number) or number <= 0:
        return None
    return min(number, most)


def _printable(value: object) -> str | None:
    """``value`` as one short line, or ``None`` where it is no text."""
    if not isinstance(value, str):
        return None
    if not value.isprintable():
        value = "".join(c if c.isprintable() else " " for c in value)
    line = " ".join(value.split())
    if len(line) > _MAX_TEXT:
        line = f"{line[: _MAX_TEXT - 1]}…"
    return line or None


def _opaque(value: object) -> str | None:
    """A non-empty string that can be stored, shown and sent; tokens and codes are opaque beyond that."""
    if not isinstance(value, str) or not value or _CONTROL.search(value):
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
    body = reply.body
    # UTF-8 by the RFC; some servers put a BOM in front, or send UTF-16.
    encoding = "utf-8" if body[:2] == b'{"' else json.detect_encoding(body)
    try:
        # A stray byte in a nickname, or a number of ten thousand digits, is no reason to lose the token beside it.
        text = body.decode(encoding, "surrogateescape")
        parsed = _DECODER.decode(text if text[:1] == "{" and text[-1:] == "}" else text.strip(_AROUND))
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _error_code(body: Mapping[str, Any]) -> str | None:
    """The OAuth error code, also where a server puts it under ``message``."""
    code, message = body.get("error"), body.get("message")
    known = message.strip().lower() if isinstance(message, str) else ""
    if isinstance(code, str) and code.strip():
        code = code.strip()
        if code.lower() in _OAUTH_CODES:
            known = code.lower()
    else:
        code = None
    return _ALIASES.get(known, known) if known in _OAUTH_CODES else code


def _description(body: Mapping[str, Any], secrets: Iterable[Secret]) -> str | None:
    candidates = [body.get("error_description"), body.get("message"), body.get("detail")]
    nested = body.get("error")
    if isinstance(nested, dict):
        candidates += [nested.get("message"), nested.get("detail"), nested.get("code")]
    known = [*secrets, *_secrets_in(body)]
    said = (redacted(candidate, known) for candidate in candidates if isinstance(candidate, str))
    return next((text for text in map(_printable, said) if text), None)


def _secrets_in(body: Mapping[str, Any]) -> list[Secret]:
    """What the reply itself gives out; also where it is wrapped up once."""
    found = [Secret(value) for key in _GIVES_OUT if isinstance(value := body.get(key), str) and value]
    for inner in body.values():
        if isinstance(inner, dict):
            found += [Secret(value) for key in _GIVES_OUT if isinstance(value := inner.get(key), str) and value]
    return found


def _short_code(code: str, secrets: Iterable[Secret]) -> str:
    return (_printable(redacted(code, secrets)) or "invalid_response")[:64]


def _failed(reply: Reply, body: Mapping[str, Any] | None, secrets: Iterable[Secret]) -> AttemptFailed:
    """What a reply becomes that decides nothing."""
    code = _error_code(body) if body is not None else None
    description = _description(body, secrets) if body is not None else None
    if code is not None and body is not None:
        return AttemptFailed(_short_code(code, [*secrets, *_secrets_in(body)]), description, reply.retry_after)
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
        if code in _FINAL_AT_THE_START or about(code) is About.CLIENT:
            return AccessDenied(code, _description(body, secrets))
        return _failed(reply, body, secrets)
    device_code = _opaque(body.get("device_code"))
    given_out = _secrets_in(body)
    user_code = clear_of(given_out, _printable(body.get("user_code")))
    uri, complete = (
        _web_address(body.get(f"verification_uri{kind}"), given_out)
        or _web_address(body.get(f"verification_url{kind}"), given_out)
        for kind in ("", "_complete")
    )
    if complete is not None and looks_like_a_token(complete):
        complete = None  # the other link, and the code, will do
    if device_code is None or user_code is None or uri is None:
        return _failed(reply, body, secrets)
    return DeviceCodeIssued(
        DeviceAuthorization(
            device_code=Secret(device_code),
            user_code=user_code,
            verification_uri=uri,
            verification_uri_complete=complete,
            expires_in=_seconds(body.get("expires_in"), _MAX_CODE_LIFETIME) or _DEFAULT_CODE_LIFETIME,
            interval=_seconds(body.get("interval"), _MAX_INTERVAL) or DEFAULT_INTERVAL,
        )
    )


def _web_address(value: object, secrets: Iterable[Secret]) -> str | None:
    """A link that may be shown and opened: http or https, without a secret or anything that a terminal would act on."""
    if not isinstance(value, str) or not value.isprintable() or " " in value or len(value) > 2_000:
        return None
    if holds(value, secrets):
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
    known = [*secrets, *_secrets_in(body)]
    return TokenSet(
        access_token=Secret(access_token),
        refresh_token=None if refresh_token is None else Secret(refresh_token),
        # Stored in clear.
        token_type=clear_of(known, _printable(body.get("token_type"))),
        scope=clear_of(known, _printable(body.get("scope"))),
        expires_in=_seconds(body.get("expires_in"), _MAX_TOKEN_LIFETIME),
        refresh_expires_in=next(
            (end for key in _REFRESH_EXPIRES_IN if (end := _seconds(body.get(key), _MAX_TOKEN_LIFETIME))), None
        ),
    )


def _issued(body: Mapping[str, Any], secrets: Iterable[Secret]) -> AccessTokenIssued | None:
    """The tokens, unless they stand beside an error that is one: ``"error": "none"`` is not."""
    error = body.get("error")
    if isinstance(error, str) and error.strip().lower() in _OAUTH_CODES:
        return None
    tokens = _tokens(body, secrets)
    return None if tokens is None else AccessTokenIssued(tokens)


def parse_poll(
    reply: Reply, request: TokenRequest
) -> AuthorizationPending | SlowDown | AccessTokenIssued | AccessDenied | ExpiredToken | InvalidGrant | AttemptFailed:
    """RFC 8628 §3.5."""
    secrets = request.secrets
    body = _json_object(reply)
    if body is None:
        return _failed(reply, None, secrets)
    if (issued := _issued(body, secrets)) is not None:
        return issued
    match _error_code(body):
        case "authorization_pending":
            return AuthorizationPending(reply.retry_after)
        case "slow_down":
            return SlowDown(_seconds(body.get("interval"), _MAX_INTERVAL), reply.retry_after)
        case "access_denied":
            return AccessDenied("access_denied", _description(body, secrets))
        case "expired_token":
            return ExpiredToken(_description(body, secrets))
        case "invalid_grant":
            return InvalidGrant("invalid_grant", _description(body, secrets))
        case str(code) if about(code) is About.CLIENT:
            return AccessDenied(code, _description(body, secrets))
        case _:
            return _failed(reply, body, secrets)


def parse_refresh(
    reply: Reply, request: TokenRequest
) -> AccessTokenIssued | AccessDenied | InvalidGrant | AttemptFailed:
    """RFC 6749 §5 and §6.

    Only an OAuth error about the grant itself ends it. What is about this client, or about nothing that is known, leaves
    the tokens as they are.
    """
    secrets = request.secrets
    body = _json_object(reply)
    if body is None:
        return _failed(reply, None, secrets)
    if (issued := _issued(body, secrets)) is not None:
        return issued
    match _error_code(body):
        case "access_denied":
            return AccessDenied("access_denied", _description(body, secrets))
        case str(code) if about(code) is About.GRANT:
            return InvalidGrant(code, _description(body, secrets))
        case _:
            return _failed(reply, body, secrets)


_REVOCATION_CODES: Final = _OAUTH_CODES | {"unsupported_token_type"}
"""And the one of RFC 7009 §2.2.1."""


def parse_revocation(reply: Reply, request: TokenRequest) -> AttemptFailed | None:
    """RFC 7009 §2.2; ``None`` where the server has taken the token back.

    It says so with a 200, for a token that it does not know as well, and what else is in the body means nothing. Unless
    that is an OAuth error, from a server that sends those with 200, or a web page, from something in front of it.
    """
    body = _json_object(reply)
    refused = body is not None and _error_code(body) in _REVOCATION_CODES
    if 200 <= reply.status < 300 and not refused and reply.body.lstrip()[:1] != b"<":
        return None
    return _failed(reply, body, request.secrets)

"""The kinds of faults: what each does, when, where, and what its value means. A table, and the readers of values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ENDPOINTS",
    "KINDS",
    "OAUTH_ERRORS",
    "Endpoint",
    "FaultError",
    "FaultKind",
    "RetryAfter",
    "Stage",
    "Value",
    "checked",
    "describe_faults",
    "kind_of",
    "read",
    "written",
]

Endpoint: TypeAlias = Literal["any", "device", "poll", "refresh", "token", "api"]
"""Where a fault strikes; ``token`` is both polls and refreshes, ``api`` whatever takes an access token."""

Stage: TypeAlias = Literal["instead", "hold", "alter"]
"""What becomes of the request; see `kimiflow.sandbox.faults`."""

ENDPOINTS: Final[tuple[Endpoint, ...]] = get_args(Endpoint)


class FaultError(ValueError):
    """A fault that says nothing; the message names the bad value and lists what is allowed."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """The value of a ``Retry-After`` header: seconds from now, written as such or as an HTTP date."""

    seconds: float
    as_date: bool = False


Value: TypeAlias = float | str | RetryAfter | None


@dataclass(frozen=True, slots=True)
class FaultKind:
    """What can go wrong.

    :ivar about: what it does, for a person.
    :ivar takes: what VALUE means, for a person; empty where there is none.
    :ivar parse: reads VALUE, raising ``ValueError`` where it cannot; ``None`` where there is none.
    :ivar default: the value where none is given; ``...`` where one has to be.
    :ivar endpoints: where it can happen.
    """

    stage: Stage
    about: str
    takes: str = ""
    parse: Callable[[str], Value] | None = None
    default: Any = None
    endpoints: frozenset[str] = frozenset(ENDPOINTS)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(text)
    return seconds


def _retry_after(text: str) -> RetryAfter:
    if text.startswith("date+"):
        return RetryAfter(_seconds(text.removeprefix("date+")), as_date=True)
    return RetryAfter(_seconds(text))


def _status(text: str) -> float:
    if not re.fullmatch(r"[2-5][0-9]{2}", text):
        raise ValueError(text)
    return int(text)


def _redirect_status(text: str) -> float:
    if text not in {"301", "302", "303", "307", "308"}:
        raise ValueError(text)
    return int(text)


def _mebibytes(text: str) -> float:
    if not 0 < float(text) <= 256:
        raise ValueError(text)
    return float(text)


def _one_of(*words: str) -> Callable[[str], Value]:
    def parse(text: str) -> Value:
        if text not in words:
            raise ValueError(text)
        return text

    return parse


def _number_or_word(text: str) -> Value:
    return text if text in NUMBER_WORDS else _seconds(text)


NUMBER_WORDS: Final = ("string", "float", "word", "nan", "infinite", "negative", "zero", "null", "enormous")
FIELDS: Final = (
    "verification_uri_complete",
    "interval",
    "expires_in",
    "refresh_token",
    "scope",
    "token_type",
)  # fmt: skip
OAUTH_ERRORS: Final = {
    "access_denied": 400,
    "authorization_pending": 400,
    "expired_token": 400,
    "invalid_client": 401,
    "invalid_grant": 400,
    "invalid_request": 400,
    "server_error": 500,
    "temporarily_unavailable": 503,
    "unauthorized_client": 400,
    "unsupported_grant_type": 400,
}
"""The OAuth errors that can be had as a fault, and the HTTP status that each comes with by itself."""

_STATUS_KIND: Final = "400…599"
_ONLY_DEVICE: Final = frozenset({"any", "device"})
_ONLY_API: Final = frozenset({"api"})
# What the authorization server alone can say, or has to say of what it issued.
_NOT_API: Final = frozenset(ENDPOINTS) - _ONLY_API
_NUMBER: Final = f"{', '.join(NUMBER_WORDS)}, or a number"

KINDS: Final[dict[str, FaultKind]] = {
    _STATUS_KIND: FaultKind(
        "instead",
        "that HTTP status, with a line of text",
        "Retry-After in seconds (20), or as an HTTP date (date+20)",
        _retry_after,
    ),
    "slow_down": FaultKind("instead", "slow_down", "the interval sent along, in seconds", _seconds, endpoints=_NOT_API),
    **{
        code: FaultKind("instead", "this OAuth error", f"HTTP status, {status} by itself", _status, status, _NOT_API)
        for code, status in OAUTH_ERRORS.items()
    },
    "access_terminated_error": FaultKind(
        "instead", "the 403 of an API that serves the account no more", endpoints=_ONLY_API
    ),
    "message": FaultKind("instead", 'an error as {"message": …}', "HTTP status, 400 by itself", _status, 400),
    "detail": FaultKind("instead", 'an error as {"detail": …}', "HTTP status, 400 by itself", _status, 400),
    "nested": FaultKind("instead", 'an error as {"error": {"message": …}}', "HTTP status, 400 by itself", _status, 400),
    "html": FaultKind(
        "instead", "a web page; html/403 is a web firewall's", "HTTP status, 200 by itself", _status, 200
    ),
    "empty": FaultKind("instead", "no body", "HTTP status, 200 by itself", _status, 200),
    "invalid_json": FaultKind("instead", "JSON that does not parse", "HTTP status, 200 by itself", _status, 200),
    "huge": FaultKind("instead", "a very long body", "its length in MiB, 8 by itself", _mebibytes, 8.0),
    "redirect": FaultKind(
        "instead",
        "a redirect, whose target is logged",
        "301, 302, 303, 307 or 308; 307 by itself",
        _redirect_status,
        307,
        _NOT_API,
    ),
    "cut_off": FaultKind("instead", "a body that is shorter than its Content-Length, then the end"),
    "reset": FaultKind("instead", "the connection is reset (RST)"),
    "hang": FaultKind(
        "instead",
        "no reply, then the connection is closed",
        "after so many seconds; by itself once the client has gone",
        _seconds,
        math.inf,
    ),
    "delay": FaultKind("hold", "the server acts and replies later", "by so many seconds", _seconds, ...),
    "late": FaultKind(
        "alter", "the server acts at once, the reply comes later", "by so many seconds", _seconds, ..., _NOT_API
    ),
    "lost": FaultKind(
        "alter",
        "the server acts, but the reply never arrives",
        "close (by itself), reset or cut_off",
        _one_of("close", "reset", "cut_off"),
        "close",
        _NOT_API,
    ),
    "expires_in": FaultKind("alter", "another expires_in", _NUMBER, _number_or_word, ..., _NOT_API),
    "interval": FaultKind("alter", "another interval", _NUMBER, _number_or_word, ..., _ONLY_DEVICE),
    "missing": FaultKind("alter", "a reply without a field", ", ".join(FIELDS), _one_of(*FIELDS), ..., _NOT_API),
    "verification_url": FaultKind("alter", "verification_url instead of verification_uri", endpoints=_ONLY_DEVICE),
}
"""By name; ``400…599`` stands for any such status."""


def kind_of(name: str) -> FaultKind:
    """:raises FaultError: where there is no such kind."""
    kind = KINDS.get(_STATUS_KIND if re.fullmatch(r"[45][0-9]{2}", name) else name)
    if kind is None or name == _STATUS_KIND:
        raise FaultError(f"unknown kind {name!r}; kinds are {', '.join(KINDS)}")
    return kind


def written(value: Value) -> str:
    """The value as it is typed."""
    match value:
        case RetryAfter():
            return f"{'date+' if value.as_date else ''}{value.seconds:g}"
        case float() | int():
            return f"{value:g}"
        case _:
            return str(value)


def read(name: str, text: str | None) -> Value:
    """The value of a kind as it is typed, ``None`` where nothing is. :raises FaultError: where it is none."""
    kind = kind_of(name)
    if text is None:
        return None
    if kind.parse is None:
        raise FaultError(f"{name} takes no value, but has {text!r}")
    try:
        return kind.parse(text)
    except ValueError:
        raise FaultError(f"{text!r} is no value for {name}; allowed: {kind.takes}") from None


def checked(name: str, value: Value) -> Value:
    """``value``, or the kind's own where there is none. :raises FaultError: where it is none for this kind."""
    kind = kind_of(name)
    if value is None:
        if kind.default is ...:
            raise FaultError(f"{name} needs a value, as in {name}/VALUE; allowed: {kind.takes}")
        default: Value = kind.default
        return default
    if value != kind.default:
        read(name, written(value))
    return value


def describe_faults() -> str:
    """The kinds, a line each, for a person who asks what can be had."""
    lines = []
    for name, kind in KINDS.items():
        value = "" if not kind.takes else "/VALUE" if kind.default is ... else "[/VALUE]"
        lines.append(f"{name}{value}: {kind.about}" + (f"; VALUE: {kind.takes}" if kind.takes else ""))
    return "\n".join(lines)

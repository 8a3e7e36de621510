"""What a reply of the API says about the account that asked: served, or not for now, and until when. Pure.

Which replies are about the account, as public clients have met them:

- 401 to a token that was refreshed just before: the account is locked out, for reasons of its own;
- 402: no membership covers this;
- 403 with the error type ``access_terminated_error``: the week's quota is used up, or the account is barred. The same
  type also goes to clients that Kimi takes for no coding agents; the server's words, which are kept, tell them apart;
- 429: the quota of some hours is used up, or the service is overloaded. Only the first comes with a time, if any does.

Everything else is the business of whoever made the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from kimiflow.api.tolerant import first, json_object, moment, number, words
from kimiflow.redaction import redacted
from kimiflow.wire import retry_after

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimiflow.secret import Secret

__all__ = ["ABOUT_THE_ACCOUNT", "PAUSE_LIMITED", "PAUSE_REFUSED", "Refusal", "refusal_in"]

ABOUT_THE_ACCOUNT: Final = frozenset({401, 402, 403, 429})
"""Statuses whose body is worth reading."""

PAUSE_LIMITED: Final = 30.0
"""Seconds that an account rests after a 429 that names no time."""

PAUSE_REFUSED: Final = 600.0
"""Seconds until an account is tried again that was refused for what it is; somebody may have put it right by then."""

_LONGEST: Final = 8 * 86_400.0
"""Quotas are those of a week at most; a time further ahead is a mistake, and nobody should wait for it."""

_TERMINATED: Final = "access_terminated_error"
_TIMES: Final = ("resetTime", "reset_time", "resetAt", "reset_at", "resets_at")
_SPANS: Final = ("retry_after", "retryAfter", "reset_in", "resetIn", "resets_in_seconds")


@dataclass(frozen=True, slots=True)
class Refusal:
    """An account is not served now.

    ``until`` in Unix seconds. Where it is ``guessed``, a quota is used up and the account's usages may know better.
    """

    reason: str
    until: float
    guessed: bool = False


def refusal_in(status: int, header: str | None, body: bytes, now: float, sent: Secret) -> Refusal | None:
    """What a reply says, or ``None`` where it says nothing about the account.

    :param header: its ``Retry-After``.
    :param sent: the token that it may repeat, and that is not to be shown.
    """
    reply = json_object(body)
    error = reply.get("error")
    detail: Mapping[str, Any] = error if isinstance(error, dict) else reply
    kind = first(detail, "type", "code")
    if _TERMINATED in (detail.get("type"), detail.get("code")):
        kind = _TERMINATED
    said = words(first(detail, "message", "detail")) or (words(error) if isinstance(error, str) else None)
    said = said and redacted(said, [sent])
    match status:
        case 401:
            return Refusal(_reason("401 although its token was just refreshed", said), now + PAUSE_REFUSED)
        case 402:
            return Refusal(_reason("402, no membership", said), now + PAUSE_REFUSED)
        case 403 if kind == _TERMINATED:
            return _of_quota(f"403 {_TERMINATED}", said, _told(header, detail, now), now + PAUSE_REFUSED)
        case 429:
            return _of_quota("429", said, _told(header, detail, now), now + PAUSE_LIMITED)
    return None


def _of_quota(what: str, said: str | None, told: float | None, guess: float) -> Refusal:
    return Refusal(_reason(what, said), guess if told is None else told, guessed=told is None)


def _told(header: str | None, detail: Mapping[str, Any], now: float) -> float | None:
    """The time that the reply names, at least a second from now."""
    wait = retry_after(header, now)
    if wait is None:
        at = moment(first(detail, *_TIMES))
        wait = number(first(detail, *_SPANS)) if at is None else at - now
    return None if wait is None else now + min(max(wait, 1.0), _LONGEST)


def _reason(what: str, said: str | None) -> str:
    return f"{what}: {said}" if said else what

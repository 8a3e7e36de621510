"""The quota of an account as the API tells of it: numbers as decimal strings, times in RFC 3339 with nanoseconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from kimiflow.sandbox.effects import api_error

if TYPE_CHECKING:
    from kimiflow.sandbox.effects import Delivery

__all__ = ["Limit", "Tell", "limited", "usages"]

Tell: TypeAlias = Literal["header", "date", "body", "usages"]
"""How a client can learn when the quota is back: ``Retry-After`` in seconds or as an HTTP date, ``resetTime`` in the
body of the error, or from ``/v1/usages`` alone, which always says it."""

_WEEK: Final = 7 * 86_400.0
_FIVE_HOURS: Final = 5 * 3_600.0
_WEEKLY: Final = 2_048
_HOURLY: Final = 200


@dataclass(frozen=True, slots=True)
class Limit:
    """A quota that is used up until then (Unix seconds)."""

    until: float
    status: int
    tell: Tell


def usages(used: int, limit: Limit | None, now: float) -> dict[str, Any]:
    """The body of ``/v1/usages`` after ``used`` completions."""
    weekly = _window(_WEEKLY, used, now - now % _WEEK + _WEEK)
    hourly = _window(_HOURLY, used, now - now % _FIVE_HOURS + _FIVE_HOURS)
    if limit is not None and now < limit.until:
        if limit.status == 403:
            weekly = _window(_WEEKLY, _WEEKLY, limit.until)
        else:
            hourly = _window(_HOURLY, _HOURLY, limit.until)
    return {
        "usage": weekly,
        "limits": [{"window": {"duration": "300", "timeUnit": "TIME_UNIT_MINUTE"}, **hourly}],
    }


def limited(limit: Limit, now: float) -> tuple[Delivery, str, float | None]:
    """The error that stands in for a completion, its type, and the seconds that it asks to wait, where it does."""
    left = limit.until - now
    headers: tuple[tuple[str, str], ...] = ()
    if limit.tell == "header":
        # Whole seconds as most servers send, rounded up: who waits for so long has waited long enough.
        headers = (("retry-after", str(math.ceil(left))),)
    elif limit.tell == "date":
        headers = (("retry-after", formatdate(math.ceil(limit.until), usegmt=True)),)
    more = {"resetTime": _rfc3339(limit.until)} if limit.tell == "body" else {}
    kind, message = "", "The quota is used up."
    if limit.status == 403:
        kind, message = "access_terminated_error", "You've reached your weekly (7-day) usage limit."
    delivery, outcome = api_error(limit.status, headers, message=message, kind=kind, **more)
    return delivery, outcome, left if headers else None


def _window(limit: int, used: int, resets_at: float) -> dict[str, str]:
    used = min(used, limit)
    return {
        "limit": str(limit),
        "used": str(used),
        "remaining": str(limit - used),
        "resetTime": _rfc3339(resets_at),
    }


def _rfc3339(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%S.%f}000Z"

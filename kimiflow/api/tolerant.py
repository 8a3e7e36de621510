"""Numbers, times and words as servers write them, or ``None``. Pure.

Numbers come as decimal strings, times with nanoseconds, in seconds or in milliseconds, and any field may be missing or
be something else: none of that is a reason to fail where a reply only informs.
"""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["UNIT_SECONDS", "first", "json_object", "moment", "number", "words"]

_MOST: Final = 1e15
_MILLISECONDS_FROM: Final = 1e11
"""What is larger than this as Unix time lies in the year 5138 in seconds, and in 1973 in milliseconds."""
_MORE_THAN_MICROSECONDS: Final = re.compile(r"(\.[0-9]{6})[0-9]+")

UNIT_SECONDS: Final = {"SECOND": 1.0, "MINUTE": 60.0, "HOUR": 3_600.0, "DAY": 86_400.0, "WEEK": 604_800.0}
"""By the last part of a ``timeUnit`` such as ``TIME_UNIT_MINUTE``."""


def json_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object in ``body``; an empty one where it holds none."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def first(mapping: Mapping[str, Any], *keys: str) -> object:
    """The value of the first of ``keys`` that has one."""
    return next((mapping[key] for key in keys if mapping.get(key) is not None), None)


def number(value: object) -> float | None:
    """A finite number that is not negative, also where it stands in a string."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if 0 <= found <= _MOST and not math.isnan(found) else None


def moment(value: object) -> float | None:
    """A time in Unix seconds: from RFC 3339, or from a number of seconds or milliseconds since 1970."""
    at = number(value)
    if at is not None:
        return at / 1000 if at > _MILLISECONDS_FROM else at or None
    if not isinstance(value, str):
        return None
    try:
        when = datetime.fromisoformat(_MORE_THAN_MICROSECONDS.sub(r"\1", value.strip()))
    except ValueError:
        return None
    try:
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (OverflowError, ValueError):
        return None


def words(value: object, most: int = 200) -> str | None:
    """One short line that is safe to show; numbers count as words, since ids come as either."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        return None
    line = " ".join("".join(c if c.isprintable() else " " for c in str(value)[: most * 4]).split())
    return (line if len(line) <= most else f"{line[: most - 1]}…") or None

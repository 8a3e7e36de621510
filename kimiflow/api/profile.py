"""Who an account is and what is left of its quota, as the API's ``/v1/me`` and ``/v1/usages`` tell it. Pure.

Any field may be missing, under another name, or a number in a string: whatever is not understood is ``None``.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from kimiflow.api.tolerant import UNIT_SECONDS, first, moment, number, words
from kimiflow.status import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Profile", "QuotaWindow", "duplicates", "profile_of", "quota_of"]


@dataclass(frozen=True, slots=True)
class QuotaWindow:
    """One quota: how much of it is used, and when it starts anew.

    ``resets_at`` in Unix seconds; ``seconds`` is the length of the window, which the main quota, the first, leaves out.
    """

    name: str | None
    used: float | None
    limit: float | None
    resets_at: float | None
    seconds: float | None

    @property
    def exhausted(self) -> bool:
        """Whether nothing of it is left."""
        return self.used is not None and bool(self.limit) and self.used >= (self.limit or 0)

    def as_json(self) -> dict[str, Any]:
        """JSON values, the time in RFC 3339."""
        return {**asdict(self), "resets_at": rfc3339(self.resets_at)}


@dataclass(frozen=True, slots=True)
class Profile:
    """The person behind an account. Any field may be missing; ``problems`` says what could not be had, and why."""

    account: str
    user_id: str | None = None
    nickname: str | None = None
    email: str | None = None
    region: str | None = None
    level: str | None = None
    quota: tuple[QuotaWindow, ...] = ()
    problems: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """JSON values, times in RFC 3339."""
        return {**asdict(self), "quota": [window.as_json() for window in self.quota], "problems": list(self.problems)}


def profile_of(account: str, me: Mapping[str, Any], usages: Mapping[str, Any], problems: Sequence[str] = ()) -> Profile:
    """From the bodies of both replies; either may be empty."""
    inner = me.get("data")
    person: Mapping[str, Any] = inner if isinstance(inner, dict) else me
    return Profile(
        account=account,
        user_id=words(first(person, "user_id", "userId", "id")),
        nickname=words(first(person, "nickname", "name")),
        email=words(first(person, "email")),
        region=words(first(person, "region")),
        level=words(first(person, "user_level_name", "userLevelName", "level")),
        quota=quota_of(usages),
        problems=tuple(problems),
    )


def quota_of(usages: Mapping[str, Any]) -> tuple[QuotaWindow, ...]:
    """The windows in the body of ``/v1/usages``: the main quota where there is one, then the limits."""
    limits = usages.get("limits")
    items = [usages.get("usage"), *(limits if isinstance(limits, list) else ())]
    windows = (_window(item) for item in items if isinstance(item, dict))
    return tuple(window for window in windows if window.used is not None or window.limit is not None)


def _window(item: Mapping[str, Any]) -> QuotaWindow:
    inner, span = item.get("detail"), item.get("window")
    detail: Mapping[str, Any] = inner if isinstance(inner, dict) else item
    window: Mapping[str, Any] = span if isinstance(span, dict) else item
    limit, used, remaining = (number(detail.get(key)) for key in ("limit", "used", "remaining"))
    if used is None and limit is not None and remaining is not None:
        used = max(limit - remaining, 0.0)
    duration = number(window.get("duration"))
    unit = str(first(window, "timeUnit", "time_unit") or "").rpartition("_")[2].upper().removesuffix("S")
    return QuotaWindow(
        name=words(first(item, "name", "title", "scope") or first(detail, "name", "title", "scope")),
        used=used,
        limit=limit,
        resets_at=moment(first(detail, "resetTime", "reset_time", "resetAt", "reset_at")),
        seconds=duration * UNIT_SECONDS.get(unit, 1.0) if duration else None,
    )


def duplicates(profiles: Iterable[Profile]) -> dict[str, list[str]]:
    """The people who are signed in under more than one name: account names, sorted, by user id."""
    names = defaultdict[str, list[str]](list)
    for profile in profiles:
        if profile.user_id is not None:
            names[profile.user_id].append(profile.account)
    return {user_id: sorted(accounts) for user_id, accounts in names.items() if len(accounts) > 1}

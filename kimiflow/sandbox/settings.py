"""What a sandbox is told at the start: intervals, lifetimes, who approves and when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypedDict

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

__all__ = ["KIMI_CLIENT_ID", "Options", "Policy", "Settings", "parse_policy"]

KIMI_CLIENT_ID: Final = "17e5f671-d194-4dfb-9706-5516cb48c098"
"""The public client that Kimi's own tools sign in as."""

Policy: TypeAlias = Literal["manual", "auto", "deny"] | float
"""Who decides about a device code: a person, nobody (approved or denied as soon as it is issued), or the clock,
which approves that many seconds after the code was issued."""


_WORDS: Final[tuple[Literal["manual", "auto", "deny"], ...]] = ("manual", "auto", "deny")


class Options(TypedDict, total=False):
    """The fields of `Settings` as keyword arguments, for whoever passes them on."""

    interval: float
    code_lifetime: float
    token_lifetime: float
    rotate: bool
    pending_status: int
    approve: Policy
    client_ids: AbstractSet[str]
    scope: str
    log_limit: int | None
    forget_after: float | None
    stream_pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the authorization server behaves where no fault says otherwise. Durations in seconds.

    :ivar interval: pause between two polls of a device code (RFC 8628 §3.2); fractions are sent as they are.
    :ivar code_lifetime: life of a device code, sent as its ``expires_in``.
    :ivar token_lifetime: life of an access token, sent as its ``expires_in``.
    :ivar rotate: whether each refresh replaces the refresh token; without, it stays good for ever.
    :ivar pending_status: HTTP status of ``authorization_pending`` and ``slow_down``: 400 by the RFC, and 200
        from servers that have an error only in the body.
    :ivar approve: the policy for each device code that nobody decides about by hand.
    :ivar client_ids: the clients that are known; any other is ``invalid_client``.
    :ivar scope: what is granted.
    :ivar log_limit: how many entries of the log are kept, the newest ones; counters count on regardless.
    :ivar forget_after: how long expired device codes and rotated refresh tokens are remembered. What is
        forgotten is ``invalid_grant`` still, but no longer seen to be expired or reused. ``None`` is for ever.
    :ivar stream_pause: pause between two pieces of a completion that the API streams.
    """

    interval: float = 5.0
    code_lifetime: float = 1800.0
    token_lifetime: float = 900.0
    rotate: bool = True
    pending_status: int = 400
    approve: Policy = "manual"
    client_ids: AbstractSet[str] = frozenset({KIMI_CLIENT_ID})
    scope: str = "kimi-code"
    log_limit: int | None = None
    forget_after: float | None = None
    stream_pause: float = 0.0

    def __post_init__(self) -> None:
        for name in ("interval", "code_lifetime", "token_lifetime"):
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name} is {seconds!r}, but has to be seconds above 0")
        if self.forget_after is not None and not self.forget_after >= 0:
            raise ValueError(f"forget_after is {self.forget_after!r}, but has to be seconds from 0, or None")
        if not (math.isfinite(self.stream_pause) and self.stream_pause >= 0):
            raise ValueError(f"stream_pause is {self.stream_pause!r}, but has to be seconds from 0")
        if self.log_limit is not None and self.log_limit < 0:
            raise ValueError(f"log_limit is {self.log_limit!r}, but has to be a number from 0, or None")
        if not 200 <= self.pending_status <= 599:
            raise ValueError(f"pending_status is {self.pending_status!r}, but has to be an HTTP status")
        if not self.client_ids:
            raise ValueError("client_ids is empty, so nobody could sign in")
        check_policy(self.approve)


def check_policy(policy: Policy) -> Policy:
    """``policy`` itself; :raises ValueError: where it is none."""
    known = policy in _WORDS if isinstance(policy, str) else math.isfinite(policy) and policy >= 0
    if not known:
        raise ValueError(
            f"approve is {policy!r}, but has to be manual, auto, deny, or the seconds after which a code is approved"
        )
    return policy


def parse_policy(text: str) -> Policy:
    """A policy as a person types it: ``manual``, ``auto``, ``deny`` or seconds such as ``2.5``.

    :raises ValueError: naming the value and what is allowed.
    """
    word = text.strip().lower()
    for policy in _WORDS:
        if word == policy:
            return policy
    try:
        return check_policy(float(word))
    except ValueError:
        raise ValueError(
            f"{text!r} says nothing about approval; allowed are {', '.join(_WORDS)}, "
            "or the seconds after which a code is approved, such as 2.5"
        ) from None

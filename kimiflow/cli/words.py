"""An account in a person's words. Pure: what it says depends on a status and the time only."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, State

if TYPE_CHECKING:
    from kimiflow.status import Status

__all__ = [
    "Line",
    "clock_time",
    "countdown",
    "describe",
    "duration",
    "life_of",
    "settled_words",
    "state_style",
    "state_word",
]

OVERDUE = 60.0
"""Seconds after which a step that nobody took means that nobody is at it: longer than any lease of a short request."""

_STYLES = {
    State.REQUESTED: "cyan",
    State.PENDING: "yellow",
    State.SLOW_DOWN: "yellow",
    State.GRANTED: "green",
    State.REFRESHING: "green",
    State.DENIED: "red",
    State.EXPIRED: "red",
    None: "dim",
}


@dataclass(frozen=True, slots=True)
class Line:
    """One account, as a row of a table."""

    account: str
    state: str
    style: str
    holds: str
    """The user code or the token, with the life that is left in it."""
    next: str
    error: str
    overdue: bool
    worker: str = ""
    """Who is at it."""
    label: str = ""


def duration(seconds: float) -> str:
    """A time span in one unit, never shorter than it is said to be: ``45 s``, ``12 min``, ``5 h``, ``3 d``."""
    if seconds < 100:
        return f"{max(0, int(seconds))} s"
    if seconds < 100 * 60:
        return f"{int(seconds // 60)} min"
    if seconds < 48 * 3600:
        return f"{int(seconds // 3600)} h"
    return f"{int(seconds // 86400)} d"


def life_of(expires_at: float | None, now: float) -> str:
    """How long a token is good: ``token good for 14 min``."""
    return "token good without an end" if expires_at is None else f"token good for {duration(expires_at - now)}"


def countdown(seconds: float) -> str:
    """Time left, as a clock shows it: ``14:32``."""
    left = max(0, int(seconds))
    hours, left = divmod(left, 3600)
    return f"{hours}:{left // 60:02}:{left % 60:02}" if hours else f"{left // 60}:{left % 60:02}"


def clock_time(at: float) -> str:
    """A time in this machine's zone."""
    return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def state_word(state: State | None) -> str:
    """The state, or that there is none."""
    return "signed out" if state is None else state.value


def state_style(state: State | None) -> str:
    """The colour of a state."""
    return _STYLES[state]


def describe(status: Status, now: float) -> Line:
    """An account's row."""
    due = status.next_attempt_at
    return Line(
        account=status.account,
        state=f"{state_word(status.state)}, disabled" if status.disabled else state_word(status.state),
        style="red" if status.needs_person else state_style(status.state),
        holds=_holds(status, now),
        next=_next(status, now),
        error=_error(status),
        overdue=due is not None and now - due > OVERDUE,
        worker=status.lease.owner if status.lease is not None and status.lease.until > now else "",
        label=status.label or "",
    )


def settled_words(status: Status, now: float) -> str:
    """How a sign-in ended, in half a sentence."""
    match status.state:
        case State.GRANTED | State.REFRESHING:
            return f"signed in; {life_of(status.token_expires_at, now)}"
        case State.DENIED | State.EXPIRED:
            reason = _error(status)
            return f"{status.state.value}{f' ({reason})' if reason else ''}"
        case None:
            return "signed out meanwhile"
        case _:
            return "not approved yet"


def _holds(status: Status, now: float) -> str:
    token = "" if status.token_expires_at is None else _left("token", status.token_expires_at - now)
    if status.state in ON_ITS_WAY:
        code = "no code yet"
        if status.user_code:
            left = "" if status.code_expires_at is None else f" ({_left('', status.code_expires_at - now).strip()})"
            code = f"{status.user_code}{left}"
        return f"{code}; {token}" if token else code
    return (token or "token without an end") if status.state in HOLDS_TOKENS else ""


def _left(what: str, seconds: float) -> str:
    return f"{what} has ended".strip() if seconds <= 0 else f"{what} {duration(seconds)} left".strip()


def _next(status: Status, now: float) -> str:
    match status.state:
        case None:
            return "sign in"
        case State.DENIED | State.EXPIRED:
            return "sign in again"
        case State.REQUESTED:
            step = "ask for a code"
        case State.PENDING | State.SLOW_DOWN:
            step = "poll"
        case State.GRANTED | State.REFRESHING:
            step = "needs a person; refresh" if status.needs_person else "refresh"
    if status.next_attempt_at is None:
        return "nothing to do"  # a token without an end
    left = status.next_attempt_at - now
    if left < -OVERDUE:
        return f"{step} overdue by {duration(-left)}"
    if left < 1:
        return "being refreshed" if status.state is State.REFRESHING and not status.attempts else f"{step} now"
    return f"{step} in {duration(left)}"


def _error(status: Status) -> str:
    error, description = status.error, status.error_description
    if error is None:
        return description or ""
    # The deadline's own words say more than its code.
    text = f"{error}: {description}" if description else error
    if description and error == "expired_token":
        text = description
    return f"{text} (attempt {status.attempts})" if status.attempts > 1 else text

"""When the next step is due: interval, backoff, jitter, refresh time. Pure functions of numbers.

``spread`` is a random number in [0, 1) that the caller draws; it keeps accounts that began together from
staying together. It only ever makes a step later, so it can neither poll early nor refresh with more lead than was set.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFAULT_INTERVAL", "DEFAULT_TOKEN_LIFETIME", "SLOW_DOWN_STEP", "Pacing"]

DEFAULT_INTERVAL = 5.0
"""Seconds between polls where the server names none (RFC 8628 §3.2)."""

SLOW_DOWN_STEP = 5.0
"""Seconds that each ``slow_down`` adds to the interval (RFC 8628 §3.5)."""

DEFAULT_TOKEN_LIFETIME = 900.0
"""Seconds that an access token is taken to live where the server does not say; what Kimi's live."""

_LEAST_BETWEEN_REFRESHES = 1.0
# A server that calls its tokens dead on arrival is not to be asked as fast as it can answer.

_BACKOFF_FIRST = 1.0
_BACKOFF_MOST = 60.0
_SELDOM = 300.0


@dataclass(frozen=True, slots=True)
class Pacing:
    """The settings that decide when; all in seconds."""

    poll_interval_floor: float = 5.0
    authorization_timeout: float = 900.0
    refresh_lead: float = 300.0

    def first_interval(self, sent: float | None) -> float:
        """The polling interval of a new device code."""
        return max(sent or DEFAULT_INTERVAL, self.poll_interval_floor)

    def slower_interval(self, current: float, sent: float | None) -> float:
        """The interval after ``slow_down``; kept for good."""
        return max(current + SLOW_DOWN_STEP, sent or 0.0)

    def code_deadline(self, now: float, expires_in: float) -> float:
        """When an unapproved device code is given up."""
        return now + min(expires_in, self.authorization_timeout)

    def next_poll(self, now: float, interval: float, spread: float) -> float:
        """One interval after the last reply, plus up to a twentieth of it, at most a quarter of a second."""
        return now + interval + spread * min(interval * 0.05, 0.25)

    def refresh_at(self, now: float, expires_at: float, spread: float) -> float:
        """``refresh_lead`` before the end, but never before half of the token's life is over, nor at once."""
        lead = min(self.refresh_lead, (expires_at - now) / 2)
        return max(expires_at - lead + spread * lead * 0.1, now + _LEAST_BETWEEN_REFRESHES)

    def bounded_wait(self, wait: float, now: float, ends: float | None) -> float:
        """``wait`` seconds, which a server has asked for, cut to what the code or token that ends then leaves room for.

        A try is left before the end; beyond it, the longest backoff is as long as a server is obeyed.
        """
        if ends is None:
            return min(wait, self.authorization_timeout)
        left = ends - now
        return min(wait, max(left - _BACKOFF_MOST, left / 2) if left > 0 else _BACKOFF_MOST)

    def seldom(self, spread: float) -> float:
        """Seconds between tries that cannot succeed before a person has mended something."""
        return _SELDOM * (0.5 + spread / 2)

    def backoff(self, attempts: int, spread: float) -> float:
        """Seconds to wait after the ``attempts``-th failure in a row: doubling, half of it drawn."""
        ceiling = min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(attempts - 1, 16))
        return ceiling * (0.5 + spread / 2)

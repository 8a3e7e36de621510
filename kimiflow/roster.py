"""Whose turn it is, and who is set aside until when. Pure but for a lock: any thread may ask."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from kimiflow.errors import UsageError
from kimiflow.model import account_names
from kimiflow.parameters import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["STRATEGIES", "Absence", "Roster", "Strategy"]

Strategy: TypeAlias = Literal["round_robin", "least_recently_limited"]
"""``round_robin`` gives each request to the next account. ``least_recently_limited`` stays with the account whose last
refusal is longest ago, in the order given where there was none, so that one quota is used up after the other."""

STRATEGIES: Final[tuple[Strategy, ...]] = get_args(Strategy)


@dataclass(frozen=True, slots=True)
class Absence:
    """An account that is set aside. ``until`` in Unix seconds."""

    until: float
    reason: str


@dataclass(slots=True)
class Roster:
    """The accounts of a pool.

    :raises UsageError: for no names, what is no list of names, or another strategy than there is.
    :raises InvalidAccountName: for a name that breaks the rule.
    """

    names: Sequence[str]
    strategy: Strategy = "round_robin"
    _next: int = 0
    _absences: dict[str, Absence] = field(default_factory=dict)
    _refused_at: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.names = tuple(account_names(self.names))
        if not self.names:
            raise UsageError("a pool needs a list of accounts, not an empty one", hint="As in: ['work', 'home']")
        if self.strategy not in STRATEGIES:
            raise UsageError(f"{shown(self.strategy)} is no strategy of a pool; allowed are: {', '.join(STRATEGIES)}")

    def turn(self) -> list[str]:
        """All names in the order in which a new request tries them; who is set aside is left out by :meth:`absence`."""
        with self._lock:
            if self.strategy == "least_recently_limited":
                return sorted(self.names, key=lambda name: self._refused_at.get(name, 0.0))
            start, self._next = self._next, (self._next + 1) % len(self.names)
            return [*self.names[start:], *self.names[:start]]

    def absence(self, name: str, now: float) -> Absence | None:
        """Whether an account is set aside; its time may be over."""
        with self._lock:
            found = self._absences.get(name)
            if found is not None and found.until <= now:
                del self._absences[name]
                found = None
            return found

    def set_aside(self, name: str, absence: Absence, now: float) -> None:
        """Leaves an account out until then; a later word replaces an earlier one only where it asks for more time."""
        with self._lock:
            self._refused_at[name] = now
            before = self._absences.get(name)
            if before is None or before.until < absence.until:
                self._absences[name] = absence

    def correct(self, name: str, guess: Absence, absence: Absence) -> None:
        """Puts what was learned in place of a guess, unless somebody was told more in the meantime."""
        with self._lock:
            if self._absences.get(name) is guess:
                self._absences[name] = absence

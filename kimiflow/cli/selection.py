"""Which accounts ``kimiflow status`` shows, and in which order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from kimiflow.cli.words import state_word
from kimiflow.errors import UsageError
from kimiflow.model import State

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from kimiflow.status import Status

__all__ = ["STATES", "Selection", "Sort", "parse_states"]

STATES = {state_word(state).replace(" ", "_"): state for state in (*State, None)}
"""The states as they are typed."""

_LIFE = [*State, None]


class Sort(Enum):
    """What accounts are sorted by."""

    name = "name"
    state = "state"
    expires = "expires"
    updated = "updated"


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for. An empty ``states`` means all, a ``label`` may be a glob."""

    states: frozenset[State | None] = frozenset()
    label: str | None = None
    sort: Sort = Sort.name

    @property
    def is_everything(self) -> bool:
        """Whether nothing is left out."""
        return not self.states and self.label is None

    def of(self, found: Sequence[Status]) -> list[Status]:
        """Those that are wanted, in order: what ends first, what changed last, and the states as a life has them."""
        chosen = [
            each
            for each in found
            if (not self.states or each.state in self.states)
            and (self.label is None or fnmatchcase((each.label or "").casefold(), self.label.casefold()))
        ]
        return sorted(chosen, key=_KEYS[self.sort])


_KEYS: dict[Sort, Callable[[Status], Any]] = {
    Sort.name: lambda each: each.account,
    Sort.state: lambda each: (_LIFE.index(each.state), each.account),
    Sort.expires: lambda each: (_ends(each), each.account),
    Sort.updated: lambda each: (-each.updated_at, each.account),
}


def _ends(status: Status) -> float:
    """When its code or its token does; what has neither comes last."""
    ends = status.code_expires_at if status.on_its_way else status.token_expires_at
    return float("inf") if ends is None or status.state in {State.DENIED, State.EXPIRED} else ends


def parse_states(text: str | None) -> frozenset[State | None]:
    """States as they are typed: ``granted,pending``.

    :raises UsageError: naming the one that is none, and those there are.
    """
    words = [word.strip().lower().replace("-", "_") for word in (text or "").split(",") if word.strip()]
    for word in words:
        if word not in STATES:
            raise UsageError(f"{word!r} is not a state", hint=f"There are: {', '.join(STATES)}")
    return frozenset(STATES[word] for word in words)

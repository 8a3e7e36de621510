"""Up to where history is complete, in a database that numbers rows before they are committed. Pure.

PostgreSQL hands out ids when rows are written, and shows them when they are committed: 6 can be there before 5 is. Who
reads on from 6 would never see 5. But whoever holds an id up to the newest that is visible had begun before that one
was looked at; so once all transactions that had begun by then are over, nothing can appear among those ids any more.
"""

from __future__ import annotations

__all__ = ["Horizon"]


class Horizon:
    """Remembers, from look to look, what is being waited for.

    Each look is one statement's view: the newest id, the oldest transaction that may still commit, and the number of
    the next one to begin.
    """

    def __init__(self) -> None:
        self.settled = -1
        """Nothing can appear any more up to this id; -1 where that is not known yet."""
        self._waiting: tuple[int, int] | None = None

    def look(self, newest: int, oldest: int, following: int) -> int:
        """Takes in a look; returns :attr:`settled`."""
        if oldest >= following:
            self._waiting = None
            self.settled = max(self.settled, newest)
            return self.settled
        if self._waiting is not None and oldest >= self._waiting[1]:
            self.settled = max(self.settled, self._waiting[0])
            self._waiting = None
        if self._waiting is None:
            self._waiting = newest, following
        return self.settled

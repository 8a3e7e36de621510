"""The store's time, as one process sees it.

Many processes agree on leases and due times only if they agree on the time, and their clocks may not. So what counts is the
store's: asked for now and then, and carried on by the monotonic clock in between, which no administrator and no
time server can turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kimiflow.clock import Clock
    from kimiflow.stores.base import Store

__all__ = ["StoreClock"]

_STALE_AFTER: Final = 10.0
_PROMPT: Final = 0.1
"""Seconds between question and answer that leave no doubt worth another try."""
_TRIES: Final = 3


class StoreClock:
    """A :class:`~kimiflow.clock.Clock` whose ``now`` is the store's. Wall time until it is first synchronised."""

    def __init__(self, clock: Clock, store: Store) -> None:
        self._clock = clock
        self._store = store
        self._offset: float | None = None
        self._asked_at = (0.0, 0.0)

    def now(self) -> float:
        """Unix seconds by the store."""
        if self._offset is None:
            return self._clock.now()
        return self._clock.monotonic() + self._offset

    def monotonic(self) -> float:
        """This process's own monotonic seconds."""
        return self._clock.monotonic()

    def is_synchronised(self) -> bool:
        """Whether the last answer is recent, by both of this machine's clocks.

        Both are looked at because a machine that was suspended may have a monotonic clock that was, too.
        """
        if self._offset is None:
            return False
        wall, monotonic = self._clock.now(), self._clock.monotonic()
        return monotonic - self._asked_at[1] < _STALE_AFTER and 0 <= wall - self._asked_at[0] < _STALE_AFTER

    async def synchronise(self) -> None:
        """Asks the store, where the last answer is not recent.

        :raises StoreUnavailable: where the store cannot be asked.
        """
        if self.is_synchronised():
            return
        best, before = float("inf"), self._offset
        for _ in range(_TRIES):
            wall, asked = self._clock.now(), self._clock.monotonic()
            store_now = await self._store.now(wall)
            answered = self._clock.monotonic()
            # The answer was right at some moment between the question and now: the shorter that was, the better.
            if answered - asked < best:
                best = answered - asked
                between = store_now - (asked + answered) / 2
                if best >= _PROMPT and before is not None:
                    # So slow an answer says little: what was known is kept, as far as the answer allows.
                    between = min(max(before, store_now - answered), store_now - asked)
                self._offset = wall - asked if store_now == wall else between
                self._asked_at = (wall, asked)
            if best < _PROMPT:
                return

"""A queue of ids by the time when they are due, in which every change costs the logarithm of its size."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

__all__ = ["DueQueue"]

_SLACK = 64


class DueQueue:
    """At most one time for each id; the earliest first.

    A heap cannot take an entry out of its middle, so entries that were overtaken stay until they come to the
    top, or until there are more of them than of the living.
    """

    __slots__ = ("_heap", "_times")

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._times: dict[str, float] = {}

    def put(self, key: str, at: float | None) -> None:
        """``key`` is due at ``at``, and at no other time; ``None``: never."""
        if at is None:
            self._times.pop(key, None)
        elif self._times.get(key) != at:
            self._times[key] = at
            heappush(self._heap, (at, key))
        if len(self._heap) > 2 * len(self._times) + _SLACK:
            self._heap = [(at, key) for key, at in self._times.items()]
            heapify(self._heap)

    def first(self) -> float | None:
        """When the next one is due; ``None`` where there is none."""
        self._drop_overtaken()
        return self._heap[0][0] if self._heap else None

    def pop(self) -> str:
        """Takes the first one out; there must be one."""
        self._drop_overtaken()
        _, key = heappop(self._heap)
        del self._times[key]
        return key

    def _drop_overtaken(self) -> None:
        heap, times = self._heap, self._times
        while heap and times.get(heap[0][1]) != heap[0][0]:
            heappop(heap)

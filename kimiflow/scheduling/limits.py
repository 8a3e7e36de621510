"""How much a worker does at once, and how long it waits for what."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, and how long. Durations are seconds.

    The lease outlives the request: ``lease`` must be more than ``request_timeout`` and ``margin`` together.
    """

    request_timeout: float = 30.0
    concurrency: int = 256
    """Requests in flight over all hosts."""
    per_host: int = 192
    """Requests in flight to one host, where there are several."""
    batch: int = 500
    """Rows that are claimed at a time."""
    margin: float = 5.0
    """Of the lease, kept back from requests: for the commit, and for clocks that tick unevenly."""
    lease: float = 60.0
    gather: float = 0.02
    """Pause between two claims that were not full, so that due rows share a transaction."""
    glance: float = 0.25
    """Pause between two looks for what is due on other hosts, where one has all that it may have and they had nothing."""
    patience: float = 10.0
    """How long a worker that is to stop waits for a store that is away."""
    idle: float = 30.0
    """The longest sleep by the wall clock: a laptop that wakes up looks at what is due soon after."""

    @property
    def open_claims(self) -> int:
        """Most claims that a worker has at a time.

        While requests are in flight one batch is being claimed, one waits for its turn, and one is being committed.
        """
        return self.concurrency + 3 * self.batch

    @property
    def longest_stop(self) -> float:
        """How long a worker may take that is told to stop: a request has just left, then the store is away."""
        return self.request_timeout + self.patience + 5.0

    @property
    def grace(self) -> float:
        """How long a refresh in doubt is left alone once its lease is over.

        Its worker may live, and hold the new tokens: when a store comes back that was away for longer than a lease, the
        lease is over before they can be committed, and the old token sent again would end the grant. Long enough for
        the pause between two tries to commit and for a connection to be made, and short enough that a request may follow.
        """
        return min(15.0, (self.lease - self.request_timeout - self.margin) * 0.6)

    @classmethod
    def for_timeout(cls, request_timeout: float, concurrency: int) -> Limits:
        """Limits that fit a request time-out: requests may wait for a slot and still have lease enough."""
        return cls(
            request_timeout=request_timeout,
            concurrency=concurrency,
            per_host=max(1, concurrency * 3 // 4),
            batch=max(1, min(500, concurrency * 2)),
            lease=request_timeout * 1.5 + 15.0,
        )

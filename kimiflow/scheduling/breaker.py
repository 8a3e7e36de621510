"""A breaker for one host: a dead host costs one probe at a time, not a time-out for each account.

Only silence counts. A host that answers, however badly, is alive, and each account has its own backoff. Pure: times are
monotonic seconds that the caller passes in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["Breaker"]

_THRESHOLD = 5
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """Closed while ``failures`` in a row are few; open until ``retry_at``; then one probe decides."""

    failures: int = 0
    retry_at: float = 0.0
    probe_until: float = 0.0
    """A probe is awaited until then; a probe that was lost on the way must not keep the host shut for ever."""

    @property
    def closed(self) -> bool:
        """Whether requests may leave freely."""
        return self.failures < _THRESHOLD

    def may_probe(self, now: float) -> bool:
        """Whether an open breaker would let one request through."""
        return not self.closed and now >= self.retry_at and now >= self.probe_until

    def next_look(self) -> float:
        """When :meth:`may_probe` will next be true of an open breaker."""
        return max(self.retry_at, self.probe_until)

    def with_probe(self, until: float) -> Breaker:
        """One request is on its way to find out; it is heard of by ``until``, or not at all."""
        return replace(self, probe_until=until)

    def without_probe(self) -> Breaker:
        """The probe found nothing to send."""
        return replace(self, probe_until=0.0)

    def answered(self) -> Breaker:
        """The host is alive."""
        return self if self == _CLOSED else _CLOSED

    def silent(self, now: float, spread: float) -> Breaker:
        """No connection, or no reply in time. ``spread`` in [0, 1) is jitter."""
        failures = self.failures + 1
        if failures < _THRESHOLD:
            return replace(self, failures=failures)
        if not self.probe_until and not self.closed and now < self.retry_at:
            # A request that left before the breaker opened; the pause stands as it is.
            return self
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - _THRESHOLD, 16))
        return Breaker(failures, now + pause * (0.75 + spread / 4))


_CLOSED = Breaker()

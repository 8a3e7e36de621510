"""The hosts that a worker talks to: which answer, and how much each has to do.

Two things keep one host's trouble from everybody else: a breaker, so that silence costs one probe at a time, and an
allowance, so that a slow host takes neither every lane nor every claim. Accounts whose provider is not configured any
more belong to a host without a name, which has neither.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kimiflow.scheduling.breaker import Breaker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kimiflow.provider import Provider
    from kimiflow.scheduling.limits import Limits

__all__ = ["Hosts"]


class Hosts:
    """Times are monotonic seconds that the caller passes in."""

    def __init__(self, providers: Mapping[str, Provider], limits: Limits) -> None:
        self._host_of = {name: urlsplit(provider.token_endpoint).netloc for name, provider in providers.items()}
        self._breakers = {host: Breaker() for host in self._host_of.values()}
        several = len(self._breakers) > 1
        self.lanes_of_each = limits.per_host if several else limits.concurrency
        """Requests in flight to one host: a slow one must not take every lane, unless there is no other."""
        # Nor may it take every claim: whatever one has, there is room for more than half a batch of others.
        self._claims_of_each = limits.open_claims - (limits.batch // 2 + 1 if several else 0)
        self._worthwhile = limits.batch // 4
        self._claims: Counter[str] = Counter()
        self._busy: frozenset[str] = frozenset()

    def of(self, provider: str) -> str:
        """The host of a provider; empty where that is not configured any more."""
        return self._host_of.get(provider, "")

    def providers_on(self, host: str) -> frozenset[str]:
        """Those that share it."""
        return frozenset(name for name, where in self._host_of.items() if where == host)

    # How much each has to do

    @property
    def any_busy(self) -> bool:
        """Whether :meth:`blocked` has found one that has all that it may have at once."""
        return bool(self._busy)

    def blocked(self) -> frozenset[str]:
        """Providers for which nothing is to be claimed: their host is silent, or has all that it may have at once."""
        self._busy = frozenset(host for host in self._breakers if self._is_busy(host))
        return frozenset(
            name for name, host in self._host_of.items() if host in self._busy or not self._breakers[host].closed
        )

    def room(self) -> int:
        """How many may be claimed at once, though all of them may be of one host that is not busy."""
        return self._claims_of_each - max(
            (self._claims[host] for host in self._breakers.keys() - self._busy), default=0
        )

    def claimed(self, hosts: Iterable[str]) -> None:
        """One claim more for each."""
        self._claims.update(hosts)

    def done(self, host: str) -> bool:
        """One claim less; whether there is room again for a host that was busy."""
        self._claims[host] -= 1
        return host in self._busy and not self._is_busy(host)

    def _is_busy(self, host: str) -> bool:
        # Too little room is left for a claim that is worth its transaction.
        return self._claims[host] >= self._claims_of_each - self._worthwhile

    # Which answer

    def is_open(self, host: str) -> bool:
        """Whether requests may leave freely."""
        breaker = self._breakers.get(host)
        return breaker is None or breaker.closed

    def to_probe(self, now: float) -> list[str]:
        """The silent ones that may be sent one request, to find out."""
        return [host for host, breaker in self._breakers.items() if breaker.may_probe(now)]

    def next_looks(self) -> list[float]:
        """When each of the silent ones may be probed."""
        return [breaker.next_look() for breaker in self._breakers.values() if not breaker.closed]

    def probing(self, host: str, until: float) -> None:
        """A probe is on its way; it is heard of by ``until``, or not at all."""
        self._breakers[host] = self._breakers[host].with_probe(until)

    def probed(self, host: str) -> None:
        """The probe is over. Where it has told something, there is none any more to be ended."""
        self._breakers[host] = self._breakers[host].without_probe()

    def answered(self, host: str) -> bool:
        """It is alive; whether that is news."""
        breaker = self._breakers.get(host)
        if breaker is None or not breaker.failures:
            return False
        self._breakers[host] = breaker.answered()
        return not breaker.closed

    def silent(self, host: str, now: float, spread: float) -> bool:
        """No connection, or no reply in time; whether it is taken for dead from now on. ``spread`` in [0, 1) is jitter."""
        breaker = self._breakers.get(host)
        if breaker is None:
            return False
        self._breakers[host] = after = breaker.silent(now, spread)
        return breaker.closed and not after.closed

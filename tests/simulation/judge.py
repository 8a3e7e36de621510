"""The promises, held against what the server and the store saw.

Nothing here knows how the workers do it. What a worker cannot help is excused, and only that: a code or token spent by a
reply that never arrived, or that arrived at a process which died before it could commit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from kimiflow.model import HOLDS_TOKENS, State
from kimiflow.stores.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    import httpx

    from kimiflow.sandbox.log import LogEntry
    from kimiflow.sandbox.records import Exchange
    from kimiflow.stores.base import Snapshot, Step

    from .worker import Worker
    from .world import World

__all__ = ["Judge", "Violation"]


_A_MOMENT: Final = 1.5
"""Seconds after which a token that arrived is committed, or kept where it outlives its process."""


class Violation(AssertionError):
    """A promise was broken."""


@dataclass
class Judge:
    """Watches one run."""

    world: World
    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _in_flight: dict[str, Worker] = field(default_factory=dict)
    _retired: dict[str, float] = field(default_factory=dict)
    """Refresh tokens whose successor was committed, and from when on everybody has to know that: a worker that was stopped
    past its lease may have committed it late, beside one that had claimed the row meanwhile and goes on with the old."""
    _arrived: dict[str, tuple[Worker, float]] = field(default_factory=dict)
    """Where each token is, and since when."""
    _safe: set[str] = field(default_factory=set)
    """Tokens that arrived at a worker which crashed long after."""
    _written: set[str] = field(default_factory=set)
    _given_up: set[str] = field(default_factory=set)
    _overtaken: set[str] = field(default_factory=set)
    _merged: set[str] = field(default_factory=set)
    """Accounts whose history has a row that was committed later than it happened."""
    _last_poll: dict[str, float] = field(default_factory=dict)
    _intervals: dict[str, float] = field(default_factory=dict)
    _spent_unseen: set[str] = field(default_factory=set)
    """Device ids of accounts whose code or refresh token was spent by a reply that no living worker has."""
    _told: dict[int, float] = field(default_factory=dict)
    """The interval that the workers had been told, by the arrival of each poll; the server's own may be more."""
    _not_the_clients: set[int] = field(default_factory=set)
    """Arrivals of requests that the network doubled, or whose client had given up when the server was done."""

    # What happens during the run

    def sent(self, worker: Worker, form: dict[str, str], device_id: str) -> None:
        token = form.get("refresh_token")
        code = form.get("device_code")
        if code is not None:
            now = self.world.server_now()
            gap, interval = now - self._last_poll.get(code, -1e9), self._intervals[code]
            if gap < interval - 1e-6:
                self.broken.append(f"{worker.name} polled a code after {gap:.3f} s, its interval is {interval:g} s")
            self._last_poll[code] = now
        self.counts[f"sent {form.get('grant_type', 'device_authorization').rpartition(':')[2]}"] += 1
        if token is None:
            return
        if any(w.paused_until > self.world.loop.time() for w in self.world.living):
            # The reply may lie unread in a process that was stopped; the second use ends the grant.
            self._overtaken.add(device_id)
        if device_id in self._beside_the_dead():
            # Its successor waits for the next start of a worker that has ended.
            self._overtaken.add(device_id)
        other = self._in_flight.get(token)
        if other is not None and not other.dead:
            self.broken.append(f"a refresh token is in flight at {other.name} and at {worker.name}")
        known_from = self._retired.get(token)
        if known_from is not None:
            if self.world.server_now() >= known_from:
                self.broken.append(f"{worker.name} sent a refresh token whose successor was committed")
            self._overtaken.add(device_id)
        self._in_flight[token] = worker

    def _beside_the_dead(self) -> set[str]:
        """Devices whose newest tokens are where no living worker can see them."""
        unseen = (token for token, (worker, _) in self._arrived.items() if worker.dead and token not in self._written)
        return {self.world.issued_to[token] for token in unseen}

    def ended(self, worker: Worker, form: dict[str, str]) -> None:
        token = form.get("refresh_token")
        if token is not None and self._in_flight.get(token) is worker:
            del self._in_flight[token]

    def reached(self, exchange: Exchange) -> None:
        if exchange.kind == "poll" and exchange.device_code is not None:
            self._told[exchange.arrival] = self._intervals[exchange.device_code]

    def served(self, exchange: Exchange, *, abandoned: bool, doubled: bool) -> None:
        if abandoned or doubled:
            self._not_the_clients.add(exchange.arrival)
            if exchange.kind == "refresh":
                # Overtaken by the next attempt, it looks like the theft of a token; no client can call it back.
                self._overtaken.add(exchange.device_id)
        self.counts["requests doubled"] += doubled
        if exchange.issued_access_token is not None:
            # Until it arrives somewhere, nobody knows of it.
            self._spent_unseen.add(exchange.device_id)
            self.world.issued_to[exchange.issued_access_token] = exchange.device_id

    def arrived(self, worker: Worker, response: httpx.Response) -> None:
        token = _access_token(response)
        if token is not None:
            self._arrived[token] = worker, self.world.loop.time()
            self.counts["tokens arrived"] += 1

    def crashed(self, worker: Worker) -> None:
        """What it had for longer than a moment was to be safe by now, wherever the store was; unless it stood still."""
        self.counts["crashes"] += 1
        now = self.world.loop.time()
        for token, (where, at) in self._arrived.items():
            if where is worker and now - at > _A_MOMENT and worker.paused_until < at:
                self._safe.add(token)

    def committing(self, worker: Worker, steps: Sequence[Step]) -> None:
        self.counts["commits"] += 1

    def committed(self, worker: Worker, steps: Sequence[Step], outcomes: Sequence[Outcome]) -> None:
        vault = self.world.vault
        for step, outcome in zip(steps, outcomes, strict=True):
            self.counts[outcome.value] += 1
            after, before = step.authorization, step.claim.authorization
            if after.device_code is not None and outcome is Outcome.COMMITTED:
                code = vault.open(after.device_code, after.id, "device_code").reveal()
                self._intervals[code] = after.interval or 0.0
            if not step.brings_tokens:
                continue
            assert after.access_token is not None
            token = vault.open(after.access_token, after.id, "access_token").reveal()
            if outcome in {Outcome.LOST, Outcome.GONE}:
                row = self.world.store._rows.get(after.id)  # type: ignore[attr-defined]
                if row is not None and row.authorization.token_version == before.token_version:
                    self.broken.append("tokens were dropped although nobody had newer ones")
                self._given_up.add(token)
                continue
            if outcome is Outcome.MERGED:
                self._merged.add(after.account_id)
            self._written.add(token)
            self._spent_unseen.discard(self.world.issued_to[token])
            if before.refresh_token is not None and after.refresh_token is not None:
                old = vault.open(before.refresh_token, before.id, "refresh_token").reveal()
                new = vault.open(after.refresh_token, after.id, "refresh_token").reveal()
                if old != new:
                    leased = self.world.lease if outcome is Outcome.MERGED else 0.0
                    self._retired[old] = self.world.server_now() + leased

    # The verdict

    async def verdict(self) -> None:
        """Everything is calm again and has been for long; what was promised must hold now.

        :raises Violation: listing what does not.
        """
        broken = list(self.broken)
        broken += self._about_the_log()
        for token, (worker, _) in self._arrived.items():
            if token not in self._written | self._given_up and (not worker.dead or token in self._safe):
                broken.append(f"tokens that arrived at {worker.name} were dropped")
        for snapshot in await self.world.store.snapshots():
            broken += [f"{snapshot.account.name}: {what}" for what in self._about(snapshot)]
            broken += await self._about_history(snapshot)
        if broken:
            raise Violation("; ".join(broken[:8]))

    def _about_the_log(self) -> list[str]:
        """What the server itself saw, whatever the workers thought that they were doing."""
        broken = []
        excused = self._not_the_clients
        before: dict[str, LogEntry] = {}
        for entry in sorted(self.world.authority.log, key=lambda entry: entry.arrival):
            if entry.kind == "redirected":
                broken.append("a secret followed a redirect")
            last = before.get(entry.credential or "")
            if last is not None and not excused & {entry.arrival, last.arrival}:
                told = self._told.get(entry.arrival, 0.0)
                if entry.kind == "poll" and entry.at - last.at < told - self.world.clock_tolerance:
                    broken.append(f"the server saw two polls within {entry.at - last.at:.3f} s, not {told:g} s")
                if entry.kind == "refresh" and entry.at < last.completed:
                    broken.append("the server had a refresh token in its hands twice")
            if entry.kind in {"poll", "refresh"} and entry.credential is not None:
                before[entry.credential] = entry
        return broken

    def _about(self, snapshot: Snapshot) -> list[str]:
        account, world = snapshot.account, self.world
        excused = account.device_id in self._spent_unseen | self._overtaken
        approved = world.approved.get(account.name)
        shown = snapshot.shown
        if account.name in world.signed_out:
            return [] if shown is None else ["it came back after it was signed out"]
        if shown is None:
            return ["its authorization is gone"]
        if account.name in world.denied:
            return [] if shown.state in {State.DENIED, State.EXPIRED} else [f"denied, but {shown.state.value}"]
        if approved is None:
            return [] if shown.state is State.EXPIRED else [f"nobody approved it, but it is {shown.state.value}"]
        if shown.state in HOLDS_TOKENS:
            if world.authority_knows(snapshot):
                return []
            return [] if excused else ["it holds tokens that the server does not honour"]
        if excused:
            self.counts["excused"] += 1
            return []
        return [f"approved, but {shown.state.value} ({shown.error}: {shown.error_description})"]

    async def _about_history(self, snapshot: Snapshot) -> list[str]:
        name = snapshot.account.name
        history = await self.world.store.history(snapshot.account.id)
        broken = []
        for before, after in pairwise(history):
            late = snapshot.account.id in self._merged
            if after.at < before.at - self.world.clock_tolerance and not late:
                broken.append(f"{name}: history goes back in time at {after.event}")
            if before.to_state is not None and after.from_state is not before.to_state and not late:
                broken.append(f"{name}: history breaks between {before.event} and {after.event}")
        return broken


def _access_token(response: httpx.Response) -> str | None:
    try:
        body = response.json()
    except ValueError:
        return None
    return body.get("access_token") if isinstance(body, dict) else None

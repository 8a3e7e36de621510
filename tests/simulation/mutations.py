"""Mistakes made on purpose. A simulation that does not catch them is not worth its time.

Each is a context manager that breaks one rule of the design, in this process, until it ends.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kimiflow import advance as advancing
from kimiflow import events, wire
from kimiflow.advance import advance
from kimiflow.errors import StoreUnavailable
from kimiflow.pacing import Pacing
from kimiflow.scheduler import Scheduler
from kimiflow.scheduling.committer import Committer
from kimiflow.scheduling.limits import Limits
from kimiflow.stores import fence
from kimiflow.stores.base import Outcome
from kimiflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

__all__ = ["MUTATIONS"]

MUTATIONS: dict[str, Callable[[], AbstractContextManager[None]]] = {}


def mutation(change: Callable[[], Iterator[None]]) -> Callable[[], AbstractContextManager[None]]:
    made = contextmanager(change)
    MUTATIONS[change.__name__] = made
    return made


@mutation
def no_generation_check() -> Iterator[None]:
    """A commit is written whoever holds the row."""

    def outcome_of(step: Any, row: Any) -> Outcome:
        return Outcome.GONE if row is None else Outcome.COMMITTED

    with patch.object(fence, "outcome_of", outcome_of):
        yield


@mutation
def release_without_owner() -> Iterator[None]:
    """A commit that lost its claim still ends the lease of whoever has it now."""
    right = MemoryStore._commit

    def commit(self: MemoryStore, step: Any) -> Outcome:
        outcome = right(self, step)
        row = self._rows.get(step.authorization.id)
        if outcome is Outcome.LOST and row is not None:
            self._write(row, row.authorization, lease_owner=None, claimable_at=row.authorization.next_attempt_at)
        return outcome

    with patch.object(MemoryStore, "_commit", commit):
        yield


@mutation
def lease_not_looked_at_before_a_request() -> Iterator[None]:
    """A request leaves however little of the lease is left."""
    with patch.object(Scheduler, "_lease_suffices", lambda self, work: True):
        yield


@mutation
def leases_shorter_than_requests() -> Iterator[None]:
    """The row is free again while its request is still in flight."""
    right = MemoryStore.claim_due

    async def claim_due(self: MemoryStore, owner: str, now: float, ttl: float, limit: int, **filters: Any) -> Any:
        return await right(self, owner, now, 1.0, limit, **filters)

    with patch.object(MemoryStore, "claim_due", claim_due):
        yield


@mutation
def refresh_sent_before_its_commit() -> Iterator[None]:
    """The request leaves first, so a crash leaves no trace of it."""
    right = Scheduler._take_local_steps

    def take(self: Scheduler, work: Any, now: float) -> None:
        right(self, work, now)
        if work.wants_request:
            work.history = ()

    with patch.object(Scheduler, "_take_local_steps", take):
        yield


@mutation
def late_tokens_are_dropped() -> Iterator[None]:
    """Tokens that arrive after the lease was lost are thrown away."""
    right = fence.outcome_of

    def outcome_of(step: Any, row: Any) -> Outcome:
        outcome = right(step, row)
        return Outcome.LOST if outcome is Outcome.MERGED else outcome

    with patch.object(fence, "outcome_of", outcome_of):
        yield


@mutation
def commits_are_given_up_when_the_store_is_away() -> Iterator[None]:
    """One failure of the store, and the result of a request is forgotten."""
    right = Committer._commit

    async def commit(self: Committer, steps: Any) -> list[Outcome]:
        try:
            return await right(self, steps)
        except StoreUnavailable:
            return [Outcome.LOST] * len(steps)

    with patch.object(Committer, "_commit", commit):
        yield


@mutation
def what_waits_for_the_store_is_kept_in_memory_only() -> Iterator[None]:
    """So it ends with the process."""
    with patch.object(Committer, "_keep_aside", lambda self: None):
        yield


@mutation
def a_refresh_in_doubt_is_tried_again_at_once() -> Iterator[None]:
    """Before whoever holds its reply could commit it to a store that has just come back."""
    with patch.object(Limits, "grace", 0.0):
        yield


@mutation
def polls_ignore_the_interval() -> Iterator[None]:
    with patch.object(Pacing, "next_poll", lambda self, now, interval, spread: now + 1.0):
        yield


@mutation
def slow_down_is_forgotten() -> Iterator[None]:
    """The interval grows for one poll only, or not at all."""
    with (
        patch.object(Pacing, "slower_interval", lambda self, current, sent: current + 5.0),
        patch.object(Pacing, "next_poll", lambda self, now, interval, spread: now + min(interval, 5.0)),
    ):
        yield


@mutation
def one_bad_reply_ends_a_sign_in() -> Iterator[None]:
    def failed(*_: Any) -> Any:
        return events.AccessDenied("invalid_response", "the body is not JSON")

    with patch.object(wire, "_failed", failed):
        yield


@mutation
def a_firewalls_403_ends_a_grant() -> Iterator[None]:
    right = wire.parse_refresh

    def parse(reply: Any, request: Any) -> Any:
        return events.InvalidGrant("http_403") if reply.status == 403 else right(reply, request)

    with patch.object(wire, "parse_refresh", parse):
        yield


@mutation
def interrupted_polls_go_on_at_once() -> Iterator[None]:
    """Whoever takes over from a dead worker polls without waiting for the interval."""
    right = Scheduler._take_local_steps

    def take(self: Scheduler, work: Any, now: float) -> None:
        interrupted = work.claim.interrupted and work.current.interval is not None
        right(self, work, now)
        if interrupted and not work.wants_request and work.current.next_attempt_at is not None:
            work.wants_request = work.current.device_code is not None and now < work.current.code_expires_at

    with patch.object(Scheduler, "_take_local_steps", take):
        yield


@mutation
def a_bare_refresh_reply_loses_the_refresh_token() -> Iterator[None]:
    """A reply without ``scope`` is taken for broken, and the rotated token in it is lost."""
    right = wire._tokens

    def tokens(body: Any, secrets: Any) -> Any:
        return right(body, secrets) if "scope" in body else None

    with patch.object(wire, "_tokens", tokens):
        yield


@mutation
def signed_out_accounts_come_back() -> Iterator[None]:
    """A commit that finds no row writes it anew."""
    right = MemoryStore._commit

    def commit(self: MemoryStore, step: Any) -> Outcome:
        outcome = right(self, step)
        account = step.authorization.account_id
        if outcome is Outcome.GONE and account in self._accounts and not self._rows_of_account(account):
            from kimiflow.stores.memory import _Row

            row = _Row(step.authorization)
            self._rows[row.authorization.id] = self._rows_of[account][row.authorization.id] = row
            self._write(row, step.authorization, lease_owner=None, claimable_at=step.authorization.next_attempt_at)
        return outcome

    with patch.object(MemoryStore, "_commit", commit):
        yield


@mutation
def time_by_each_hosts_own_clock() -> Iterator[None]:
    """Leases and due times are judged by clocks that differ."""
    from kimiflow.storetime import StoreClock

    with patch.object(StoreClock, "now", lambda self: self._clock.now()):
        yield


@mutation
def expired_sign_ins_start_again_by_themselves() -> Iterator[None]:
    right = advance

    def restarting(authorization: Any, event: Any, now: float, **kwargs: Any) -> Any:
        after, transition = right(authorization, event, now, **kwargs)
        if transition.event == "expired_token":
            after, _ = advancing.begin(after.id, after.account_id, now)
        return after, transition

    with patch("kimiflow.scheduler.advance", restarting):
        yield

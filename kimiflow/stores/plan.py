"""What one commit writes, worked out before anything is written. Pure.

The store reads the rows under a lock, asks for a plan, and carries it out in bulk: deletions, then updates, then
history. Steps are taken in order, each against what the ones before it left.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kimiflow.stores import fence
from kimiflow.stores.base import Outcome
from kimiflow.stores.fence import Fence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kimiflow.model import Authorization, Sealed, State, Transition
    from kimiflow.stores.base import Step

__all__ = ["CommitPlan", "Row", "brought_digest", "to_look_at"]


@dataclass(slots=True)
class Row:
    """What a plan has to know of an authorization; ``after`` is what the plan makes of it."""

    id: str
    account_id: str
    state: State
    updated_at: float
    token_version: int
    lease_owner: str | None
    claimable_at: float | None
    generation: int
    after: Authorization[Sealed] | None = None

    @property
    def fence(self) -> Fence:
        return Fence(self.lease_owner, self.generation, self.token_version, self.updated_at)


@dataclass(slots=True)
class CommitPlan:
    """The outcomes, and the writes that make them true."""

    outcomes: list[Outcome] = field(default_factory=list)
    updates: dict[str, Row] = field(default_factory=dict)
    deletions: list[str] = field(default_factory=list)
    history: list[tuple[str, str, Transition]] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        steps: Sequence[Step],
        rows: Iterable[Row],
        stored: Mapping[str, Authorization[Sealed]],
        holders: Iterable[Sequence[str]] = (),
    ) -> CommitPlan:
        """The plan for ``steps``.

        :param rows: those that the steps are about, and all of the accounts whose other grants they replace.
        :param stored: what is stored at the ids that :func:`to_look_at` names.
        :param holders: who holds a refresh token that the steps bring: its digest, the account's id and its name.
        """
        plan = cls()
        known: dict[str, Row] = {}
        beside: defaultdict[str, list[Row]] = defaultdict(list)
        holding: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        for held, account_id, name in holders:
            holding[held].append((account_id, name))
        for row in rows:
            known[row.id] = row
            beside[row.account_id].append(row)
        for step in steps:
            found = known.get(step.authorization.id)
            if found is None:
                plan.outcomes.append(Outcome.GONE)
                continue
            outcome, writes = fence.verdict(step, found.fence, found.after or stored.get(found.id))
            told = outcome
            if writes and (digest := brought_digest(step)) is not None:
                others = sorted(name for account, name in holding[digest] if account != found.account_id)
                if others:
                    step, told = fence.disowned(step, others[0]), Outcome.SHARED  # noqa: PLW2901
                else:
                    holding[digest].append((found.account_id, step.claim.account.name))
            plan.outcomes.append(told)
            if writes and step.ends:
                del known[found.id]
                plan._end(step, found)
            elif writes:
                plan._write(step, found, outcome)
                if step.replaces:
                    for other in beside[found.account_id]:
                        if other is not found and known.pop(other.id, None) is not None:
                            plan._delete(step, other)
        return plan

    def _write(self, step: Step, row: Row, outcome: Outcome) -> None:
        after = step.authorization
        if outcome is Outcome.MERGED:
            row.generation += 1
        if outcome is Outcome.COMMITTED and fence.keeps_lease(step):
            row.claimable_at = max(row.claimable_at or 0.0, after.next_attempt_at or 0.0)
        else:
            row.lease_owner, row.claimable_at = None, after.next_attempt_at
        row.state, row.updated_at, row.token_version = after.state, after.updated_at, after.token_version
        row.after = after
        self.updates[row.id] = row
        self.history += [(row.account_id, row.id, transition) for transition in step.history]

    def _end(self, step: Step, row: Row) -> None:
        self.updates.pop(row.id, None)
        self.deletions.append(row.id)
        self.history += [(row.account_id, row.id, transition) for transition in step.history]

    def _delete(self, step: Step, other: Row) -> None:
        self.updates.pop(other.id, None)
        self.deletions.append(other.id)
        self.history.append((other.account_id, other.id, fence.replaced(other.state, step)))


def brought_digest(step: Step) -> str | None:
    """The digest of the refresh token that ``step`` brings; ``None`` where it brings none."""
    return step.authorization.refresh_token_digest if step.brings_tokens else None


def to_look_at(steps: Iterable[Step], rows: Mapping[str, Row]) -> list[str]:
    """The rows that have to be seen whole, because an earlier call may have written the step."""
    return [
        step.authorization.id
        for step in steps
        if (row := rows.get(step.authorization.id)) is not None and fence.looks_written(step, row.fence)
    ]

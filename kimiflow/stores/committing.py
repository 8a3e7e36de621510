"""Commits in an SQL database: one statement for all the steps whose claims still stand.

Nearly every step is *straight*: its claim stands, and it changes no row but its own. All straight steps of a batch are
written by one statement that repeats what :mod:`~kimiflow.stores.fence` asks for, and counts. Where that count is short,
because a lease was lost or an account signed out meanwhile, nothing of it stays, and the whole batch goes the way of
all others: the rows are read under a lock, and :mod:`~kimiflow.stores.plan` works out what to write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from kimiflow.stores import fence
from kimiflow.stores.base import Outcome
from kimiflow.stores.bulk import Bulk, Words, given
from kimiflow.stores.plan import CommitPlan, Row, brought_digest, to_look_at
from kimiflow.stores.rows import (
    AUTHORIZATION,
    CHANGING,
    PACE,
    STATES,
    differs_in_pace,
    to_authorization,
    values_of_changing,
    values_of_pace,
    values_of_transition,
)
from kimiflow.stores.tables import accounts, authorizations, history

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from kimiflow.stores.backend import Backend
    from kimiflow.stores.base import Step
    from kimiflow.stores.bulk import Transaction
    from kimiflow.stores.database import Database

__all__ = ["Committing"]

_A = authorizations.c
_FENCE = (
    _A.id,
    _A.account_id,
    _A.state,
    _A.updated_at,
    _A.token_version,
    _A.lease_owner,
    _A.claimable_at,
    _A.generation,
)


class _NotStraight(Exception):
    """Not all of the claims stand any more, or somebody else holds a refresh token that came."""


class Committing:
    """``commit`` of a database."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self._database = database
        self._listed = backend.listed
        self._locks_rows = backend.locks_rows
        self._statements = _Statements(backend)

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        """See :meth:`Store.commit`."""
        if not steps:
            return []
        if (batch := _Straight.of(steps)) is not None:
            try:
                await self._database.at_once(
                    lambda transaction: self._write_straight(transaction, batch), in_any_case=True
                )
            except _NotStraight:
                pass
            else:
                return [Outcome.COMMITTED] * len(steps)
        outcomes = await self._database.at_once(
            lambda transaction: self._write_planned(transaction, steps), in_any_case=True
        )
        assert outcomes is not None  # noqa: S101 - nobody was asked whether it is worth it
        return outcomes

    def _write_straight(self, transaction: Transaction, batch: _Straight) -> None:
        statements = self._statements
        if batch.brought:
            holders = transaction.run(statements.holders, {"digests": self._listed(batch.brought)})
            if any(batch.brought[digest] != account_id for digest, account_id, _ in holders):
                raise _NotStraight
        if self._locks_rows:
            # In one order for the whole batch; neither statement promises one, and there are two of them.
            transaction.run(statements.lock, {"ids": self._listed([row[0] for row in (*batch.pace, *batch.whole)])})
        written = transaction.write(statements.stand_pace, batch.pace)
        written += transaction.write(statements.stand_whole, batch.whole)
        if written < len(batch.pace) + len(batch.whole):
            raise _NotStraight
        transaction.write(statements.add_history, batch.history)

    def _write_planned(self, transaction: Transaction, steps: Sequence[Step]) -> list[Outcome]:
        statements = self._statements
        replacing = [step.authorization.account_id for step in steps if step.replaces]
        concerned = {
            "ids": self._listed([step.authorization.id for step in steps]),
            "accounts": self._listed(replacing),
        }
        if replacing:
            transaction.run(statements.lock_accounts, concerned)
        found = transaction.run(statements.fences_and_beside if replacing else statements.fences, concerned)
        rows = {row[0]: Row(row[0], row[1], STATES[row[2]], *row[3:]) for row in found}
        stored = {}
        if suspects := to_look_at(steps, rows):
            whole = transaction.run(statements.authorizations, {"ids": self._listed(suspects)})
            stored = {row[0]: to_authorization(row) for row in whole}
        brought = {digest for step in steps if (digest := brought_digest(step)) is not None}
        holders = transaction.run(statements.holders, {"digests": self._listed(brought)}) if brought else ()
        plan = CommitPlan.of(steps, rows.values(), stored, holders)
        if plan.deletions:
            transaction.run(statements.delete, {"ids": self._listed(plan.deletions)})
        updates = [
            (row.id, row.lease_owner, row.claimable_at, row.generation, *values_of_changing(row.after))
            for row in plan.updates.values()
            if row.after is not None
        ]
        transaction.write(statements.update, updates)
        transaction.write(statements.add_history, [values_of_transition(*entry) for entry in plan.history])
        return plan.outcomes


class _Straight:
    """Rows for the statements that write straight steps."""

    def __init__(self) -> None:
        self.pace: list[tuple[Any, ...]] = []
        """Steps that change no more than when the next one is due, and why: nearly every poll."""
        self.whole: list[tuple[Any, ...]] = []
        self.history: list[tuple[Any, ...]] = []
        self.brought: dict[str, str] = {}
        """The accounts by the digests of the refresh tokens that come."""

    @classmethod
    def of(cls, steps: Sequence[Step]) -> _Straight | None:
        """``None`` where not all steps are straight."""
        if len({step.authorization.id for step in steps}) < len(steps):
            return None
        batch = cls()
        for step in steps:
            if step.ends or step.replaces:
                return None
            claim, after = step.claim, step.authorization
            if (digest := brought_digest(step)) is not None:
                if digest in batch.brought:
                    return None
                batch.brought[digest] = after.account_id
            fenced = (after.id, claim.owner, claim.generation, fence.keeps_lease(step))
            if differs_in_pace(claim.authorization, after):
                batch.pace.append((*fenced, *values_of_pace(after)))
            else:
                batch.whole.append((*fenced, *values_of_changing(after)))
            for transition in step.history:
                batch.history.append(values_of_transition(after.account_id, after.id, transition))
        return batch


class _Statements:
    def __init__(self, backend: Backend) -> None:
        self._dialect = dialect = backend.writer.dialect
        one_of = backend.one_of
        ids, of_accounts = one_of(_A.id, "ids"), one_of(_A.account_id, "accounts")
        self.stand_pace = self._stand(PACE)
        self.stand_whole = self._stand(CHANGING)
        self.update = self._update()
        columns = [column for column in history.c if column is not history.c.id]
        rows = given(**{column.name: column.type for column in columns})
        self.add_history = Bulk.of(sa.insert(history).from_select(columns, sa.select(*rows.c)), rows, dialect)
        # Locks are taken in one order, so that nobody waits in a circle: accounts, then authorizations, each by id. Who
        # adds to an account or deletes from it locks the account; not against the foreign keys of new history,
        # which others write with their rows locked already. In SQLite the transaction has locked everything.
        self.lock_accounts = Words.of(
            sa.select(accounts.c.id)
            .where(one_of(accounts.c.id, "accounts"))
            .order_by(accounts.c.id)
            .with_for_update(key_share=True),
            dialect,
        )
        self.lock = Words.of(sa.select(_A.id).where(ids).order_by(_A.id).with_for_update(key_share=True), dialect)
        fences = sa.select(*_FENCE).order_by(_A.id).with_for_update()
        self.fences = Words.of(fences.where(ids), dialect)
        self.fences_and_beside = Words.of(fences.where(sa.or_(ids, of_accounts)), dialect)
        self.authorizations = Words.of(sa.select(*AUTHORIZATION).where(ids), dialect)
        self.holders = Words.of(
            sa.select(_A.refresh_token_digest, _A.account_id, accounts.c.name)
            .join(accounts, accounts.c.id == _A.account_id)
            .where(one_of(_A.refresh_token_digest, "digests")),
            dialect,
        )
        self.delete = Words.of(sa.delete(authorizations).where(ids), dialect)

    def _stand(self, names: Collection[str]) -> Bulk:
        """Writes these columns of the steps whose claims stand, as :func:`fence.outcome_of` has it.

        A step that keeps its lease and is found written already needs the closer look of the plan.
        """
        rows = given(
            row_id=sa.Text(),
            held_by=sa.Text(),
            held_as=sa.BigInteger(),
            keeps=sa.Boolean(),
            **{f"new_{name}": _A[name].type for name in names},
        )
        new = rows.c
        due = new.new_next_attempt_at
        stands = [_A.id == new.row_id, _A.lease_owner == new.held_by, _A.generation == new.held_as]
        statement = (
            sa.update(authorizations)
            .where(*stands, sa.not_(sa.and_(new.keeps, _A.updated_at == new.new_updated_at)))
            .values({name: new[f"new_{name}"] for name in names})
            .values(
                lease_owner=sa.case((new.keeps, _A.lease_owner)),
                claimable_at=sa.case((sa.and_(new.keeps, _A.claimable_at > due), _A.claimable_at), else_=due),
            )
        )
        return Bulk.of(statement, rows, self._dialect)

    def _update(self) -> Bulk:
        """Writes all that may change, whoever holds the row: for a plan, which has looked."""
        names = ("lease_owner", "claimable_at", "generation", *CHANGING)
        rows = given(row_id=sa.Text(), **{f"new_{name}": _A[name].type for name in names})
        new = rows.c
        statement = (
            sa.update(authorizations).where(_A.id == new.row_id).values({name: new[f"new_{name}"] for name in names})
        )
        return Bulk.of(statement, rows, self._dialect)

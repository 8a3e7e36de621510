"""Every statement of the SQL store, built once for each database.

Bulk writes are compiled to the driver's own text: their parameters are tuples, and nothing of a row is looked at
between the plan and the driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from kimiflow.stores.rows import ACCOUNT, AUTHORIZATION, CHANGING
from kimiflow.stores.tables import HASTENED, UNSETTLED, accounts, authorizations, history

if TYPE_CHECKING:
    from collections.abc import Collection

    from kimiflow.stores.backend import Backend

__all__ = ["Statements"]

_A = authorizations.c
_STANDING = (_A.id, _A.account_id, _A.state, _A.updated_at)
_UNLESS_THERE = " ON CONFLICT ({}) DO NOTHING"


class Statements:
    """Statements for one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._dialect = backend.writer.dialect
        one_of = backend.one_of
        ids, of_accounts = one_of(_A.id, "ids"), one_of(_A.account_id, "accounts")
        in_accounts = one_of(accounts.c.id, "accounts")

        self.accounts = sa.select(*ACCOUNT).where(one_of(accounts.c.name, "names"))
        # Where somebody else has just added one of that name, his stays; an insert waits for whether he commits.
        self.add_account = self._bulk_insert(accounts, [column.name for column in ACCOUNT]) + _UNLESS_THERE.format(
            "name"
        )
        self.set_proxy = (
            sa.update(accounts).where(accounts.c.id == bindparam("account_id")).values(proxy=bindparam("new_proxy"))
        )
        self.delete_accounts = sa.delete(accounts).where(in_accounts)
        # Locks are taken in one order, so that nobody waits in a circle: accounts, then authorizations, each by id. Who
        # adds to an account or deletes from it locks the account; not against the foreign keys of new history,
        # which others write with their rows locked already. In SQLite the transaction has locked everything.
        self.lock_accounts = (
            sa.select(accounts.c.id).where(in_accounts).order_by(accounts.c.id).with_for_update(key_share=True)
        )

        self.standing = sa.select(*_STANDING).where(ids)
        self.standing_of_accounts = sa.select(*_STANDING).where(of_accounts).order_by(_A.id).with_for_update()
        self.of_accounts = sa.select(*AUTHORIZATION).where(of_accounts).order_by(_A.id).with_for_update()
        self.add_authorization = self._bulk_insert(authorizations, [column.name for column in authorizations.c])
        self.add_grant = self.add_authorization + _UNLESS_THERE.format("id")
        self.renew_authorization = self._bulk_update([*CHANGING, "lease_owner", "claimable_at"])

        self.delete_of_accounts = sa.delete(authorizations).where(of_accounts)
        self.add_history = self._bulk_insert(history, [c.name for c in history.c if c is not history.c.id])

        now: sa.BindParameter[float] = bindparam("now")
        self.hasten = (
            sa.update(authorizations)
            .where(
                _A.id == bindparam("row_id"),
                _A.token_version == bindparam("version"),
                HASTENED,
                sa.or_(_A.next_attempt_at > now, _A.next_attempt_at.is_(None)),
            )
            .values(
                next_attempt_at=now,
                claimable_at=sa.case((_A.lease_owner.is_(None), now), else_=_A.claimable_at),
            )
        )

        h = history.c
        self.history = (
            sa.select(h.at, h.from_state, h.to_state, h.event, h.detail)
            .where(h.account_id == bindparam("account_id"))
            .order_by(h.id)
        )
        self.horizon = None
        after = [h.id > bindparam("cursor")]
        if (ends := backend.horizon()) is not None:
            self.horizon = sa.select(sa.func.coalesce(sa.func.max(h.id), 0), *ends)
            after.append(h.id <= bindparam("settled"))
        self.last_cursor = sa.select(sa.func.coalesce(sa.func.max(h.id), 0))
        self.transitions_after = (
            sa.select(h.id, accounts.c.name, h.authorization_id, h.at, h.from_state, h.to_state, h.event, h.detail)
            .select_from(history.join(accounts, h.account_id == accounts.c.id))
            .where(*after)
            .order_by(h.id)
            .limit(bindparam("most"))
        )

        old = h.at < bindparam("before")
        self.last_old_history = sa.select(sa.func.max(h.id)).where(old)
        part = sa.select(h.id).where(old, h.id.between(bindparam("first"), bindparam("last")))
        self.prune = sa.delete(history).where(h.id.in_(part.order_by(h.id).limit(bindparam("most")))).returning(h.id)

        sealed = sa.func.coalesce(_A.access_token, _A.refresh_token, _A.device_code)
        self.any_sealed = sa.select(sealed).where(sealed.is_not(None)).limit(1)

    def _bulk_insert(self, table: sa.Table, columns: list[str]) -> str:
        return str(sa.insert(table).compile(dialect=self._dialect, column_keys=columns))

    def _bulk_update(self, columns: list[str]) -> str:
        statement = (
            sa.update(authorizations)
            .where(_A.id == bindparam("row_id"))
            .values({name: bindparam(f"new_{name}") for name in columns})
        )
        return str(statement.compile(dialect=self._dialect))

    def snapshots(self, names: Collection[str] | None) -> sa.Select[Any]:
        """Accounts, each with its authorizations, or with nulls where it has none."""
        statement = (
            sa.select(*ACCOUNT, *AUTHORIZATION, _A.lease_owner, _A.claimable_at)
            .select_from(accounts.outerjoin(authorizations, _A.account_id == accounts.c.id))
            .order_by(_A.created_at, _A.id)
        )
        return statement if names is None else statement.where(self._backend.one_of(accounts.c.name, "names"))

    def count_on_their_way(self, *, chosen: bool) -> sa.Select[Any]:
        """One number; of the accounts in the parameter ``only`` where they are ``chosen``."""
        statement = sa.select(sa.func.count()).select_from(authorizations).where(UNSETTLED)
        return statement.where(self._backend.one_of(_A.account_id, "only")) if chosen else statement

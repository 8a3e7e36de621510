"""Every statement of the SQL store, built once for each database.

Bulk writes are compiled to the driver's own text: their parameters are tuples, and nothing of a row is looked at
between the plan and the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import bindparam

from kimiflow.stores.rows import ACCOUNT, AUTHORIZATION, CHANGING
from kimiflow.stores.tables import CODED, HASTENED, UNSETTLED, accounts, authorizations, history

if TYPE_CHECKING:
    from collections.abc import Collection

    from kimiflow.stores.backend import Backend

__all__ = ["Filters", "Reach", "Statements"]

_A = authorizations.c
_LEASE = ("lease_owner", "claimable_at", "generation")
_STANDING = (_A.id, _A.account_id, _A.state, _A.updated_at)
_FENCE = (*_STANDING, _A.token_version, _A.lease_owner, _A.claimable_at, _A.generation)
_OVER = _A.code_expires_at <= bindparam("now")
# The same number, but not the indexed column: so the planner looks for codes that are over, not for all that is due.
_LATER = _A.claimable_at + sa.literal_column("0.0")
_JOINED = authorizations.join(accounts, _A.account_id == accounts.c.id)


class Reach(Enum):
    """How many of the providers that there are a filter lets through."""

    ALL = "all"
    SOME = "some"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Filters:
    """Which rows :meth:`~kimiflow.stores.base.Store.claim_due` may take, beside their being due."""

    only: Collection[str] | None = None
    providers: Collection[str] | None = None
    skip_providers: Collection[str] = ()

    @property
    def of_providers(self) -> bool:
        """Whether any provider is left out."""
        return self.providers is not None or bool(self.skip_providers)

    def reach(self, present: Collection[str]) -> Reach:
        """How many of the providers that are ``present`` come through."""
        allowed = [
            name
            for name in present
            if name not in self.skip_providers and (self.providers is None or name in self.providers)
        ]
        return Reach.NONE if not allowed else Reach.ALL if len(allowed) == len(present) else Reach.SOME


class Statements:
    """Statements for one backend."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._dialect = backend.writer.dialect
        one_of = backend.one_of
        ids, of_accounts = one_of(_A.id, "ids"), one_of(_A.account_id, "accounts")
        in_accounts = one_of(accounts.c.id, "accounts")

        self.providers = self._providers()
        self.accounts = sa.select(*ACCOUNT).where(one_of(accounts.c.name, "names"))
        self.add_account = self._bulk_insert(accounts, [column.name for column in ACCOUNT])
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
        self.add_authorization = self._bulk_insert(authorizations, [column.name for column in authorizations.c])
        self.renew_authorization = self._bulk_update([*CHANGING, "lease_owner", "claimable_at"])

        self.claim = (
            sa.update(authorizations)
            .where(ids)
            .values(
                lease_owner=bindparam("owner"),
                claimable_at=bindparam("until"),
                generation=_A.generation + 1,
            )
        )

        self.fences = sa.select(*_FENCE).where(ids).order_by(_A.id).with_for_update()
        self.fences_and_beside = sa.select(*_FENCE).where(sa.or_(ids, of_accounts)).order_by(_A.id).with_for_update()
        self.authorizations = sa.select(*AUTHORIZATION).where(ids)
        self.delete = sa.delete(authorizations).where(ids)
        self.delete_of_accounts = sa.delete(authorizations).where(of_accounts)
        self.update_authorization = self._bulk_update([*CHANGING, *_LEASE])
        self.add_history = self._bulk_insert(history, [c.name for c in history.c if c is not history.c.id])

        at = sa.case((_A.not_before > bindparam("now"), _A.not_before), else_=bindparam("now"))
        self.hasten = (
            sa.update(authorizations)
            .where(
                _A.id == bindparam("row_id"),
                _A.token_version == bindparam("version"),
                HASTENED,
                _A.next_attempt_at > at,
            )
            .values(
                next_attempt_at=at,
                claimable_at=sa.case((_A.lease_owner.is_(None), at), else_=_A.claimable_at),
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

    def _providers(self) -> sa.Select[Any]:
        # From each name to the next one in the index, instead of over all accounts.
        name = accounts.c.provider
        steps = sa.select(sa.func.min(name).label("name")).cte("steps", recursive=True)
        following = sa.select(sa.func.min(name)).where(name > steps.c.name).scalar_subquery()
        steps = steps.union_all(sa.select(following).where(steps.c.name.is_not(None)))
        return sa.select(steps.c.name).where(steps.c.name.is_not(None))

    def _chosen(self, chosen: Filters) -> list[sa.ColumnElement[bool]]:
        return [] if chosen.only is None else [self._backend.one_of(_A.account_id, "only")]

    def due(self, chosen: Filters, *, among: bool = False) -> sa.Select[Any]:
        """The rows that may be claimed, with owner and generation of the lease before, and the account.

        :param among: only those whose ids are in the parameter ``ids``.
        """
        statement = (
            sa.select(*AUTHORIZATION, _A.lease_owner, _A.generation, *ACCOUNT)
            .select_from(_JOINED)
            .where(_A.claimable_at <= bindparam("now"), *self._chosen(chosen))
            .order_by(_A.claimable_at)
            .with_for_update(of=authorizations, skip_locked=True)
        )
        if among:
            statement = statement.where(self._backend.one_of(_A.id, "ids"))
        return statement.where(sa.or_(_allows(chosen), _OVER)) if chosen.of_providers else statement

    def due_ids(self, chosen: Filters, reach: Reach) -> sa.Select[Any]:
        """The ids of those rows, found without a lock, where ``reach`` says that many may have to be passed over."""
        if reach is Reach.NONE:
            return sa.select(_A.id).where(_OVER, bindparam("now") >= _LATER).order_by(_LATER)
        return (
            sa.select(_A.id)
            .select_from(_JOINED)
            .where(_A.claimable_at <= bindparam("now"), sa.or_(_allows(chosen), _OVER))
            .order_by(_A.claimable_at)
        )

    def next_due(self, chosen: Filters, reach: Reach) -> sa.Select[Any]:
        """The earliest moment at which :meth:`due` finds a row."""
        if reach is Reach.ALL:
            return sa.select(sa.func.min(_A.claimable_at)).where(*self._chosen(chosen))
        over = sa.case((_A.code_expires_at > _A.claimable_at, _A.code_expires_at), else_=_A.claimable_at)
        if reach is Reach.NONE and chosen.only is None:
            return sa.select(sa.func.min(over)).where(CODED, _LATER.is_not(None))
        at = sa.case((_allows(chosen), _A.claimable_at), (_A.code_expires_at.is_not(None), over))
        return (
            sa.select(sa.func.min(at)).select_from(_JOINED).where(_A.claimable_at.is_not(None), *self._chosen(chosen))
        )

    def snapshots(self, names: Collection[str] | None) -> sa.Select[Any]:
        """Accounts, each with its authorizations, or with nulls where it has none."""
        statement = (
            sa.select(*ACCOUNT, *AUTHORIZATION, _A.lease_owner, _A.claimable_at)
            .select_from(accounts.outerjoin(authorizations, _A.account_id == accounts.c.id))
            .order_by(_A.created_at, _A.id)
        )
        return statement if names is None else statement.where(self._backend.one_of(accounts.c.name, "names"))

    def count_on_their_way(self, chosen: Filters) -> sa.Select[Any]:
        """One number."""
        return sa.select(sa.func.count()).select_from(authorizations).where(UNSETTLED, *self._chosen(chosen))


def _allows(chosen: Filters) -> sa.ColumnElement[bool]:
    provider = accounts.c.provider
    allowed = [provider.not_in(sorted(chosen.skip_providers))]
    if chosen.providers is not None:
        allowed.append(provider.in_(sorted(chosen.providers)))
    return sa.and_(*allowed)

"""The store in an SQL database: Core statements in batches, and no decision of its own.

What workers ask for all the time is in :mod:`~kimiflow.stores.claiming` and :mod:`~kimiflow.stores.committing`; here is
what people and their commands ask for. Each batch is a handful of statements, however many rows it has.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from kimiflow.model import HOLDS_TOKENS, Account, Sealed, Transition
from kimiflow.stores import fence
from kimiflow.stores.amending import Amending
from kimiflow.stores.backends import BUSY_TIMEOUT, backend_for
from kimiflow.stores.base import Lease, Snapshot
from kimiflow.stores.claiming import Claiming
from kimiflow.stores.committing import Committing
from kimiflow.stores.database import Database
from kimiflow.stores.directory import Directory
from kimiflow.stores.record import Record
from kimiflow.stores.rows import (
    ACCOUNT,
    STATES,
    to_account,
    to_authorization,
    to_transition,
    values_of_account,
    values_of_authorization,
    values_of_changing,
    values_of_transition,
)
from kimiflow.stores.staff import Staff
from kimiflow.stores.statements import Statements

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sqlalchemy.ext.asyncio import AsyncConnection

    from kimiflow.model import AccountTransition, Authorization
    from kimiflow.stores.base import Amendment, Beginning, Claim, Holding, Outcome, Step, WorkerReport

__all__ = ["SqlStore"]

_PRUNED_AT_ONCE = 5_000
_OF_ACCOUNT = len(ACCOUNT)


class SqlStore:
    """The contract of :class:`~kimiflow.stores.base.Store` on SQLAlchemy Core.

    :param url: as ``KIMIFLOW_DATABASE_URL``.
    :param busy_timeout: seconds to wait for another process that writes.
    :raises InvalidSetting: where the URL cannot be meant.
    """

    def __init__(self, url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> None:
        self._backend = backend_for(url, busy_timeout=busy_timeout)
        self._database = Database(self._backend)
        self._statements = Statements(self._backend)
        self._claiming = Claiming(self._database, self._backend)
        self._committing = Committing(self._database, self._backend)
        self._record = Record(self._database, self._statements)
        self._staff = Staff(self._database)
        self._amending = Amending(self._database, self._backend)
        self._directory = Directory(self._database, self._backend)
        self._listed = self._backend.listed

    @classmethod
    def from_url(cls, url: str) -> SqlStore:
        """The store at ``url``; nothing is connected before :meth:`open`."""
        return cls(url)

    async def open(self) -> None:
        """See :meth:`Store.open`. Makes the database where there is none."""
        await self._database.open()

    async def close(self) -> None:
        """See :meth:`Store.close`."""
        await self._database.close()

    async def now(self, local: float) -> float:
        """See :meth:`Store.now`."""
        return await self._database.now(local)

    async def add_accounts(self, accounts: Sequence[Account]) -> list[Account]:
        """See :meth:`Store.add_accounts`."""
        if not accounts:
            return []
        by_name = {account.name: account for account in reversed(accounts)}
        names = {"names": self._listed(by_name)}
        async with self._database.writing() as connection:
            stored = {row.name for row in await connection.execute(self._statements.accounts, names)}
            # In one order for all, so that nobody waits in a circle.
            new = [values_of_account(account) for name, account in sorted(by_name.items()) if name not in stored]
            if new:
                await connection.exec_driver_sql(self._statements.add_account, new)
            rows = await connection.execute(self._statements.accounts, names)
            found = {account.name: account for account in map(to_account, rows)}
        return [found[account.name] for account in accounts]

    async def set_proxy(self, account_id: str, proxy: str | None) -> None:
        """See :meth:`Store.set_proxy`."""
        async with self._database.writing() as connection:
            await connection.execute(self._statements.set_proxy, {"account_id": account_id, "new_proxy": proxy})

    async def set_disabled(self, account_ids: Collection[str], disabled: bool) -> None:  # noqa: FBT001 - it is the value
        """See :meth:`Store.set_disabled`."""
        await self._directory.set_disabled(account_ids, disabled)

    async def set_label(self, account_ids: Collection[str], label: str | None) -> None:
        """See :meth:`Store.set_label`."""
        await self._directory.set_label(account_ids, label)

    async def rename(self, account_id: str, name: str) -> bool:
        """See :meth:`Store.rename`."""
        return await self._directory.rename(account_id, name)

    async def begin(self, beginnings: Sequence[Beginning]) -> list[bool]:
        """See :meth:`Store.begin`."""
        if not beginnings:
            return []
        statements = self._statements
        async with self._database.writing(announced=True) as connection:
            known: dict[str, dict[str, tuple[Any, float]]] = {}
            accounts = {"accounts": self._listed({b.authorization.account_id for b in beginnings})}
            for (account_id,) in await connection.execute(statements.lock_accounts, accounts):
                known[account_id] = {}
            owners: dict[str, str] = {}
            ids = {"ids": self._listed({b.authorization.id for b in beginnings})}
            for rows in (
                await connection.execute(statements.standing_of_accounts, accounts),
                await connection.execute(statements.standing, ids),
            ):
                for row_id, account_id, state, updated_at in rows:
                    owners[row_id] = account_id
                    known.setdefault(account_id, {})[row_id] = STATES[state], updated_at
            begun: list[bool] = []
            new, renewed, history = [], [], []
            moving_in: dict[str, int] = {}
            for beginning in beginnings:
                after = beginning.authorization
                beside = known.get(after.account_id)
                if (
                    beside is None
                    or owners.setdefault(after.id, after.account_id) != after.account_id
                    or not fence.may_begin(beginning, ((key, *rest) for key, rest in beside.items()))
                ):
                    begun.append(False)
                    continue
                begun.append(True)
                beside[after.id] = after.state, after.updated_at
                if beginning.renews is None and after.state in HOLDS_TOKENS:
                    moving_in[after.id] = len(begun) - 1
                elif beginning.renews is None:
                    new.append((*values_of_authorization(after), None, after.next_attempt_at, 0))
                else:
                    renewed.append((*values_of_changing(after), None, after.next_attempt_at, after.id))
                if after.id not in moving_in:
                    history.append(values_of_transition(after.account_id, after.id, beginning.history))
            for index in await self._move_in(connection, beginnings, moving_in):
                begun[index] = False
            await self._write(connection, statements.add_authorization, new)
            await self._write(connection, statements.renew_authorization, renewed)
            await self._write(connection, statements.add_history, history)
        return begun

    async def _move_in(
        self, connection: AsyncConnection, beginnings: Sequence[Beginning], indexes: Mapping[str, int]
    ) -> list[int]:
        """Writes the grants at ``indexes``, by their ids; returns the indexes of those that are somebody else's.

        Their ids are not drawn but made of what they hold, so that two may bring the same one at the same time, for
        accounts that have no lock in common. Whose is inserted first keeps it.
        """
        if not indexes:
            return []
        brought = {row_id: beginnings[index] for row_id, index in sorted(indexes.items())}
        rows = [
            (*values_of_authorization(each.authorization), None, each.authorization.next_attempt_at, 0)
            for each in brought.values()
        ]
        await self._write(connection, self._statements.add_grant, rows)
        stored = await connection.execute(self._statements.standing, {"ids": self._listed(brought)})
        owners = {row_id: account_id for row_id, account_id, *_ in stored}
        ours = [each for row_id, each in brought.items() if owners.get(row_id) == each.authorization.account_id]
        history = [
            values_of_transition(each.authorization.account_id, each.authorization.id, each.history) for each in ours
        ]
        await self._write(connection, self._statements.add_history, history)
        mine = {each.authorization.id for each in ours}
        return [index for row_id, index in indexes.items() if row_id not in mine]

    @staticmethod
    async def _write(connection: AsyncConnection, statement: str, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            await connection.exec_driver_sql(statement, rows)

    async def claim_due(
        self,
        owner: str,
        now: float,
        ttl: float,
        limit: int,
        *,
        only: Collection[str] | None = None,
        providers: Collection[str] | None = None,
        skip_providers: Collection[str] = (),
    ) -> list[Claim]:
        """See :meth:`Store.claim_due`."""
        return await self._claiming.claim_due(owner, now, ttl, limit, (only, providers, skip_providers))

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        """See :meth:`Store.commit`."""
        return await self._committing.commit(steps)

    async def hasten(self, tokens_seen: Sequence[tuple[str, int]], now: float) -> None:
        """See :meth:`Store.hasten`."""
        if tokens_seen:
            rows = [{"row_id": row_id, "version": version, "now": now} for row_id, version in sorted(tokens_seen)]
            async with self._database.writing(announced=True) as connection:
                await connection.execute(self._statements.hasten, rows)

    async def next_due(
        self,
        *,
        only: Collection[str] | None = None,
        providers: Collection[str] | None = None,
        skip_providers: Collection[str] = (),
    ) -> float | None:
        """See :meth:`Store.next_due`."""
        return await self._claiming.next_due((only, providers, skip_providers))

    async def snapshots(self, names: Collection[str] | None = None) -> list[Snapshot]:
        """See :meth:`Store.snapshots`."""
        statement = self._statements.snapshots(names)
        parameters = {} if names is None else {"names": self._listed(names)}
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement, parameters)).fetchall()
        accounts: dict[str, Account] = {}
        entries: defaultdict[str, list[Any]] = defaultdict(list)
        for row in rows:
            account_id = row[0]
            if account_id not in accounts:
                accounts[account_id] = to_account(row[:_OF_ACCOUNT])
            if row[_OF_ACCOUNT] is not None:
                owner, until = row[-2:]
                lease = None if owner is None else Lease(owner, until)
                entries[account_id].append((to_authorization(row[_OF_ACCOUNT:-2]), lease))
        return [
            Snapshot(
                account,
                tuple(authorization for authorization, _ in entries[account.id]),
                tuple(lease for _, lease in entries[account.id]),
            )
            for account in sorted(accounts.values(), key=lambda account: account.name)
        ]

    async def count_on_their_way(self, *, only: Collection[str] | None = None) -> int:
        """See :meth:`Store.count_on_their_way`."""
        statement = self._statements.count_on_their_way(chosen=only is not None)
        parameters = {} if only is None else {"only": self._listed(only)}
        async with self._database.reading() as connection:
            return int(await connection.scalar(statement, parameters) or 0)

    async def history(self, account_id: str) -> list[Transition]:
        """See :meth:`Store.history`."""
        async with self._database.reading() as connection:
            rows = await connection.execute(self._statements.history, {"account_id": account_id})
            return [to_transition(row) for row in rows]

    async def last_cursor(self) -> int:
        """See :meth:`Store.last_cursor`."""
        return await self._record.last_cursor()

    async def transitions_after(self, cursor: int, limit: int) -> list[AccountTransition]:
        """See :meth:`Store.transitions_after`."""
        return await self._record.transitions_after(cursor, limit)

    async def sign_out(
        self, account_ids: Collection[str], now: float, *, forget: bool = False
    ) -> list[Authorization[Sealed]]:
        """See :meth:`Store.sign_out`."""
        if not account_ids:
            return []
        statements = self._statements
        accounts = {"accounts": self._listed(account_ids)}
        async with self._database.writing(announced=True) as connection:
            await connection.execute(statements.lock_accounts, accounts)
            rows = await connection.execute(statements.of_accounts, accounts)
            gone = [to_authorization(row) for row in rows.fetchall()]
            await connection.execute(statements.delete_of_accounts, accounts)
            if forget:
                await connection.execute(statements.delete_accounts, accounts)
            else:
                history = [
                    values_of_transition(each.account_id, each.id, fence.signed_out(each.state, now)) for each in gone
                ]
                await self._write(connection, statements.add_history, history)
        return gone

    async def prune_history(self, before: float) -> int:
        """See :meth:`Store.prune_history`."""
        statements = self._statements
        async with self._database.reading() as connection:
            last = await connection.scalar(statements.last_old_history, {"before": before})
        count, first = 0, 0
        while last is not None and first <= last:
            part = {"before": before, "first": first, "last": last, "most": _PRUNED_AT_ONCE}
            async with self._database.writing() as connection:
                rows = (await connection.execute(statements.prune, part)).scalars().all()
            count += len(rows)
            if len(rows) < _PRUNED_AT_ONCE:
                break
            first = max(rows) + 1
        return count

    async def report_worker(self, report: WorkerReport) -> None:
        """See :meth:`Store.report_worker`."""
        await self._staff.report_worker(report)

    async def workers(self) -> list[WorkerReport]:
        """See :meth:`Store.workers`."""
        return await self._staff.workers()

    async def forget_worker(self, name: str) -> None:
        """See :meth:`Store.forget_worker`."""
        await self._staff.forget_worker(name)

    async def any_sealed(self) -> Sealed | None:
        """See :meth:`Store.any_sealed`."""
        async with self._database.reading() as connection:
            sealed: str | None = await connection.scalar(self._statements.any_sealed)
        return None if sealed is None else Sealed(sealed)

    async def sealed_with(self) -> dict[str, int]:
        """See :meth:`Store.sealed_with`."""
        return await self._amending.sealed_with()

    async def sealed_otherwise(self, key_id: str, limit: int, after: str = "") -> list[Authorization[Sealed]]:
        """See :meth:`Store.sealed_otherwise`."""
        return await self._amending.sealed_otherwise(key_id, limit, after)

    async def holdings(self) -> list[Holding]:
        """See :meth:`Store.holdings`."""
        return await self._amending.holdings()

    async def amend(self, amendments: Sequence[Amendment], now: float) -> list[bool]:
        """See :meth:`Store.amend`."""
        return await self._amending.amend(amendments, now)

    def stamp(self) -> object | None:
        """See :meth:`Store.stamp`. SQLite tells; of another server's commits only the server could."""
        return self._database.stamp()

    async def changed(self, timeout: float) -> bool:
        """See :meth:`Store.changed`. At most a second late for what other processes commit.

        On PostgreSQL, what gives workers something to do is heard of at once.
        """
        return await self._database.changed(timeout)

"""A store that lives as long as its process: for tests, for trying things out, and as the model of the others."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import replace
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from kimiflow.errors import StoreError
from kimiflow.model import ON_ITS_WAY, WAITS_FOR_US, Account, AccountTransition, Authorization, Sealed, Transition
from kimiflow.stores import fence
from kimiflow.stores.base import Claim, Holding, Lease, Outcome, Snapshot
from kimiflow.stores.due import DueQueue
from kimiflow.stores.fence import Fence
from kimiflow.stores.plan import brought_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from kimiflow.stores.base import Amendment, Beginning, Step, WorkerReport

__all__ = ["MemoryStore"]


class _Row:
    """One authorization and its lease."""

    __slots__ = ("authorization", "claimable_at", "generation", "lease_owner")

    def __init__(self, authorization: Authorization[Sealed]) -> None:
        self.authorization = authorization
        self.lease_owner: str | None = None
        self.claimable_at = authorization.next_attempt_at
        self.generation = 0

    @property
    def fence(self) -> Fence:
        stored = self.authorization
        return Fence(self.lease_owner, self.generation, stored.token_version, stored.updated_at)


class MemoryStore:
    """The contract of :class:`~kimiflow.stores.base.Store` in dictionaries and heaps.

    No method waits for anything between looking and writing (:meth:`changed` only looks), so each is one transaction.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, Account] = {}
        self._ids: dict[str, str] = {}
        self._rows: dict[str, _Row] = {}
        self._rows_of: defaultdict[str, dict[str, _Row]] = defaultdict(dict)
        self._on_their_way: set[str] = set()
        self._holding: defaultdict[str, set[str]] = defaultdict(set)
        """Ids of rows by the digests of their refresh tokens."""
        self._history: defaultdict[str, list[Transition]] = defaultdict(list)
        # The same of all accounts: cursor, account id, authorization id, transition.
        self._recorded: list[tuple[int, str, str, Transition]] = []
        self._cursor = 0
        # One pair for each provider, so that a provider that is left out costs nothing: when a row may be taken, and
        # when it may be taken although its provider is left out.
        self._due: defaultdict[str, DueQueue] = defaultdict(DueQueue)
        self._over: defaultdict[str, DueQueue] = defaultdict(DueQueue)
        self._workers: dict[str, WorkerReport] = {}
        self._version = 0
        self._version_seen = 0
        self._news = asyncio.Event()

    @classmethod
    def from_url(cls, url: str) -> MemoryStore:
        """An empty store; ``memory://`` is all that the URL can say."""
        del url
        return cls()

    async def open(self) -> None:
        """Nothing to connect to."""

    async def close(self) -> None:
        """Nothing to let go of; the data stays for as long as the object does."""

    async def now(self, local: float) -> float:
        """The caller's own time: there is no other machine."""
        return local

    async def add_accounts(self, accounts: Sequence[Account]) -> list[Account]:
        """See :meth:`Store.add_accounts`."""
        for account in accounts:
            if account.name not in self._ids:
                if account.id in self._accounts:
                    raise StoreError(f"there is another account with the id {account.id}")
                self._ids[account.name] = account.id
                self._accounts[account.id] = account
                self._tell()
        return [self._accounts[self._ids[account.name]] for account in accounts]

    async def set_proxy(self, account_id: str, proxy: str | None) -> None:
        """See :meth:`Store.set_proxy`."""
        account = self._accounts.get(account_id)
        if account is not None:
            self._accounts[account_id] = replace(account, proxy=proxy)
            self._tell()

    async def set_disabled(self, account_ids: Collection[str], disabled: bool) -> None:  # noqa: FBT001 - it is the value
        """See :meth:`Store.set_disabled`."""
        for account_id in self._accounts.keys() & set(account_ids):
            self._accounts[account_id] = replace(self._accounts[account_id], disabled=disabled)
            self._tell()

    async def set_label(self, account_ids: Collection[str], label: str | None) -> None:
        """See :meth:`Store.set_label`."""
        for account_id in self._accounts.keys() & set(account_ids):
            self._accounts[account_id] = replace(self._accounts[account_id], label=label)
            self._tell()

    async def rename(self, account_id: str, name: str) -> bool:
        """See :meth:`Store.rename`."""
        account = self._accounts.get(account_id)
        if account is None or self._ids.get(name, account_id) != account_id:
            return False
        del self._ids[account.name]
        self._ids[name] = account_id
        self._accounts[account_id] = replace(account, name=name)
        self._tell()
        return True

    async def begin(self, beginnings: Sequence[Beginning]) -> list[bool]:
        """See :meth:`Store.begin`."""
        return [self._begin(beginning) for beginning in beginnings]

    def _begin(self, beginning: Beginning) -> bool:
        wanted = beginning.authorization
        beside = [row.authorization for row in self._rows_of_account(wanted.account_id)]
        row = self._rows.get(wanted.id)
        if (
            wanted.account_id not in self._accounts
            or (row is not None and row.authorization.account_id != wanted.account_id)
            or not fence.may_begin(beginning, ((a.id, a.state, a.updated_at) for a in beside))
        ):
            return False
        if row is None:
            row = _Row(wanted)
            self._rows[wanted.id] = self._rows_of[wanted.account_id][wanted.id] = row
        self._write(row, wanted, lease_owner=None, claimable_at=wanted.next_attempt_at)
        self._record(wanted.account_id, wanted.id, beginning.history)
        return True

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
        if only is None:
            ids = self._pop_due(self._queues(providers, skip_providers), now, limit)
        else:
            rows = self._rows_with_time(only, providers, skip_providers)
            ids = [row_id for at, row_id in sorted(rows) if at <= now][:limit]
        claims = [self._claim(self._rows[row_id], owner, now + ttl) for row_id in ids]
        if claims:
            self._tell()
        return claims

    @staticmethod
    def _pop_due(queues: Sequence[DueQueue], now: float, limit: int) -> list[str]:
        ids: list[str] = []
        while len(ids) < limit:
            due = [(at, i) for i, queue in enumerate(queues) if (at := queue.first()) is not None and at <= now]
            if not due:
                break
            ids.append(queues[min(due)[1]].pop())
        return ids

    def _claim(self, row: _Row, owner: str, until: float) -> Claim:
        interrupted = row.lease_owner is not None
        row.generation += 1
        self._write(row, row.authorization, lease_owner=owner, claimable_at=until)
        account = self._accounts[row.authorization.account_id]
        return Claim(account, row.authorization, owner, row.generation, interrupted)

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        """See :meth:`Store.commit`."""
        return [self._commit(step) for step in steps]

    def _commit(self, step: Step) -> Outcome:
        after = step.authorization
        row = self._rows.get(after.id)
        if row is None:
            return Outcome.GONE
        outcome, writes = fence.verdict(step, row.fence, row.authorization)
        if not writes:
            return outcome
        told = outcome
        if (holder := self._other_holder(step)) is not None:
            step, told = fence.disowned(step, holder), Outcome.SHARED
            after = step.authorization
        if step.ends:
            self._delete(row)
            self._record(after.account_id, after.id, *step.history)
            return outcome
        if outcome is Outcome.MERGED:
            row.generation += 1
        if outcome is Outcome.COMMITTED and fence.keeps_lease(step):
            until = max(row.claimable_at or 0.0, after.next_attempt_at or 0.0)
            self._write(row, after, lease_owner=row.lease_owner, claimable_at=until)
        else:
            self._write(row, after, lease_owner=None, claimable_at=after.next_attempt_at)
        self._record(after.account_id, after.id, *step.history)
        if step.replaces:
            for other in self._rows_of_account(after.account_id):
                if other is not row:
                    self._delete(other)
                    replaced = fence.replaced(other.authorization.state, step)
                    self._record(after.account_id, other.authorization.id, replaced)
        return told

    def _other_holder(self, step: Step) -> str | None:
        """The account with a grant that holds the refresh token which ``step`` brings."""
        digest = brought_digest(step)
        if digest is None:
            return None
        holders = {self._rows[row_id].authorization.account_id for row_id in self._holding.get(digest, ())}
        others = sorted(self._accounts[each].name for each in holders - {step.authorization.account_id})
        return others[0] if others else None

    async def hasten(self, tokens_seen: Sequence[tuple[str, int]], now: float) -> None:
        """See :meth:`Store.hasten`."""
        for row_id, token_version in tokens_seen:
            row = self._rows.get(row_id)
            if row is None:
                continue
            seen = row.authorization
            if (
                seen.state in WAITS_FOR_US
                and seen.token_version == token_version
                and (seen.next_attempt_at is None or seen.next_attempt_at > now)
            ):
                claimable_at = now if row.lease_owner is None else row.claimable_at
                self._write(
                    row,
                    seen._replace(next_attempt_at=now),
                    lease_owner=row.lease_owner,
                    claimable_at=claimable_at,
                )

    async def next_due(
        self,
        *,
        only: Collection[str] | None = None,
        providers: Collection[str] | None = None,
        skip_providers: Collection[str] = (),
    ) -> float | None:
        """See :meth:`Store.next_due`."""
        if only is None:
            times = [queue.first() for queue in self._queues(providers, skip_providers)]
            return min((at for at in times if at is not None), default=None)
        return min((at for at, _ in self._rows_with_time(only, providers, skip_providers)), default=None)

    async def snapshots(self, names: Collection[str] | None = None) -> list[Snapshot]:
        """See :meth:`Store.snapshots`."""
        wanted = sorted(self._ids if names is None else self._ids.keys() & set(names))
        return [self._snapshot(self._accounts[self._ids[name]]) for name in wanted]

    def _snapshot(self, account: Account) -> Snapshot:
        rows = sorted(
            self._rows_of_account(account.id),
            key=lambda row: (row.authorization.created_at, row.authorization.id),
        )
        return Snapshot(
            account,
            tuple(row.authorization for row in rows),
            tuple(None if row.lease_owner is None else Lease(row.lease_owner, row.claimable_at or 0.0) for row in rows),
        )

    async def count_on_their_way(self, *, only: Collection[str] | None = None) -> int:
        """See :meth:`Store.count_on_their_way`."""
        if only is None:
            return len(self._on_their_way)
        return sum(
            row.authorization.state in ON_ITS_WAY
            for account_id in set(only)
            for row in self._rows_of_account(account_id)
        )

    async def history(self, account_id: str) -> list[Transition]:
        """See :meth:`Store.history`."""
        return list(self._history.get(account_id, ()))

    async def last_cursor(self) -> int:
        """See :meth:`Store.last_cursor`."""
        return self._cursor

    async def transitions_after(self, cursor: int, limit: int) -> list[AccountTransition]:
        """See :meth:`Store.transitions_after`."""
        start = bisect_right(self._recorded, cursor, key=itemgetter(0))
        return [
            AccountTransition(number, self._accounts[account_id].name, row_id, transition)
            for number, account_id, row_id, transition in self._recorded[start : start + limit]
        ]

    def _record(self, account_id: str, row_id: str, *transitions: Transition) -> None:
        self._history[account_id] += transitions
        for transition in transitions:
            self._cursor += 1
            self._recorded.append((self._cursor, account_id, row_id, transition))

    async def sign_out(
        self, account_ids: Collection[str], now: float, *, forget: bool = False
    ) -> list[Authorization[Sealed]]:
        """See :meth:`Store.sign_out`."""
        gone = []
        for account_id in set(account_ids):
            for row in self._rows_of_account(account_id):
                self._delete(row)
                signed_out = fence.signed_out(row.authorization.state, now)
                self._record(account_id, row.authorization.id, signed_out)
                gone.append(row.authorization)
            if forget and (account := self._accounts.pop(account_id, None)) is not None:
                del self._ids[account.name]
                self._rows_of.pop(account_id, None)
                self._history.pop(account_id, None)
                self._recorded = [entry for entry in self._recorded if entry[1] != account_id]
                self._tell()
        return sorted(gone, key=attrgetter("id"))

    async def prune_history(self, before: float) -> int:
        """See :meth:`Store.prune_history`."""
        count = 0
        for account_id, rows in self._history.items():
            kept = [row for row in rows if row.at >= before]
            count += len(rows) - len(kept)
            self._history[account_id] = kept
        if count:
            self._recorded = [entry for entry in self._recorded if entry[3].at >= before]
        return count

    async def report_worker(self, report: WorkerReport) -> None:
        """See :meth:`Store.report_worker`."""
        self._workers[report.name] = report

    async def workers(self) -> list[WorkerReport]:
        """See :meth:`Store.workers`."""
        return [self._workers[name] for name in sorted(self._workers)]

    async def forget_worker(self, name: str) -> None:
        """See :meth:`Store.forget_worker`."""
        self._workers.pop(name, None)

    async def any_sealed(self) -> Sealed | None:
        """See :meth:`Store.any_sealed`."""
        for row in self._rows.values():
            a = row.authorization
            sealed = a.access_token or a.refresh_token or a.device_code
            if sealed is not None:
                return sealed
        return None

    async def sealed_with(self) -> dict[str, int]:
        """See :meth:`Store.sealed_with`."""
        found = Counter(value.partition(".")[0][:8] for row in self._rows.values() for value in _sealed(row))
        return dict(found)

    async def sealed_otherwise(self, key_id: str, limit: int, after: str = "") -> list[Authorization[Sealed]]:
        """See :meth:`Store.sealed_otherwise`."""
        ids = sorted(
            row_id
            for row_id, row in self._rows.items()
            if row_id > after and any(not value.startswith(f"{key_id}.") for value in _sealed(row))
        )
        return [self._rows[row_id].authorization for row_id in ids[:limit]]

    async def holdings(self) -> list[Holding]:
        """See :meth:`Store.holdings`."""
        return [
            Holding(row_id, row.lease_owner, row.generation, row.claimable_at or 0.0)
            for row_id, row in self._rows.items()
            if row.lease_owner is not None
        ]

    async def amend(self, amendments: Sequence[Amendment], now: float) -> list[bool]:
        """See :meth:`Store.amend`."""
        return [self._amend(amendment, now) for amendment in amendments]

    def _amend(self, amendment: Amendment, now: float) -> bool:
        after = amendment.after
        row = self._rows.get(after.id)
        if row is None or not fence.may_amend(amendment, row.authorization, row.lease_owner, row.claimable_at, now):
            return False
        if amendment.history is None:
            self._write(row, after, lease_owner=row.lease_owner, claimable_at=row.claimable_at)
            return True
        row.generation += 1
        self._write(row, after, lease_owner=None, claimable_at=after.next_attempt_at)
        self._record(after.account_id, after.id, amendment.history)
        return True

    def stamp(self) -> object | None:
        """See :meth:`Store.stamp`."""
        return self._version

    async def changed(self, timeout: float) -> bool:
        """See :meth:`Store.changed`. Never late, and never without a reason."""
        before = self._version_seen
        if self._version == before:
            try:
                async with asyncio.timeout(timeout):
                    await self._news.wait()
            except TimeoutError:
                pass
        self._version_seen = self._version
        self._news.clear()
        return self._version != before

    def _tell(self) -> None:
        self._version += 1
        self._news.set()

    def _rows_of_account(self, account_id: str) -> list[_Row]:
        return list(self._rows_of[account_id].values()) if account_id in self._rows_of else []

    def _write(
        self,
        row: _Row,
        authorization: Authorization[Sealed],
        *,
        lease_owner: str | None,
        claimable_at: float | None,
    ) -> None:
        self._note_digest(row, authorization.refresh_token_digest)
        row.authorization, row.lease_owner, row.claimable_at = authorization, lease_owner, claimable_at
        provider = self._accounts[authorization.account_id].provider
        self._due[provider].put(authorization.id, claimable_at)
        self._over[provider].put(authorization.id, _over_at(row))
        if authorization.state in ON_ITS_WAY:
            self._on_their_way.add(authorization.id)
        else:
            self._on_their_way.discard(authorization.id)
        self._tell()

    def _note_digest(self, row: _Row, digest: str | None) -> None:
        before, row_id = row.authorization.refresh_token_digest, row.authorization.id
        if before is not None and before != digest:
            self._holding[before].discard(row_id)
            if not self._holding[before]:
                del self._holding[before]
        if digest is not None:
            self._holding[digest].add(row_id)

    def _delete(self, row: _Row) -> None:
        self._note_digest(row, None)
        row_id, account_id = row.authorization.id, row.authorization.account_id
        provider = self._accounts[account_id].provider
        self._due[provider].put(row_id, None)
        self._over[provider].put(row_id, None)
        self._on_their_way.discard(row_id)
        del self._rows[row_id]
        del self._rows_of[account_id][row_id]
        self._tell()

    def _queues(self, providers: Collection[str] | None, skip_providers: Collection[str]) -> list[DueQueue]:
        return [
            due if _allowed(provider, providers, skip_providers) else self._over[provider]
            for provider, due in self._due.items()
        ]

    def _rows_with_time(
        self, only: Collection[str], providers: Collection[str] | None, skip_providers: Collection[str]
    ) -> Iterator[tuple[float, str]]:
        for account_id in set(only) & self._rows_of.keys():
            allowed = _allowed(self._accounts[account_id].provider, providers, skip_providers)
            for row_id, row in self._rows_of[account_id].items():
                at = row.claimable_at if allowed else _over_at(row)
                if at is not None:
                    yield at, row_id


def _sealed(row: _Row) -> list[Sealed]:
    stored = row.authorization
    return [value for value in (stored.device_code, stored.access_token, stored.refresh_token) if value is not None]


def _allowed(provider: str, providers: Collection[str] | None, skip_providers: Collection[str]) -> bool:
    return (providers is None or provider in providers) and provider not in skip_providers


def _over_at(row: _Row) -> float | None:
    """When the row may be taken although no server can be asked: its lease and its device code are over."""
    deadline = row.authorization.code_expires_at
    if row.claimable_at is None or deadline is None:
        return None
    return max(row.claimable_at, deadline)

"""SQL and memory, given the same calls, answer alike: Hypothesis looks for a sequence after which they do not."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from kimiflow.model import ON_ITS_WAY, RESTS, State, Transition
from kimiflow.stores.base import Claim, Outcome, Snapshot
from kimiflow.stores.memory import MemoryStore
from kimiflow.stores.sql import SqlStore

from .contract.making import (
    NOW,
    account,
    beginning,
    give_back,
    now_granted,
    pending,
    poll,
    refreshing,
    requested,
    settle,
)
from .servers import PostgresqlServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kimiflow.stores.base import Step, Store

NAMES = ("ann", "bob", "cid", "dan")
PROVIDERS = {"ann": "kimi", "bob": "kimi", "cid": "other", "dan": "third"}
LIMIT = 100
EXAMPLES = 8

names = st.sampled_from(NAMES)
some_names = st.sets(names).map(lambda chosen: sorted(f"acc-{name}" for name in chosen))
some_providers = st.sets(st.sampled_from(["kimi", "other", "third"])).map(sorted)
filters = st.fixed_dictionaries(
    {}, optional={"only": some_names, "providers": some_providers, "skip_providers": some_providers}
)


class Agreement(RuleBasedStateMachine):
    """Each rule does the same to both."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.memory = MemoryStore()
        self.sql = self.new_store(Path(self.folder.name))
        self.now = NOW
        self.count = 0
        self.claims: list[Claim] = []
        self.done: list[Step] = []

    def new_store(self, folder: Path) -> SqlStore:
        return SqlStore(f"sqlite:///{folder / 'kimiflow.db'}")

    def teardown(self) -> None:
        self.loop.run_until_complete(self.sql.close())
        self.loop.close()
        self.folder.cleanup()

    def both(self, act: Callable[[Store], Awaitable[Any]]) -> Any:
        answers = [self.loop.run_until_complete(act(store)) for store in (self.memory, self.sql)]
        assert answers[0] == answers[1]
        return answers[1]

    def number(self) -> int:
        self.count += 1
        return self.count

    @initialize()
    def accounts(self) -> None:
        self.loop.run_until_complete(self.memory.open())
        self.loop.run_until_complete(self.sql.open())
        self.both(lambda store: store.add_accounts([account(n, provider=PROVIDERS[n]) for n in NAMES]))

    @rule(seconds=st.sampled_from([0.0, 0.1, 5.0, 30.0, 61.0, 700.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        chosen=st.lists(names, min_size=1, max_size=3),
        beside=st.booleans(),
        coded=st.booleans(),
        wait=st.sampled_from([0.0, 5.0, 80.0]),
    )
    def begin(self, chosen: list[str], beside: bool, coded: bool, wait: float) -> None:
        beginnings = []
        for name in chosen:
            make = pending if coded else requested
            row = make(
                f"row-{self.number():04}",
                name,
                created_at=self.now,
                updated_at=self.now,
                # No two rows are due at once: which of those comes first is nobody's promise.
                next_attempt_at=self.now + wait + self.count / 1024,
            )
            if coded:
                row = row._replace(code_expires_at=self.now + 90)
            beginnings.append(beginning(row, beside_grant=beside))
        self.both(lambda store: store.begin(beginnings))

    @rule(data=st.data(), stale=st.booleans(), beside=st.booleans())
    def renew(self, data: st.DataObject, stale: bool, beside: bool) -> None:
        snapshots: list[Snapshot] = self.both(lambda store: store.snapshots())
        resting = [a for s in snapshots for a in s.authorizations if a.state in RESTS]
        if not resting:
            return
        row = data.draw(st.sampled_from(resting))
        again = requested(
            row.id,
            row.account_id.removeprefix("acc-"),
            created_at=row.created_at,
            updated_at=self.now,
            next_attempt_at=self.now + self.number() / 1024,
            token_version=row.token_version + 1,
        )
        renews = row.updated_at - (1.0 if stale else 0.0)
        self.both(lambda store: store.begin([beginning(again, renews=renews, beside_grant=beside)]))

    @rule(owner=st.sampled_from("AB"), ttl=st.sampled_from([0.0, 20.0, 60.0]), chosen=filters)
    def claim(self, owner: str, ttl: float, chosen: dict[str, Any]) -> None:
        due = self.both(lambda store: store.next_due(**chosen))
        ttl += self.number() / 1024
        answers = [
            self.loop.run_until_complete(store.claim_due(owner, self.now, ttl, LIMIT, **chosen))
            for store in (self.memory, self.sql)
        ]
        # Leases of one batch end at once, and whoever ends at once comes in any order.
        by_id = [sorted(claims, key=lambda claim: claim.authorization.id) for claims in answers]
        assert by_id[0] == by_id[1]
        assert bool(by_id[0]) == (due is not None and due <= self.now)
        self.claims += by_id[0]

    @rule(data=st.data(), size=st.integers(1, 5))
    def commit(self, data: st.DataObject, size: int) -> None:
        if not self.claims:
            return
        # Latest first, so that most are in time; but any claim there ever was may come back.
        chosen = st.lists(st.sampled_from(self.claims[::-1]), min_size=1, max_size=size)
        steps = [self.step(claim, data) for claim in data.draw(chosen)]
        outcomes = self.both(lambda store: store.commit(steps))
        self.done += [s for s, o in zip(steps, outcomes, strict=True) if o is not Outcome.LOST]

    def step(self, claim: Claim, data: st.DataObject) -> Step:
        state, at = claim.authorization.state, self.now
        kinds = [give_back, "poll", "settle"]
        if state in ON_ITS_WAY | {State.GRANTED, State.REFRESHING}:
            kinds.append("grant")
        if state is State.GRANTED:
            kinds.append("refreshing")
        number = self.number()
        match data.draw(st.sampled_from(kinds)):
            case "poll":
                made = poll(claim, at, next_attempt_at=at + 5 + number / 1024, attempts=number)
            case "settle":
                made = settle(claim, at)
            case "grant":
                made = now_granted(claim, at, str(number), next_attempt_at=at + 60 + number / 1024)
            case "refreshing":
                made = refreshing(claim, at)
            case _:
                made = give_back(claim)
        # Whoever commits tokens is done with the claim: no later step can be made of what it held before.
        brought_tokens = made.authorization.token_version != claim.authorization.token_version
        return replace(made, keep_lease=data.draw(st.booleans()) and not brought_tokens)

    @rule(data=st.data())
    def commit_again(self, data: st.DataObject) -> None:
        if self.done:
            steps = data.draw(st.lists(st.sampled_from(self.done[::-1]), min_size=1, max_size=3))
            self.both(lambda store: store.commit(steps))

    @rule(data=st.data(), shift=st.integers(-1, 1))
    def hasten(self, data: st.DataObject, shift: int) -> None:
        snapshots: list[Snapshot] = self.both(lambda store: store.snapshots())
        seen = [(a.id, a.token_version + shift) for s in snapshots for a in s.authorizations]
        if seen:
            chosen = data.draw(st.lists(st.sampled_from(seen), min_size=1, max_size=4))
            at = self.now + self.number() / 1024
            self.both(lambda store: store.hasten(chosen, at))

    @rule(chosen=some_names, forget=st.booleans())
    def sign_out(self, chosen: list[str], forget: bool) -> None:
        self.both(lambda store: store.sign_out(chosen[:1], self.now, forget=forget))
        if forget:
            self.both(lambda store: store.add_accounts([account(n, provider=PROVIDERS[n]) for n in NAMES]))

    @rule(back=st.sampled_from([0.0, 50.0]))
    def prune(self, back: float) -> None:
        self.both(lambda store: store.prune_history(self.now - back))

    @invariant()
    def they_hold_the_same(self) -> None:
        if not self.loop.is_running() and self.memory._accounts:
            snapshots: list[Snapshot] = self.both(lambda store: store.snapshots())
            for snapshot in snapshots:
                states = [a.state for a in snapshot.authorizations]
                assert sum(state in ON_ITS_WAY for state in states) <= 1
                assert sum(state in {State.GRANTED, State.REFRESHING} for state in states) <= 1
            self.both(lambda store: store.count_on_their_way())
            self.both(lambda store: store.next_due())
            for name in NAMES:
                rows = self.both(lambda store, name=name: history_of(store, f"acc-{name}"))
                assert rows is not None


async def history_of(store: Store, account_id: str) -> list[Transition]:
    """The history; rows of one deletion come in any order."""
    rows = await store.history(account_id)
    return sorted(rows, key=lambda row: (row.at, row.event, str(row.from_state), str(row.detail)))


EFFORT = settings(
    max_examples=25, stateful_step_count=30, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

TestAgreement = Agreement.TestCase
TestAgreement.settings = EFFORT


def test_postgresql_agrees_as_well(postgresql: PostgresqlServer) -> None:
    class AgreementOnPostgresql(Agreement):
        def new_store(self, folder: Path) -> SqlStore:
            return SqlStore(postgresql.new_database(f"kimiflow_{uuid.uuid4().hex}"))

    run_state_machine_as_test(AgreementOnPostgresql, settings=settings(EFFORT, max_examples=EXAMPLES))

"""A grant that moves in: what the state machine makes of it, and what a store makes of that."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kimiflow.advance import adopt, begin
from kimiflow.events import RefreshDue
from kimiflow.formats.base import Credential
from kimiflow.model import Account, State, TokenSet, Transition
from kimiflow.moving import Residents, authorization_id_of
from kimiflow.secret import Secret
from kimiflow.stores.base import HANDED_OVER, Beginning, Outcome, Step
from kimiflow.stores.memory import MemoryStore
from kimiflow.stores.sql import SqlStore
from kimiflow.vault import Vault
from tests.core.samples import step

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kimiflow.model import Authorization, Sealed
    from kimiflow.stores.base import Store

NOW = 1_700_000_000.0
VAULT = Vault(b"k" * 32)
TOKENS = TokenSet(Secret("access"), Secret("refresh"), None, "kimi-code", 300.0)


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store = MemoryStore() if request.param == "memory" else SqlStore(f"sqlite:///{tmp_path}/x.db")
    await made.open()
    await made.add_accounts([Account(f"id-{name}", name, "kimi", "device", None, NOW) for name in ("a", "b")])
    yield made
    await made.close()


def moving_in(row: str = "row", account: str = "id-a", *, beside_grant: bool = False) -> Beginning:
    authorization, history = adopt(row, account, TOKENS, NOW, "from there")
    return Beginning(VAULT.seal_authorization(authorization), history, beside_grant=beside_grant)


def signing_in(row: str = "sign-in", account: str = "id-a", *, beside_grant: bool = False) -> Beginning:
    authorization, history = begin(row, account, NOW)
    return Beginning(VAULT.seal_authorization(authorization), history, beside_grant=beside_grant)


def test_it_begins_granted_and_due() -> None:
    after, transition = adopt("row", "account", TOKENS, NOW, "from there")
    assert transition == Transition(NOW, None, State.GRANTED, "imported", "from there")
    assert (after.state, after.next_attempt_at, after.token_version) == (State.GRANTED, NOW, 1)
    assert (after.access_token, after.refresh_token) == (Secret("access"), Secret("refresh"))
    assert (after.token_type, after.scope, after.token_expires_at) == ("Bearer", "kimi-code", NOW + 300)
    assert step(after, RefreshDue()).state is State.REFRESHING


async def test_a_store_takes_it_in_once(store: Store) -> None:
    assert await store.begin([moving_in()]) == [True]
    assert await store.begin([moving_in(), moving_in("other"), moving_in("other", beside_grant=True)]) == [False] * 3
    assert await store.begin([moving_in("row", "id-b")]) == [False], "the same grant, under another name"
    assert await store.begin([moving_in("one", "id-b"), moving_in("two", "id-b")]) == [True, False]
    [snapshot] = await store.snapshots(["a"])
    assert [each.id for each in snapshot.authorizations] == ["row"]
    assert [each.event for each in await store.history("id-a")] == ["imported"]


async def test_two_at_once(store: Store) -> None:
    begun = await asyncio.gather(*(store.begin([moving_in("row", f"id-{name}")]) for name in ("a", "b", "a")))
    assert sorted(begun) == [[False], [False], [True]]


async def test_not_beside_a_sign_in_but_a_sign_in_beside_it(store: Store) -> None:
    assert await store.begin([signing_in()]) == [True]
    assert await store.begin([moving_in(), moving_in(beside_grant=True)]) == [False, False]
    assert await store.begin([moving_in("row", "id-b")]) == [True]
    assert await store.begin([signing_in("x", "id-b")]) == [False]
    assert await store.begin([signing_in("x", "id-b", beside_grant=True)]) == [True]


async def test_it_is_claimed_at_once(store: Store) -> None:
    await store.begin([moving_in()])
    [claim] = await store.claim_due("worker", NOW, 60.0, 10)
    assert (claim.authorization.id, claim.interrupted) == ("row", False)


def leaving(step_: Step) -> Step:
    last = Transition(NOW + 1, State.GRANTED, None, HANDED_OVER, "there")
    return Step(step_.claim, step_.authorization, (last,), ends=True)


async def test_a_step_that_ends_deletes_the_row(store: Store) -> None:
    await store.begin([moving_in(), moving_in("theirs", "id-b")])
    claims = {claim.authorization.id: claim for claim in await store.claim_due("worker", NOW, 60.0, 10)}
    claim = claims["row"]
    paused: Authorization[Sealed] = claim.authorization._replace(updated_at=NOW + 1, next_attempt_at=NOW + 300)
    kept = Step(claim, paused, (Transition(NOW + 1, State.GRANTED, State.GRANTED, "handing_over"),), keep_lease=True)
    back = Step(claims["theirs"], claims["theirs"].authorization)
    assert await store.commit([kept]) == [Outcome.COMMITTED]
    assert await store.claim_due("other", NOW + 61, 60.0, 10, only=["id-a"]) == [], "kept through the pause"
    assert await store.commit([leaving(kept), back, leaving(kept)]) == [
        Outcome.COMMITTED,
        Outcome.COMMITTED,
        Outcome.GONE,
    ]
    [a, b] = await store.snapshots()
    assert (a.authorizations, len(b.authorizations)) == ((), 1)
    events = [(each.event, each.to_state) for each in await store.history("id-a")]
    assert events == [("imported", State.GRANTED), ("handing_over", State.GRANTED), ("handed_over", None)]
    assert await store.begin([moving_in()]) == [True], "it may come back"


async def test_a_step_that_ends_does_nothing_once_the_claim_is_lost(store: Store) -> None:
    await store.begin([moving_in()])
    [claim] = await store.claim_due("worker", NOW, 60.0, 10)
    [_] = await store.claim_due("other", NOW + 61, 60.0, 10)
    assert await store.commit([leaving(Step(claim, claim.authorization))]) == [Outcome.LOST]
    [a, _] = await store.snapshots()
    assert len(a.authorizations) == 1
    assert len(await store.history("id-a")) == 1


def test_the_id_says_nothing_and_is_always_the_same() -> None:
    one, other = authorization_id_of(Secret("one")), authorization_id_of(Secret("other"))
    assert one == authorization_id_of(Secret("one")) != other
    assert (len(one), "one" in one) == (36, False)


def test_names_that_are_taken_in_the_same_run() -> None:
    credential = Credential(Secret("a"), Secret("r"), "x" * 64)
    name = Residents.of(()).free_name(credential, "kimi", {"x" * 64})
    assert (len(name), name[-2:]) == (60, "-2")

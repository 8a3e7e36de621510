"""Grants that move in from elsewhere, and those that are handed over."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kimiflow.advance import adopt, begin
from kimiflow.model import Account, State, TokenSet, Transition
from kimiflow.secret import Secret
from kimiflow.stores.base import HANDED_OVER, Beginning, Outcome, Step
from kimiflow.vault import Vault

if TYPE_CHECKING:
    from kimiflow.model import Authorization, Sealed
    from kimiflow.stores.base import Store

NOW = 1_700_000_000.0
VAULT = Vault(b"k" * 32)
TOKENS = TokenSet(Secret("access"), Secret("refresh"), None, "kimi-code", 300.0)


def moving_in(row: str = "row", account: str = "id-a", *, beside_grant: bool = False) -> Beginning:
    authorization, history = adopt(row, account, TOKENS, NOW, origin="https://auth.example", detail="from there")
    return Beginning(VAULT.seal_authorization(authorization), history, beside_grant=beside_grant)


def signing_in(row: str = "sign-in", account: str = "id-a", *, beside_grant: bool = False) -> Beginning:
    authorization, history = begin(row, account, NOW)
    return Beginning(VAULT.seal_authorization(authorization), history, beside_grant=beside_grant)


def leaving(step_: Step) -> Step:
    last = Transition(NOW + 1, State.GRANTED, None, HANDED_OVER, "there")
    return Step(step_.claim, step_.authorization, (last,), ends=True)


class MovingContract:
    """``begin`` with a grant, and steps that end one."""

    @pytest.fixture
    async def two(self, store: Store) -> Store:
        """A store with two accounts."""
        await store.add_accounts([Account(f"id-{name}", name, "kimi", "device", None, NOW) for name in ("a", "b")])
        return store

    async def test_a_store_takes_it_in_once(self, two: Store) -> None:
        assert await two.begin([moving_in()]) == [True]
        assert await two.begin([moving_in(), moving_in("other"), moving_in("other", beside_grant=True)]) == [False] * 3
        assert await two.begin([moving_in("row", "id-b")]) == [False], "the same grant, under another name"
        assert await two.begin([moving_in("one", "id-b"), moving_in("two", "id-b")]) == [True, False]
        [snapshot] = await two.snapshots(["a"])
        assert [each.id for each in snapshot.authorizations] == ["row"]
        assert [each.event for each in await two.history("id-a")] == ["imported"]

    async def test_two_at_once(self, two: Store, peer: Store) -> None:
        begun = await asyncio.gather(
            *(each.begin([moving_in("row", f"id-{name}")]) for each in (two, peer) for name in ("a", "b", "a"))
        )
        assert sorted(begun) == [[False]] * 5 + [[True]]
        told = [entry.event for name in ("a", "b") for entry in await two.history(f"id-{name}")]
        assert told == ["imported"], "who came second leaves no trace"

    async def test_not_beside_a_sign_in_but_a_sign_in_beside_it(self, two: Store) -> None:
        assert await two.begin([signing_in()]) == [True]
        assert await two.begin([moving_in(), moving_in(beside_grant=True)]) == [False, False]
        assert await two.begin([moving_in("row", "id-b")]) == [True]
        assert await two.begin([signing_in("x", "id-b")]) == [False]
        assert await two.begin([signing_in("x", "id-b", beside_grant=True)]) == [True]

    async def test_it_is_claimed_at_once(self, two: Store) -> None:
        await two.begin([moving_in()])
        [claim] = await two.claim_due("worker", NOW, 60.0, 10)
        assert (claim.authorization.id, claim.interrupted) == ("row", False)

    async def test_a_step_that_ends_deletes_the_row(self, two: Store) -> None:
        await two.begin([moving_in(), moving_in("theirs", "id-b")])
        claims = {claim.authorization.id: claim for claim in await two.claim_due("worker", NOW, 60.0, 10)}
        claim = claims["row"]
        paused: Authorization[Sealed] = claim.authorization._replace(updated_at=NOW + 1, next_attempt_at=NOW + 300)
        kept = Step(
            claim, paused, (Transition(NOW + 1, State.GRANTED, State.GRANTED, "handing_over"),), keep_lease=True
        )
        back = Step(claims["theirs"], claims["theirs"].authorization)
        assert await two.commit([kept]) == [Outcome.COMMITTED]
        assert await two.claim_due("other", NOW + 61, 60.0, 10, only=["id-a"]) == [], "kept through the pause"
        assert await two.commit([leaving(kept), back, leaving(kept)]) == [
            Outcome.COMMITTED,
            Outcome.COMMITTED,
            Outcome.GONE,
        ]
        [a, b] = await two.snapshots()
        assert (a.authorizations, len(b.authorizations)) == ((), 1)
        events = [(each.event, each.to_state) for each in await two.history("id-a")]
        assert events == [("imported", State.GRANTED), ("handing_over", State.GRANTED), ("handed_over", None)]
        assert await two.begin([moving_in()]) == [True], "it may come back"

    async def test_a_step_that_ends_does_nothing_once_the_claim_is_lost(self, two: Store) -> None:
        await two.begin([moving_in()])
        [claim] = await two.claim_due("worker", NOW, 60.0, 10)
        [_] = await two.claim_due("other", NOW + 61, 60.0, 10)
        assert await two.commit([leaving(Step(claim, claim.authorization))]) == [Outcome.LOST]
        [a, _] = await two.snapshots()
        assert len(a.authorizations) == 1
        assert len(await two.history("id-a")) == 1

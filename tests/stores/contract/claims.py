"""Who may take which row, when, and who may not."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kimiflow.model import State
from kimiflow.stores.base import Lease, Outcome

from .making import (
    NOW,
    TTL,
    account,
    beginning,
    claim_one,
    give_back,
    granted,
    issue,
    now_granted,
    pending,
    poll,
    refreshing,
    requested,
    settle,
)

if TYPE_CHECKING:
    from kimiflow.stores.base import Store


class ClaimContract:
    """``claim_due``, ``next_due`` and ``hasten``."""

    async def test_a_claim_is_the_row_as_it_stands(self, store: Store) -> None:
        row = pending()
        await issue(store, row)
        claim = await claim_one(store, "A", NOW, TTL)
        assert (claim.account, claim.authorization) == (account(), row)
        assert (claim.owner, claim.generation, claim.interrupted) == ("A", 1, False)
        (snapshot,) = await store.snapshots()
        assert snapshot.leases == (Lease("A", NOW + TTL),)
        assert snapshot.authorizations == (row,)

    async def test_a_row_is_not_taken_before_it_is_due(self, store: Store) -> None:
        await issue(store, pending(next_attempt_at=NOW + 5))
        assert await store.claim_due("A", NOW + 4.999, TTL, 10) == []
        assert len(await store.claim_due("A", NOW + 5, TTL, 10)) == 1

    async def test_a_row_at_rest_is_never_taken(self, store: Store) -> None:
        await issue(store, requested(state=State.DENIED, next_attempt_at=None))
        assert await store.claim_due("A", NOW + 1e9, TTL, 10) == []
        assert await store.next_due() is None

    async def test_a_claimed_row_is_nobody_elses_until_the_lease_is_over(self, store: Store, peer: Store) -> None:
        await issue(store, pending())
        await claim_one(store, "A", NOW, TTL)
        for owner in ("A", "B"):
            assert await peer.claim_due(owner, NOW + TTL - 0.001, TTL, 10) == []
        second = await claim_one(peer, "B", NOW + TTL)
        assert (second.owner, second.generation, second.interrupted) == ("B", 2, True)

    async def test_a_lease_that_was_given_back_is_no_interruption(self, store: Store) -> None:
        row = pending()
        await issue(store, row)
        claim = await claim_one(store)
        assert await store.commit([give_back(claim)]) == [Outcome.COMMITTED]
        again = await claim_one(store, "B")
        assert (again.authorization, again.generation, again.interrupted) == (row, 2, False)

    async def test_the_longest_due_come_first(self, store: Store) -> None:
        late = [3.0, 1.0, 4.0, 2.0, 5.0]
        await issue(store, *(pending(f"r{s:g}", f"n{s:g}", next_attempt_at=NOW - s) for s in late))
        first = await store.claim_due("A", NOW, TTL, 2)
        assert [c.authorization.id for c in first] == ["r5", "r4"]
        assert [c.authorization.id for c in await store.claim_due("B", NOW, TTL, 9)] == ["r3", "r2", "r1"]

    async def test_no_row_is_given_to_two_callers(self, store: Store, peer: Store) -> None:
        await issue(store, *(pending(f"r{n}", f"n{n}") for n in range(200)))
        batches = await asyncio.gather(
            *((peer if n % 2 else store).claim_due(f"w{n}", NOW, TTL, 30) for n in range(12))
        )
        ids = [claim.authorization.id for batch in batches for claim in batch]
        assert len(ids) == len(set(ids)) == 200
        assert await store.claim_due("late", NOW, TTL, 10) == []

    async def test_a_lease_of_no_length_does_not_give_a_row_twice_in_one_batch(self, store: Store) -> None:
        await issue(store, pending())
        assert len(await store.claim_due("A", NOW, 0.0, 10)) == 1

    async def test_each_claim_adds_one_to_the_generation(self, store: Store) -> None:
        await issue(store, pending())
        for turn in range(1, 6):
            claim = await claim_one(store, "A", NOW + turn * TTL)
            assert claim.generation == turn

    @pytest.mark.parametrize("only", [[], ["acc-ann"], ["acc-ann", "acc-bob"], ["acc-nobody", "acc-bob"]])
    async def test_only_these_accounts(self, store: Store, only: list[str]) -> None:
        await issue(store, pending("a", "ann"), pending("b", "bob", next_attempt_at=NOW - 1))
        due = {"acc-ann": NOW, "acc-bob": NOW - 1}
        expected = [name for name in ("acc-bob", "acc-ann") if name in only]
        assert await store.next_due(only=only) == min((due[name] for name in expected), default=None)
        claims = await store.claim_due("A", NOW, TTL, 10, only=only)
        assert [claim.account.id for claim in claims] == expected

    async def test_only_with_a_limit_takes_the_longest_due(self, store: Store) -> None:
        await issue(store, *(pending(f"r{n}", f"n{n}", next_attempt_at=NOW - n) for n in range(6)))
        claims = await store.claim_due("A", NOW, TTL, 2, only={f"acc-n{n}" for n in range(5)})
        assert [claim.authorization.id for claim in claims] == ["r4", "r3"]

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({}, "ann bob cid"),
            ({"providers": ["kimi"]}, "ann cid"),
            ({"providers": {"kimi", "other"}}, "ann bob cid"),
            ({"providers": []}, ""),
            ({"skip_providers": {"kimi"}}, "bob"),
            ({"skip_providers": {"kimi", "other"}}, ""),
            ({"providers": {"kimi", "other"}, "skip_providers": ["other"]}, "ann cid"),
            ({"providers": ["kimi"], "skip_providers": ["kimi"]}, ""),
            ({"only": ["acc-ann", "acc-bob"], "skip_providers": ["kimi"]}, "bob"),
        ],
    )
    async def test_providers(self, store: Store, filters: dict[str, list[str]], expected: str) -> None:
        await store.add_accounts([account("ann"), account("bob", provider="other"), account("cid")])
        names = ("ann", "bob", "cid")
        rows = [pending(name, name, next_attempt_at=NOW - 10 + n) for n, name in enumerate(names)]
        await store.begin([beginning(row) for row in rows])
        # Rows that may only be taken when their code is over are due then.
        times = [row.next_attempt_at if row.id in expected.split() else row.code_expires_at for row in rows]
        allowed = filters.get("only")
        assert await store.next_due(**filters) == min(  # type: ignore[arg-type]
            at for at, row in zip(times, rows, strict=True) if allowed is None or row.account_id in allowed
        )
        claims = await store.claim_due("A", NOW, TTL, 10, **filters)  # type: ignore[arg-type]
        assert [claim.account.name for claim in claims] == expected.split()

    @pytest.mark.parametrize("filters", [{"skip_providers": ["kimi"]}, {"providers": ["other"]}])
    @pytest.mark.parametrize("only", [None, ["acc-ann"]])
    async def test_a_code_that_is_over_needs_no_server(
        self, store: Store, filters: dict[str, list[str]], only: list[str] | None
    ) -> None:
        await issue(store, pending(code_expires_at=NOW + 100), granted("two", "bob"))
        await store.claim_due("B", NOW, 1e6, 10, only=["acc-bob"])
        assert await store.next_due(only=only, **filters) == NOW + 100  # type: ignore[arg-type]
        assert await store.claim_due("A", NOW + 99, TTL, 10, only=only, **filters) == []  # type: ignore[arg-type]
        (claim,) = await store.claim_due("A", NOW + 100, TTL, 10, only=only, **filters)  # type: ignore[arg-type]
        assert claim.account.name == "ann"
        assert await store.next_due(only=only, **filters) == NOW + 100 + TTL  # type: ignore[arg-type]

    async def test_next_due_is_the_moment_when_a_claim_takes_something(self, store: Store) -> None:
        assert await store.next_due() is None
        await issue(store, pending("a", "ann", next_attempt_at=NOW + 7), granted("b", "bob", next_attempt_at=NOW + 3))
        assert await store.next_due() == NOW + 3
        assert await store.claim_due("A", NOW + 2.999, TTL, 10) == []
        claim = await claim_one(store, "A", NOW + 3, TTL)
        assert await store.next_due() == NOW + 7
        await store.claim_due("A", NOW + 7, TTL, 10)
        assert await store.next_due() == NOW + 3 + TTL
        await store.commit([settle(claim, NOW + 8)])
        assert await store.next_due() == NOW + 7 + TTL

    async def test_a_kept_lease_stays_its_owners(self, store: Store) -> None:
        await issue(store, granted())
        claim = await claim_one(store, "A", NOW, TTL)
        step = refreshing(claim, NOW + 1)
        assert await store.commit([step]) == [Outcome.COMMITTED]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (step.authorization,)
        assert snapshot.leases == (Lease("A", NOW + TTL),)
        assert await store.claim_due("B", NOW + TTL - 1, TTL, 10) == []
        assert await store.commit([now_granted(claim, NOW + 2)]) == [Outcome.COMMITTED]

    async def test_a_kept_lease_that_runs_out_is_an_interruption(self, store: Store) -> None:
        await issue(store, granted())
        claim = await claim_one(store, "A", NOW, TTL)
        await store.commit([refreshing(claim, NOW + 1)])
        again = await claim_one(store, "B", NOW + TTL)
        assert (again.authorization.state, again.interrupted) == (State.REFRESHING, True)

    async def test_a_kept_lease_lasts_until_the_next_attempt(self, store: Store) -> None:
        await issue(store, pending())
        claim = await claim_one(store, "A", NOW, TTL)
        await store.commit([replace(poll(claim, NOW, next_attempt_at=NOW + 500), keep_lease=True)])
        assert await store.next_due() == NOW + 500
        assert await store.claim_due("B", NOW + 499, TTL, 10) == []
        assert (await claim_one(store, "B", NOW + 500)).interrupted

    async def test_a_row_that_rests_keeps_no_lease(self, store: Store) -> None:
        await issue(store, pending())
        claim = await claim_one(store)
        await store.commit([replace(settle(claim, NOW), keep_lease=True)])
        (snapshot,) = await store.snapshots()
        assert snapshot.leases == (None,)
        assert await store.next_due() is None

    async def test_hasten_makes_a_refresh_due(self, store: Store) -> None:
        await issue(store, granted(next_attempt_at=NOW + 600))
        await store.hasten([("one", 2), ("none", 2)], NOW + 10)
        await store.hasten([("one", 2)], NOW + 11)
        assert await store.next_due() == NOW + 10
        claim = await claim_one(store, "A", NOW + 10)
        assert claim.authorization == granted(next_attempt_at=NOW + 10)

    async def test_hasten_is_for_the_token_that_was_seen(self, store: Store) -> None:
        await issue(store, granted(next_attempt_at=NOW + 600))
        await store.hasten([("one", 1), ("one", 3)], NOW)
        assert await store.next_due() == NOW + 600

    async def test_hasten_is_for_grants(self, store: Store) -> None:
        await issue(store, pending("a", "ann", next_attempt_at=NOW + 5))
        await store.hasten([("a", 1)], NOW)
        assert await store.next_due() == NOW + 5

    async def test_hasten_is_a_persons_wish_and_does_not_wait_for_what_the_server_asked_for(self, store: Store) -> None:
        await issue(store, granted(state=State.REFRESHING, next_attempt_at=NOW + 600, not_before=NOW + 600))
        await store.hasten([("one", 2)], NOW)
        assert await store.next_due() == NOW

    async def test_hasten_is_for_tokens_without_an_end_too(self, store: Store) -> None:
        await issue(store, granted(next_attempt_at=None, token_expires_at=None))
        assert await store.next_due() is None
        await store.hasten([("one", 2)], NOW)
        assert await store.next_due() == NOW

    async def test_hasten_takes_no_lease_away(self, store: Store) -> None:
        await issue(store, granted())
        claim = await claim_one(store, "A", NOW, TTL)
        await store.commit([replace(refreshing(claim, NOW + 1), authorization=granted(next_attempt_at=NOW + 30))])
        await store.hasten([("one", 2)], NOW + 2)
        assert await store.next_due() == NOW + TTL
        assert (await claim_one(store, "B", NOW + TTL)).authorization.next_attempt_at == NOW + 2

    async def test_many_rows(self, store: Store) -> None:
        rows = [pending(f"r{n}", f"n{n}", next_attempt_at=NOW - n) for n in range(1_000)]
        await issue(store, *rows)
        claims = await store.claim_due("A", NOW, TTL, 1_000)
        assert [claim.authorization for claim in claims] == rows[::-1]
        outcomes = await store.commit([poll(claim, NOW + 1) for claim in claims])
        assert outcomes == [Outcome.COMMITTED] * 1_000
        assert await store.next_due() == NOW + 6
        assert len(await store.claim_due("B", NOW + 6, TTL, 2_000)) == 1_000

"""Workers that come too late: fences, merges, and what must not rise again."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kimiflow.model import State
from kimiflow.stores.base import Lease, Outcome

from .making import (
    NOW,
    TTL,
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


class LateContract:
    """``commit`` after somebody else was there."""

    async def test_a_late_release_does_not_wipe_the_next_claim(self, store: Store, peer: Store) -> None:
        row = pending()
        await issue(store, row)
        late = await claim_one(store, "A", NOW)
        holder = await claim_one(peer, "B", NOW + TTL)
        assert await store.commit([give_back(late)]) == [Outcome.LOST]
        (snapshot,) = await store.snapshots()
        assert snapshot.leases == (Lease("B", NOW + 2 * TTL),)
        assert await store.claim_due("C", NOW + TTL + 1, TTL, 10) == []
        assert await peer.commit([poll(holder, NOW + TTL + 1)]) == [Outcome.COMMITTED]

    async def test_a_late_poll_is_lost(self, store: Store) -> None:
        row = pending()
        await issue(store, row)
        late = await claim_one(store, "A", NOW)
        await claim_one(store, "B", NOW + TTL)
        assert await store.commit([settle(late, NOW + TTL)]) == [Outcome.LOST]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (row,)
        assert len(await store.history("acc-ann")) == 1

    async def test_the_same_owner_with_an_older_generation_is_late(self, store: Store) -> None:
        await issue(store, pending())
        late = await claim_one(store, "A", NOW)
        newer = await claim_one(store, "A", NOW + TTL)
        assert await store.commit([poll(late, NOW + TTL)]) == [Outcome.LOST]
        assert await store.commit([poll(newer, NOW + TTL)]) == [Outcome.COMMITTED]

    async def test_a_claim_ends_with_its_commit(self, store: Store) -> None:
        await issue(store, pending())
        claim = await claim_one(store)
        await store.commit([poll(claim, NOW + 1)])
        assert await store.commit([poll(claim, NOW + 2)]) == [Outcome.LOST]

    async def test_late_tokens_are_merged_while_nobody_has_newer_ones(self, store: Store) -> None:
        await issue(store, pending())
        late = await claim_one(store, "A", NOW)
        holder = await claim_one(store, "B", NOW + TTL)
        step = now_granted(late, NOW + TTL + 1)
        assert await store.commit([step]) == [Outcome.MERGED]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (step.authorization,)
        assert snapshot.leases == (None,)
        assert (await store.history("acc-ann"))[-1] == step.history[0]
        # Whoever held the row in between cannot overwrite them, nor give anything back.
        for other in (settle(holder, NOW + TTL + 2), give_back(holder)):
            assert await store.commit([other]) == [Outcome.LOST]
        claim = await claim_one(store, "C", NOW + TTL + 601)
        assert claim.generation > holder.generation + 1
        assert not claim.interrupted

    async def test_a_merge_ends_the_lease_even_where_one_was_to_be_kept(self, store: Store) -> None:
        await issue(store, pending())
        late = await claim_one(store, "A", NOW)
        await claim_one(store, "B", NOW + TTL)
        step = replace(now_granted(late, NOW + TTL), keep_lease=True)
        assert await store.commit([step, step]) == [Outcome.MERGED, Outcome.MERGED]
        (snapshot,) = await store.snapshots()
        assert snapshot.leases == (None,)
        assert len(await store.history("acc-ann")) == 2

    async def test_late_tokens_are_merged_into_a_refresh_under_way(self, store: Store) -> None:
        await issue(store, granted())
        late = await claim_one(store, "A", NOW)
        await store.commit([refreshing(late, NOW)])
        holder = await claim_one(store, "B", NOW + TTL)
        assert await store.commit([now_granted(late, NOW + TTL, "late")]) == [Outcome.MERGED]
        assert await store.commit([settle(holder, NOW + TTL)]) == [Outcome.LOST]

    async def test_late_tokens_wake_what_was_given_up(self, store: Store) -> None:
        await issue(store, granted())
        late = await claim_one(store, "A", NOW)
        holder = await claim_one(store, "B", NOW + TTL)
        assert await store.commit([settle(holder, NOW + TTL)]) == [Outcome.COMMITTED]
        assert await store.commit([now_granted(late, NOW + TTL + 1)]) == [Outcome.MERGED]
        assert await store.next_due() == NOW + TTL + 601

    async def test_late_tokens_of_a_sign_in_replace_a_newer_sign_in_on_its_way(self, store: Store) -> None:
        await issue(store, pending("first"))
        late = await claim_one(store, "A", NOW)
        await store.commit([settle(await claim_one(store, "B", NOW + TTL), NOW + TTL)])
        await issue(store, requested("second", next_attempt_at=NOW + 1e6))
        assert await store.commit([now_granted(late, NOW + TTL + 1)]) == [Outcome.MERGED]
        (snapshot,) = await store.snapshots()
        assert [a.id for a in snapshot.authorizations] == ["first"]
        assert (await store.history("acc-ann"))[-1].event == "replaced"

    async def test_two_grants_of_one_account_in_one_batch(self, store: Store) -> None:
        await issue(store, pending("first"))
        late = await claim_one(store, "A", NOW)
        await store.commit([settle(await claim_one(store, "B", NOW + TTL), NOW + TTL)])
        await issue(store, pending("second", next_attempt_at=NOW + TTL))
        claim = await claim_one(store, "A", NOW + TTL)
        steps = [now_granted(late, NOW + TTL, "a"), now_granted(claim, NOW + TTL, "b")]
        assert await store.commit(steps) == [Outcome.MERGED, Outcome.GONE]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (steps[0].authorization,)

    async def test_tokens_older_than_the_rows_are_lost(self, store: Store) -> None:
        await issue(store, granted())
        late = await claim_one(store, "A", NOW)
        newer = now_granted(await claim_one(store, "B", NOW + TTL), NOW + TTL, "newer")
        await store.commit([newer])
        assert await store.commit([now_granted(late, NOW + TTL + 1, "older")]) == [Outcome.LOST]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (newer.authorization,)
        assert len(await store.history("acc-ann")) == 2

    async def test_a_lost_grant_replaces_nothing(self, store: Store) -> None:
        await issue(store, requested("rests", state=State.DENIED, next_attempt_at=None), pending("first"))
        late = await claim_one(store, "A", NOW)
        await store.commit([settle(await claim_one(store, "B", NOW + TTL), NOW + TTL)])
        again = requested("first", updated_at=NOW + TTL + 1, token_version=2, next_attempt_at=NOW + TTL + 1)
        assert await store.begin([beginning(again, renews=NOW + TTL)]) == [True]
        assert await store.commit([now_granted(late, NOW + TTL + 2)]) == [Outcome.LOST]
        (snapshot,) = await store.snapshots()
        assert {a.id for a in snapshot.authorizations} == {"first", "rests"}
        assert snapshot.on_its_way == again

    @pytest.mark.parametrize("forget", [False, True])
    async def test_nothing_rises_after_a_sign_out(self, store: Store, forget: bool) -> None:
        await issue(store, granted())
        claim = await claim_one(store)
        await store.commit([refreshing(claim, NOW)])
        assert len(await store.sign_out(["acc-ann"], NOW + 1, forget=forget)) == 1
        history = await store.history("acc-ann")
        steps = [now_granted(claim, NOW + 2), poll(claim, NOW + 2), give_back(claim)]
        assert await store.commit(steps) == [Outcome.GONE] * 3
        assert [s.authorizations for s in await store.snapshots()] == ([] if forget else [()])
        assert await store.history("acc-ann") == history
        assert await store.next_due() is None

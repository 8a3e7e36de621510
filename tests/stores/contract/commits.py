"""What a commit writes, and what it tells."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kimiflow.model import Sealed, State, Transition
from kimiflow.stores.base import SHARED, Lease, Outcome, Step

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


class CommitContract:
    """``commit`` by workers that are in time."""

    async def test_every_field_is_written(self, store: Store) -> None:
        await issue(store, requested())
        claim = await claim_one(store)
        text = "ünï©ødé 月之暗面 \U0001f319 'quoted' \"twice\" \\ {} \n line " + "long " * 2_000
        after = requested(
            state=State.SLOW_DOWN,
            updated_at=NOW + 0.125,
            next_attempt_at=NOW + 1 / 3,
            not_before=NOW + 2 / 3,
            attempts=7,
            error="http_503",
            error_description=text,
            interval=10.1,
            user_code="ABCD-EFGH",
            verification_uri="https://example.test/v",
            verification_uri_complete="https://example.test/v?user_code=ABCD-EFGH",
            code_expires_at=NOW + 899.999999,
            token_type="Bearer",
            scope=text,
            token_expires_at=NOW + 1e-3,
            token_version=12,
            device_code=Sealed("key." + "d" * 5_000),
            access_token=Sealed("key.access"),
            refresh_token=Sealed("key.refresh"),
        )
        assert await store.commit([Step(claim, after)]) == [Outcome.COMMITTED]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (after,)
        assert snapshot.leases == (None,)
        again = await claim_one(store, "B", NOW + 1)
        assert again.authorization == after

    async def test_no_steps(self, store: Store) -> None:
        assert await store.commit([]) == []

    async def test_a_lease_that_ran_out_still_stands_while_nobody_took_it(self, store: Store) -> None:
        await issue(store, pending())
        claim = await claim_one(store, "A", NOW, TTL)
        assert await store.commit([poll(claim, NOW + 10 * TTL)]) == [Outcome.COMMITTED]

    async def test_history_is_in_the_order_of_the_commits(self, store: Store) -> None:
        await issue(store, granted())
        claim = await claim_one(store)
        await store.commit([refreshing(claim, NOW + 9)])
        # Clocks of different machines differ: the order is not that of the times.
        two = (
            Transition(NOW + 5, State.REFRESHING, State.REFRESHING, "attempt_failed", "http_503: «Überlast»"),
            Transition(NOW + 4, State.REFRESHING, State.EXPIRED, "invalid_grant", None),
        )
        await store.commit([replace(settle(claim, NOW + 5), history=two)])
        assert await store.history("acc-ann") == [
            Transition(NOW, None, State.GRANTED, "login_requested"),
            Transition(NOW + 9, State.GRANTED, State.REFRESHING, "refresh_due"),
            *two,
        ]
        assert await store.history("acc-nobody") == []

    async def test_giving_back_leaves_no_trace(self, store: Store) -> None:
        await issue(store, pending())
        before = await store.history("acc-ann")
        claim = await claim_one(store)
        await store.commit([give_back(claim)])
        assert await store.history("acc-ann") == before
        assert await store.next_due() == NOW

    async def test_a_new_grant_replaces_every_other_authorization(self, store: Store) -> None:
        await issue(store, requested("rested", state=State.DENIED, next_attempt_at=None))
        await issue(store, granted("old", next_attempt_at=NOW + 600))
        await issue(store, pending("new"), granted("two", "bob", next_attempt_at=NOW + 600), beside_grant=True)
        claim = await claim_one(store)
        assert claim.authorization.id == "new"
        step = now_granted(claim, NOW + 1)
        assert await store.commit([step]) == [Outcome.COMMITTED]
        ann, bob = await store.snapshots()
        assert ann.authorizations == (step.authorization,)
        assert len(bob.authorizations) == 1
        *_, own, first, second = await store.history("acc-ann")
        assert own == step.history[0]
        assert {first, second} == {
            Transition(NOW + 1, State.GRANTED, None, "replaced"),
            Transition(NOW + 1, State.DENIED, None, "replaced"),
        }
        assert len(await store.history("acc-bob")) == 1

    async def test_a_refresh_leaves_the_sign_in_beside_it_alone(self, store: Store) -> None:
        await issue(store, granted("old"))
        await issue(store, pending("new", next_attempt_at=NOW + 5), beside_grant=True)
        claim = await claim_one(store)
        await store.commit([refreshing(claim, NOW)])
        assert await store.commit([now_granted(claim, NOW + 1)]) == [Outcome.COMMITTED]
        (snapshot,) = await store.snapshots()
        assert [a.id for a in snapshot.authorizations] == ["new", "old"]
        assert snapshot.on_its_way == pending("new", next_attempt_at=NOW + 5)

    async def test_a_new_grant_ends_a_refresh_under_way(self, store: Store) -> None:
        await issue(store, granted("old"))
        await issue(store, pending("new"), beside_grant=True)
        claims = {c.authorization.id: c for c in await store.claim_due("A", NOW, TTL, 10)}
        await store.commit([refreshing(claims["old"], NOW)])
        assert await store.commit([now_granted(claims["new"], NOW + 1)]) == [Outcome.COMMITTED]
        assert await store.commit([now_granted(claims["old"], NOW + 2)]) == [Outcome.GONE]
        (snapshot,) = await store.snapshots()
        assert [a.id for a in snapshot.authorizations] == ["new"]

    async def test_steps_of_one_account_are_taken_in_order(self, store: Store) -> None:
        await issue(store, granted("old"))
        await issue(store, pending("new"), beside_grant=True)
        claims = {c.authorization.id: c for c in await store.claim_due("A", NOW, TTL, 10)}
        steps = [
            refreshing(claims["old"], NOW),
            now_granted(claims["old"], NOW + 1),
            now_granted(claims["new"], NOW + 2),
            poll(claims["old"], NOW + 3),
        ]
        committed = Outcome.COMMITTED
        assert await store.commit(steps) == [committed, committed, committed, Outcome.GONE]
        assert [(t.event, t.to_state) for t in (await store.history("acc-ann"))[2:]] == [
            ("refresh_due", State.REFRESHING),
            ("access_token_issued", State.GRANTED),
            ("access_token_issued", State.GRANTED),
            ("replaced", None),
        ]

    async def test_one_steps_loss_does_not_touch_the_others(self, store: Store) -> None:
        await issue(store, *(pending(f"r{n}", f"n{n}", next_attempt_at=NOW - n) for n in range(5)))
        claims = sorted(await store.claim_due("A", NOW, TTL, 10), key=lambda claim: claim.account.name)
        await store.claim_due("B", NOW + TTL, TTL, 10, only=["acc-n1", "acc-n3"])
        await store.sign_out(["acc-n2"], NOW + TTL)
        steps = [poll(c, NOW + TTL) if n != 3 else now_granted(c, NOW + TTL) for n, c in enumerate(claims)]
        assert await store.commit(steps) == [
            Outcome.COMMITTED,
            Outcome.LOST,
            Outcome.GONE,
            Outcome.MERGED,
            Outcome.COMMITTED,
        ]
        rows = [s.authorizations for s in await store.snapshots()]
        written = (0, 3, 4)
        assert [rows[n] for n in written] == [(steps[n].authorization,) for n in written]
        assert rows[1] == (pending("r1", "n1", next_attempt_at=NOW - 1),)
        assert rows[2] == ()
        assert [len(await store.history(f"acc-n{n}")) for n in range(5)] == [2, 1, 2, 2, 2]

    async def test_a_commit_may_be_repeated(self, store: Store) -> None:
        await issue(store, granted("o", "bob", next_attempt_at=NOW + 1e6))
        await issue(store, pending("a", "ann"), pending("b", "bob"), pending("c", "cid"), beside_grant=True)
        claims = await store.claim_due("A", NOW, TTL, 10)
        make = {"ann": poll, "bob": now_granted, "cid": settle}
        steps = [make[claim.account.name](claim, NOW + 1) for claim in claims]
        for _ in range(3):
            assert await store.commit(steps) == [Outcome.COMMITTED] * 3
        assert [len(await store.history(f"acc-{name}")) for name in make] == [2, 4, 2]
        assert [len(s.authorizations) for s in await store.snapshots()] == [1, 1, 1]

    async def test_a_commit_that_keeps_its_lease_may_be_repeated(self, store: Store) -> None:
        await issue(store, granted())
        claim = await claim_one(store, "A", NOW, TTL)
        step = refreshing(claim, NOW + 1)
        for steps in ([step], [step], [step, step]):
            assert await store.commit(steps) == [Outcome.COMMITTED] * len(steps)
        assert len(await store.history("acc-ann")) == 2
        (snapshot,) = await store.snapshots()
        assert snapshot.leases == (Lease("A", NOW + TTL),)
        # The next attempt on the same lease is a step of its own.
        failed = Transition(NOW + 1, State.REFRESHING, State.REFRESHING, "attempt_failed", "timeout")
        again = replace(step, authorization=step.authorization._replace(attempts=1), history=(failed,))
        assert await store.commit([again]) == [Outcome.COMMITTED]
        assert (await store.history("acc-ann"))[2:] == [failed]

    async def test_a_repeated_grant_is_known_even_after_the_row_moved_on(self, store: Store) -> None:
        await issue(store, pending())
        claim = await claim_one(store)
        step = now_granted(claim, NOW + 1)
        await store.commit([step])
        other = await claim_one(store, "B", NOW + 601)
        await store.commit([refreshing(other, NOW + 601)])
        assert await store.commit([step]) == [Outcome.MERGED]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations[0].state is State.REFRESHING
        assert snapshot.leases[0] is not None
        assert await store.commit([now_granted(other, NOW + 602, "newer")]) == [Outcome.COMMITTED]
        assert await store.commit([step]) == [Outcome.LOST]


class SharedTokenContract:
    """A refresh token that a server gives to two accounts has one owner: who had it first."""

    async def test_the_second_is_written_without_it_and_told_why(self, store: Store) -> None:
        await issue(
            store, granted("one", "ann", refresh_token_digest="same", next_attempt_at=None), pending("two", "bob")
        )
        claim = await claim_one(store)
        step = now_granted(claim, NOW + 5, refresh_token_digest="same", token_expires_at=NOW + 905)
        assert await store.commit([step]) == [Outcome.SHARED]
        ann, bob = await store.snapshots()
        assert ann.grant is not None
        assert ann.grant.refresh_token is not None
        assert bob.grant is not None
        assert bob.grant.access_token == step.authorization.access_token
        assert (bob.grant.refresh_token, bob.grant.refresh_token_digest) == (None, None)
        assert bob.grant.next_attempt_at == NOW + 905
        assert bob.grant.error == SHARED
        assert "ann" in (bob.grant.error_description or "")
        assert (await store.history("acc-bob"))[-1].detail == (
            "for 900 s; the server gave it the refresh token of ann, which ann keeps"
        )

    async def test_a_refresh_that_brings_it_keeps_the_one_it_had(self, store: Store) -> None:
        bob = granted("two", "bob", refresh_token_digest="own", next_attempt_at=NOW)
        await issue(store, granted("one", "ann", refresh_token_digest="same", next_attempt_at=None), bob)
        claim = await claim_one(store)
        assert await store.commit([now_granted(claim, NOW + 5, refresh_token_digest="same")]) == [Outcome.SHARED]
        after = (await store.snapshots(["bob"]))[0].grant
        assert after is not None
        assert (after.refresh_token, after.refresh_token_digest) == (bob.refresh_token, "own")
        assert after.next_attempt_at == NOW + 605

    async def test_who_has_had_the_same_one_all_along_has_none_then(self, store: Store) -> None:
        """As after an import of an older kimiflow, which did not look."""
        bob = granted("two", "bob", refresh_token_digest="same", next_attempt_at=NOW)
        await issue(store, granted("one", "ann", refresh_token_digest="same", next_attempt_at=None), bob)
        claim = await claim_one(store)
        assert await store.commit([now_granted(claim, NOW + 5, refresh_token_digest="same")]) == [Outcome.SHARED]
        after = (await store.snapshots(["bob"]))[0].grant
        assert after is not None
        assert (after.refresh_token, after.refresh_token_digest, after.error) == (None, None, SHARED)

    async def test_of_one_batch_the_first_has_it(self, store: Store) -> None:
        await issue(store, pending("one", "ann"), pending("two", "bob"), pending("three", "cleo"))
        claims = sorted(await store.claim_due("worker", NOW, TTL, 10), key=lambda claim: claim.account.name)
        steps = [now_granted(claim, NOW + 5, claim.account.name, refresh_token_digest="same") for claim in claims[:2]]
        steps.append(now_granted(claims[2], NOW + 5, "cleo", refresh_token_digest="other"))
        assert await store.commit(steps) == [Outcome.COMMITTED, Outcome.SHARED, Outcome.COMMITTED]
        held = {s.account.name: s.grant and s.grant.refresh_token_digest for s in await store.snapshots()}
        assert held == {"ann": "same", "bob": None, "cleo": "other"}

    async def test_in_a_batch_of_refreshes_too(self, store: Store) -> None:
        rows = [granted(n, n, refresh_token_digest=f"own-{n}", next_attempt_at=NOW) for n in ("ann", "bob")]
        await issue(store, *rows)
        claims = sorted(await store.claim_due("worker", NOW, TTL, 10), key=lambda claim: claim.account.name)
        steps = [now_granted(claim, NOW + 5, claim.account.name, refresh_token_digest="same") for claim in claims]
        assert await store.commit(steps) == [Outcome.COMMITTED, Outcome.SHARED]

    async def test_the_account_itself_may_be_given_it_again(self, store: Store) -> None:
        await issue(store, granted("one", "ann", refresh_token_digest="same", next_attempt_at=None))
        assert (await store.begin([beginning(pending("two", "ann"), beside_grant=True)])) == [True]
        claim = await claim_one(store)
        assert claim.authorization.id == "two"
        assert await store.commit([now_granted(claim, NOW + 5, refresh_token_digest="same")]) == [Outcome.COMMITTED]
        (snapshot,) = await store.snapshots()
        assert [a.refresh_token_digest for a in snapshot.authorizations] == ["same"]

    async def test_once_its_owner_is_signed_out_it_is_free(self, store: Store) -> None:
        await issue(
            store, granted("one", "ann", refresh_token_digest="same", next_attempt_at=None), pending("two", "bob")
        )
        await store.sign_out(["acc-ann"], NOW, forget=False)
        claim = await claim_one(store)
        assert await store.commit([now_granted(claim, NOW + 5, refresh_token_digest="same")]) == [Outcome.COMMITTED]

    async def test_a_step_that_was_written_so_is_known_again(self, store: Store) -> None:
        await issue(
            store, granted("one", "ann", refresh_token_digest="same", next_attempt_at=None), pending("two", "bob")
        )
        step = now_granted(await claim_one(store), NOW + 5, refresh_token_digest="same")
        assert await store.commit([step]) == [Outcome.SHARED]
        rows = len(await store.history("acc-bob"))
        assert [outcome.is_written for outcome in await store.commit([step])] == [True]
        assert len(await store.history("acc-bob")) == rows
        assert (await store.snapshots(["bob"]))[0].grant is not None

"""Beginning, renewing and ending sign-ins; accounts."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kimiflow.model import Account, State, Transition

from .making import NOW, TTL, account, beginning, granted, issue, pending, requested

if TYPE_CHECKING:
    from kimiflow.stores.base import Store


class SignInContract:
    """``add_accounts``, ``set_proxy``, ``begin`` and ``sign_out``."""

    async def test_an_account_that_exists_is_left_as_it_is(self, store: Store, peer: Store) -> None:
        first = account("ann", proxy="http://proxy.test:3128")
        assert await store.add_accounts([first]) == [first]
        other = Account("acc-2", "ann", "other", "device-2", None, NOW + 9)
        bob = account("bob")
        assert await peer.add_accounts([other, bob, other]) == [first, bob, first]
        assert [s.account for s in await store.snapshots()] == [first, bob]
        assert await store.add_accounts([]) == []

    async def test_of_many_at_once_the_first_stays(self, store: Store, peer: Store) -> None:
        names = ["ann", "bob", "eve"]
        mine = [account(name) for name in names]
        theirs = [replace(account(name), id=f"acc-{name}-2", device_id="other") for name in reversed(names)]
        found = await asyncio.gather(
            *(each.add_accounts(wanted) for _ in range(4) for each, wanted in ((store, mine), (peer, theirs)))
        )
        stored = {snapshot.account.name: snapshot.account for snapshot in await store.snapshots()}
        assert sorted(stored) == names
        assert all(each == stored[each.name] for accounts in found for each in accounts)

    async def test_of_two_new_accounts_of_one_name_the_first_stays(self, store: Store) -> None:
        first, second = account("ann"), replace(account("ann"), id="acc-2", device_id="device-2")
        assert await store.add_accounts([first, second]) == [first, first]

    async def test_a_proxy_is_replaced(self, store: Store) -> None:
        await issue(store, pending())
        await store.set_proxy("acc-ann", "env:ANN_PROXY")
        await store.set_proxy("acc-nobody", "env:NOBODY")
        (claim,) = await store.claim_due("A", NOW, TTL, 10)
        assert claim.account == account("ann", proxy="env:ANN_PROXY")
        await store.set_proxy("acc-ann", None)
        (snapshot,) = await store.snapshots()
        assert snapshot.account == account("ann")

    async def test_a_beginning_has_its_row_of_history(self, store: Store) -> None:
        await issue(store, requested())
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (requested(),)
        assert await store.history("acc-ann") == [Transition(NOW, None, State.REQUESTED, "login_requested")]
        assert await store.begin([]) == []

    @pytest.mark.parametrize("state", [State.REQUESTED, State.PENDING, State.SLOW_DOWN])
    @pytest.mark.parametrize("beside_grant", [False, True])
    async def test_one_sign_in_on_its_way_is_enough(self, store: Store, state: State, beside_grant: bool) -> None:
        row = pending(state=state)
        await issue(store, row)
        assert await store.begin([beginning(requested("two"), beside_grant=beside_grant)]) == [False]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (row,)
        assert len(await store.history("acc-ann")) == 1

    @pytest.mark.parametrize("state", [State.GRANTED, State.REFRESHING])
    async def test_beside_a_grant_only_where_it_is_allowed(self, store: Store, state: State) -> None:
        await issue(store, granted(state=state))
        two = beginning(requested("two"))
        assert await store.begin([two]) == [False]
        assert await store.begin([replace(two, beside_grant=True)]) == [True]
        (snapshot,) = await store.snapshots()
        assert {a.id for a in snapshot.authorizations} == {"one", "two"}

    async def test_beside_what_rests(self, store: Store) -> None:
        await issue(store, requested(state=State.EXPIRED, next_attempt_at=None))
        await issue(store, requested("two"))

    async def test_no_account_no_sign_in(self, store: Store) -> None:
        assert await store.begin([beginning(requested())]) == [False]
        assert await store.history("acc-ann") == []

    async def test_in_one_batch_the_first_of_an_account_wins(self, store: Store) -> None:
        await store.add_accounts([account("ann"), account("bob")])
        rows = [requested("1", "ann"), requested("2", "ann"), requested("3", "bob"), requested("4", "cid")]
        assert await store.begin([beginning(row) for row in rows]) == [True, False, True, False]

    async def test_of_many_who_begin_at_once_one_does(self, store: Store, peer: Store) -> None:
        await store.add_accounts([account()])
        begun = await asyncio.gather(
            *((peer if n % 2 else store).begin([beginning(requested(f"r{n}"))]) for n in range(8))
        )
        assert sorted(begun) == [[False]] * 7 + [[True]]

    async def test_an_id_is_used_once(self, store: Store) -> None:
        await issue(store, requested("one", "ann", state=State.DENIED, next_attempt_at=None))
        await store.add_accounts([account("bob")])
        assert await store.begin([beginning(requested("one", "ann"))]) == [False]
        assert await store.begin([beginning(requested("one", "bob"))]) == [False]
        assert await store.begin([beginning(requested("one", "bob"), renews=NOW)]) == [False]

    @pytest.mark.parametrize("state", [State.DENIED, State.EXPIRED])
    async def test_what_rests_is_renewed(self, store: Store, state: State) -> None:
        at = NOW + 1 / 3
        await issue(store, requested(state=state, updated_at=at, next_attempt_at=None, token_version=2))
        again = requested(updated_at=NOW + 9, next_attempt_at=NOW + 9, token_version=3)
        history = Transition(NOW + 9, state, State.REQUESTED, "login_requested")
        renewal = replace(beginning(again, renews=at), history=history)
        assert await store.begin([renewal]) == [True]
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (again,)
        assert (await store.history("acc-ann"))[-1] == history
        (claim,) = await store.claim_due("A", NOW + 9, TTL, 10)
        assert claim.authorization == again
        assert not claim.interrupted
        # Whoever saw the same resting row is too late.
        assert await store.begin([renewal]) == [False]

    async def test_what_moved_on_is_not_renewed(self, store: Store) -> None:
        await issue(store, requested(state=State.DENIED, updated_at=NOW, next_attempt_at=None))
        assert await store.begin([beginning(requested(), renews=NOW - 1)]) == [False]
        assert await store.begin([beginning(requested("gone"), renews=NOW)]) == [False]
        await issue(store, pending("two"))
        assert await store.begin([beginning(requested(), renews=NOW)]) == [False]

    async def test_what_holds_tokens_is_not_renewed(self, store: Store) -> None:
        await issue(store, granted())
        assert await store.begin([beginning(requested(), renews=NOW, beside_grant=True)]) == [False]

    async def test_a_sign_out_keeps_the_account_and_its_history(self, store: Store) -> None:
        await issue(store, granted("a", "ann"), pending("b", "bob"))
        await issue(store, pending("c", "ann"), beside_grant=True)
        before = await store.snapshots(["ann"])
        gone = await store.sign_out(["acc-ann", "acc-nobody"], NOW + 5)
        assert gone == sorted(before[0].authorizations, key=lambda row: row.id)
        assert [row.refresh_token for row in gone] != [None, None]
        ann, bob = await store.snapshots()
        assert (ann.account, ann.authorizations, ann.leases) == (account("ann"), (), ())
        assert len(bob.authorizations) == 1
        history = await store.history("acc-ann")
        assert len(history) == 4
        assert set(history[2:]) == {
            Transition(NOW + 5, State.GRANTED, None, "signed_out"),
            Transition(NOW + 5, State.PENDING, None, "signed_out"),
        }
        assert len(await store.history("acc-bob")) == 1
        assert await store.sign_out(["acc-ann"], NOW + 6) == []
        await issue(store, requested("d", "ann"))

    async def test_to_forget_takes_the_account_as_well(self, store: Store) -> None:
        await issue(store, granted("a", "ann"), granted("b", "bob"))
        assert [row.id for row in await store.sign_out(["acc-ann"], NOW, forget=True)] == ["a"]
        assert [s.account.name for s in await store.snapshots()] == ["bob"]
        assert await store.history("acc-ann") == []
        again = replace(account("ann"), id="acc-other")
        assert await store.add_accounts([again]) == [again]
        assert await store.history("acc-other") == []
        assert await store.sign_out([], NOW) == []

"""What is changed about accounts, and rows that are put right beside their life."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from kimiflow.model import Sealed, State, Transition
from kimiflow.stores.base import Amendment, Holding, Outcome

from .making import NOW, TTL, account, claim_one, granted, issue, now_granted, pending, poll, requested

if TYPE_CHECKING:
    from kimiflow.model import Authorization
    from kimiflow.stores.base import Store

LOST = Transition(NOW + 5, State.GRANTED, State.EXPIRED, "key_lost", "why")


def resealed(row: Authorization[Sealed], key_id: str = "new") -> Authorization[Sealed]:
    def again(value: Sealed | None) -> Sealed | None:
        return None if value is None else Sealed(f"{key_id}.{value.partition('.')[2]}")

    return row.with_secrets(again(row.device_code), again(row.access_token), again(row.refresh_token))


def ended(row: Authorization[Sealed]) -> Authorization[Sealed]:
    bare: Authorization[Sealed] = row.with_secrets(None, None, None)
    return bare._replace(state=State.EXPIRED, updated_at=NOW + 5, next_attempt_at=None)


class UpkeepContract:
    """``set_disabled``, ``set_label``, ``rename``, ``sealed_with``, ``sealed_otherwise``, ``holdings``, ``amend``."""

    async def test_accounts_begin_enabled_and_without_a_label(self, store: Store, peer: Store) -> None:
        marked = account("bob", disabled=True, label="Bob's")
        await store.add_accounts([account("ann"), marked])
        assert [s.account for s in await peer.snapshots()] == [account("ann"), marked]

    async def test_disabled_and_label_are_replaced(self, store: Store, peer: Store) -> None:
        await issue(store, granted("a", "ann"), pending("b", "bob"), pending("c", "cid"))
        await store.set_disabled(["acc-ann", "acc-bob", "acc-nobody"], True)
        await store.set_label(["acc-ann"], "the one at work, ½")
        found = {s.account.name: s.account for s in await peer.snapshots()}
        assert found["ann"] == account("ann", disabled=True, label="the one at work, ½")
        assert found["bob"] == account("bob", disabled=True)
        assert found["cid"] == account("cid")
        claims = await peer.claim_due("A", NOW, TTL, 10)
        assert {c.account.name: c.account for c in claims} == found, "what is disabled is driven like the others"
        await peer.set_disabled(["acc-ann"], False)
        await peer.set_label(["acc-ann"], None)
        await peer.set_disabled([], True)
        assert (await store.snapshots(["ann"]))[0].account == account("ann")

    async def test_a_new_name(self, store: Store, peer: Store) -> None:
        await issue(store, granted("a", "ann"), pending("b", "bob"))
        assert await store.rename("acc-ann", "eve") is True
        assert [s.account.name for s in await peer.snapshots()] == ["bob", "eve"]
        eve = (await peer.snapshots(["eve"]))[0]
        assert (eve.account, len(eve.authorizations)) == (replace(account("ann"), name="eve"), 1)
        assert await peer.snapshots(["ann"]) == []
        assert await peer.rename("acc-ann", "eve") is True, "an answer that was lost is asked for again"
        again = replace(account("ann"), id="acc-other")
        assert await store.add_accounts([again]) == [again]

    async def test_a_name_that_is_taken(self, store: Store) -> None:
        await store.add_accounts([account("ann"), account("bob")])
        assert await store.rename("acc-ann", "bob") is False
        assert await store.rename("acc-nobody", "cid") is False
        assert [s.account.name for s in await store.snapshots()] == ["ann", "bob"]

    async def test_of_many_who_want_a_name_one_gets_it(self, store: Store, peer: Store) -> None:
        names = [f"n{number}" for number in range(6)]
        await store.add_accounts([account(name) for name in names])
        done = await asyncio.gather(
            *((peer if i % 2 else store).rename(f"acc-{name}", "wanted") for i, name in enumerate(names))
        )
        assert sorted(done) == [False] * 5 + [True]
        assert [s.account.name for s in await store.snapshots(["wanted"])] == ["wanted"]

    async def test_which_keys_there_are(self, store: Store) -> None:
        assert await store.sealed_with() == {}
        odd = requested("c", "cid", device_code=Sealed("0123456789abcdef"))
        await issue(store, granted("a", "ann"), resealed(pending("b", "bob")), odd, requested("d", "dan"))
        assert await store.sealed_with() == {"key": 2, "new": 1, "01234567": 1}

    async def test_what_is_sealed_otherwise(self, store: Store) -> None:
        rows = [granted("a", "ann"), resealed(granted("b", "bob")), pending("c", "cid"), granted("d", "dan")]
        mixed = granted("e", "eve", access_token=Sealed("new.x"))
        await issue(store, *rows, mixed, requested("f", "fay"))
        assert [a.id for a in await store.sealed_otherwise("new", 10)] == ["a", "c", "d", "e"]
        assert await store.sealed_otherwise("new", 2) == [rows[0], rows[2]]
        assert [a.id for a in await store.sealed_otherwise("new", 2, "c")] == ["d", "e"]
        assert [a.id for a in await store.sealed_otherwise("key", 10)] == ["b", "e"]
        assert [a.id for a in await store.sealed_otherwise("ne", 10)] == ["a", "b", "c", "d", "e"]

    async def test_who_holds_what(self, store: Store, peer: Store) -> None:
        await issue(store, pending("a", "ann"), granted("b", "bob", next_attempt_at=NOW + 600))
        assert await store.holdings() == []
        claim = await claim_one(store)
        held = Holding("a", "A", 1, NOW + TTL)
        assert await peer.holdings() == [held], "also when it is over"
        await store.commit([poll(claim, NOW)])
        assert await peer.holdings() == []

    async def test_new_seals_change_nothing_else(self, store: Store, peer: Store) -> None:
        row = granted(next_attempt_at=NOW + 600)
        await issue(store, row)
        assert await store.amend([], NOW) == []
        assert await store.amend([Amendment(row, resealed(row))], NOW) == [True]
        (snapshot,) = await peer.snapshots()
        assert snapshot.authorizations == (resealed(row),)
        assert len(await peer.history("acc-ann")) == 1
        assert await peer.next_due() == NOW + 600
        assert await store.amend([Amendment(row, resealed(row, "newer"))], NOW) == [False], "not what was looked at"

    async def test_what_is_held_is_left_alone(self, store: Store) -> None:
        row = granted()
        await issue(store, row)
        claim = await claim_one(store)
        assert await store.amend([Amendment(row, resealed(row))], NOW + TTL - 1) == [False]
        assert await store.commit([now_granted(claim, NOW)]) == [Outcome.COMMITTED]

    async def test_new_seals_leave_a_lease_that_is_over_to_be_told_of(self, store: Store) -> None:
        row = granted()
        await issue(store, row)
        await claim_one(store)
        assert await store.amend([Amendment(row, resealed(row))], NOW + TTL) == [True]
        claim = await claim_one(store, "B", NOW + TTL)
        assert (claim.interrupted, claim.generation, claim.authorization) == (True, 2, resealed(row))

    async def test_an_end_has_its_row_of_history_and_rests(self, store: Store, peer: Store) -> None:
        row, other = granted(), pending("two", "bob", next_attempt_at=NOW + 9)
        await issue(store, row, other)
        late = await claim_one(store)
        assert await store.amend([Amendment(row, ended(row), LOST)], NOW + TTL) == [True]
        ann, bob = await peer.snapshots()
        assert (ann.authorizations, ann.leases, bob.authorizations) == ((ended(row),), (None,), (other,))
        assert (await peer.history("acc-ann"))[-1] == LOST
        assert await peer.next_due() == NOW + 9
        assert await store.commit([poll(late, NOW)]) == [Outcome.LOST]
        assert await store.count_on_their_way() == 1

    async def test_a_row_that_moved_on_or_went_is_not_amended(self, store: Store) -> None:
        row = pending()
        await issue(store, row)
        await store.commit([poll(await claim_one(store), NOW)])
        missing = granted("two")
        wanted = [Amendment(row, resealed(row)), Amendment(missing, resealed(missing))]
        assert await store.amend(wanted, NOW) == [False, False]

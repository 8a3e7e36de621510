"""What can be read, and hearing of changes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from kimiflow.model import Sealed, State, Transition
from kimiflow.stores.base import Step

from .making import NOW, TTL, account, claim_one, granted, issue, now_granted, pending, poll, requested

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kimiflow.stores.base import Store

PATIENCE = 5.0


class ReadingContract:
    """``snapshots``, ``count_on_their_way``, ``history``, ``prune_history``, ``any_sealed`` and ``changed``."""

    async def test_snapshots_are_sorted_by_name(self, store: Store) -> None:
        names = ["bob", "Zoe", "ann", "a-1", "a.1", "a_1", "A1", "10", "9"]
        await store.add_accounts([account(name) for name in names])
        assert [s.account.name for s in await store.snapshots()] == sorted(names)
        chosen = await store.snapshots(["zoe", "bob", "Zoe", "bob", "nobody"])
        assert [s.account.name for s in chosen] == ["Zoe", "bob"]
        assert await store.snapshots([]) == []

    async def test_a_snapshot_has_every_authorization_with_its_lease(self, store: Store) -> None:
        old, rested, new = (
            granted("x", created_at=NOW - 9, next_attempt_at=NOW + 600),
            requested("a", created_at=NOW - 5, state=State.DENIED, next_attempt_at=None),
            pending("m", created_at=NOW),
        )
        await issue(store, rested, old, new, beside_grant=True)
        await claim_one(store)
        (snapshot,) = await store.snapshots()
        assert snapshot.authorizations == (old, rested, new)
        assert [lease and lease.owner for lease in snapshot.leases] == [None, None, "A"]
        assert (snapshot.grant, snapshot.on_its_way, snapshot.resting) == (old, new, rested)

    async def test_sign_ins_on_their_way_are_counted(self, store: Store) -> None:
        assert await store.count_on_their_way() == 0
        await issue(
            store,
            requested("1", "n1"),
            pending("2", "n2"),
            pending("3", "n3", state=State.SLOW_DOWN),
            granted("4", "n4"),
            granted("5", "n5", state=State.REFRESHING),
            requested("6", "n6", state=State.DENIED, next_attempt_at=None),
            requested("7", "n7", state=State.EXPIRED, next_attempt_at=None),
        )
        assert await store.count_on_their_way() == 3
        assert await store.count_on_their_way(only=["acc-n1", "acc-n4", "acc-nobody"]) == 1
        assert await store.count_on_their_way(only=[]) == 0
        for claim in await store.claim_due("A", NOW, TTL, 10, only=["acc-n1", "acc-n2", "acc-n3"]):
            await store.commit([now_granted(claim, NOW)])
        assert await store.count_on_their_way() == 0

    async def test_old_history_is_pruned(self, store: Store) -> None:
        await issue(store, pending("a", "ann"), pending("b", "bob"))
        claims = await store.claim_due("A", NOW, TTL, 10)
        rows = tuple(
            Transition(NOW + n, State.PENDING, State.PENDING, "attempt_failed", f"number {n}") for n in range(1, 50)
        )
        await store.commit([Step(claim, claim.authorization, rows) for claim in claims])
        assert await store.prune_history(NOW + 40) == 80
        for name in ("acc-ann", "acc-bob"):
            assert await store.history(name) == list(rows[39:])
        assert await store.prune_history(NOW + 40) == 0
        assert await store.prune_history(NOW + 1e6) == 20

    @pytest.mark.parametrize("column", ["device_code", "access_token", "refresh_token"])
    async def test_some_sealed_secret(self, store: Store, column: str) -> None:
        assert await store.any_sealed() is None
        await issue(store, requested("a", "ann"))
        assert await store.any_sealed() is None
        await issue(store, requested("b", "bob", **{column: Sealed("key.data")}))
        assert await store.any_sealed() == "key.data"

    async def test_the_stores_time(self, store: Store) -> None:
        now = time.time()
        assert await store.now(now) == pytest.approx(now, abs=5.0)

    async def test_changed_waits_in_vain(self, store: Store) -> None:
        await settled(store)
        assert await store.changed(0.0) is False
        assert await store.changed(0.05) is False

    async def test_reading_changes_nothing(self, store: Store) -> None:
        await issue(store, pending())
        await settled(store)
        await store.snapshots()
        await store.next_due()
        await store.history("acc-ann")
        await store.count_on_their_way()
        await store.any_sealed()
        assert await store.changed(0.05) is False

    async def test_changed_tells_of_what_was_before(self, store: Store) -> None:
        await settled(store)
        await issue(store, pending())
        assert await store.changed(PATIENCE) is True
        assert await store.changed(0.0) is False

    @pytest.mark.parametrize("what", ["begin", "claim", "commit", "hasten", "sign_out"])
    async def test_changed_wakes_all_who_wait(self, store: Store, peer: Store, what: str) -> None:
        await issue(store, pending("a", "ann"), granted("b", "bob", next_attempt_at=NOW + 60))
        claim = await claim_one(store)
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "begin": lambda: issue(peer, pending("c", "cid")),
            "claim": lambda: peer.claim_due("B", NOW + 60, TTL, 1),
            "commit": lambda: peer.commit([poll(claim, NOW)]),
            "hasten": lambda: peer.hasten([("b", 2)], NOW),
            "sign_out": lambda: peer.sign_out(["acc-bob"], NOW),
        }
        await settled(store)
        waiting = [asyncio.create_task(store.changed(PATIENCE)) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert not any(task.done() for task in waiting)
        await acts[what]()
        assert await asyncio.gather(*waiting) == [True] * 3

    async def test_waiting_can_be_cancelled(self, store: Store) -> None:
        await settled(store)
        task = asyncio.create_task(store.changed(60))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.changed(0.0) is False


async def settled(store: Store) -> None:
    """Hears all the news there are."""
    while await store.changed(0.0):
        await asyncio.sleep(0)

"""The history of all accounts, read on from a cursor."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kimiflow.model import State, Transition
from kimiflow.stores.base import Step

from .making import NOW, TTL, account, claim_one, granted, issue, now_granted, pending, poll, requested

if TYPE_CHECKING:
    from kimiflow.stores.base import Store


class RecordContract:
    """``last_cursor`` and ``transitions_after``."""

    async def test_an_empty_record(self, store: Store) -> None:
        assert await store.last_cursor() == 0
        assert await store.transitions_after(0, 10) == []

    async def test_every_kind_of_transition_is_recorded_once(self, store: Store, peer: Store) -> None:
        await issue(store, granted("old", "ann", next_attempt_at=NOW + 60))
        await issue(store, pending("new", "ann"), beside_grant=True)
        await issue(peer, requested("b", "bob"))
        claims = await store.claim_due("A", NOW, TTL, 10)
        await store.commit([now_granted(c, NOW) for c in claims if c.authorization.id == "new"])
        await store.sign_out(["acc-bob"], NOW)
        entries = await peer.transitions_after(0, 100)
        assert [(e.account, e.authorization_id, e.transition.event) for e in entries] == [
            ("ann", "old", "login_requested"),
            ("ann", "new", "login_requested"),
            ("bob", "b", "login_requested"),
            ("ann", "new", "access_token_issued"),
            ("ann", "old", "replaced"),
            ("bob", "b", "signed_out"),
        ]
        for name in ("ann", "bob"):
            mine = [e.transition for e in entries if e.account == name]
            assert mine == await store.history(f"acc-{name}")
        cursors = [e.cursor for e in entries]
        assert cursors == sorted(set(cursors))
        assert cursors[0] > 0
        assert await store.last_cursor() == cursors[-1]

    async def test_pages_join_without_gap_or_overlap(self, store: Store) -> None:
        await issue(store, pending("a", "ann"), pending("b", "bob"))
        claims = await store.claim_due("A", NOW, TTL, 10)
        rows = tuple(Transition(NOW + n, State.PENDING, State.PENDING, "attempt_failed", str(n)) for n in range(9))
        await store.commit([Step(claim, claim.authorization, rows) for claim in claims])
        whole = await store.transitions_after(0, 100)
        assert len(whole) == 20
        paged, cursor = [], 0
        while page := await store.transitions_after(cursor, 3):
            assert len(page) <= 3
            paged += page
            cursor = page[-1].cursor
        assert paged == whole

    async def test_from_the_last_cursor_comes_only_what_is_new(self, store: Store) -> None:
        await issue(store, pending())
        cursor = await store.last_cursor()
        assert await store.transitions_after(cursor, 10) == []
        await store.commit([poll(await claim_one(store), NOW)])
        (entry,) = await store.transitions_after(cursor, 10)
        assert entry.transition.event == "authorization_pending"

    async def test_what_changes_no_state_is_not_in_it(self, store: Store) -> None:
        await store.add_accounts([account()])
        await issue(store, granted(next_attempt_at=NOW + 600))
        cursor = await store.last_cursor()
        await store.hasten([("one", 2)], NOW)
        await claim_one(store)
        await store.set_proxy("acc-ann", "http://proxy.test:1")
        assert await store.transitions_after(cursor, 10) == []

    async def test_a_cursor_is_never_used_again(self, store: Store) -> None:
        await issue(store, pending("a", "ann"), pending("b", "bob"))
        first = await store.transitions_after(0, 10)
        await store.sign_out(["acc-bob"], NOW, forget=True)
        assert [e.account for e in await store.transitions_after(0, 10)] == ["ann"]
        await store.prune_history(NOW + 1)
        assert await store.transitions_after(0, 10) == []
        await issue(store, pending("c", "cid"))
        (entry,) = await store.transitions_after(0, 10)
        assert entry.cursor > max(e.cursor for e in first)

    async def test_whoever_reads_while_many_write_misses_nothing(self, store: Store, peer: Store) -> None:
        names = [f"n{i}" for i in range(40)]
        await issue(store, *[pending(f"row-{name}", name) for name in names])
        claims = await store.claim_due("A", NOW, TTL, 100)
        cursor = await store.last_cursor()
        writing = [
            asyncio.create_task((store, peer)[i % 2].commit([poll(claim, NOW + i)])) for i, claim in enumerate(claims)
        ]
        seen = []
        async with asyncio.timeout(10):
            while len(seen) < len(names):
                page = await peer.transitions_after(cursor, 7)
                if page:
                    seen += page
                    cursor = page[-1].cursor
                await asyncio.sleep(0)
        await asyncio.gather(*writing)
        assert {e.account for e in seen} == set(names)
        assert await store.transitions_after(cursor, 10) == []

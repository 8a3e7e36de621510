"""PostgreSQL shows ids in another order than it hands them out; the record must not."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from kimiflow.stores.registry import open_store

from .contract.making import NOW, claim_one, issue, pending, poll

if TYPE_CHECKING:
    from .servers import PostgresqlServer


async def test_a_transaction_that_is_late_is_waited_for(postgresql: PostgresqlServer) -> None:
    url = postgresql.new_database(f"kimiflow_{uuid.uuid4().hex}")
    store = open_store(url)
    await store.open()
    await issue(store, pending("a", "ann"))
    before = await store.last_cursor()
    insert = sa.text(
        "INSERT INTO history (account_id, authorization_id, at, event) VALUES ('acc-ann', 'late', 0, 'late')"
    )
    elsewhere = create_async_engine(sa.make_url(url).set(drivername="postgresql+asyncpg"))
    try:
        async with elsewhere.connect() as late:
            await late.execute(sa.text("SELECT id FROM accounts FOR KEY SHARE"))  # what our own writers do first
            await late.execute(insert)
            await store.commit([poll(await claim_one(store), NOW)])
            assert [t.event for t in await store.history("acc-ann")][-1] == "authorization_pending", "it is committed"
            assert await store.transitions_after(before, 10) == [], "but another may still come before it"
            await late.commit()
        events = [entry.transition.event for entry in await store.transitions_after(before, 10)]
        assert events == ["late", "authorization_pending"]

        before = await store.last_cursor()
        async with elsewhere.connect() as given_up:
            await given_up.execute(insert)
            await store.commit([poll(await claim_one(store, at=NOW + 60), NOW + 60)])
            assert await store.transitions_after(before, 10) == []
        (entry,) = await store.transitions_after(before, 10)
        assert entry.transition.event == "authorization_pending", "what was rolled back is not waited for"
    finally:
        await elsewhere.dispose()
        await store.close()

"""PostgreSQL goes away in every manner, and comes back."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import asyncpg
import pytest

from kimiflow.errors import StoreUnavailable
from kimiflow.stores import address
from kimiflow.stores.base import Outcome
from kimiflow.stores.postgresql import CONNECTIONS
from kimiflow.stores.sql import SqlStore
from tests.processes.proxy import Proxy
from tests.stores.contract.making import NOW, claim_one, issue, now_granted, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.postgres import Postgres


async def warm(store: SqlStore) -> None:
    """Every connection that it may have is open."""
    await asyncio.gather(*(store.snapshots() for _ in range(2 * CONNECTIONS)), store.changed(0.0))


async def test_a_restart_costs_one_call(postgres_to_kill: Postgres) -> None:
    """The connections of a pool are known to be dead as soon as one of them turned out to be."""
    store = SqlStore(postgres_to_kill.fresh())
    await store.open()
    await issue(store, pending())
    claim = await claim_one(store)
    for round_ in range(3):
        await warm(store)
        postgres_to_kill.kill()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.commit([now_granted(claim, NOW)])
            with pytest.raises(StoreUnavailable):
                await store.changed(0.0)
            with pytest.raises(StoreUnavailable):
                await store.now(0.0)
        postgres_to_kill.start()
        await warm(store)
        assert await store.commit([now_granted(claim, NOW)]) == [Outcome.COMMITTED], round_
    await store.close()


async def test_a_restart_that_nobody_noticed_costs_one_call(postgres_to_kill: Postgres) -> None:
    store = SqlStore(postgres_to_kill.fresh())
    await store.open()
    await issue(store, pending())
    claim = await claim_one(store)
    for _ in range(2):
        await warm(store)
        postgres_to_kill.kill()
        postgres_to_kill.start()
        failed = 0
        for act in (store.snapshots, lambda: store.commit([now_granted(claim, NOW)]), store.next_due):
            for _ in range(2):
                try:
                    await act()
                except StoreUnavailable:
                    failed += 1
        assert failed <= 1
        for _ in range(2):
            try:
                await store.changed(0.0)
                break
            except StoreUnavailable:
                continue
        else:
            pytest.fail("who listens does not come back")
    await store.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_NO_ANSWER", 0.5)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("how", ["stall", "swallow"])
async def test_a_network_that_is_silent_is_not_waited_for(postgres: Postgres, how: str) -> None:
    url = postgres.fresh()
    async with Proxy(postgres.address()) as proxy:
        far = postgres.through(url, proxy.port)
        store = SqlStore(far + ("&" if "?" in far else "?") + "connect_timeout=1&sslmode=disable")
        await store.open()
        await issue(store, pending())
        claim = await claim_one(store)
        await warm(store)
        getattr(proxy, how)()
        for act in (lambda: store.commit([now_granted(claim, NOW)]), store.snapshots):
            asked = time.monotonic()
            with pytest.raises(StoreUnavailable, match="cannot be reached") as caught:
                await act()
            assert "postgres:" not in str(caught.value)
            assert time.monotonic() - asked < 6.0
        proxy.heal()
        proxy.reset()
        for _ in range(2):
            try:
                assert await store.commit([now_granted(claim, NOW)]) == [Outcome.COMMITTED]
                break
            except StoreUnavailable:
                continue
        else:
            pytest.fail("it does not come back")
        await store.close()


async def test_a_standby_that_was_promoted_later_is_tried_again(postgres: Postgres) -> None:
    """A server that may only be read: nothing is written, nothing is lost, and it is said what to look at."""
    url = postgres.fresh()
    store = SqlStore(url)
    await store.open()
    await issue(store, pending())
    claim = await claim_one(store)
    readonly = SqlStore(url + ("&" if "?" in url else "?") + "default_transaction_read_only=on")
    await readonly.open()
    with pytest.raises(StoreUnavailable, match="may only be read: it is a standby"):
        await readonly.commit([now_granted(claim, NOW)])
    assert await store.commit([now_granted(claim, NOW)]) == [Outcome.COMMITTED]
    for each in (store, readonly):
        await each.close()


_NO_SPACE = """
CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_space BEFORE INSERT OR UPDATE ON authorizations FOR EACH STATEMENT EXECUTE FUNCTION no_space();
"""


@asynccontextmanager
async def full_disk(store: SqlStore, url: str) -> AsyncIterator[None]:
    """Nothing can be written while the block runs, for want of space."""
    if url.startswith("sqlite"):
        # Of the one connection that writes; the file has no page more than it needs.
        async with store._backend.writer.connect() as connection:
            await connection.exec_driver_sql("PRAGMA max_page_count = 1")
        yield
        async with store._backend.writer.connect() as connection:
            await connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
        return
    connection = await asyncpg.connect(url)
    await connection.execute(_NO_SPACE)
    yield
    await connection.execute("DROP TRIGGER no_space ON authorizations")
    await connection.close()


async def test_a_full_disk_costs_nothing_that_arrived(database_url: str) -> None:
    """It is told as what it is, nothing of a group is written, and the same call does all of it once there is space."""
    store = SqlStore(database_url)
    await store.open()
    await issue(store, *(pending(f"row-{n}", f"name-{n}") for n in range(3)))
    claims = await store.claim_due("A", NOW, 60.0, 10)
    # More than the file has room for.
    detail = "x" * 20_000
    steps = [
        replace(step, history=(replace(step.history[0], detail=detail),))
        for step in (now_granted(claim, NOW) for claim in claims)
    ]
    async with full_disk(store, database_url):
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match=r"the disk is full|out of connections, memory or disk"):
                await store.commit(steps)
        assert not any(snapshot.grant for snapshot in await store.snapshots())
    assert await store.commit(steps) == [Outcome.COMMITTED] * 3
    assert all(snapshot.grant for snapshot in await store.snapshots())
    await store.close()

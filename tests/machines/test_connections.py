"""How many connections a worker opens, and what it does with them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg

from kimiflow.stores.postgresql import CONNECTIONS
from kimiflow.stores.sql import SqlStore
from tests.stores.contract.making import NOW, TTL, claim_one, issue, pending, poll

if TYPE_CHECKING:
    from tests.postgres import Postgres

LISTENING = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND query LIKE 'LISTEN%'"


def named(url: str, name: str, **parameters: str) -> str:
    rest = "".join(f"&{key}={value}" for key, value in parameters.items())
    return f"{url}{'&' if '?' in url else '?'}application_name={name}{rest}"


async def count(url: str, name: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        found: int = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1", name
        )
        return found
    finally:
        await connection.close()


async def busy(store: SqlStore, number: int) -> None:
    """Everything that a worker does, as much at once as it can."""
    acts: list[Any] = [store.changed(0.5)]
    for _ in range(8):
        acts += [store.snapshots(), store.next_due(), store.now(0.0), store.claim_due(f"w{number}", NOW, TTL, 1)]
    await asyncio.gather(*acts)


async def test_one_worker_never_opens_more_than_it_says(postgres: Postgres) -> None:
    url = postgres.fresh()
    store = SqlStore(named(url, "one"))
    await store.open()
    working = asyncio.create_task(busy(store, 1))
    most = 0
    while not working.done():
        most = max(most, await count(url, "one"))
    await working
    most = max(most, await count(url, "one"))
    assert 1 < most <= CONNECTIONS
    await store.close()


async def test_twenty_workers_fit_a_server_as_it_is_installed(postgres: Postgres) -> None:
    url = postgres.fresh()
    stores = [SqlStore(named(url, f"w{n}")) for n in range(20)]
    await stores[0].open()
    await asyncio.gather(*(store.open() for store in stores[1:]))
    await asyncio.gather(*(busy(store, n) for n, store in enumerate(stores)))
    # Somebody looks in with psql, and somebody types a command.
    assert await count(url, "w7") <= CONNECTIONS
    command = SqlStore(url)
    await command.open()
    assert await command.snapshots() == []
    for store in (*stores, command):
        await store.close()


async def test_behind_a_pooler_nothing_belongs_to_a_connection(postgres: Postgres) -> None:
    url = postgres.fresh()
    pooled, direct = SqlStore(named(url, "pooled", pgbouncer="true")), SqlStore(named(url, "direct"))
    found = {}
    for store, name in ((pooled, "pooled"), (direct, "direct")):
        await store.open()
        await issue(store, pending(name, name))
        await store.changed(0.0)
        claim = await claim_one(store, at=NOW)
        await store.commit([poll(claim, NOW)])
        async with store._backend.reader.connect() as connection:
            raw = (await connection.get_raw_connection()).driver_connection
            assert raw is not None
            statements = await raw.fetchval("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
            held = await raw.fetchval(LISTENING, name)
            waits = await raw.fetchval("SHOW lock_timeout")
        async with store._database.writing() as connection:
            inside = (await connection.exec_driver_sql("SHOW lock_timeout")).scalar_one()
        found[name] = (statements > 0, held > 0 or store._backend._listener is not None, waits, inside)  # type: ignore[attr-defined]
    # What a pooler would refuse at the start is set anew in every transaction.
    assert found["pooled"] == (False, False, "0", "10s")
    assert found["direct"] == (True, True, "10s", "10s")
    for store in (pooled, direct):
        await store.close()


async def test_behind_a_pooler_the_clock_wakes(postgres: Postgres) -> None:
    url = postgres.fresh()
    pooled, other = SqlStore(named(url, "pooled", pgbouncer="true")), SqlStore(url)
    for store in (pooled, other):
        await store.open()
    while await pooled.changed(0.0):
        pass
    waiting = asyncio.create_task(pooled.changed(5.0))
    await asyncio.sleep(0.1)
    asked = asyncio.get_running_loop().time()
    await issue(other, pending())
    assert await waiting
    assert asyncio.get_running_loop().time() - asked < 1.0
    for store in (pooled, other):
        await store.close()

"""What is particular to PostgreSQL: its locks, its clock, its faults."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from kimiflow.errors import InvalidSetting, SchemaMismatch, StoreError, StoreUnavailable
from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, Transition
from kimiflow.stores import migrate, tables
from kimiflow.stores.base import Outcome, Step, Store
from kimiflow.stores.migrate import Standing
from kimiflow.stores.sql import SqlStore

from .contract.making import (
    NOW,
    TTL,
    account,
    beginning,
    claim_one,
    issue,
    now_granted,
    pending,
    poll,
    requested,
    settle,
)
from .servers import PostgresqlServer

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def url(postgresql: PostgresqlServer) -> str:
    return postgresql.new_database(f"kimiflow_{uuid.uuid4().hex}")


@pytest.fixture
async def store(url: str) -> AsyncIterator[SqlStore]:
    opened = SqlStore(url, busy_timeout=0.3)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def other(url: str) -> AsyncIterator[sa.ext.asyncio.AsyncEngine]:
    """Somebody else's connections to the same database."""
    engine = sa.ext.asyncio.create_async_engine(sa.make_url(url).set(drivername="postgresql+asyncpg"))
    yield engine
    await engine.dispose()


async def test_the_clock_is_the_servers(store: SqlStore) -> None:
    assert await store.now(0.0) == pytest.approx(time.time(), abs=5)


async def test_a_claim_skips_what_is_locked(store: SqlStore, other: sa.ext.asyncio.AsyncEngine) -> None:
    await issue(store, pending("a", "ann"), pending("b", "bob"))
    async with other.begin() as connection:
        await connection.execute(sa.text("SELECT * FROM authorizations WHERE id = 'a' FOR UPDATE"))
        assert [c.authorization.id for c in await store.claim_due("A", NOW, TTL, 10)] == ["b"]
    assert [c.authorization.id for c in await store.claim_due("A", NOW, TTL, 10)] == ["a"]


async def test_a_row_that_stays_locked_is_unavailable(store: SqlStore, other: sa.ext.asyncio.AsyncEngine) -> None:
    await issue(store, pending())
    claim = await claim_one(store)
    async with other.begin() as connection:
        await connection.execute(sa.text("SELECT * FROM authorizations FOR UPDATE"))
        with pytest.raises(StoreUnavailable, match="is locked by another transaction"):
            await store.commit([poll(claim, NOW)])
    assert await store.commit([poll(claim, NOW)]) == [Outcome.COMMITTED]


async def test_a_connection_that_breaks_is_made_anew(store: SqlStore, other: sa.ext.asyncio.AsyncEngine) -> None:
    await issue(store, pending())
    claim = await claim_one(store)
    async with other.begin() as connection:
        end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'kimiflow'"
        await connection.execute(sa.text(end))
    with pytest.raises(StoreUnavailable) as caught:
        await store.commit([poll(claim, NOW)])
    assert len(str(caught.value).splitlines()) == 2
    assert await store.commit([poll(claim, NOW)]) == [Outcome.COMMITTED]


@pytest.mark.parametrize("column", ["attempts", "token_version"])
async def test_a_table_that_is_altered_meanwhile(
    store: SqlStore, other: sa.ext.asyncio.AsyncEngine, column: str
) -> None:
    """Statements that were prepared for the old one are prepared anew; a program that lives for months meets that."""

    async def altered(kind: str) -> None:
        async with other.begin() as connection:
            await connection.execute(sa.text(f"ALTER TABLE authorizations ALTER COLUMN {column} TYPE {kind}"))

    await issue(store, pending("a", "ann"), pending("b", "bob"), pending("c", "cid"))
    claims = [*await store.claim_due("A", NOW, TTL, 1), *await store.claim_due("A", NOW, TTL, 1)]
    assert await store.commit([poll(claims[0], NOW)]) == [Outcome.COMMITTED]
    assert await store.next_due() is not None
    await altered("bigint" if column == "attempts" else "smallint")
    assert len(await store.claim_due("A", NOW, TTL, 1)) == 1
    assert await store.commit([poll(claims[1], NOW)]) == [Outcome.COMMITTED]
    assert await store.next_due() is not None


@pytest.mark.parametrize("change", [{"host": "127.0.0.1", "port": 1}, {"database": "not_there"}])
async def test_a_server_that_cannot_be_reached(url: str, change: dict[str, object]) -> None:
    wrong = sa.make_url(url).set(username="kim", password="hunter2")
    missing = "database" in change
    wrong = wrong.set(username="postgres", **change) if missing else wrong.set(query={}, **change)
    store = SqlStore(wrong.render_as_string(hide_password=False))
    with pytest.raises(StoreUnavailable) as caught:
        await store.open()
    assert "hunter2" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


def test_another_driver_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="psycopg"):
        SqlStore("postgresql+psycopg://user:hunter2@host/database")


async def test_no_error_shows_a_row(store: SqlStore, other: sa.ext.asyncio.AsyncEngine) -> None:
    # PostgreSQL's own message quotes the whole row.
    await issue(store, pending())
    claim = await claim_one(store)
    async with other.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE authorizations ADD CHECK (state <> 'granted')"))
    with pytest.raises(StoreError) as caught:
        await store.commit([now_granted(claim, NOW, "hunter2")])
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_tables_of_others_beside_ours(url: str, other: sa.ext.asyncio.AsyncEngine) -> None:
    async with other.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE diary (day TEXT)"))
    store = SqlStore(url)
    await store.open()
    await store.close()


async def test_tables_of_others_in_the_place_of_ours(url: str, other: sa.ext.asyncio.AsyncEngine) -> None:
    async with other.begin() as connection:
        await connection.execute(sa.text("CREATE TABLE accounts (owner TEXT)"))
    with pytest.raises(SchemaMismatch, match="another program"):
        await SqlStore(url).open()


async def test_the_migrated_schema_is_the_declared_one(url: str) -> None:
    assert (await migrate.check(url)).standing is Standing.EMPTY
    await migrate.upgrade(url)
    for _ in range(2):
        report = await migrate.check(url)
        assert (report.standing, report.revision, report.differences) == (Standing.CURRENT, tables.HEAD, ())
        await migrate.downgrade(url, "base")
        assert await migrate.current(url) is None
        await migrate.upgrade(url)


async def test_many_processes_open_a_new_database_at_once(url: str) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.stores.children", "open_and_begin", url],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    ends = [await asyncio.to_thread(child.communicate, "\n") for child in children]
    assert [child.returncode for child in children] == [0] * 4, ends
    assert (await migrate.check(url)).standing is Standing.CURRENT


async def test_workers_of_many_machines(url: str) -> None:
    """All at once on the same few accounts; whatever interleaving comes of it, the promises hold.

    None of them raises: all lock their rows in one order, so that there is no deadlock for the server to end.
    """
    names = [f"n{n}" for n in range(8)]
    stores = [SqlStore(url) for _ in range(3)]
    for store in stores:
        await store.open()
    await stores[0].add_accounts([account(name) for name in names])
    kept: dict[str, int] = {}

    async def work(number: int) -> None:
        store: Store = stores[number % 3]
        draw = random.Random(number)
        for turn in range(40):
            now = NOW + turn * 3 + draw.random()
            rows = [requested(f"{number}-{turn}-{name}", name, created_at=now) for name in draw.sample(names, 3)]
            await store.begin([beginning(row, beside_grant=draw.random() < 0.5) for row in rows])
            claims = await store.claim_due(f"w{number}", now, 2.0, 4)
            await asyncio.sleep(draw.random() * 0.01)
            steps: list[Step] = []
            for claim in claims:
                act = draw.choice([poll, settle, now_granted, now_granted])
                if act is now_granted:
                    steps.append(now_granted(claim, now, f"{number}-{turn}", next_attempt_at=now + 2))
                else:
                    steps.append(act(claim, now))
            for step, outcome in zip(steps, await store.commit(steps), strict=True):
                if outcome in {Outcome.COMMITTED, Outcome.MERGED}:
                    kept[step.authorization.account_id] = kept.get(step.authorization.account_id, 0) + 1
            if draw.random() < 0.1:
                await store.sign_out([f"acc-{name}" for name in draw.sample(names, 2)], now)
            await store.hasten([(step.authorization.id, step.authorization.token_version) for step in steps], now)

    await asyncio.gather(*(work(number) for number in range(9)))
    for snapshot in await stores[0].snapshots():
        states = Counter("way" if a.state in ON_ITS_WAY else a.state in HOLDS_TOKENS for a in snapshot.authorizations)
        assert states["way"] <= 1
        assert states[True] <= 1
        history: list[Transition] = await stores[0].history(snapshot.account.id)
        steps_told = [t for t in history if t.event not in {"login_requested", "replaced", "signed_out"}]
        # What was told to be written is in the history, once.
        assert len(steps_told) == kept.get(snapshot.account.id, 0)
    for store in stores:
        await store.close()

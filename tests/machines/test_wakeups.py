"""What is typed anywhere is taken up at once by whoever is free."""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import asyncpg
import pytest

from kimiflow import KimiFlow, State
from kimiflow.errors import StoreUnavailable
from kimiflow.stores.sql import SqlStore
from tests.cli.processes import Cli, until
from tests.stores.contract.making import NOW, granted, issue, pending

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kimiflow.sandbox.threads import ThreadedSandbox
    from tests.postgres import Postgres

NAMES = [f"account-{n}" for n in range(5)]


async def test_a_worker_takes_up_a_sign_in_and_a_refresh_within_a_second(
    cli: Cli, sandbox: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody drives them but the workers, which sleep for half a minute when they have nothing to do."""
    for key, value in cli.environment.items():
        monkeypatch.setenv(key, value)
    workers = [cli.start("run", KIMIFLOW_LOG_LEVEL="info") for _ in range(2)]
    for worker in workers:
        worker.wait_for("Driving every account")
    async with KimiFlow.open() as flow:
        async with asyncio.timeout(20):
            while len(await flow.workers()) < len(workers):
                await asyncio.sleep(0.05)
        # They have looked once, and gone to sleep.
        await asyncio.sleep(1.2)
        for name in NAMES:
            await flow.login(name)
            async with asyncio.timeout(10):
                async for status in flow.follow([name], drive=False):
                    if status.user_code in {code.user_code for code in sandbox.pending()}:
                        sandbox.approve(status.user_code)
            asked, answered, *_ = await flow.history(name)
            assert (asked.event, answered.event) == ("login_requested", "device_code_issued")
            assert answered.at - asked.at < 1.0
        for name in NAMES:
            before = await flow.now()
            (snapshot,) = await flow._store.snapshots([name])
            assert snapshot.grant is not None
            await flow._store.hasten([(snapshot.grant.id, snapshot.grant.token_version)], before)
            async with asyncio.timeout(10):
                while (last := (await flow.history(name))[-1]).at < before or last.to_state is not State.GRANTED:
                    await asyncio.sleep(0.02)
            assert last.at - before < 1.0
    assert len(sandbox.log("refresh")) == len(NAMES)
    for worker in workers:
        worker.signal(signal.SIGTERM)
    assert [await asyncio.to_thread(worker.end) for worker in workers] == [0, 0]
    assert cli.json("status", "--workers") == []


def test_commands_and_workers_share_one_request(cli: Cli, sandbox: ThreadedSandbox) -> None:
    workers = [cli.start("run") for _ in range(2)]
    login = cli.start("login", "work")
    until(lambda: len(sandbox.pending()) == 1)
    sandbox.approve(sandbox.pending()[0].user_code)
    assert login.end() == 0, login.stderr
    sandbox.inject("delay/1:refresh")
    asking = [cli.start("refresh", "work") for _ in range(3)]
    assert [each.end() for each in asking] == [0] * 3, [each.stderr for each in asking]
    sent = sandbox.log("refresh")
    assert not [entry for entry in sent if entry.concurrent or entry.outcome != "issued"]
    # Each command asks for a token newer than the one that it saw: who came after the first answer asked anew.
    assert len(sent) <= 3
    tokens = {cli.good("token", "work") for _ in range(3)}
    assert tokens == {f"{sent[-1].issued_access_token}\n"}
    for worker in workers:
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0


async def quiet(store: SqlStore) -> None:
    while await store.changed(0.0):
        await asyncio.sleep(0)


@pytest.fixture
async def pair(database_url: str) -> AsyncIterator[tuple[SqlStore, SqlStore]]:
    """Two hosts on one database."""
    stores = SqlStore(database_url), SqlStore(database_url)
    for store in stores:
        await store.open()
    yield stores
    for store in stores:
        await store.close()


ACTS: dict[str, Callable[[SqlStore], object]] = {
    "a sign-in": lambda store: issue(store, pending("c", "cid")),
    "a refresh": lambda store: store.hasten([("b", 2)], NOW),
    "a sign-out": lambda store: store.sign_out(["acc-bob"], NOW),
}


@pytest.mark.parametrize("act", ACTS)
async def test_another_process_hears_of_it_within_a_second(pair: tuple[SqlStore, SqlStore], act: str) -> None:
    here, there = pair
    await issue(here, granted("b", "bob", next_attempt_at=NOW + 600))
    await quiet(there)
    waiting = asyncio.create_task(there.changed(30.0))
    await asyncio.sleep(0.05)
    asked = time.monotonic()
    await ACTS[act](here)  # type: ignore[misc]
    assert await waiting
    assert time.monotonic() - asked < 1.0


@pytest.fixture
async def hearers(postgres: Postgres) -> AsyncIterator[tuple[SqlStore, SqlStore, str]]:
    """Two hosts on PostgreSQL, neither of which would look by itself for as long as a test lasts."""
    url = postgres.fresh()
    stores = SqlStore(url), SqlStore(url)
    for store in stores:
        await store.open()
        store._backend.look_every = 60.0
    yield *stores, url
    for store in stores:
        await store.close()


@pytest.mark.parametrize("act", ACTS)
async def test_postgresql_tells_without_being_asked(hearers: tuple[SqlStore, SqlStore, str], act: str) -> None:
    here, there, _ = hearers
    await issue(here, granted("b", "bob", next_attempt_at=NOW + 600))
    await quiet(there)
    waiting = asyncio.create_task(there.changed(30.0))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(1.0):
        await ACTS[act](here)  # type: ignore[misc]
        assert await waiting


async def test_what_was_rolled_back_is_not_told(hearers: tuple[SqlStore, SqlStore, str]) -> None:
    here, there, _ = hearers
    await issue(here, pending())
    await quiet(there)
    waiting = asyncio.create_task(there.changed(0.5))
    await asyncio.sleep(0.1)
    with suppress(RuntimeError):
        async with here._database.writing(announced=True):
            raise RuntimeError
    assert not await waiting


async def test_who_listens_listens_again_after_the_connection_broke(
    hearers: tuple[SqlStore, SqlStore, str],
) -> None:
    here, there, url = hearers
    await quiet(there)
    other = await asyncpg.connect(url)
    for _ in range(3):
        ended = await other.fetchval(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' OR query = $1",
            "SELECT pg_current_snapshot()::text",
        )
        assert ended >= 1
        for _ in range(3):
            # The loss is noticed by asking, or has been already.
            with suppress(StoreUnavailable):
                await quiet(there)
                break
        waiting = asyncio.create_task(there.changed(30.0))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        async with asyncio.timeout(1.0):
            await here.hasten([("nobody", 1)], NOW)
            # An announcement without a change wakes nobody; a change does.
            await issue(here, pending(f"r{time.monotonic()}", f"n{time.monotonic_ns()}"))
            assert await waiting
    await other.close()

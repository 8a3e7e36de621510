"""Databases and networks that go away, and come back."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from kimiflow.model import State
from tests.postgres import Postgres

from .proxy import Proxy
from .scene import Scene, Worker, until

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Staged

NAMES = [f"account-{n}" for n in range(12)]


async def signed_in(scene: Scene, worker: Worker) -> dict[str, str]:
    """All accounts granted; their device ids."""
    await worker.says("ready")
    await scene.begin(*NAMES)
    found = await scene.until_state(State.GRANTED, *NAMES)
    return {name: snapshot.account.device_id for name, snapshot in found.items()}


def refreshed(scene: Scene, devices: dict[str, str], times: int = 1) -> bool:
    return all(len(scene.issued(device)) >= times + 1 for device in devices.values())


async def until_written(scene: Scene, devices: dict[str, str]) -> None:
    """The store has the very tokens that the server issued last."""
    await scene.until_state(State.GRANTED, *NAMES)
    async with scene.flow() as flow:
        vault = await flow._engine.vault()
        for _ in range(400):
            kept = {}
            for snapshot in await flow._store.snapshots(NAMES):
                grant = snapshot.grant
                assert grant is not None
                assert grant.refresh_token is not None
                kept[snapshot.account.name] = vault.open(grant.refresh_token, grant.id, "refresh_token").reveal()
            if kept == {name: scene.issued(device)[-1].issued_refresh_token for name, device in devices.items()}:
                return
            await asyncio.sleep(0.05)
    raise AssertionError("tokens that arrived were not written")


async def test_postgresql_killed_in_the_middle(staged: Staged, postgres_to_kill: Postgres) -> None:
    """Tokens that arrive while it is away are written when it is back, each of them, by the worker that has them."""
    async with staged(postgres_to_kill.fresh(), approve="auto", token_lifetime=600.0) as scene:
        worker = scene.worker(timeout=4.0, level="info")
        devices = await signed_in(scene, worker)
        scene.sandbox.inject("delay/1.5:refresh")
        await scene.refresh_now(*NAMES)
        await until(lambda: scene.at_the_server == len(NAMES), "all are being refreshed")
        postgres_to_kill.kill()
        await until(lambda: refreshed(scene, devices), "the server issues new tokens")
        await worker.says("commit_delayed")
        scene.sandbox.clear_faults()
        postgres_to_kill.start()
        await until_written(scene, devices)
        assert len((await scene.verdict()).kept) == len(NAMES)
        assert not scene.sandbox.counts().get("refresh.reuse")


async def test_a_worker_killed_while_postgresql_is_away(staged: Staged, postgres_to_kill: Postgres) -> None:
    """What it could not write is in a file, sealed, and the next worker writes it."""
    async with staged(postgres_to_kill.fresh(), approve="auto", token_lifetime=600.0) as scene:
        worker = scene.worker(timeout=4.0, level="info")
        devices = await signed_in(scene, worker)
        scene.sandbox.inject("delay/1:refresh")
        await scene.refresh_now(*NAMES)
        await until(lambda: scene.at_the_server == len(NAMES), "all are being refreshed")
        postgres_to_kill.kill()
        await until(lambda: refreshed(scene, devices), "the server issues new tokens")
        home = scene.folder / "home"

        def kept_aside() -> int:
            return sum(path.read_text().count('"before"') for path in home.glob("unsaved-*.json"))

        await until(lambda: kept_aside() == len(NAMES), "what waits is kept in a file")
        worker.kill()
        written = "".join(path.read_text() for path in home.glob("unsaved-*.json"))
        for device in devices.values():
            for token in (scene.issued(device)[-1].issued_access_token, scene.issued(device)[-1].issued_refresh_token):
                assert token is not None
                assert token not in written
        scene.sandbox.clear_faults()
        postgres_to_kill.start()
        await scene.worker(level="info").says("unsaved_recovered")
        await until_written(scene, devices)
        assert not list(home.glob("unsaved-*"))
        assert len((await scene.verdict()).kept) == len(NAMES)


async def test_a_network_that_loses_packets_on_the_way_to_postgresql(staged: Staged, postgres: Postgres) -> None:
    """Stalled for longer than a lease, then cut: the other worker takes over, and nobody does anything twice."""
    async with (
        staged(postgres.fresh(), approve="auto", token_lifetime=4.0) as scene,
        Proxy(postgres.address()) as proxy,
    ):
        far = scene.worker(database_url=postgres.through(scene.database_url, proxy.port), level="info")
        devices = await signed_in(scene, far)
        proxy.stall()
        near = scene.worker(level="info")
        await near.says("ready")
        since = scene.sandbox.now()

        def again(since: float) -> bool:
            return all(
                any(e.at > since and e.outcome == "issued" for e in scene.sandbox.log("refresh", device))
                for device in devices.values()
            )

        await until(lambda: again(since), "the worker that is not cut off refreshes all accounts")
        proxy.heal()
        since = scene.sandbox.now()
        await until(lambda: again(since), "all are refreshed once more")
        proxy.reset()
        since = scene.sandbox.now()
        await until(lambda: again(since) and proxy.connections > 5, "the connections are made anew")
        assert len((await scene.verdict()).kept) == len(NAMES)


async def test_a_network_that_loses_packets_on_the_way_to_the_server(staged: Staged, database_url: str) -> None:
    """Requests that vanish, then replies that vanish while nothing is decided: every sign-in goes on to its end."""
    async with staged(database_url, token_lifetime=600.0) as scene, Proxy(("127.0.0.1", scene.sandbox.port)) as proxy:
        worker = scene.worker(oauth_host=proxy.url, timeout=0.7, level="info")
        await worker.says("ready")
        await scene.begin(*NAMES)
        await scene.until_state(State.PENDING, *NAMES)
        for what in ({"up": True, "down": False}, {"up": False, "down": True}):
            proxy.swallow(**what)
            before = proxy.swallowed
            await until(lambda before=before: proxy.swallowed > before + 1_000, "something is lost")
            await worker.says("host_unreachable")
            proxy.heal()
            since = scene.sandbox.now()
            await until(
                lambda since=since: len({e.device_id for e in scene.sandbox.log("poll") if e.at > since}) == len(NAMES),
                "all poll again",
            )
        for name in NAMES:
            scene.sandbox.approve_device(await scene.device(name))
        proxy.reset()
        await scene.until_state(State.GRANTED, *NAMES)
        assert scene.sandbox.counts()["device_authorization.issued"] == len(NAMES)
        assert len((await scene.verdict()).kept) == len(NAMES)


async def test_sqlite_locked_by_others(staged: Staged, tmp_path: Path) -> None:
    """One who writes for long only delays what is written; one who reads for long delays nothing."""
    path = tmp_path / "kimiflow.db"
    async with staged(f"sqlite:///{path}", approve="auto", token_lifetime=600.0) as scene:
        worker = scene.worker("--busy-timeout", "0.3", timeout=4.0, level="info")
        devices = await signed_in(scene, worker)

        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN")
            assert other.execute("SELECT count(*) FROM authorizations").fetchone() == (len(NAMES),)
            await scene.refresh_now(*NAMES)
            await until(lambda: refreshed(scene, devices), "all are refreshed beside a reader")
            await until_written(scene, devices)
            other.execute("COMMIT")
        assert "commit_delayed" not in worker.log

        scene.sandbox.inject("delay/1:refresh")
        await scene.refresh_now(*NAMES)
        await until(lambda: scene.at_the_server == len(NAMES), "all are being refreshed")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            await until(lambda: refreshed(scene, devices, 2), "the server issues new tokens")
            await worker.says("commit_delayed")
            scene.sandbox.clear_faults()
            other.execute("ROLLBACK")
        await until_written(scene, devices)
        assert len((await scene.verdict()).kept) == len(NAMES)
        assert not scene.sandbox.counts().get("refresh.reuse")

"""A server, a database, some accounts and the workers of one test, none of which outlives it."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from kimiflow.flow import KimiFlow
from kimiflow.sandbox import Sandbox
from kimiflow.settings import load_settings

from .judge import Verdict, misdeeds, outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection

    from kimiflow.model import State, Transition
    from kimiflow.sandbox import LogEntry
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Snapshot

REPOSITORY = Path(__file__).parents[2]
KEY = base64.b64encode(b"k" * 32).decode()


async def until(happened: Callable[[], bool], what: str, timeout: float = 45.0) -> None:
    """Waits for a condition. ``what`` says of it, to a person, what did not happen in time."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, f"{what}: this did not happen within {timeout:g} s"
        await asyncio.sleep(0.02)


def locked(path: str) -> bool:
    """Whether anybody is in the middle of a commit to an SQLite file."""
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            return True
        connection.execute("ROLLBACK")
        return False


class Worker:
    """One process; its log goes to a file."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
            )

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    async def says(self, text: str, timeout: float = 45.0) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.log:
            assert self.running, f"the worker ended before it said {text!r}: {self.log}"
            assert time.monotonic() < deadline, f"the worker did not say {text!r}: {self.log}"
            await asyncio.sleep(0.02)

    def pause(self) -> None:
        """Stops it wherever it is; returns when it stands still, which a signal alone does not promise."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    async def stop(self, timeout: float = 45.0) -> int:
        """As an operator does; requests in flight land first."""
        self.process.send_signal(signal.SIGTERM)
        self.go_on()
        await until(lambda: not self.running, "the worker ends when it is told to", timeout)
        return self.process.returncode


class Scene:
    """:param oauth_host: where workers find the server; the sandbox itself by default."""

    def __init__(self, folder: Path, sandbox: Sandbox, database_url: str, oauth_host: str | None = None) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.database_url = database_url
        self.oauth_host = oauth_host or sandbox.url
        self.workers: list[Worker] = []
        self.killed_at: list[float] = []

    def settings(self) -> Settings:
        return load_settings(
            home=str(self.folder / "home"), database_url=self.database_url, key=KEY, oauth_host=self.oauth_host
        )

    @asynccontextmanager
    async def flow(self) -> AsyncIterator[KimiFlow]:
        async with KimiFlow.open(self.settings()) as flow:
            yield flow

    def worker(
        self,
        *arguments: str,
        database_url: str | None = None,
        oauth_host: str | None = None,
        timeout: float = 2.5,
        level: str = "debug",
    ) -> Worker:
        """A worker whose lease is a second longer than its requests may take."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.upper().startswith("KIMI") and not key.lower().endswith("_proxy")
        }
        environment |= {
            "KIMIFLOW_HOME": str(self.folder / "home"),
            "KIMIFLOW_DATABASE_URL": database_url or self.database_url,
            "KIMIFLOW_KEY": KEY,
            "KIMIFLOW_OAUTH_HOST": oauth_host or self.oauth_host,
            "KIMIFLOW_POLL_INTERVAL_FLOOR": "0.2",
            "KIMIFLOW_HTTP_TIMEOUT": f"{timeout}",
            "KIMIFLOW_LOG_LEVEL": level,
            "KIMIFLOW_LOG_FORMAT": "json",
        }
        lease = ["--lease", f"{timeout + 1.0}"]
        worker = Worker(
            ["tests.processes.worker", *lease, *arguments], environment, self.folder / f"worker-{len(self.workers)}.log"
        )
        self.workers.append(worker)
        return worker

    async def begin(self, *names: str) -> None:
        async with self.flow() as flow:
            await flow.begin(names)

    async def snapshots(self, *names: str) -> dict[str, Snapshot]:
        async with self.flow() as flow:
            return {s.account.name: s for s in await flow._store.snapshots(names or None)}

    async def until_state(self, state: State, *names: str, timeout: float = 45.0) -> dict[str, Snapshot]:
        deadline = time.monotonic() + timeout
        async with self.flow() as flow:
            while True:
                found = {s.account.name: s for s in await flow._store.snapshots(names)}
                states = {name: s.shown.state if s.shown else None for name, s in found.items()}
                if set(states.values()) == {state}:
                    return found
                assert time.monotonic() < deadline, (state, states, [worker.log[-3000:] for worker in self.workers])
                await asyncio.sleep(0.05)

    async def refresh_now(self, *names: str) -> None:
        """As ``kimiflow refresh`` asks for it, without waiting."""
        async with self.flow() as flow:
            snapshots = await flow._store.snapshots(names)
            grants = [s.grant for s in snapshots if s.grant]
            assert len(grants) == len(names)
            await flow._store.hasten([(g.id, g.token_version) for g in grants], self.sandbox.now())

    async def history(self, name: str) -> list[Transition]:
        async with self.flow() as flow:
            return await flow.history(name)

    async def device(self, name: str) -> str:
        return (await self.snapshots(name))[name].account.device_id

    @property
    def at_the_server(self) -> int:
        """Polls and refreshes that have arrived and have no reply yet."""
        return sum(self.sandbox.authority._in_flight.values())

    def issued(self, device_id: str) -> list[LogEntry]:
        return [entry for entry in self.sandbox.log(device_id=device_id) if entry.issued_refresh_token is not None]

    def kill(self, worker: Worker) -> None:
        self.killed_at.append(self.sandbox.now())
        worker.kill()

    async def pause(self, worker: Worker) -> None:
        """Stops a worker at a moment when it holds no lock on the database.

        SQLite has one lock for all who write. Who is stopped in the middle of a commit keeps it, and nobody else
        commits anything until he goes on: that is a test of its own, and no test of leases. PostgreSQL has locks of rows,
        which are held for as short as it takes, and its server is not stopped.
        """
        path = sa.make_url(self.database_url).database if self.database_url.startswith("sqlite") else None
        deadline = time.monotonic() + 45.0
        while True:
            worker.pause()
            if path is None or not locked(path):
                return
            assert time.monotonic() < deadline, "the database is never free"
            worker.go_on()
            await asyncio.sleep(0.005)

    async def verdict(self, *, stopped: Collection[str] = ()) -> Verdict:
        """Ends the workers, and judges."""
        for worker in self.workers:
            if worker.running:
                assert await worker.stop() == 0, worker.log[-3000:]
        found = misdeeds(self.sandbox.log(), stopped=stopped)
        assert not found, found
        async with self.flow() as flow:
            snapshots, vault = await flow._store.snapshots(), await flow._engine.vault()
        verdict = outcome(snapshots, self.sandbox.authority, vault, killed_at=self.killed_at)
        assert not verdict.lost, verdict.lost
        for worker in self.workers:
            assert "Traceback" not in worker.log, worker.log[-5000:]
        return verdict

    def end(self) -> None:
        for worker in self.workers:
            if worker.running:
                worker.kill()

"""What the tour is played on: a sandbox, a home that nobody else uses, and a worker that can be killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kimiflow.flow import KimiFlow
from kimiflow.logs import configure
from kimiflow.sandbox.server import Sandbox
from kimiflow.settings import load_settings
from kimiflow.stores.registry import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from kimiflow.sandbox.threads import ThreadedSandbox
    from kimiflow.stores.base import Store

__all__ = ["Stage", "set_up"]

_TOKEN_LIFETIME = 14.0
"""Seconds; a token is refreshed at half of its life, so that it happens while somebody watches."""

_CODE_LIFETIME = 90.0
"""Seconds; also what an orphaned worker lives at most, should the tour itself be killed."""


@dataclass(slots=True)
class Stage:
    """The tour's props."""

    flow: KimiFlow
    store: Store
    sandbox: ThreadedSandbox
    environment: dict[str, str]
    home: Path
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start_worker(self) -> int:
        """Starts ``kimiflow run`` as a process of its own; returns its process id."""
        with (self.home / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "kimiflow", "run", "--until-settled"],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.workers.append(worker)
        return worker.pid

    async def kill_worker(self) -> int:
        """SIGKILL, or what comes nearest to it; returns the exit code, which is -9 where there are signals."""
        worker = self.workers[-1]
        worker.kill()
        return await asyncio.to_thread(worker.wait)

    async def wait_for_worker(self) -> int:
        """Returns the exit code of the last worker once it has ended by itself."""
        # Not a thread that waits: it could not be cancelled.
        while (code := self.workers[-1].poll()) is None:  # noqa: ASYNC110 - a process sets no event
            await asyncio.sleep(0.1)
        return code

    async def command(self, *arguments: str) -> str:
        """Runs a kimiflow command; returns what it printed on stdout."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "kimiflow", *arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        printed, _ = await process.communicate()
        return printed.decode().strip()

    async def device_ids(self) -> dict[str, str]:
        """By account name."""
        return {s.account.name: s.account.device_id for s in await self.store.snapshots()}

    def worker_log(self) -> str:
        """The last lines that workers logged."""
        lines = (self.home / "worker.log").read_text(errors="replace").splitlines()
        return "\n".join(lines[-15:])

    def clear(self) -> None:
        """Ends every worker that is still there."""
        for worker in self.workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


@asynccontextmanager
async def set_up() -> AsyncIterator[Stage]:
    """The stage, and whatever happens, nothing is left of it afterwards."""
    with (
        tempfile.TemporaryDirectory(prefix="kimiflow-demo-", ignore_cleanup_errors=True) as folder,
        Sandbox.in_thread(interval=1.0, code_lifetime=_CODE_LIFETIME, token_lifetime=_TOKEN_LIFETIME) as sandbox,
    ):
        home = Path(folder)
        environment = dict(_environment(home, sandbox.url))
        # This process reads its settings from the environment that the workers have, and from no other.
        before = dict(os.environ)
        try:
            _replace_environment(environment)
            settings = load_settings()
        finally:
            _replace_environment(before)
        configure("error", settings.log_format)
        store = open_store(settings.store_url)
        async with KimiFlow.open(settings, store=store) as flow:
            stage = Stage(flow, store, sandbox, environment, home)
            try:
                yield stage
            finally:
                stage.clear()


def _replace_environment(values: Mapping[str, str]) -> None:
    os.environ.clear()
    os.environ.update(values)


def _environment(home: Path, url: str) -> Iterator[tuple[str, str]]:
    """The environment without anything that leads to real accounts, a real database or a proxy."""
    for key, value in os.environ.items():
        if not key.upper().startswith(("KIMIFLOW_", "KIMI_")):
            yield key, value
    yield from {
        "KIMIFLOW_HOME": str(home),
        "KIMIFLOW_OAUTH_HOST": url,
        "KIMIFLOW_POLL_INTERVAL_FLOOR": "1",
        # A killed worker's lease outlives its request's time-out; so that nobody waits long for it, that is short.
        "KIMIFLOW_HTTP_TIMEOUT": "2",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }.items()

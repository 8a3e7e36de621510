from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from kimiflow.sandbox.server import Sandbox
from tests.cli.processes import Cli
from tests.postgres import Postgres, postgres, postgres_to_kill

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from kimiflow.sandbox.threads import ThreadedSandbox

__all__ = ["postgres", "postgres_to_kill"]


@pytest.fixture(autouse=True)
def _nothing_of_the_person_who_runs_this(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if (
            (name.upper().startswith("KIMI") and "TEST" not in name)
            or name.lower().endswith("_proxy")
            or (name.startswith("PG") and name != "PGDATA")
        ):
            monkeypatch.delenv(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kimiflow.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    """Fast, and nobody approves anything unless a test does."""
    with Sandbox.in_thread(interval=0.1) as server:
        yield server


@pytest.fixture
def cli(sandbox: ThreadedSandbox, database_url: str, tmp_path: Path) -> Iterator[Cli]:
    """``kimiflow`` on each kind of database."""
    environment = {
        **os.environ,
        "KIMIFLOW_HOME": str(tmp_path / "home"),
        "KIMIFLOW_DATABASE_URL": database_url,
        "KIMIFLOW_OAUTH_HOST": sandbox.url,
        "KIMIFLOW_POLL_INTERVAL_FLOOR": "0.1",
        "KIMIFLOW_HTTP_TIMEOUT": "3",
    }
    with Cli(environment) as commands:
        yield commands

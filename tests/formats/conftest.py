from __future__ import annotations

import asyncio
import os
import shutil
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kimiflow.cli import app
from kimiflow.sandbox.server import Sandbox
from kimiflow.stores.sql import SqlStore
from tests.cli.processes import Cli
from tests.formats.house import House

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimiflow.sandbox.threads import ThreadedSandbox


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with Sandbox.in_thread(interval=0.1) as server:
        yield server


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Migrating takes longer than most tests here do otherwise."""
    path = tmp_path_factory.mktemp("template") / "kimiflow.db"

    async def made() -> None:
        store = SqlStore(f"sqlite:///{path}")
        await store.open()
        await store.close()

    asyncio.run(made())
    return path


@pytest.fixture
def house(
    sandbox: ThreadedSandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    empty_database: Path,
) -> Iterator[House]:
    """Nothing of this machine's user is looked at: the home is a folder of the test's own."""
    for key in list(os.environ):
        if key.upper().startswith(("KIMI", "OPENAI", "NO_COLOR", "FORCE_COLOR")) or key.lower().endswith("_proxy"):
            monkeypatch.delenv(key)
    root = tmp_path / "user"
    root.mkdir()
    (tmp_path / "home").mkdir()
    shutil.copy(empty_database, tmp_path / "home")
    # Not in the environment: files of other tools are of the provider's usual server, wherever a variable points.
    (tmp_path / "home/config.toml").write_text(f'oauth_host = "{sandbox.url}"\n')
    monkeypatch.setattr(app, "build", cache(app.build))  # a quarter of a short command, and the same each time
    settings = {
        "HOME": str(root),
        "USERPROFILE": str(root),
        "KIMIFLOW_HOME": str(tmp_path / "home"),
        "KIMIFLOW_POLL_INTERVAL_FLOOR": "0.1",
        "KIMIFLOW_HTTP_TIMEOUT": "3",
    }
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    with Cli(dict(os.environ)) as cli:
        yield House(sandbox, root, cli, capfd)

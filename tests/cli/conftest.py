from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from kimiflow.sandbox.server import Sandbox
from tests.cli.processes import Cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimiflow.sandbox.threads import ThreadedSandbox


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    """Fast, and nobody approves anything unless a test does."""
    with Sandbox.in_thread(interval=0.1) as server:
        yield server


@pytest.fixture
def cli(sandbox: ThreadedSandbox, tmp_path: Path) -> Iterator[Cli]:
    """``kimiflow``, with a home of its own, that knows no server but the sandbox."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.upper().startswith(("KIMI", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"))
        and not key.lower().endswith("_proxy")
    }
    environment |= {
        "KIMIFLOW_HOME": str(tmp_path / "home"),
        "KIMIFLOW_OAUTH_HOST": sandbox.url,
        "KIMIFLOW_POLL_INTERVAL_FLOOR": "0.1",
        "KIMIFLOW_HTTP_TIMEOUT": "3",
    }
    with Cli(environment) as commands:
        yield commands


def approve_all(sandbox: ThreadedSandbox) -> None:
    for code in sandbox.pending():
        sandbox.approve(code.user_code)

"""A worker that starts before its database does waits for it, as it would later."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.cli.processes import Cli
    from tests.postgres import Postgres


@pytest.fixture
def database_url(postgres_to_kill: Postgres) -> str:
    return postgres_to_kill.fresh()


def test_it_waits_and_then_works(cli: Cli, postgres_to_kill: Postgres) -> None:
    postgres_to_kill.kill()
    worker = cli.start("run")
    worker.wait_for("This waits until it is there; Ctrl-C stops it.")
    assert "cannot be reached" in worker.stderr
    postgres_to_kill.start()
    worker.wait_for("Driving every account")
    assert worker.stderr.count("This waits") == 1, "the rest of it is in the log"
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_can_be_stopped_meanwhile(cli: Cli, postgres_to_kill: Postgres, number: int) -> None:
    postgres_to_kill.kill()
    try:
        worker = cli.start("run", KIMIFLOW_LOG_FORMAT="json")
        worker.wait_for("store_unavailable")
        worker.signal(number)
        assert worker.end() == 0
        assert all(line.startswith("{") for line in worker.stderr.splitlines())
    finally:
        postgres_to_kill.start()

"""What ends a command while requests are at the server: whatever it is, their replies are saved."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import CTRL_C, KIMIFLOW, Cli, until
from tests.cli.test_token import sign_in

NAMES = [f"account-{number:02}" for number in range(12)]


@pytest.fixture
def granted(cli: Cli, sandbox: ThreadedSandbox) -> Cli:
    return sign_in(cli, sandbox, *NAMES)


def all_at_the_server(sandbox: ThreadedSandbox) -> bool:
    return sandbox.run(lambda: sum(sandbox.authority._in_flight.values())) == len(NAMES)


def all_kept(cli: Cli, sandbox: ThreadedSandbox) -> bool:
    """Each has the token that the server gave it last: any other would be refused, and end the grant."""
    sandbox.run(sandbox._sandbox.clear_faults)
    done = cli("refresh", "--all")
    return done.returncode == 0 and not [e for e in sandbox.log("refresh") if e.outcome != "issued"]


@contextmanager
def ignoring(number: int) -> Iterator[None]:
    """What is started meanwhile has the signal ignored, as by ``nohup``."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("command", [("refresh", "--all"), ("run",)], ids=["refresh", "run"])
def test_the_first_signal_waits_for_the_replies(
    granted: Cli, sandbox: ThreadedSandbox, command: tuple[str, ...], number: int
) -> None:
    sandbox.inject("late/1.5:refresh")
    worker = granted.start(*command)
    if command == ("run",):
        worker.wait_for("Driving every account")
        asked = granted.start("refresh", "--all")  # whoever claims them
        until(lambda: all_at_the_server(sandbox))
        asked.signal(number)
    until(lambda: all_at_the_server(sandbox))
    worker.signal(number)
    assert worker.end() == (0 if command == ("run",) else 128 + number)
    if command == ("run",):
        assert asked.end() == 128 + number
    else:
        assert "Waiting for replies that may hold the only copy of a token, at most 18 s: account-00," in worker.stderr
        assert "account-04 and 7 more. The same again ends at once." in worker.stderr
    assert "Traceback" not in worker.stderr
    assert all_kept(granted, sandbox)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_the_second_one_ends_at_once_and_names_who_is_in_doubt(
    granted: Cli, sandbox: ThreadedSandbox, log_format: str
) -> None:
    sandbox.inject("late/60:refresh=x11")
    sandbox.inject("delay/60:refresh=x1")
    worker = granted.start("refresh", "--all", KIMIFLOW_HTTP_TIMEOUT="100", KIMIFLOW_LOG_FORMAT=log_format)
    until(lambda: all_at_the_server(sandbox))
    worker.signal(CTRL_C)
    worker.wait_for("at_most" if log_format == "json" else "The same again ends at once.")
    worker.signal(CTRL_C)
    assert worker.end() == 1
    if log_format == "json":
        first, last = map(json.loads, worker.stderr.splitlines())
        assert (first["event"], first["awaited"], first["at_most"]) == ("stopping", NAMES, 115)
        assert (last["event"], last["in_doubt"]) == ("ended_at_once", NAMES)
    else:
        assert f"Ended without the replies for {', '.join(NAMES)}: these accounts are in doubt." in worker.stderr


def test_with_nothing_at_the_server_there_is_nothing_to_wait_for(cli: Cli, sandbox: ThreadedSandbox) -> None:
    cli.good("login", "work", "--no-wait")
    sandbox.inject("slow_down/600:poll")
    worker = cli.start("run")
    until(lambda: bool(sandbox.log("poll")))
    until(lambda: cli.status()["work"]["state"] == "slow_down")
    worker.signal(CTRL_C)
    assert worker.end() == 0
    assert "Waiting" not in worker.stderr
    assert "Stopped." in worker.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_was_ignored_at_the_start_stays_so(cli: Cli, number: int) -> None:
    """``nohup kimiflow run``, and ``kimiflow run &`` in a script."""
    with ignoring(number):
        worker = cli.start("run")
    worker.wait_for("Driving every account")
    worker.signal(number)
    assert cli("status").returncode == 0
    assert worker.process.poll() is None
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_a_terminal_that_goes_away_takes_no_token_with_it(granted: Cli, sandbox: ThreadedSandbox) -> None:
    """A lost ssh: SIGHUP, and from then on every write to the terminal fails."""
    sandbox.inject("late/1.5:refresh")
    master, slave = pty.openpty()
    command = ["setsid", "--ctty", *KIMIFLOW, "refresh", "--all"]
    with subprocess.Popen(command, env=granted.environment, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        until(lambda: all_at_the_server(sandbox))
        os.close(master)
        assert process.wait(30) == 128 + signal.SIGHUP
    assert all_kept(granted, sandbox)

"""A shell that allows few open files, as macOS does: kimiflow does with them, or says what is missing."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable

import pytest

from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.conftest import approve_all
from tests.cli.processes import KIMIFLOW, Cli


def limited(soft: int, hard: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def under(cli: Cli, limits: tuple[int, int], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*KIMIFLOW, *command],
        env=cli.environment,
        preexec_fn=limited(*limits),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("limits", [(256, 4096), (256, 256), (100, 100)])
def test_four_hundred_sign_ins_at_once(cli: Cli, sandbox: ThreadedSandbox, limits: tuple[int, int]) -> None:
    names = [f"account-{number:03}" for number in range(400)]
    begun = under(cli, limits, "login", *names, "--no-wait")
    assert begun.returncode == 0, begun.stderr[-2000:]
    while sandbox.pending():  # which lists some at a time
        approve_all(sandbox)
    done = under(cli, limits, "login", *names)
    assert done.returncode == 0, done.stderr[-2000:]
    assert {each["state"] for each in cli.status().values()} == {"granted"}
    refreshed = under(cli, limits, "refresh", "--all")
    assert refreshed.returncode == 0, refreshed.stderr[-2000:]
    assert len(sandbox.log("refresh")) == 400


@pytest.mark.parametrize("most", [20, 31, 32, 40])
def test_far_too_few_lose_nothing(cli: Cli, sandbox: ThreadedSandbox, most: int) -> None:
    names = [f"account-{number}" for number in range(30)]
    cli.good("login", *names, "--no-wait")
    approve_all(sandbox)
    cli.good("login", *names)
    done = under(cli, (most, most), "refresh", "--all")
    if most < 32:
        assert (done.returncode, sandbox.log("refresh")) == (2, [])
        assert f"may have {most} files open, and kimiflow needs 32" in done.stderr
        assert "ulimit -n" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert cli("refresh", "--all").returncode == 0
    assert {entry.outcome for entry in sandbox.log("refresh")} == {"issued"}, "no token was sent twice"

"""A disk that fills up while replies are on their way: what arrives finds room that was held for it."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import Cli, until
from tests.cli.test_ends import NAMES, all_at_the_server, all_kept
from tests.cli.test_token import sign_in

MEGABYTE = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one, for nobody else."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs", path], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def granted(cli: Cli, sandbox: ThreadedSandbox, disk: Path) -> Cli:
    cli.environment["KIMIFLOW_HOME"] = str(disk / "home")
    return sign_in(cli, sandbox, *NAMES)


def fill(disk: Path) -> Path:
    """Somebody else's file, which takes all that there is."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (MEGABYTE, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return ballast


@pytest.mark.parametrize("end", ["waits", "SIGTERM"])
def test_replies_that_are_on_their_way_are_kept(granted: Cli, sandbox: ThreadedSandbox, disk: Path, end: str) -> None:
    home = disk / "home"
    sandbox.inject("late/1.5:refresh")
    worker = granted.start("refresh", "--all")
    until(lambda: all_at_the_server(sandbox))
    ballast = fill(disk)
    if end == "SIGTERM":
        worker.signal(signal.SIGTERM)
        assert worker.end(60.0) == 128 + signal.SIGTERM
    else:
        until(lambda: "commit_delayed" in worker.stderr or worker.process.poll() is not None)
    ballast.unlink()
    if end == "waits":
        assert worker.end(60.0) == 0
    assert "unsaved_not_written" not in worker.stderr
    assert all_kept(granted, sandbox)
    assert not list(home.glob("reserve-*"))


def test_nothing_is_sent_from_a_disk_that_is_full_already(granted: Cli, sandbox: ThreadedSandbox, disk: Path) -> None:
    ballast = fill(disk)
    worker = granted.start("run")
    worker.wait_for("the disk is full")
    assert granted("refresh", NAMES[0]).returncode == 1
    assert worker.process.poll() is None
    assert sandbox.log("refresh") == []
    ballast.unlink()
    assert all_kept(granted, sandbox)
    assert len(sandbox.log("refresh")) == len(NAMES)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0


def test_the_log_leaves_room_on_a_small_disk(granted: Cli, sandbox: ThreadedSandbox, disk: Path) -> None:
    """It is copied into the database before it has filled the disk, after which there would be no room for that."""
    for _ in range(30):
        granted.good("refresh", "--all")
    assert len(sandbox.log("refresh")) == 30 * len(NAMES)
    largest = max(file.stat().st_size for file in (disk / "home").iterdir())
    assert largest < 3 * MEGABYTE

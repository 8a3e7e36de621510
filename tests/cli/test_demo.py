from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.processes import CTRL_C, Cli


def test_the_tour_holds_what_it_promises_and_leaves_nothing_behind(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "kimiflow", "demo"],
        env=cli.environment | {"TMPDIR": str(folder), "KIMIFLOW_DATABASE_URL": "teapot://not/touched"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("  yes  ") == 5
    assert "Nothing was lost." in done.stdout
    assert "kill -9" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""
    assert time.monotonic() - started < 90
    assert list(folder.iterdir()) == []
    assert not Path(cli.environment["KIMIFLOW_HOME"]).exists()


def test_ctrl_c_cleans_up_as_well(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    tour = cli.start("demo", TMPDIR=str(folder))
    tour.wait_for("(kimiflow run, process", "stdout")
    worker = re.search(r"process (\d+)", tour.stdout)
    assert worker is not None
    tour.signal(CTRL_C)
    assert tour.end() == 130
    assert "Traceback" not in tour.stderr
    assert list(folder.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(worker[1]), 0)

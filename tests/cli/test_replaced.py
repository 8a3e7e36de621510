"""The database's files are replaced, removed or moved under a worker: it stops, and nobody uses a token twice."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from kimiflow.sandbox.threads import ThreadedSandbox
from tests.cli.processes import Cli, Process, until
from tests.cli.test_ends import NAMES, all_at_the_server, all_kept, granted

__all__ = ["granted"]


def at_work(cli: Cli) -> Process:
    """A worker that has its key, and has reported itself."""
    worker = cli.start("run")
    until(lambda: bool(cli.json("status", "--workers")))
    return worker


def by_a_copy(home: Path) -> None:
    copy = home / "copy.db"
    with sqlite3.connect(home / "kimiflow.db") as database, sqlite3.connect(copy) as target:
        database.backup(target)
    copy.replace(home / "kimiflow.db")


def removed(home: Path) -> None:
    for file in home.glob("kimiflow.db*"):
        file.unlink()


def cut_short(home: Path) -> None:
    with (home / "kimiflow.db").open("r+b") as file:
        file.truncate(0)


def without_its_log(home: Path) -> None:
    (home / "kimiflow.db-wal").unlink()


def without_its_index(home: Path) -> None:
    (home / "kimiflow.db-shm").unlink()


def moved(home: Path) -> None:
    home.rename(home.with_name("elsewhere"))


@pytest.mark.parametrize(
    ("meddle", "said"),
    [
        (by_a_copy, "kimiflow.db was replaced by another file"),
        (removed, "kimiflow.db was moved or removed"),
        (cut_short, "kimiflow.db was cut short"),
        (without_its_log, "kimiflow.db's log was moved or removed"),
        (without_its_index, "kimiflow.db's index of the log was moved or removed"),
        (moved, "kimiflow.db was moved or removed"),
    ],
)
def test_a_worker_with_nothing_to_do_ends_at_once(
    granted: Cli, sandbox: ThreadedSandbox, meddle: Callable[[Path], None], said: str
) -> None:
    worker = at_work(granted)
    asked = len(sandbox.log())
    meddle(Path(granted.environment["KIMIFLOW_HOME"]))
    assert worker.end() == 1
    assert said in worker.stderr
    assert "Traceback" not in worker.stderr
    assert len(sandbox.log()) == asked


def test_replies_that_were_on_their_way_are_in_the_file_at_the_path_in_the_end(
    granted: Cli, sandbox: ThreadedSandbox
) -> None:
    home = Path(granted.environment["KIMIFLOW_HOME"])
    worker = at_work(granted)
    sandbox.inject("late/1.5:refresh")
    asked = granted.start("refresh", "--all")
    until(lambda: all_at_the_server(sandbox))
    by_a_copy(home)
    assert worker.end(60.0) == 1
    asked.end(60.0)
    assert "was replaced by another file" in worker.stderr
    assert list(home.glob("unsaved-*.json"))
    assert all_kept(granted, sandbox)
    assert {each["state"] for each in granted.status().values()} == {"granted"}
    assert not list(home.glob("unsaved-*.json"))


@pytest.mark.parametrize("meddle", [without_its_log, without_its_index])
def test_behind_a_link_too(granted: Cli, tmp_path: Path, meddle: Callable[[Path], None]) -> None:
    home = Path(granted.environment["KIMIFLOW_HOME"])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in home.glob("kimiflow.db*"):
        file.rename(elsewhere / file.name)
    (home / "kimiflow.db").symlink_to(elsewhere / "kimiflow.db")
    worker = at_work(granted)
    meddle(elsewhere)
    assert worker.end() == 1
    assert "was moved or removed" in worker.stderr


@pytest.mark.parametrize("meddle", [by_a_copy, without_its_log, without_its_index])
def test_the_same_without_a_worker(granted: Cli, sandbox: ThreadedSandbox, meddle: Callable[[Path], None]) -> None:
    sandbox.inject("late/1.5:refresh")
    asked = granted.start("refresh", "--all")
    until(lambda: all_at_the_server(sandbox))
    meddle(Path(granted.environment["KIMIFLOW_HOME"]))
    assert asked.end(60.0) == 1
    assert "unsaved_not_written" not in asked.stderr
    assert "Traceback" not in asked.stderr
    assert all_kept(granted, sandbox)


def test_a_home_that_is_moved_away_and_back_has_lost_nothing(granted: Cli, sandbox: ThreadedSandbox) -> None:
    home = Path(granted.environment["KIMIFLOW_HOME"])
    worker = at_work(granted)
    sandbox.inject("late/1.5:refresh")
    asked = granted.start("refresh", "--all")
    until(lambda: all_at_the_server(sandbox))
    moved(home)
    worker.end(60.0)
    asked.end(60.0)
    shutil.rmtree(home, ignore_errors=True)  # what was made anew meanwhile
    home.with_name("elsewhere").rename(home)
    assert all_kept(granted, sandbox)
    assert sorted(granted.status()) == NAMES

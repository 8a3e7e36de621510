"""Room that is held in the home for what could not be committed."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow.logs import get_logger
from kimiflow.scheduling import reserve
from kimiflow.scheduling.reserve import STEP, Reserve, tidy
from kimiflow.scheduling.spill import _lock

if TYPE_CHECKING:
    from pathlib import Path

MOST = 1_000


@pytest.fixture
def held(tmp_path: Path) -> Reserve:
    return Reserve(tmp_path / "home", get_logger(), _lock)


def size(home: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in home.glob("reserve-*"))


def room_on_disk(patch: pytest.MonkeyPatch, most: int) -> None:
    """From now on no file grows beyond ``most`` bytes."""
    real = os.posix_fallocate

    def allocate(descriptor: int, start: int, length: int) -> None:
        if start + length > most:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor, start, length)

    patch.setattr(os, "posix_fallocate", allocate)


def test_it_grows_with_what_is_under_way_and_is_really_there(held: Reserve, tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert held.room(0, MOST) == 64
    assert size(home) >= 64 * STEP
    assert held.room(16, MOST) == 64
    assert held.room(17, MOST) == 128
    assert held.room(900, MOST) == MOST
    assert size(home) >= MOST * STEP
    assert held.room(0, MOST) == MOST, "it is not given back for a moment of rest"
    held.release()
    assert list(home.iterdir()) == []
    assert held.room(0, MOST) == 64


def test_a_disk_without_room_gives_what_it_has(held: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room_on_disk(monkeypatch, 200 * STEP)
    assert held.room(0, MOST) == 64
    assert held.room(100, MOST) == 64
    assert held.room(30, MOST) == 128
    held.release()
    monkeypatch.setattr(reserve, "_AT_FIRST", 256)
    assert held.room(0, MOST) == 0
    assert list((tmp_path / "home").iterdir()) == []


def test_what_was_given_up_for_one_reply_is_taken_back_for_the_next(
    held: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held.room(100, MOST)
    given_up = held.release()
    assert given_up == 512
    held.take_back(given_up)
    assert held.room(0, MOST) == 512
    given_up = held.release()
    room_on_disk(monkeypatch, 200 * STEP)
    held.take_back(given_up)
    assert held.room(0, MOST) == 128, "or as much of it as there is"
    assert size(tmp_path / "home") >= 128 * STEP


def test_a_home_that_cannot_be_written_holds_nobody_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    held = Reserve(tmp_path / "file" / "home", get_logger(), _lock)
    caplog.set_level("INFO", "kimiflow")
    assert held.room(0, MOST) == MOST
    assert held.room(500, MOST) == MOST
    assert caplog.text.count("nothing_can_be_kept_aside") == 1


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_the_system_gives_no_room_unseen_it_is_written(
    held: Reserve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def cannot(*_: Any) -> None:
        raise OSError(code, "not here")

    monkeypatch.setattr(os, "posix_fallocate", cannot)
    assert held.room(20, MOST) == 128
    assert size(tmp_path / "home") >= 128 * STEP


def test_what_the_dead_have_left_is_removed_and_what_the_living_hold_is_not(held: Reserve, tmp_path: Path) -> None:
    home = tmp_path / "home"
    held.room(0, MOST)
    (home / "reserve-1-abcdef01.tmp").write_bytes(bytes(100))
    (home / "reserve-2-abcdef01.tmp").symlink_to(tmp_path / "elsewhere")
    tidy(home, _lock)
    assert not (home / "reserve-1-abcdef01.tmp").exists()
    assert not (tmp_path / "elsewhere").exists()
    (home / "reserve-2-abcdef01.tmp").unlink()
    assert size(home) >= 64 * STEP

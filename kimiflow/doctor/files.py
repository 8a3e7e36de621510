"""The home: who may read it, whether there is room, and what was left in it."""

from __future__ import annotations

import os
import shutil
import stat
import time
from typing import TYPE_CHECKING, Final

from kimiflow.doctor.findings import Finding
from kimiflow.scheduling.spill import kept_aside
from kimiflow.stores.location import sqlite_path

if TYPE_CHECKING:
    from pathlib import Path

    from kimiflow.settings import Settings

__all__ = ["examine_files"]

_ENOUGH: Final = 50 * 2**20
_MOMENT: Final = 60.0
"""Seconds for which a worker may well keep something aside while its database restarts."""


def examine_files(settings: Settings) -> list[Finding]:
    """Modes, room, and files that wait for the database."""
    return [_modes(settings), _room(settings.home), _kept_aside(settings.home)]


def _modes(settings: Settings) -> Finding:
    database = sqlite_path(settings.store_url)
    private: dict[Path, int] = {settings.home: 0o700}
    if settings.key is None:
        private[settings.key_path] = 0o600
    if database is not None:
        private |= {database.with_name(database.name + suffix): 0o600 for suffix in ("", "-wal", "-shm")}
    private |= dict.fromkeys(kept_aside(settings.home), 0o600)
    there = {path: mode for path, mode in private.items() if path.exists()}
    if os.name == "nt" or not there:
        return Finding("files", ok=True, what=f"there is nothing in {settings.home} yet")
    strangers = [path for path in there if path.stat().st_uid != os.geteuid()]
    if strangers:
        listed = " ".join(map(str, strangers))
        return Finding(
            "files", ok=False, what=f"{listed}: owned by another user", todo=f"chown {os.geteuid()} {listed}"
        )
    if open_to_others := {path: mode for path, mode in there.items() if stat.S_IMODE(path.stat().st_mode) & ~mode}:
        told = ", ".join(f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}" for path in open_to_others)
        todo = "; ".join(f"chmod {mode:o} {path}" for path, mode in open_to_others.items())
        return Finding("files", ok=False, what=f"others can read what is secret: {told}", todo=todo)
    return Finding("files", ok=True, what=f"only this user can read {settings.home}, the key and the database")


def _room(home: Path) -> Finding:
    place = next((each for each in (home, *home.parents) if each.exists()), home)
    try:
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Finding("disk", ok=False, what=f"{place}: {error.strerror}", todo="Look at the disk.")
    if free < _ENOUGH:
        return Finding(
            "disk",
            ok=False,
            what=f"{place} has room for {free // 2**20} MiB only",
            todo="Free some space: tokens that cannot be written down are lost when the process ends.",
        )
    return Finding("disk", ok=True, what=f"{place} has room")


def _kept_aside(home: Path) -> Finding:
    waiting, strange = [], []
    for path in kept_aside(home):
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(found.st_mode):
            strange.append(path)
        elif time.time() - found.st_mtime > _MOMENT:
            waiting.append(path)
    if strange:
        listed = " ".join(map(str, strange))
        return Finding("unsaved", ok=False, what=f"{listed}: no file of kimiflow's, and not read", todo=f"rm {listed}")
    if not waiting:
        return Finding("unsaved", ok=True, what="nothing waits for the database")
    listed = ", ".join(map(str, waiting))
    return Finding(
        "unsaved",
        ok=False,
        what=f"results that the database does not have yet are kept in {listed}",
        todo="See to the database; the worker that wrote them saves them, or else the next command: kimiflow status. "
        "What is still there after it belongs to another database, or to an account that was forgotten.",
    )

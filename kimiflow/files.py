"""Files that hold secrets: written whole or not at all, and for their owner alone."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "DRAFT",
    "alone_in",
    "lock_file",
    "make_private_folder",
    "remove_file",
    "sync_folder",
    "try_lock",
    "write_beside",
    "write_file",
]

DRAFT: Final = (".kimiflow-", ".tmp")
"""How the name of a draft begins and ends: no tool that looks for its own files takes it for one."""

_OWNER_ONLY: Final = 0o600


def write_file(path: Path, data: bytes) -> None:
    """Replaces ``path`` by a file with ``data``, mode 0600; durable when this returns.

    Whoever reads it, and whatever stops this half-way, finds the old content or the new one. A link is followed, so
    that what it points to is replaced.

    :raises OSError: where it cannot be written; then the old file is untouched.
    """
    path = Path(os.path.realpath(path))
    draft = _draft(path.parent, data)
    try:
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_beside(path: Path, suffix: str, data: bytes) -> Path:
    """Writes ``data`` to a new file named after ``path``, mode 0600, and returns where; never replaces one.

    :raises OSError: where it cannot be written.
    """
    path = Path(os.path.realpath(path))
    draft = _draft(path.parent, data)
    try:
        number = 1
        while True:
            beside = path.with_name(f"{path.name}{suffix}{'' if number == 1 else f'-{number}'}")
            try:
                try:
                    # Unlike a rename, a link never replaces what is there.
                    os.link(draft, beside)
                except FileExistsError:
                    raise
                except OSError:
                    # No links here. Then there is a moment in which the file is there in part.
                    _write_new(beside, data)
            except FileExistsError:
                number += 1
            else:
                break
    finally:
        draft.unlink(missing_ok=True)
    sync_folder(path.parent)
    return beside


def remove_file(path: Path) -> None:
    """Removes ``path`` where it is there; durable when this returns."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """Makes ``path`` and what is missing above it, mode 0700; leaves alone what is there.

    :raises OSError: where it cannot be made, or is no folder.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_folder(each.parent)
    if not path.is_dir():
        raise NotADirectoryError(20, "is not a folder", str(path))


def sync_folder(path: Path) -> None:
    """Makes new, changed and removed names in ``path`` survive a power cut."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Whether ``path`` was free, and is this process's while the block runs; the system takes it back from the dead.

    :raises OSError: where it cannot be opened; made it is where it is missing, and left there.
    """
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, _OWNER_ONLY)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Has every other block like this one, in whatever process, wait: for who looks at a file and then replaces it.

    The lock is on the folder itself, so nothing is left in it. Where the system has none to offer, nobody waits.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl  # noqa: PLC0415 - not everywhere

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Whether a file was free, and is this process's now, until the descriptor is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - of one system each

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _draft(folder: Path, data: bytes) -> Path:
    path = folder / f"{DRAFT[0]}{secrets.token_hex(8)}{DRAFT[1]}"
    _write_new(path, data)
    return path


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ONLY)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise

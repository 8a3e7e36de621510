"""Room for what may have to be kept aside, held before the requests leave whose replies would need it.

A disk that is full, or a process with no file to open left, is found out by whoever comes last; that must not be a reply
with the only copy of a token. So a file of the right size lies in the home while requests are in flight, and is given up
the moment that the room is needed. What another program takes in that moment is gone.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from kimiflow.files import open_regular

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

__all__ = ["STEP", "Reserve", "tidy"]

STEP: Final = 16 * 1024
"""Bytes that one step takes at most: twice two tokens of 1.5 KiB, sealed, and what is around them."""

_AT_FIRST: Final = 64
"""Steps that there is room for at once; twice as many whenever a quarter of it is in use."""

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE})
_PATTERN: Final = "reserve-*.tmp"
_PIECE: Final = 1 << 20


class Reserve:
    """Disk space and descriptors of one worker.

    :param folder: the home.
    """

    def __init__(self, folder: Path, log: FilteringBoundLogger, lock: Callable[[int], bool]) -> None:
        self._path = folder / f"reserve-{os.getpid()}-{secrets.token_hex(4)}.tmp"
        self._log = log
        self._lock = lock
        self._descriptors: list[int] = []
        self._steps = 0
        self._in_vain = False
        """Nothing can be written there, so that there is nothing to hold."""

    def room(self, in_use: int, most: int) -> int:
        """For how many steps there is room in all, where ``in_use`` may come to need it; grows with these up to ``most``.

        Does not raise: where the disk or the process has no more to give, it is as many as before.
        """
        wanted = max(self._steps, _AT_FIRST)
        while in_use > wanted // 4:
            wanted *= 2
        wanted = min(wanted, most)
        if wanted > self._steps and not self._in_vain:
            self._grow(wanted)
        return most if self._in_vain else self._steps

    def release(self) -> int:
        """Gives it all up, for whoever is about to write; returns for how many steps it was."""
        steps, self._steps = self._steps, 0
        if not self._descriptors:
            return 0
        with suppress(OSError):
            os.ftruncate(self._descriptors[0], 0)
        self._path.unlink(missing_ok=True)
        while self._descriptors:
            os.close(self._descriptors.pop())
        return steps

    def take_back(self, steps: int) -> None:
        """Holds room for so many steps again, or for as many as there is room for now."""
        while steps and not self._steps and not self._in_vain:
            self._grow(steps)
            steps //= 2

    def _grow(self, steps: int) -> None:
        try:
            if not self._descriptors:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = open_regular(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, follow=False)
                # One for the file that is written in its place, one for the folder that it is written into.
                self._descriptors = [descriptor]
                self._descriptors.append(os.dup(descriptor))
                self._lock(descriptor)
            _allocate(self._descriptors[0], self._steps * STEP, steps * STEP)
            self._steps = steps
        except OSError as error:
            if not self._steps:
                self.release()
            if error.errno not in _NO_ROOM:
                self._in_vain = True
                self._log.info("nothing_can_be_kept_aside", folder=str(self._path.parent), reason=error.strerror)


def tidy(folder: Path, lock: Callable[[int], bool]) -> None:
    """Removes what processes that were killed have left behind."""
    for path in folder.glob(_PATTERN):
        with suppress(OSError):
            descriptor = open_regular(path, follow=False)
            try:
                if lock(descriptor):
                    path.unlink(missing_ok=True)
            finally:
                os.close(descriptor)


def _allocate(descriptor: int, start: int, end: int) -> None:
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, start, end - start)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
                raise
        else:
            return
    # Some file systems only give what is written.
    os.lseek(descriptor, start, os.SEEK_SET)
    while start < end:
        start += os.write(descriptor, bytes(min(_PIECE, end - start)))

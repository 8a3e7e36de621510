"""Open files: how many this process may have, and what to say where they are used up.

Each connection is one, and so are a database, its log, and the file in which unsaved replies are kept. What runs out is
found out by whoever comes last, which must not be a reply's commit.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import suppress
from typing import Final

__all__ = ["LEAST", "affordable", "limit", "none_left", "raise_limit", "used_up", "wanted_for"]

_OTHERS: Final = 48
"""For databases, their logs, name look-ups, files that are written, and what the program itself has open."""
LEAST: Final = 32
"""With fewer, a database and one connection cannot be open at a time."""
_MACOS: Final = 10_240
"""What macOS allows where it says that there is no limit."""


def limit() -> int | None:
    """How many files this process may have open; ``None`` where nobody says."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not everywhere

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def raise_limit(wanted: int) -> None:
    """Lets this process have so many files open, as far as it may decide that itself."""
    if sys.platform == "win32":
        return
    import resource  # noqa: PLC0415 - not everywhere

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    for possible in (wanted, min(wanted, _MACOS)):
        with suppress(ValueError, OSError):
            most = possible if hard == resource.RLIM_INFINITY else min(possible, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, soft), hard))
            return


def wanted_for(concurrency: int) -> int:
    """How many open files so many requests at a time are comfortable with."""
    return 2 * concurrency + 2 * _OTHERS


def affordable(concurrency: int) -> int:
    """``concurrency``, or as many requests at a time as there may be connections for; at least one.

    Half of what is free is for connections that wait for the next request to their host.
    """
    most = limit()
    if most is None:
        return concurrency
    return max(1, min(concurrency, (most - _open_now() - _OTHERS) // 2))


def used_up(number: int | None) -> str | None:
    """What to say of an error of this number, where it means that no more files can be opened.

    ``ulimit -n`` is how a shell shows and raises the limit.
    """
    if number == errno.ENFILE:
        return "this machine has as many files open as it can"
    if number == errno.EMFILE:
        return f"this process has all of the {limit()} files open that it may; raise the limit: ulimit -n 1024"
    return None


def none_left() -> str | None:
    """The same, found out by trying; for what fails without a number."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return used_up(error.errno)
    return None


def _open_now() -> int:
    for folder in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return sum(1 for _ in os.scandir(folder))
    return 0

"""Time counted from the machine's start, which nobody can turn.

Leases, polls and refreshes are judged by one time. On one machine that could be the wall clock, but a time server or a
person may turn it: forward, and every lease is over and every code has run out at once; back, and nothing is due for as
long. So there time is counted from the machine's start, suspension included, on top of what the wall clock said when
kimiflow was first used since then. The first process writes that down in the database, the others read it; so all agree,
and it begins anew with each start of the machine.

What this costs: where the wall clock was wrong at that moment and is set right afterwards, kimiflow's times stay off
until the machine starts again. Nothing depends on it, for what counts are the distances; a service is best started
after ``time-sync.target``.

Where a system cannot count suspension or name its start (it is not Linux), the wall clock is the time.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARK", "SINCE_BOOT", "Boot", "this_boot"]

MARK: Final = "clock"
"""Under which name a database keeps what its machine agreed on."""

SINCE_BOOT: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", None)
"""The system's clock that counts since the machine's start, suspension included, where it has one."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Boot:
    """One start of one machine."""

    id: str
    """Another word each time."""
    elapsed: Callable[[], float]
    """Seconds since then, those of suspension included."""

    def mark(self, wall: float) -> str:
        """What to write down, where the wall clock says ``wall`` now."""
        return f"{self.id} {wall - self.elapsed()!r}"

    def time(self, mark: str | None) -> float | None:
        """Unix seconds by what was written down; ``None`` where that was not since this start."""
        boot, _, offset = (mark or "").partition(" ")
        return self.elapsed() + float(offset) if boot == self.id else None


def this_boot() -> Boot | None:
    """This machine's; ``None`` where it cannot be counted on."""
    clock = SINCE_BOOT
    if clock is None:
        return None
    try:
        return Boot(_BOOT_ID.read_text(encoding="ascii").strip(), lambda: time.clock_gettime(clock))
    except OSError:
        return None

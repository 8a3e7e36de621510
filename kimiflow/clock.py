"""The two clocks, passed in wherever time matters.

Wall time says when something is due, and survives a restart. Monotonic time measures how much of a lease is left, and
no administrator can turn it back; where the system can, it goes on while the machine is suspended, as leases do.
Waiting is asyncio's business; a test gives it a loop whose time is virtual.
"""

from __future__ import annotations

import time
from typing import Protocol

from kimiflow.boottime import SINCE_BOOT

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Where the time comes from."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that only ever grow, from an arbitrary start."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic() if SINCE_BOOT is None else time.clock_gettime(SINCE_BOOT)

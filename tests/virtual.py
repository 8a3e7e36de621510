"""An event loop whose time is virtual: waiting costs nothing, and every run is the same run.

Timers fire in order, and when nothing is left to do but wait, the loop's time jumps to the next timer. A
program that waits for nothing that could ever happen is reported as a deadlock instead of hanging.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

__all__ = ["START", "VirtualClock", "VirtualLoop", "run_virtual"]

START = 1_800_000_000.0
"""The wall time at which virtual runs begin, in Unix seconds."""


class Deadlock(RuntimeError):
    """Nothing is scheduled, and nothing outside could wake the loop."""


class _JumpingSelector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            msg = "every task waits for something that nothing will bring about"
            raise Deadlock(msg)
        self.loop.virtual_now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """``asyncio`` with virtual time."""

    def __init__(self) -> None:
        self.virtual_now = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.virtual_now


class VirtualClock:
    """Wall and monotonic time of a virtual loop; ``skew`` is how far this machine's wall clock is off."""

    def __init__(self, loop: VirtualLoop, skew: float = 0.0) -> None:
        self._loop = loop
        self.skew = skew

    def now(self) -> float:
        return START + self._loop.virtual_now + self.skew

    def monotonic(self) -> float:
        return self._loop.virtual_now


def run_virtual(main: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    """Runs ``main`` in virtual time."""
    loop = loop or VirtualLoop()
    try:
        asyncio.set_event_loop(loop)
        return loop.run_until_complete(main)
    finally:
        # As asyncio.run does: what is left over would be reported from some later test.
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
        loop.close()

"""From a command to the event loop and back: settings, logs, signals."""

from __future__ import annotations

import asyncio
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kimiflow.cli.failures import INTERRUPTED
from kimiflow.cli.talk import say
from kimiflow.flow import KimiFlow
from kimiflow.logs import configure
from kimiflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import FrameType

    from kimiflow.settings import Settings

__all__ = ["run", "run_until_stopped", "settled_settings", "unless_stopped"]


def settled_settings(*, log_level: str | None = "warning") -> Settings:
    """The settings; logging is set up by them.

    :param log_level: how much to log where nobody has said; ``None`` for the setting's own default.
    """
    settings = load_settings()
    level = settings.log_level if log_level is None or "log_level" in settings.model_fields_set else log_level
    configure(level, settings.log_format)
    return settings


def run(
    body: Callable[[KimiFlow], Awaitable[int]],
    *,
    settings: Settings | None = None,
    interrupted: Callable[[], int] = lambda: INTERRUPTED,
) -> int:
    """Runs ``body`` with a flow, and returns its exit code.

    Ctrl-C and SIGTERM cancel the body, but never the requests that are in flight: those land and are committed,
    because a reply that nobody reads may hold the only copy of a token.

    :param interrupted: called after a signal cut the body short; returns the exit code.
    """
    settings = settings or settled_settings()

    async def main() -> int:
        stop = asyncio.Event()
        with _signals(stop):
            async with KimiFlow.open(settings) as flow:
                return await _unless(stop, body(flow), interrupted)

    return asyncio.run(main())


def run_until_stopped(body: Callable[[KimiFlow, asyncio.Event], Awaitable[int]], settings: Settings) -> int:
    """Like :func:`run`, for a body that looks at the event itself, which is set by the first signal."""

    async def main() -> int:
        stop = asyncio.Event()
        with _signals(stop):
            async with KimiFlow.open(settings) as flow:
                return await body(flow, stop)

    return asyncio.run(main())


async def unless_stopped(body: Callable[[], Awaitable[int]], *, interrupted: Callable[[], int]) -> int:
    """Awaits ``body``, which Ctrl-C and SIGTERM cancel; whatever it does to clean up then is not cut short."""
    stop = asyncio.Event()
    with _signals(stop):
        return await _unless(stop, body(), interrupted)


async def _unless(stop: asyncio.Event, body: Awaitable[int], interrupted: Callable[[], int]) -> int:
    working = asyncio.ensure_future(body)
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
    stopping.cancel()
    return interrupted() if working.cancelled() else working.result()


@contextmanager
def _signals(stop: asyncio.Event) -> Iterator[None]:
    """SIGINT and SIGTERM set ``stop``; when they come again they are told to wait."""
    loop = asyncio.get_running_loop()

    def caught() -> None:
        if stop.is_set():
            say("Still waiting for requests in flight, so that no token is lost; at most one request's time-out.")
        stop.set()

    def caught_outside(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(caught)

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, caught)
        except (NotImplementedError, RuntimeError):  # Windows; or a thread other than the main one
            if sys.platform == "win32":
                before[number] = signal.signal(number, caught_outside)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            if number in before:
                signal.signal(number, before[number])
            else:
                loop.remove_signal_handler(number)

"""From a command to the event loop and back: settings, logs, signals."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from kimiflow.cli.failures import FAILURE, INTERRUPTED, report
from kimiflow.cli.talk import is_terminal, say
from kimiflow.descriptors import LEAST, limit, raise_limit, wanted_for
from kimiflow.errors import NotSaved, StoreUnavailable, UsageError
from kimiflow.flow import KimiFlow
from kimiflow.logs import configure, get_logger
from kimiflow.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from types import FrameType
    from typing import NoReturn, Self

    from kimiflow.settings import Settings

__all__ = ["run", "run_until_stopped", "settled_settings", "unless_stopped"]

_SIGNALS: Final = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""What ends a program: Ctrl-C, whoever supervises it, and a terminal that goes away."""

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between looks for a database that is away."""

_SHOW_CURSOR: Final = "\x1b[?25h"
"""What a live table hides, and would show again at its end."""


def settled_settings(*, log_level: str | None = "warning") -> Settings:
    """The settings; logging is set up by them, and room is made for as many connections as they allow.

    :param log_level: how much to log where nobody has said; ``None`` for the setting's own default.
    """
    _need_files()
    settings = load_settings()
    raise_limit(wanted_for(settings.concurrency))
    level = settings.log_level if log_level is None or "log_level" in settings.model_fields_set else log_level
    configure(level, settings.log_format)
    return settings


def _need_files() -> None:
    """A reply that cannot be saved for want of a file is lost; so it is better not asked for.

    :raises UsageError: where this process may not have the files open that the least of work takes.
    """
    raise_limit(LEAST)
    most = limit()
    if most is not None and most < LEAST:
        raise UsageError(
            f"this process may have {most} files open, and kimiflow needs {LEAST}; nothing was done",
            hint="Raise the limit: ulimit -n 1024",
        )


def run(
    body: Callable[[KimiFlow], Awaitable[int]],
    *,
    settings: Settings | None = None,
    interrupted: Callable[[int], int] = int,
) -> int:
    """Runs ``body`` with a flow, and returns its exit code.

    The first signal that ends a program cancels the body, but never the requests that are in flight: those land and are
    committed, because a reply that nobody reads may hold the only copy of a token. The second ends it at once.

    :param interrupted: called after a signal cut the body short, with the exit code that is usual then; returns the one
        to exit with.
    """
    settings = settings or settled_settings()

    async def main() -> int:
        with Ending(settings).watched() as ending:
            async with KimiFlow.open(settings) as flow:
                ending.flow = flow
                return await _unless(ending, body(flow), interrupted)

    return asyncio.run(main())


def run_until_stopped(body: Callable[[KimiFlow, asyncio.Event], Awaitable[int]], settings: Settings) -> int:
    """Like :func:`run`, for a body that looks at the event itself, which is set by the first signal.

    A database that is away at the start is waited for, as it is when it goes away later.
    """

    async def main() -> int:
        with Ending(settings).watched() as ending:
            async with AsyncExitStack() as stack:
                flow = await _entered(stack, settings, ending.stop)
                if flow is None:
                    return 0
                ending.flow = flow
                return await body(flow, ending.stop)

    return asyncio.run(main())


async def _entered(stack: AsyncExitStack, settings: Settings, stop: asyncio.Event) -> KimiFlow | None:
    """A flow whose store is open, however long that takes; ``None`` where ``stop`` came first."""
    pause, told = _FIRST_PAUSE, False
    while not stop.is_set():
        try:
            return await stack.enter_async_context(KimiFlow.open(settings))
        except StoreUnavailable as error:
            get_logger().warning("store_unavailable", retry_in=pause, reason=error.message)
            if settings.log_format != "json" and not told:  # the rest is in the log
                told = True
                say(f"{error.message}. {error.hint}\nThis waits until it is there; Ctrl-C stops it.")
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await stop.wait()
        pause = min(pause * 2, _LONGEST_PAUSE)
    return None


async def unless_stopped(body: Callable[[], Awaitable[int]], *, interrupted: Callable[[int], int] = int) -> int:
    """Awaits ``body``, which the first signal cancels; whatever it does to clean up then is cut short by the second."""
    with Ending().watched() as ending:
        return await _unless(ending, body(), interrupted)


async def _unless(ending: Ending, body: Awaitable[int], interrupted: Callable[[int], int]) -> int:
    working = asyncio.ensure_future(body)
    stopping = asyncio.ensure_future(ending.stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
    stopping.cancel()
    return interrupted(ending.code) if working.cancelled() else working.result()


class Ending:
    """What the signals that end a program do to a command: the first one asks it to end, the second one ends it.

    A signal that was ignored when the program began stays so: ``nohup`` and a shell's ``&`` ask for that.

    :param settings: those of the log, where the command has any.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.stop = asyncio.Event()
        self.flow: KimiFlow | None = None
        self.code = INTERRUPTED
        """The exit code of what was cut short, as shells count it: 128 and the number of the signal."""
        self._for_programs = settings is not None and settings.log_format == "json"

    @contextmanager
    def watched(self) -> Iterator[Self]:
        """The signals are dealt with while the block runs, in the running loop."""
        loop = asyncio.get_running_loop()

        def caught_outside(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._caught, number)

        before: dict[int, Any] = {}
        for number in _SIGNALS:
            if (found := signal.getsignal(number)) in {signal.SIG_IGN, None}:
                continue
            try:
                loop.add_signal_handler(number, self._caught, number)
            except (NotImplementedError, RuntimeError):  # Windows; or a thread other than the main one
                if sys.platform == "win32":
                    signal.signal(number, caught_outside)
                else:
                    continue
            before[number] = found
        try:
            yield self
        finally:
            for number, found in before.items():
                if sys.platform != "win32":
                    loop.remove_signal_handler(number)
                signal.signal(number, found)

    def _caught(self, number: int) -> None:
        if self.stop.is_set():
            self._end_now()
        self.code = 128 + number
        self.stop.set()
        awaited = self.flow.awaited() if self.flow is not None else []
        if self.flow is None or not awaited:
            return
        at_most = math.ceil(self.flow.longest_stop)
        if self._for_programs:
            get_logger().warning("stopping", awaited=awaited, at_most=at_most)
            return
        say(
            f"Waiting for replies that may hold the only copy of a token, at most {at_most} s: {_some(awaited)}. "
            "The same again ends at once."
        )

    def _end_now(self) -> NoReturn:
        """Nothing is waited for; what has arrived is kept in a file, which takes no longer than the disk."""
        try:
            in_doubt, error = self.flow.give_up() if self.flow is not None else [], None
        except NotSaved as failure:
            in_doubt, error = [], failure
        if self._for_programs:
            get_logger().error("ended_at_once", in_doubt=in_doubt, reason=error.message if error else None)
        else:
            if is_terminal(sys.stderr):
                say(_SHOW_CURSOR)
            if error is not None:
                report(error)
            elif in_doubt:
                say(f"Ended without the replies for {_some(in_doubt, most=100)}: these accounts are in doubt.")
                say("See what became of them with: kimiflow refresh NAME; who is expired then, signs in anew.")
            else:
                say("Ended at once; no reply was awaited that could hold a token.")
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(FAILURE)


def _some(names: Sequence[str], most: int = 5) -> str:
    """The first of these names, and how many more there are."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")

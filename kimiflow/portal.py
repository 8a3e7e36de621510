"""An event loop in a thread of its own, and the way into it for all other threads."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

from kimiflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

__all__ = ["Portal"]

T = TypeVar("T")

_END: Final = object()

_LOOK_FOR_THE_END_EVERY: Final = 0.5
"""Seconds between looks whether the program is over, which cannot end while this thread runs."""

_WITH: Final = "Use it inside: with kimiflow.sync.KimiFlow.open() as flow"


class Portal:
    """Runs coroutines in a background loop, for as long as a context in that loop is open.

    Any thread may call any method at any time. When it is closed, work that is under way is cancelled, then the
    context is left. A program that forgot to close it does so when its main thread ends.
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._failure: BaseException | None = None
        """What leaving the context has raised, for :meth:`close` to raise."""

    def open(self, context: AbstractAsyncContextManager[object]) -> None:
        """Starts the loop and enters ``context`` there; raises what that raises.

        :raises UsageError: where it was opened before, or closed.
        """
        entered: Future[None] = Future()
        with self._lock:
            if self._thread is None and self._closed:
                raise UsageError("this KimiFlow was closed before it was opened", hint=f"Use another. {_WITH}")
            if self._thread is not None:
                raise UsageError("this KimiFlow was opened before, and can be opened only once", hint=_WITH)
            self._thread = threading.Thread(
                target=lambda: asyncio.run(self._main(context, entered)), name="kimiflow-sync"
            )
            # One that was made before a fork may be opened after it.
            self._process = os.getpid()
            self._thread.start()
        try:
            entered.result()
        except BaseException:
            self.close()
            raise

    async def _main(self, context: AbstractAsyncContextManager[object], entered: Future[None]) -> None:
        try:
            async with context:
                with self._lock:
                    self._loop = asyncio.get_running_loop()
                    if self._closed:
                        self._stop.set()
                entered.set_result(None)
                await self._until_stopped()
                for task in self._tasks:
                    task.cancel()
                await asyncio.gather(*self._tasks, return_exceptions=True)
        except BaseException as error:  # noqa: BLE001 - raised by whoever opens or closes
            if entered.done():
                self._failure = error
            else:
                entered.set_exception(error)
        finally:
            self._closed = True

    async def _until_stopped(self) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_FOR_THE_END_EVERY):
                    await self._stop.wait()
            if not threading.main_thread().is_alive():
                self.release()

    def check(self) -> None:
        """Says whether anything can be run.

        :raises UsageError: where it is not open, belongs to another process, or would wait for itself.
        """
        if os.getpid() != self._process:
            raise UsageError(
                "this KimiFlow was opened before the process was forked, and its thread is not in this one",
                hint="Open one in each process: with kimiflow.sync.KimiFlow.open() as flow",
            )
        if self._closed or self._loop is None:
            raise UsageError("this KimiFlow is not open", hint=_WITH)
        if threading.current_thread() is self._thread:
            raise UsageError("this KimiFlow is called from its own event loop", hint="Call it from another thread.")

    def run(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """Runs a coroutine in the loop, and waits for it. Ctrl-C here cancels it there.

        :raises UsageError: as :meth:`check`, or where it is closed meanwhile.
        """
        self.check()
        with self._lock:
            # What is handed to the loop before it is told to stop is seen by it before it stops.
            self.check()
            assert self._loop is not None  # noqa: S101 - checked
            outcome = asyncio.run_coroutine_threadsafe(self._tracked(work), self._loop)
        try:
            return outcome.result()
        except CancelledError:
            if self._closed:
                raise UsageError("this KimiFlow was closed while it was waited for", hint=_WITH) from None
            raise
        except BaseException:
            outcome.cancel()
            raise

    async def _tracked(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - run by one
        self._tasks.add(task)
        try:
            return await work()
        finally:
            self._tasks.discard(task)

    def iterate(self, items: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        """The items of an asynchronous iterator, each waited for in the calling thread.

        :raises UsageError: as :meth:`check`, before anything is asked for.
        """
        self.check()
        return self._iterate(items())

    def _iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        async def following() -> Any:  # noqa: ANN401 - an item, or the end
            return await anext(items, _END)

        try:
            while (item := self.run(following)) is not _END:
                yield item
        finally:
            if (aclose := getattr(items, "aclose", None)) is not None:
                # Where it cannot be called now (closed, or just being cancelled), the loop does it.
                with suppress(UsageError, RuntimeError):
                    self.run(aclose)

    def release(self) -> None:
        """Begins to close, and waits for nothing."""
        if os.getpid() != self._process:
            return
        with self._lock:
            if self._closed:
                return
            # First, so that whoever is cancelled by it knows why.
            self._closed = True
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._stop.set)

    def close(self) -> None:
        """Cancels what is under way, leaves the context, and ends the thread, which is waited for.

        May be called again, by any thread; in a forked process it does nothing. Raises what leaving the context does.
        """
        self.release()
        if os.getpid() == self._process and self._thread not in (None, threading.current_thread()):
            assert self._thread is not None  # noqa: S101 - just compared
            self._thread.join()
            failure, self._failure = self._failure, None
            if failure is not None:
                raise failure

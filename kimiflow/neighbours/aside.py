"""Work that blocks, beside the loop, and with nobody bound to wait for its end.

A disk of another machine may never answer, and then no signal reaches whoever asked it. The threads of
:func:`asyncio.to_thread` are waited for when a program ends; this one is left behind.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Aside"]

T = TypeVar("T")


class Aside:
    """One thread at a time.

    :param what: what the work has to do with, for the error.
    :param patience: seconds after which work is no longer waited for; without them, only a cancellation ends that.
    """

    def __init__(self, what: str, patience: float | None = None) -> None:
        self._what = what
        self._patience = patience
        self._under_way: asyncio.Future[Any] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a thread has not come back."""
        return self._under_way is not None and not self._under_way.done()

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns.

        :raises TimeoutError: where it takes too long, or where what was begun before has not ended: then it never began.
        """
        if not self.is_busy:
            loop = asyncio.get_running_loop()
            done: asyncio.Future[T] = loop.create_future()
            done.add_done_callback(lambda it: it.cancelled() or it.exception())  # nobody may be there to ask for it
            self._under_way = done

            def body() -> None:
                outcome: Callable[[], None]
                try:
                    outcome = partial(done.set_result, work())
                except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                    outcome = partial(done.set_exception, error)
                with suppress(RuntimeError):  # the loop is gone, and so is whoever would listen
                    loop.call_soon_threadsafe(outcome)

            threading.Thread(target=body, name="kimiflow-aside", daemon=True).start()
            await asyncio.wait({done}, timeout=self._patience)
            if done.done():
                return done.result()
        raise TimeoutError(errno.ETIMEDOUT, "it does not answer", self._what)

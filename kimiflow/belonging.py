"""Where a ``KimiFlow`` may be used: in the event loop that it was entered in, until it is left, and in no other process.

Its locks, its connections and those who wait for it belong to that loop. In another one nobody would ever wake who
waits; in a forked process the loop's threads are missing, and what looks like connections are the parent's.
"""

from __future__ import annotations

import os
from _thread import get_ident
from asyncio import _get_running_loop
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from kimiflow.errors import UsageError

if TYPE_CHECKING:
    import asyncio

__all__ = ["Belonging"]

_WITH: Final = "async with KimiFlow.open() as flow"


class Belonging:
    """Of one ``KimiFlow``.

    :param whole: what owns all that must not be touched in a forked process.
    """

    def __init__(self, whole: object) -> None:
        _WHOLES[whole] = self
        self.loop: asyncio.AbstractEventLoop | None = None
        """Where it was entered, or is just being entered."""
        self.thread: int | None = None
        """Where that loop was last seen to run; none while nobody may use it. Where this is the thread, and the loop
        runs, all is well: who is asked for every token looks only at that, because :meth:`check` would be felt."""
        self.closed = False
        self.left_behind = False
        """In a forked process: what it holds is the parent's."""

    def begin(self) -> None:
        """It is being entered, here. Nobody may use it yet.

        :raises UsageError: where it was entered before.
        """
        self.check_process()
        if self.closed or self.loop is not None:
            raise UsageError(
                "this KimiFlow was opened before, and can be opened only once", hint=f"Use another: {_WITH}"
            )
        self.loop = _get_running_loop()

    def give_up(self) -> None:
        """It could not be entered; that may be tried again."""
        self.loop = None

    def enter(self) -> None:
        """From now on it may be used, here."""
        self.thread = get_ident()

    def leave(self) -> None:
        """From now on nobody may use it; to leave it again is no mistake.

        :raises UsageError: where it was entered in another loop.
        """
        if self.loop is not None and self.loop is not _get_running_loop():
            raise _in_another_loop()
        self.closed = True
        self.thread = None

    def check(self) -> None:
        """Says whether it may be used here and now.

        :raises UsageError: where it is not open, belongs to another loop, or was opened before a fork.
        """
        self.check_open()
        if self.loop is not _get_running_loop():
            raise _in_another_loop()
        self.thread = get_ident()

    def check_open(self) -> None:
        """The same, where no loop has to run.

        :raises UsageError: where it is not open, or was opened before a fork.
        """
        self.check_process()
        if self.thread is None:
            what = "closed" if self.closed else "not open"
            raise UsageError(f"this KimiFlow is {what}", hint=f"Use it inside: {_WITH}")

    def check_process(self) -> None:
        """The same, for what is allowed before it is open and afterwards.

        :raises UsageError: where it was opened before a fork.
        """
        if self.left_behind:
            raise UsageError(
                "this KimiFlow was opened before the process was forked, and cannot be used in this one",
                hint=f"Open one in each process: {_WITH}",
            )

    def was_forked(self) -> bool:
        """Called in a forked process; returns whether there is anything of the parent's in it."""
        self.left_behind = self.left_behind or (self.loop is not None and not self.closed)
        if self.left_behind:
            self.thread = None
        return self.left_behind


def _in_another_loop() -> UsageError:
    return UsageError(
        "this KimiFlow belongs to another event loop, which it was entered in",
        hint=f"Open one in each loop: {_WITH}. For many threads there is: kimiflow.sync.KimiFlow",
    )


_WHOLES: Final[WeakKeyDictionary[object, Belonging]] = WeakKeyDictionary()
_LEFT_BEHIND: Final[list[object]] = []


def _after_a_fork() -> None:
    # Kept for ever, so that the garbage collector closes none of it either: a loop that is dropped takes files off a
    # selector that is the parent's too, and SQLite forbids to close what was opened before a fork.
    _LEFT_BEHIND.extend([whole for whole, belonging in _WHOLES.items() if belonging.was_forked()])


if hasattr(os, "register_at_fork"):  # so that nobody has to ask for the process at every call
    os.register_at_fork(after_in_child=_after_a_fork)

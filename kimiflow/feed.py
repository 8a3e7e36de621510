"""What happens to all accounts, whoever makes it happen, as one stream that misses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import Self

    from kimiflow.engine import Engine
    from kimiflow.model import AccountTransition

__all__ = ["Feed"]

_AT_ONCE: Final = 200


class Feed:
    """Every transition of every account, in this process or another, in the order of commits; an async iterator.

    It is pulled, never pushed: nothing is kept for a reader who is slow but the page that he is in, and he goes on
    where he was. An ``anext`` that is cancelled, or that raises, takes nothing away; the next one continues. One reader
    at a time. It ends when its flow is closed.
    """

    def __init__(self, engine: Engine, after: int | None = None) -> None:
        self._engine = engine
        self._read = after
        self._page: list[AccountTransition] = []
        self.cursor = after
        """The cursor of the last transition that was handed out, to be given to ``events(after=…)`` after a restart;
        ``None`` where the stream starts now and has not begun."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AccountTransition:
        """The next transition; waits for it.

        :raises StoreUnavailable: where the database is away; the next call tries again.
        :raises UsageError: in another loop than its flow's, and in a forked process.
        """
        engine = self._engine
        if not engine.closed:
            engine.check()
        while not self._page:
            if engine.closed:
                raise StopAsyncIteration
            # Taken before the look, so that what is committed between the look and the wait is not slept through.
            moved = engine.moved
            if self._read is None:
                self._read = self.cursor = await engine.store.last_cursor()
            elif page := await engine.store.transitions_after(self._read, _AT_ONCE):
                self._page = page[::-1]
                self._read = page[-1].cursor
            elif not engine.closed:
                await engine.wait_for(moved, None)
        entry = self._page.pop()
        self.cursor = entry.cursor
        return entry

"""Calls for one thing each that share a call for many.

Hundreds of callers who ask at once, for an account each, cost one look at the store and not hundreds. Whoever asks
while a call is under way has his answer from the next one, so that no answer is older than its question.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

__all__ = ["Batched"]

K = TypeVar("K")
V = TypeVar("V")


class Batched(Generic[K, V]):
    """:param call: what is called with the keys that were asked for, each once; it raises for all of them, or for none.

    :param start: has a task run beside the callers, who may be cancelled; or raises, and then so does the call.
    """

    def __init__(
        self,
        call: Callable[[Sequence[K]], Coroutine[Any, Any, Mapping[K, V]]],
        start: Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]],
    ) -> None:
        self._call = call
        self._start = start
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._serving: asyncio.Task[None] | None = None

    async def __call__(self, key: K) -> V | None:
        """What the next call finds for ``key``; ``None`` where it finds nothing."""
        if self._serving is None or self._serving.done():
            self._serving = self._start(self._serve(), "kimiflow-batch")
        answer = self._waiting.get(key)
        if answer is None:
            answer = self._waiting[key] = asyncio.get_running_loop().create_future()
        # Others may have asked for the same.
        return await asyncio.shield(answer)

    async def _serve(self) -> None:
        while self._waiting:
            asked, self._waiting = self._waiting, {}
            try:
                found = await self._call(list(asked))
            except BaseException as error:
                for answer in asked.values():
                    if isinstance(error, Exception):
                        answer.set_exception(error)
                    else:
                        answer.cancel()
                if not isinstance(error, Exception):
                    raise
            else:
                for key, answer in asked.items():
                    answer.set_result(found.get(key))

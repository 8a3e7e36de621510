"""Grouped commits: while one is under way the next steps gather, and share the cost of the next one.

A step that was handed in is never dropped. While the store is away it is kept, and tried again with backoff; a
token that arrived in the meantime is committed when the store is back.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kimiflow.errors import StoreUnavailable
from kimiflow.stores.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from kimiflow.stores.base import Step, Store

    Done = Callable[[Outcome], None]

__all__ = ["Committer"]

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 5.0


class Committer:
    """Writes steps to a store, many in one transaction.

    :param most: steps in one transaction.
    :param keep: told which steps wait for a store that is away, so that they outlive the process; and told of none
        when they have been committed.
    """

    def __init__(
        self,
        store: Store,
        log: FilteringBoundLogger,
        *,
        most: int = 1_000,
        keep: Callable[[Sequence[Step]], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._log = log
        self._most = most
        self._keep = keep
        self._away_since: float | None = None
        self._waiting: list[tuple[Step, Done]] = []
        self._writer: asyncio.Task[None] | None = None

    @property
    def unsaved(self) -> Sequence[Step]:
        """Steps that are not yet known to be in the store."""
        return [step for step, _ in self._waiting]

    def away_for(self) -> float:
        """Seconds since the store stopped answering; 0 while it does."""
        if self._away_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._away_since

    def give_up(self) -> Sequence[Step]:
        """Stops trying, and returns the steps that the store does not have. For a process that must end."""
        if self._writer is not None:
            self._writer.cancel()
        unsaved = self.unsaved
        self._keep(_worth_keeping(unsaved))
        self._waiting.clear()
        return unsaved

    def hand_in(self, step: Step, done: Done) -> None:
        """Commits ``step`` with the next group, and calls ``done`` with what became of it, however long that takes."""
        self._waiting.append((step, done))
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="kimiflow-committer")

    async def commit(self, step: Step) -> Outcome:
        """The same for who has nothing else to do meanwhile."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.hand_in(step, lambda found: None if outcome.done() else outcome.set_result(found))
        return await outcome

    async def _write(self) -> None:
        pause = _FIRST_PAUSE
        while self._waiting:
            # What becomes ready in this turn of the loop comes along.
            await asyncio.sleep(0)
            batch = self._waiting[: self._most]
            try:
                outcomes = await self._commit([step for step, _ in batch])
            except StoreUnavailable as error:
                self._log.warning("commit_delayed", steps=len(batch), retry_in=pause, reason=error.message)
                if self._away_since is None:
                    self._away_since = asyncio.get_running_loop().time()
                self._keep(_worth_keeping(self.unsaved))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            del self._waiting[: len(batch)]
            for (step, done), outcome in zip(batch, outcomes, strict=True):
                self._report(step, outcome)
                try:
                    done(outcome)
                except Exception as error:  # noqa: BLE001 - a listener's defect must not keep others from their outcome
                    self._log.error("listener_failed", account=step.claim.account.name, exc_info=error)
            if self._away_since is not None and not self._waiting:
                self._away_since = None
                self._keep(())

    async def _commit(self, steps: Sequence[Step]) -> list[Outcome]:
        """One transaction; where that meets a defect, one for each step, so that it costs only the step that has it."""
        try:
            return await self._store.commit(steps)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - logged as what it is below, with the step that caused it
            if len(steps) == 1:
                self._log.error("step_refused", account=steps[0].claim.account.name, exc_info=error)
                return [Outcome.LOST]
        outcomes: list[Outcome] = []
        for step in steps:
            outcomes += await self._commit([step])
        return outcomes

    def _report(self, step: Step, outcome: Outcome) -> None:
        if outcome is Outcome.COMMITTED:
            return
        account = step.claim.account.name
        if outcome is Outcome.MERGED:
            self._log.warning("tokens_merged_late", account=account)
        elif step.brings_tokens:
            self._log.error("tokens_arrived_too_late", account=account, outcome=outcome.value)
        else:
            self._log.debug("step_not_written", account=account, outcome=outcome.value)


def _worth_keeping(steps: Sequence[Step]) -> list[Step]:
    """Those that carry what no later request could bring again: tokens, a device code, a word of the server."""
    return [step for step in steps if step.history]

"""Grouped commits: while one is under way the next steps gather, and share the cost of the next one.

A step that was handed in is never dropped. While the store is away it is kept, and tried again with backoff; a
token that arrived in the meantime is committed when the store is back. What waits for long is kept aside as well, where
it outlives the process: a store that is cut off says nothing until its time-out, and nobody knows who is killed by then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from kimiflow.errors import StoreUnavailable
from kimiflow.finishing import begin
from kimiflow.stores.base import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from structlog.typing import FilteringBoundLogger

    from kimiflow.stores.base import Step, Store

    Done = Callable[[Outcome], None]

__all__ = ["Committer"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_ASIDE_AFTER: Final = 1.0
"""Seconds after which a commit that is under way is taken for one that may never end."""


class Committer:
    """Writes steps to a store, many in one transaction.

    :param most: steps in one transaction.
    :param keep: told which steps wait for a store that is away, does not answer or does not take them, so that they
        outlive the process, and told of none when they have been committed; it returns whether they will.
    """

    def __init__(
        self,
        store: Store,
        log: FilteringBoundLogger,
        *,
        most: int = 1_000,
        keep: Callable[[Sequence[Step]], bool] = lambda _: True,
    ) -> None:
        self._store = store
        self._log = log
        self._most = most
        self._keep = keep
        self._away_since: float | None = None
        self._waiting: list[tuple[Step, Done]] = []
        self._writer: asyncio.Task[None] | None = None
        self._kept = 0
        """How many of those that wait, the oldest, were kept aside."""
        self._aside: Sequence[Step] = ()
        self._is_kept = True
        """What was last to be kept aside, and whether it was."""
        self._alarm: asyncio.TimerHandle | None = None
        self._refused: list[Step] = []
        """Those with tokens that the store does not take; another program, or this one after a repair, may write them."""

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
        """Stops trying, keeps what is left aside, and returns the steps of it. For a process that must end."""
        unsaved = self.unsaved
        self._keep_aside()
        self._waiting.clear()
        if self._writer is not None:
            self._writer.cancel()
        self._disarm()
        return unsaved

    def not_saved(self) -> Sequence[Step]:
        """Those that are neither in the store nor kept aside. For a process that has nothing more to commit."""
        return [] if self._is_kept else self._aside

    def hand_in(self, step: Step, done: Done) -> None:
        """Commits ``step`` with the next group, and calls ``done`` with what became of it, however long that takes."""
        self._waiting.append((step, done))
        if self._writer is None or self._writer.done():
            self._writer = begin(self._write(), "kimiflow-committer")

    async def commit(self, step: Step) -> Outcome:
        """The same for who has nothing else to do meanwhile."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.hand_in(step, lambda found: None if outcome.done() else outcome.set_result(found))
        return await outcome

    async def _write(self) -> None:
        while self._waiting:
            try:
                await self._write_all()
            except asyncio.CancelledError:
                # By a program that cancels all its tasks, which is no reason to drop anything; or by :meth:`give_up`, which
                # has kept everything aside already, and then nothing waits any more.
                if self._waiting:
                    self._keep_aside()

    async def _write_all(self) -> None:
        pause = _FIRST_PAUSE
        try:
            while self._waiting:
                # What becomes ready in this turn of the loop comes along.
                await asyncio.sleep(0)
                batch = self._waiting[: self._most]
                if self._alarm is None:
                    self._arm()
                try:
                    outcomes = await self._commit([step for step, _ in batch])
                except StoreUnavailable as error:
                    self._log.warning("commit_delayed", steps=len(batch), retry_in=pause, reason=error.message)
                    if self._away_since is None:
                        self._away_since = asyncio.get_running_loop().time()
                    self._keep_aside()
                    await asyncio.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                    continue
                pause, self._away_since = _FIRST_PAUSE, None
                self._disarm()
                del self._waiting[: len(batch)]
                for (step, done), outcome in zip(batch, outcomes, strict=True):
                    self._report(step, outcome)
                    try:
                        done(outcome)
                    except Exception as error:  # noqa: BLE001 - a listener's defect must not keep others from theirs
                        self._log.error("listener_failed", account=step.claim.account.name, exc_info=error)
                if self._kept:
                    self._kept = max(0, self._kept - len(batch))
                    if not self._kept:
                        self._put_aside(self._refused)
        finally:
            self._disarm()

    def _keep_aside(self) -> None:
        self._put_aside([*self._refused, *_worth_keeping(self.unsaved)])
        self._kept = len(self._waiting)

    def _put_aside(self, steps: Sequence[Step]) -> None:
        self._aside = steps
        self._is_kept = self._keep(steps)

    def _arm(self) -> None:
        """Once a second until the store answers, whatever has come in since is kept aside."""
        self._alarm = asyncio.get_running_loop().call_later(_ASIDE_AFTER, self._overdue)

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _overdue(self) -> None:
        if self._kept < len(self._waiting):
            self._keep_aside()
        self._arm()

    async def _commit(self, steps: Sequence[Step]) -> list[Outcome]:
        """One transaction; where that meets a defect, one for each step, so that it costs only the step that has it."""
        try:
            return await self._store.commit(steps)
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - logged as what it is below, with the step that caused it
            if len(steps) == 1:
                self._log.error("step_refused", account=steps[0].claim.account.name, exc_info=error)
                if steps[0].brings_tokens:
                    self._refused = [step for step in self._refused if step is not steps[0]] + [steps[0]]
                    self._keep_aside()
                return [Outcome.LOST]
        outcomes: list[Outcome] = []
        for step in steps:
            outcomes += await self._commit([step])
        return outcomes

    def _report(self, step: Step, outcome: Outcome) -> None:
        if outcome is Outcome.COMMITTED:
            return
        account = step.claim.account.name
        if outcome is Outcome.SHARED:
            self._log.warning("refresh_token_shared", account=account, state=step.authorization.state.value)
        elif outcome is Outcome.MERGED:
            self._log.warning("tokens_merged_late", account=account)
        elif step.brings_tokens:
            self._log.error("tokens_arrived_too_late", account=account, outcome=outcome.value)
        else:
            self._log.debug("step_not_written", account=account, outcome=outcome.value)


def _worth_keeping(steps: Sequence[Step]) -> list[Step]:
    """Those that carry what no later request could bring again: tokens, a device code, a word of the server."""
    return [step for step in steps if step.history]

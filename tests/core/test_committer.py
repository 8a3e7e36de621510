"""Grouped commits: the cost of one is shared by all that waited, and no step is ever dropped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import LogCapture

from kimiflow.errors import StoreError, StoreUnavailable
from kimiflow.model import Authorization, Sealed, State, Transition
from kimiflow.scheduling.committer import Committer
from kimiflow.stores.base import Claim, Outcome, Step
from kimiflow.vault import Vault
from tests.virtual import VirtualLoop, run_virtual

from .samples import account, authorization_in, tokens
from .samples import step as advanced

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

VAULT = Vault(bytes(32))


def sealed(state: State) -> Authorization[Sealed]:
    return VAULT.seal_authorization(authorization_in(state))


def a_step(name: str = "work") -> Step:
    pending = sealed(State.PENDING)
    return Step(Claim(account(name=name), pending, "worker", 1, interrupted=False), pending)


def a_worthy_step(name: str) -> Step:
    """One that says something which no later request could bring again."""
    return replace(a_step(name), history=(Transition(0.0, State.PENDING, State.PENDING, "attempt_failed"),))


def a_step_with_tokens() -> Step:
    opened = authorization_in(State.REFRESHING)
    before = VAULT.seal_authorization(opened)
    after = VAULT.seal_authorization(advanced(opened, tokens()))
    return Step(Claim(account(), before, "worker", 1, interrupted=False), after)


class SlowStore:
    """Takes a second for each commit, and does what it is told to first."""

    def __init__(self, *trouble: Exception | None, outcome: Outcome = Outcome.COMMITTED) -> None:
        self.trouble = list(trouble)
        self.outcome = outcome
        self.commits: list[list[Step]] = []

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        self.commits.append(list(steps))
        await asyncio.sleep(1.0)
        error = self.trouble.pop(0) if self.trouble else None
        if error is not None:
            raise error
        return [self.outcome] * len(steps)

    @property
    def sizes(self) -> list[int]:
        return [len(commit) for commit in self.commits]


async def commit(committer: Committer, *steps: Step) -> list[Outcome]:
    """Hands these in together, and waits until it is known what became of them."""
    known: list[asyncio.Future[Outcome]] = []
    for step in steps:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        committer.hand_in(step, future.set_result)
        known.append(future)
    return list(await asyncio.gather(*known))


class Bench:
    """A committer on a slow store, and what it logged."""

    def __init__(self, store: SlowStore, most: int = 1_000) -> None:
        self.store = store
        self.kept: list[list[Step]] = []
        self.log = LogCapture()
        logger = structlog.wrap_logger(None, processors=[self.log], wrapper_class=structlog.BoundLogger)
        self.committer = Committer(  # type: ignore[arg-type]
            store, logger, most=most, keep=lambda steps: self.kept.append(list(steps))
        )

    def run(self, main: Callable[[Committer], Awaitable[Any]]) -> tuple[Any, float]:
        """What ``main`` returned, and how many (virtual) seconds it took."""
        loop = VirtualLoop()

        async def timed() -> Any:
            return await main(self.committer), loop.time()

        result: tuple[Any, float] = run_virtual(timed(), loop)
        return result

    @property
    def logged(self) -> list[tuple[str, str]]:
        return [(entry["log_level"], entry["event"]) for entry in self.log.entries]


class TestGrouping:
    def test_steps_that_come_together_share_a_commit(self) -> None:
        bench = Bench(SlowStore())
        steps = [a_step() for _ in range(100)]
        outcomes, seconds = bench.run(lambda committer: commit(committer, *steps))
        assert outcomes == [Outcome.COMMITTED] * 100
        assert bench.store.commits == [steps]
        assert seconds == 1.0

    def test_so_do_those_of_tasks_that_are_ready_together(self) -> None:
        bench = Bench(SlowStore())
        bench.run(lambda committer: asyncio.gather(*[commit(committer, a_step()) for _ in range(20)]))
        assert bench.store.sizes == [20]

    def test_while_one_commit_is_under_way_the_next_ones_gather(self) -> None:
        bench = Bench(SlowStore())

        async def main(committer: Committer) -> None:
            first = asyncio.create_task(commit(committer, a_step()))
            await asyncio.sleep(0.5)
            await asyncio.gather(first, *[commit(committer, a_step()) for _ in range(50)])

        _, seconds = bench.run(main)
        assert bench.store.sizes == [1, 50]
        assert seconds == 2.0

    def test_one_commit_has_no_more_than_so_many(self) -> None:
        bench = Bench(SlowStore(), most=10)
        steps = [a_step() for _ in range(25)]
        bench.run(lambda committer: commit(committer, *steps))
        assert bench.store.sizes == [10, 10, 5]
        assert [each for group in bench.store.commits for each in group] == steps, "in order"

    def test_a_quiet_committer_has_no_task_and_wakes_up_again(self) -> None:
        bench = Bench(SlowStore())

        async def main(committer: Committer) -> int:
            await commit(committer, a_step())
            await asyncio.sleep(10)
            tasks = len(asyncio.all_tasks())
            await commit(committer, a_step())
            return tasks

        assert bench.run(main)[0] == 1
        assert bench.store.sizes == [1, 1]

    def test_each_gets_its_own_outcome(self) -> None:
        class ByName(SlowStore):
            async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
                await super().commit(steps)
                return [Outcome(each.claim.account.name) for each in steps]

        names = [outcome.value for outcome in Outcome]
        outcomes, _ = Bench(ByName()).run(lambda committer: commit(committer, *[a_step(name) for name in names]))
        assert [outcome.value for outcome in outcomes] == names


class TestNothingIsDropped:
    def test_while_the_store_is_away_steps_are_kept_and_tried_again(self) -> None:
        bench = Bench(SlowStore(*[StoreUnavailable("the database is locked")] * 9))
        step = a_step_with_tokens()
        outcomes, seconds = bench.run(lambda committer: commit(committer, step))
        assert outcomes == [Outcome.COMMITTED]
        assert bench.store.commits == [[step]] * 10
        pauses = [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
        assert seconds == pytest.approx(10 + sum(pauses))
        assert bench.logged == [("warning", "commit_delayed")] * 9
        assert bench.log.entries[0]["reason"] == "the database is locked"

    def test_what_comes_meanwhile_joins(self) -> None:
        bench = Bench(SlowStore(StoreUnavailable("away")))

        async def main(committer: Committer) -> None:
            first = asyncio.create_task(commit(committer, a_step()))
            await asyncio.sleep(1.05)
            await asyncio.gather(first, commit(committer, a_step()))

        bench.run(main)
        assert bench.store.sizes == [1, 2]

    def test_what_is_not_saved_yet_can_be_seen(self) -> None:
        bench = Bench(SlowStore(StoreUnavailable("away")))
        step = a_step()

        async def main(committer: Committer) -> list[Sequence[Step]]:
            task = asyncio.create_task(commit(committer, step))
            await asyncio.sleep(0.5)
            during = committer.unsaved
            await task
            return [during, committer.unsaved]

        assert bench.run(main)[0] == [[step], []]

    def test_a_step_for_which_nobody_waits_any_more_is_written_all_the_same(self) -> None:
        bench = Bench(SlowStore(StoreUnavailable("away")))
        step = a_step_with_tokens()

        async def main(committer: Committer) -> None:
            committer.hand_in(step, lambda _: None)
            await asyncio.sleep(0.5)
            await commit(committer, a_step())

        bench.run(main)
        assert bench.store.commits[-1][0] is step

    def test_a_defect_costs_only_the_step_that_has_it(self) -> None:
        class Picky(SlowStore):
            async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
                await super().commit(steps)
                if any(step.claim.account.name == "odd" for step in steps):
                    raise StoreError("it cannot be written")
                return [Outcome.COMMITTED] * len(steps)

        bench = Bench(Picky())
        steps = [a_step("a"), a_step("odd"), a_step("b")]
        outcomes, _ = bench.run(lambda committer: commit(committer, *steps))
        assert outcomes == [Outcome.COMMITTED, Outcome.LOST, Outcome.COMMITTED]
        assert ("error", "step_refused") in bench.logged
        assert bench.store.sizes == [3, 1, 1, 1]

    def test_nor_does_the_store_going_away_in_the_middle_of_that(self) -> None:
        """Steps that were written already are written again, and the store says the same of them (its contract)."""
        bench = Bench(SlowStore(StoreError("a defect"), None, StoreUnavailable("away")))
        steps = [a_step(), a_step_with_tokens(), a_step()]
        outcomes, _ = bench.run(lambda committer: commit(committer, *steps))
        assert outcomes == [Outcome.COMMITTED] * 3
        assert bench.store.sizes == [3, 1, 1, 3]


class StoreThatIsCutOff(SlowStore):
    """Says nothing for half a minute, as behind a network that swallows everything."""

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        if not self.commits:
            self.commits.append(list(steps))
            await asyncio.sleep(30.0)
            raise StoreUnavailable("no answer")
        return await super().commit(steps)


class TestWhatIsKeptAside:
    def test_what_waits_for_a_store_that_says_nothing(self) -> None:
        """Before its time-out: who kills the process does not wait for that."""
        bench = Bench(StoreThatIsCutOff())
        first, second = a_worthy_step("a"), a_worthy_step("b")

        async def main(committer: Committer) -> list[list[Step]]:
            committer.hand_in(first, lambda _: None)
            await asyncio.sleep(5.0)
            committer.hand_in(second, lambda _: None)
            await asyncio.sleep(1.1)
            meanwhile = list(bench.kept)
            await commit(committer, a_step())
            return meanwhile

        meanwhile, _ = bench.run(main)
        assert meanwhile == [[first], [first, second]]
        assert bench.kept[-1] == []

    def test_a_commit_that_takes_its_time_but_no_more_is_not(self) -> None:
        bench = Bench(SlowStore())
        bench.run(lambda committer: commit(committer, a_step("a")))
        assert all(kept == [] for kept in bench.kept)

    def test_it_is_kept_until_all_of_it_is_committed(self) -> None:
        bench = Bench(SlowStore(StoreUnavailable("away")), most=2)
        steps = [a_worthy_step(name) for name in "abc"]
        bench.run(lambda committer: commit(committer, *steps))
        assert bench.store.sizes == [2, 2, 1]
        assert bench.kept[-1] == []
        assert steps in bench.kept
        assert [kept for kept in bench.kept[bench.kept.index(steps) :] if len(kept) < 3] == [[]]

    def test_tokens_that_the_store_refuses_are_left_to_whoever_can_write_them(self) -> None:
        """Such as an older program beside a newer schema."""
        bench = Bench(SlowStore(*[StoreError("no such column")] * 2))
        refused = a_step_with_tokens()
        outcomes, _ = bench.run(lambda committer: commit(committer, refused, a_step()))
        assert outcomes == [Outcome.LOST, Outcome.COMMITTED]
        assert bench.kept[-1] == [refused]


class TestWhatIsReported:
    @pytest.mark.parametrize(
        ("outcome", "brings_tokens", "logged"),
        [
            (Outcome.COMMITTED, True, []),
            (Outcome.COMMITTED, False, []),
            (Outcome.MERGED, True, [("warning", "tokens_merged_late")]),
            (Outcome.LOST, True, [("error", "tokens_arrived_too_late")]),
            (Outcome.GONE, True, [("error", "tokens_arrived_too_late")]),
            (Outcome.LOST, False, [("debug", "step_not_written")]),
            (Outcome.GONE, False, [("debug", "step_not_written")]),
        ],
    )
    def test_tokens_that_are_lost_are_reported_loudly(
        self, outcome: Outcome, brings_tokens: bool, logged: list[tuple[str, str]]
    ) -> None:
        bench = Bench(SlowStore(outcome=outcome))
        step = a_step_with_tokens() if brings_tokens else a_step()
        assert step.brings_tokens is brings_tokens
        bench.run(lambda committer: commit(committer, step))
        assert bench.logged == logged

    def test_without_any_of_them(self) -> None:
        bench = Bench(SlowStore(outcome=Outcome.LOST))
        bench.run(lambda committer: commit(committer, a_step_with_tokens()))
        (entry,) = bench.log.entries
        assert entry == {
            "log_level": "error",
            "event": "tokens_arrived_too_late",
            "account": "work",
            "outcome": "lost",
        }


def test_a_step_that_leaves_the_tokens_as_they_were_brings_none() -> None:
    granted = sealed(State.GRANTED)
    claim = Claim(account(), granted, "worker", 1, interrupted=False)
    assert not Step(claim, granted._replace(attempts=1)).brings_tokens

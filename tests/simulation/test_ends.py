"""However a process is ended, and at whatever await: nothing that arrives is dropped, nothing goes on behind its back."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

import pytest

from kimiflow import engine, scheduler
from kimiflow.scheduling import committer

from .ends import HowItEnds, Lost, end_once

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 240, 60))
def test_every_reply_is_saved_whatever_ends_the_process(first: int) -> None:
    issued = Counter[str]()
    for seed in range(first, first + 60):
        try:
            how, tokens = end_once(seed)
        except Lost as lost:
            pytest.fail(f"seed {seed}: {lost}")
        issued[how] += tokens
    assert issued.keys() == set(get_args(HowItEnds)), "each way to end was seen"


def _closes_under_its_own_requests(patch: pytest.MonkeyPatch) -> None:
    async def close(self: engine.Engine, *, failing: bool = False) -> None:
        del failing
        self.belonging.leave()
        self._notify()
        if self._feed is not None:
            self._feed.cancel()
        await self._store.close()

    patch.setattr(engine.Engine, "close", close)


def _makes_one_scheduler_too_many(patch: pytest.MonkeyPatch) -> None:
    async def another(self: engine.Engine) -> scheduler.Scheduler:
        made = self._make_scheduler(await self.vault())
        await asyncio.sleep(0)
        self._scheduler, self._driving = made, asyncio.create_task(made.run(), name="kimiflow-scheduler")
        return made

    patch.setattr(engine.Engine, "_running_scheduler", another)


def _lands_only_until_it_is_cancelled_again(patch: pytest.MonkeyPatch) -> None:
    async def land(self: scheduler.Scheduler) -> None:
        await self.landed()

    patch.setattr(scheduler.Scheduler, "_land", land)


def _empties_the_file_when_it_gives_up(patch: pytest.MonkeyPatch) -> None:
    async def write(self: committer.Committer) -> None:
        try:
            await self._write_all()
        except asyncio.CancelledError:
            self._keep_aside()

    patch.setattr(committer.Committer, "_write", write)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a mistake may leave tasks behind
@pytest.mark.parametrize(
    "mistake",
    [
        _closes_under_its_own_requests,
        _makes_one_scheduler_too_many,
        _lands_only_until_it_is_cancelled_again,
        _empties_the_file_when_it_gives_up,
    ],
    ids=lambda mistake: mistake.__name__.strip("_"),
)
def test_a_mistake_made_on_purpose_is_noticed(mistake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    mistake(monkeypatch)
    with pytest.raises(Lost):
        for seed in range(200):
            end_once(seed)
    gc.collect()  # what is left behind is noticed here, and not in another test

"""Bounded concurrency: over all, for each host, and fair between hosts."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from kimiflow.scheduling.lanes import Lanes
from tests.virtual import VirtualLoop, run_virtual


class Work:
    """Serves items that take a while, and keeps count."""

    def __init__(self, *, total: int, per_host: int, seconds: dict[str, float] | None = None) -> None:
        self.seconds = seconds or {}
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.done: list[tuple[str, int]] = []
        self.errors: list[Exception] = []
        self.lanes: Lanes[tuple[str, int]] = Lanes(
            self.serve, lambda _, error: self.errors.append(error), total=total, per_host=per_host
        )

    async def serve(self, item: tuple[str, int]) -> None:
        host, number = item
        self.now[host] += 1
        self.now["all"] += 1
        for key in (host, "all"):
            self.most[key] = max(self.most[key], self.now[key])
        try:
            await asyncio.sleep(self.seconds.get(host, 1.0))
            if number < 0:
                raise ValueError(number)
            self.done.append(item)
        finally:
            self.now[host] -= 1
            self.now["all"] -= 1

    def put(self, host: str, count: int) -> None:
        for number in range(count):
            self.lanes.put(host, (host, number))


def driven(work: Work, put: Any, seconds: float) -> float:
    """Virtual seconds until everything was served, or ``seconds``."""
    loop = VirtualLoop()

    async def main() -> float:
        put()
        while work.lanes.tasks and loop.time() < seconds:
            await asyncio.sleep(0.5)
        return loop.time()

    return run_virtual(main(), loop)


def test_no_more_are_served_at_a_time_than_allowed() -> None:
    work = Work(total=10, per_host=10)
    took = driven(work, lambda: work.put("a", 100), 60)
    assert len(work.done) == 100
    assert work.most["all"] == 10
    assert 10.0 <= took <= 11.0


def test_items_of_a_host_are_served_in_order() -> None:
    work = Work(total=1, per_host=1)
    driven(work, lambda: work.put("a", 20), 60)
    assert work.done == [("a", n) for n in range(20)]


def test_one_host_has_no_more_than_its_share() -> None:
    work = Work(total=10, per_host=6)

    def put() -> None:
        work.put("a", 30)
        work.put("b", 30)

    driven(work, put, 60)
    assert work.most["a"] <= 6
    assert work.most["b"] <= 6
    assert work.most["all"] == 10


def test_a_slow_host_delays_nobody_else() -> None:
    work = Work(total=8, per_host=6, seconds={"slow": 30.0, "quick": 1.0})

    def put() -> None:
        work.put("slow", 100)
        work.put("quick", 10)

    driven(work, put, 20)
    assert [host for host, _ in work.done].count("quick") == 10


def test_a_host_without_any_lane_gets_the_next_one_that_is_free() -> None:
    work = Work(total=4, per_host=4)

    def put() -> None:
        work.put("first", 100)
        work.put("second", 1)

    driven(work, put, 3)
    assert ("second", 0) in work.done


def test_what_goes_wrong_with_one_item_stops_no_other() -> None:
    work = Work(total=2, per_host=2)

    def put() -> None:
        work.lanes.put("a", ("a", -1))
        work.put("a", 5)

    driven(work, put, 30)
    assert len(work.done) == 5
    assert [type(error) for error in work.errors] == [ValueError]


def test_there_are_no_tasks_while_there_is_nothing_to_do() -> None:
    work = Work(total=5, per_host=5)
    driven(work, lambda: work.put("a", 12), 60)
    assert work.lanes.tasks == set()
    assert work.lanes.load("a") == 0
    assert work.lanes.load("unknown") == 0

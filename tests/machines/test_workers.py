"""Who works, and who holds what."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING

import pytest

from kimiflow.cli import tables, words
from kimiflow.errors import StoreUnavailable
from kimiflow.logs import get_logger
from kimiflow.scheduling import chores
from kimiflow.scheduling.chores import Chores
from kimiflow.status import status_of
from kimiflow.stores.base import WorkerReport
from kimiflow.stores.memory import MemoryStore
from kimiflow.stores.sql import SqlStore
from kimiflow.storetime import StoreClock
from tests.cli.processes import Cli, until
from tests.stores.contract.making import NOW, TTL, claim_one, issue, pending
from tests.virtual import START, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEYS = (
    "account provider state user_code verification_uri verification_uri_complete code_expires_at interval "
    "token_expires_at next_attempt_at attempts error error_description updated_at needs_person"
)


async def claimed_for(url: str, worker: str) -> None:
    """A row of the account ``work``, which nobody else takes, held for a minute."""
    store = SqlStore(url)
    await store.open()
    now = await store.now(time.time())
    await issue(store, pending("one", "work", created_at=now, next_attempt_at=now + 3_600))
    await store.claim_due(worker, now + 3_600, 60.0 - 3_600, 1)
    await store.close()


def test_status_tells_who_works_and_who_holds_what(cli: Cli, database_url: str) -> None:
    assert cli.json("status", "--workers") == []
    nobody = cli("status", "--workers")
    assert nobody.returncode == 0
    assert "No worker has reported itself. Start one with: kimiflow run" in nobody.stderr

    first, second = (cli.start("run") for _ in range(2))
    until(lambda: len(cli.json("status", "--workers")) == 2)
    reports = cli.json("status", "--workers")
    for report in reports:
        assert list(report) == ["name", "host", "since", "in_flight", "last_seen", "stale", "holds"]
        assert report["host"] == socket.gethostname()
        assert (report["in_flight"], report["stale"], report["holds"]) == (0, False, [])
    asyncio.run(claimed_for(database_url, reports[1]["name"]))
    assert [report["holds"] for report in cli.json("status", "--workers")] == [[], ["work"]]
    (account,) = cli.json("status")
    assert " ".join(account) == KEYS
    heading, row = cli.good("status").splitlines()
    assert heading.endswith("  WORKER")
    assert row.endswith(f"  {reports[1]['name']}")
    shown = cli.good("status", "--workers")
    assert [shown.count(report["name"]) for report in reports] == [1, 2]
    assert shown.split("  ")[0] == "NAME"

    first.signal(15)
    assert first.end() == 0
    (left,) = cli.json("status", "--workers")
    assert str(second.process.pid) in left["name"]
    # One that was killed cannot take its leave; it is there until it is taken for gone.
    second.signal(9)
    second.end()
    assert [report["name"] for report in cli.json("status", "--workers")] == [left["name"]]


def test_workers_are_not_watched(cli: Cli) -> None:
    done = cli("status", "--workers", "--watch")
    assert done.returncode == 2
    assert "--workers goes with none of --watch" in done.stderr


async def test_the_column_is_there_where_somebody_is_at_work() -> None:
    store = MemoryStore()
    await issue(store, pending("a", "ann"), pending("b", "bob", next_attempt_at=NOW + 9))
    free = [words.describe(status_of(s, NOW), NOW) for s in await store.snapshots()]
    assert "WORKER" not in tables.plain_status(free)[0]
    assert tables.plain_status(free, workers=True)[0].endswith("WORKER")
    await claim_one(store, "host-1:17:ab")
    held = [words.describe(status_of(s, NOW), NOW) for s in await store.snapshots()]
    assert [line.worker for line in held] == ["host-1:17:ab", ""]
    heading, ann, bob = tables.plain_status(held)
    assert heading.endswith("WORKER")
    assert ann.endswith("host-1:17:ab")
    assert bob.endswith("-")
    # A lease that is over holds nothing.
    over = [words.describe(status_of(s, NOW + TTL), NOW + TTL) for s in await store.snapshots()]
    assert not any(line.worker for line in over)


class Flaky(MemoryStore):
    """Away when told to be; and it knows how often it was written."""

    away = False
    reports = 0

    async def report_worker(self, report: WorkerReport) -> None:
        if self.away:
            raise StoreUnavailable("the store is away")
        self.reports += 1
        await super().report_worker(report)


def run_chores(scene: Callable[[Flaky, Chores], Awaitable[None]]) -> None:
    loop = VirtualLoop()
    store = Flaky()
    clock = StoreClock(VirtualClock(loop), store)
    made = Chores(store, clock, get_logger(), name="host-1:17:ab", in_flight=lambda: 3)
    run_virtual(scene(store, made), loop)  # type: ignore[arg-type]


def test_a_worker_reports_every_ten_seconds_and_takes_its_leave() -> None:
    async def scene(store: Flaky, made: Chores) -> None:
        async with made.done():
            (report,) = await store.workers()
            assert (report.name, report.host) == ("host-1:17:ab", socket.gethostname())
            assert (report.since, report.seen_at, report.in_flight) == (START, START, 3)
            await asyncio.sleep(100.5)
            assert store.reports == 11
            (report,) = await store.workers()
            assert (report.since, report.seen_at) == (START, START + 100)
        assert await store.workers() == []

    run_chores(scene)


def test_a_store_that_is_away_is_no_reason_to_stop() -> None:
    async def scene(store: Flaky, made: Chores) -> None:
        store.away = True
        async with made.done():
            assert await store.workers() == []
            await asyncio.sleep(35)
            store.away = False
            await asyncio.sleep(10)
            assert len(await store.workers()) == 1

    run_chores(scene)


def test_who_was_not_seen_for_a_day_is_forgotten_and_old_history_is_pruned() -> None:
    async def scene(store: Flaky, made: Chores) -> None:
        day = 86_400.0
        for name, seen in (("long gone", START - day - 1), ("gone", START - day + 1_800), ("there", START)):
            await store.report_worker(WorkerReport(name, "host-2", seen, 0, seen))
        ages = (90 * day + 1, 90 * day - 1_800, 0.0)
        for n, age in enumerate(ages):
            await issue(store, pending(f"r{n}", f"n{n}", updated_at=START - age))
        pruned: list[int] = []
        prune = store.prune_history

        async def counted(before: float) -> int:
            pruned.append(await prune(before))
            return pruned[-1]

        store.prune_history = counted  # type: ignore[method-assign]
        async with made.done():
            await asyncio.sleep(1)
            assert [each.name for each in await store.workers()] == ["gone", "host-1:17:ab", "there"]
            assert pruned == [1]
            await asyncio.sleep(3_600)
            assert [each.name for each in await store.workers()] == ["host-1:17:ab", "there"]
            assert pruned == [1, 1]
            await asyncio.sleep(7_200)
            assert pruned == [1, 1, 0, 0]

    run_chores(scene)


def test_a_chore_that_hangs_does_not_keep_a_worker_from_ending() -> None:
    async def scene(store: Flaky, made: Chores) -> None:
        async def never(before: float) -> int:
            await asyncio.sleep(1e6)
            return 0

        store.prune_history = never  # type: ignore[method-assign]
        began = asyncio.get_running_loop().time()
        async with made.done():
            await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() - began < 10

    run_chores(scene)


@pytest.mark.parametrize(("age", "stale"), [(59.0, False), (61.0, True)])
def test_a_worker_that_is_silent_for_a_minute_seems_to_be_gone(age: float, stale: bool) -> None:
    from kimiflow.cli.workers import _as_json, _row

    assert chores.STALE_AFTER == 60.0
    report = WorkerReport("host-1:17:ab", "host-1", NOW - 100, 3, NOW - age)
    assert _as_json(report, [], NOW)["stale"] is stale
    assert _row(report, NOW)[-1] == f"{age:.0f} s ago" + ("; seems to be gone" if stale else "")

"""Clocks that differ, and clocks that jump: neither loses nor doubles a step."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from kimiflow.boottime import MARK, SINCE_BOOT, Boot, this_boot
from kimiflow.clock import SystemClock
from kimiflow.stores.base import Outcome
from kimiflow.stores.bootclock import BootClock
from kimiflow.stores.memory import MemoryStore
from kimiflow.stores.sql import SqlStore
from kimiflow.storetime import StoreClock
from tests.stores.contract.making import granted, issue, now_granted, pending, poll, refreshing
from tests.virtual import START, VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.postgres import Postgres

TTL = 60.0


@dataclass
class Machine:
    """A machine's clocks: real ones, and how far each is off."""

    boot_id: str = "first"
    turned: float = 0.0
    """By whom the wall clock was set."""
    slept: float = 0.0

    def now(self) -> float:
        return time.time() + self.turned + self.slept

    def monotonic(self) -> float:
        return time.monotonic() + self.slept

    @property
    def boot(self) -> Boot:
        return Boot(self.boot_id, self.monotonic)


class Host:
    """One process on a machine: its store, and the time that it goes by."""

    def __init__(self, url: str, machine: Machine) -> None:
        self.store = SqlStore(url)
        if url.startswith("sqlite"):
            self.store._backend._clock = BootClock(machine.boot)  # type: ignore[attr-defined]
        self.clock = StoreClock(machine, self.store)

    async def now(self) -> float:
        await self.clock.synchronise()
        return self.clock.now()


class Hosts:
    def __init__(self, url: str) -> None:
        self.url = url
        self.all: list[Host] = []

    async def one(self, machine: Machine) -> Host:
        host = Host(self.url, machine)
        await host.store.open()
        self.all.append(host)
        return host


@pytest.fixture
async def hosts(database_url: str) -> AsyncIterator[Hosts]:
    made = Hosts(database_url)
    yield made
    for host in made.all:
        await host.store.close()


@pytest.fixture
async def on_postgresql(postgres: Postgres) -> AsyncIterator[Hosts]:
    made = Hosts(postgres.fresh())
    yield made
    for host in made.all:
        await host.store.close()


@pytest.mark.parametrize("skew", [(-60.0, 60.0), (3_600.0, 0.0), (0.0, -86_400.0)])
async def test_hosts_whose_clocks_differ_agree(on_postgresql: Hosts, skew: tuple[float, float]) -> None:
    slow, fast = [await on_postgresql.one(Machine(turned=by)) for by in skew]
    assert await slow.now() == pytest.approx(await fast.now(), abs=0.25)


@pytest.mark.parametrize("skew", [(-60.0, 60.0), (60.0, -60.0)])
async def test_hosts_whose_clocks_differ_do_not_drive_the_same_row(
    on_postgresql: Hosts, skew: tuple[float, float]
) -> None:
    """By either one's own clock the other's lease would be over, or the row not due."""
    first, second = [await on_postgresql.one(Machine(turned=by)) for by in skew]
    now = await first.now()
    await issue(first.store, granted(created_at=now, updated_at=now, next_attempt_at=now))
    (claim,) = await first.store.claim_due("first", await first.now(), TTL, 10)
    assert await second.store.claim_due("second", await second.now(), TTL, 10) == []
    assert await first.store.commit([refreshing(claim, await first.now())]) == [Outcome.COMMITTED]
    assert await second.store.claim_due("second", await second.now(), TTL, 10) == []
    step = now_granted(claim, await first.now())
    assert await first.store.commit([step]) == [Outcome.COMMITTED]
    # What is due again in ten minutes is due then, by everybody's clock.
    at = step.authorization.next_attempt_at
    assert at is not None
    assert at - await second.now() == pytest.approx(600, abs=1)
    assert await second.store.claim_due("second", await second.now(), TTL, 10) == []


@pytest.mark.parametrize("by", [3_600.0, -3_600.0, 1e6])
async def test_a_wall_clock_that_jumps_moves_nothing(hosts: Hosts, by: float) -> None:
    """In the process that was there before, and in one that starts after the jump."""
    machine = Machine()
    before = await hosts.one(machine)
    now = await before.now()
    rows = [
        pending("poll", "ann", created_at=now, next_attempt_at=now, code_expires_at=now + 900),
        granted("token", "bob", created_at=now, next_attempt_at=now + 600),
        granted("held", "cid", created_at=now, next_attempt_at=now - 1),
    ]
    await issue(before.store, *rows)
    held, polled = await before.store.claim_due("before", now, TTL, 10)
    await before.store.commit([poll(polled, now)])

    machine.turned = by
    after = await hosts.one(machine)
    for host in (before, after):
        # Long enough after the last look that it is repeated.
        host.clock._asked_at = (0.0, -1e9)
        assert await host.now() == pytest.approx(now, abs=5)
        # Nothing is due early, no lease is over, no code has run out.
        assert await host.store.claim_due("other", await host.now(), TTL, 10) == []
    # And nothing is due late.
    (again,) = await after.store.claim_due("after", await after.now() + 5, TTL, 10)
    assert again.authorization.id == "poll"
    assert await before.store.commit([refreshing(held, await before.now())]) == [Outcome.COMMITTED]


async def test_all_processes_of_a_machine_agree_to_the_microsecond(tmp_path: Path) -> None:
    hosts = Hosts(f"sqlite:///{tmp_path}/kimiflow.db")
    machine = Machine()
    machines = [replace(machine, turned=by) for by in (0.0, 5.0, -7.0)]
    for each in machines:
        host = await hosts.one(each)
        offset = await host.store.now(each.now()) - each.monotonic()
        first = await hosts.all[0].store.now(0.0) - machine.monotonic()
        assert offset == pytest.approx(first, abs=1e-3)
    for host in hosts.all:
        await host.store.close()


async def test_time_goes_on_while_a_machine_sleeps(hosts: Hosts) -> None:
    machine = Machine()
    host = await hosts.one(machine)
    now = await host.now()
    lease_ends = machine.monotonic() + TTL
    machine.slept = 7_200.0
    # The lease is over by the count that says whether a request may still be sent.
    assert machine.monotonic() > lease_ends
    expected = now + 7_200 if hosts.url.startswith("sqlite") else now
    assert await host.now() == pytest.approx(expected, abs=5)


async def test_the_wall_clock_counts_anew_after_a_start_of_the_machine(tmp_path: Path) -> None:
    hosts = Hosts(f"sqlite:///{tmp_path}/kimiflow.db")
    before = await hosts.one(Machine(turned=-500.0))
    assert await before.now() == pytest.approx(time.time() - 500, abs=5)
    after = await hosts.one(Machine("second"))
    assert await after.now() == pytest.approx(time.time(), abs=5)
    for host in hosts.all:
        await host.store.close()


async def test_a_system_that_cannot_count_goes_by_the_wall_clock(tmp_path: Path) -> None:
    store = SqlStore(f"sqlite:///{tmp_path}/kimiflow.db")
    store._backend._clock = BootClock(None)  # type: ignore[attr-defined]
    await store.open()
    assert await store.now(123.5) == 123.5
    await store.close()


def test_this_machine() -> None:
    boot = this_boot()
    if SINCE_BOOT is None:
        assert boot is None
        return
    assert boot is not None
    assert boot.time(None) is None
    assert boot.time("another -17.5") is None
    assert boot.time(boot.mark(1_000.0)) == pytest.approx(1_000.0, abs=5)
    assert MARK == "clock"
    # What measures leases goes on while the machine is suspended.
    assert SystemClock().monotonic() == pytest.approx(time.clock_gettime(SINCE_BOOT), abs=5)


@pytest.mark.parametrize("jump", [0.0, 5.0, -5.0, 60.0, -60.0])
def test_a_store_that_answers_slowly_moves_a_clock_no_more_than_it_must(jump: float) -> None:
    """Twenty-five seconds after it was asked: what was known is better, unless it cannot be right any more."""
    loop = VirtualLoop()

    class Slow(MemoryStore):
        late: tuple[float, float] = (0.0, 0.0)
        ahead = 0.25

        async def now(self, local: float) -> float:
            before, after = self.late
            await asyncio.sleep(before)
            told = START + loop.time() + self.ahead
            await asyncio.sleep(after)
            return told

    async def scene() -> None:
        store = Slow()
        clock = StoreClock(VirtualClock(loop), store)
        await clock.synchronise()
        assert clock.now() - loop.time() - START == pytest.approx(0.25, abs=0.01)
        await asyncio.sleep(60.0)
        store.late, store.ahead = (24.0, 1.0), store.ahead + jump
        await clock.synchronise()
        assert abs(clock.now() - loop.time() - START - 0.25 - jump) <= 24.0
        if not jump:
            assert clock.now() - loop.time() - START == pytest.approx(0.25, abs=0.01)

    run_virtual(scene(), loop)

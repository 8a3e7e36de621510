"""The loop itself, in virtual time: hosts that are dead or slow, and a machine that sleeps."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kimiflow import advance, identity
from kimiflow.client import Client
from kimiflow.logs import get_logger
from kimiflow.model import Account, State, TokenSet
from kimiflow.pacing import Pacing
from kimiflow.provider import BUILT_IN
from kimiflow.scheduler import Scheduler
from kimiflow.scheduling.limits import Limits
from kimiflow.secret import Secret
from kimiflow.stores.base import Beginning
from kimiflow.stores.memory import MemoryStore
from kimiflow.storetime import StoreClock
from kimiflow.vault import Vault
from tests.virtual import VirtualClock, VirtualLoop, run_virtual

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TIMEOUT = 10.0
FOR_EVER = 3_600.0
CONCURRENCY = 8
CODE = {
    "device_code": "the-device-code",
    "user_code": "GZ4V-K8PN",
    "verification_uri": "https://kimi.example/device",
    "expires_in": 900,
    "interval": 5,
}
KIMI, GLOBAL = "auth.kimi.com", "auth.kimi.ai"


class SleepyClock(VirtualClock):
    """Of a machine that was suspended for ``slept`` seconds, which no timer of the loop has counted."""

    slept = 0.0

    def now(self) -> float:
        return super().now() + self.slept

    def monotonic(self) -> float:
        return super().monotonic() + self.slept


class Hosts(httpx.AsyncBaseTransport):
    """Servers that issue codes and refresh tokens, and approve nothing; some of them ``take`` seconds, or for ever."""

    def __init__(self) -> None:
        self.take: dict[str, float] = {}
        self.sent: Counter[str] = Counter()
        self.now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()
        self.gateway: httpx.Response | None = None
        """What answers in their place."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.sent[host] += 1
        self.now[host] += 1
        self.most[host] = max(self.most[host], self.now[host])
        try:
            await asyncio.sleep(self.take.get(host, 0.05))
        finally:
            self.now[host] -= 1
        if self.gateway is not None:
            return self.gateway
        if request.url.path.endswith("device_authorization"):
            return httpx.Response(200, json=CODE)
        if b"grant_type=refresh_token" in await request.aread():
            token = f"r-{sum(self.sent.values())}-{host}"
            return httpx.Response(200, json={"access_token": "a", "refresh_token": token, "expires_in": 900})
        return httpx.Response(400, json={"error": "authorization_pending"})


class Bench:
    """One worker with a store of its own."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.hosts = Hosts()
        self.store = MemoryStore()
        self.vault = Vault(bytes(32))
        self.machine = SleepyClock(loop)
        clock = StoreClock(self.machine, self.store)
        client = Client(
            BUILT_IN, identity.local(), timeout=TIMEOUT, transport_for=lambda _account, _url: self.hosts, clock=clock
        )
        self.scheduler = Scheduler(
            self.store,
            self.vault,
            client,
            BUILT_IN,
            owner="worker",
            clock=clock,
            draw=lambda: 0.5,
            pacing=Pacing(),
            limits=Limits.for_timeout(TIMEOUT, CONCURRENCY),
            log=get_logger(),
        )

    async def sign_in(self, count: int, provider: str = "kimi", first: int = 0) -> None:
        await self._begin(count, provider, first, advance.begin)

    async def grant(self, count: int, provider: str = "kimi", first: int = 0) -> None:
        """Accounts that are signed in already, and due for a refresh."""
        await self._begin(
            count,
            provider,
            first,
            lambda row, account, now: advance.adopt(
                row,
                account,
                TokenSet(Secret("a"), Secret(f"r-{account}"), None, None, 900.0),
                now,
                origin=BUILT_IN[provider].origin,
            ),
        )

    async def _begin(self, count: int, provider: str, first: int, make: Callable[[str, str, float], Any]) -> None:
        now = self.machine.now()
        for number in range(first, first + count):
            name = f"{provider}-{number}"
            await self.store.add_accounts([Account(name, name, provider, f"device-{name}", None, now)])
            authorization, history = make(f"row-{name}", name, now)
            await self.store.begin([Beginning(self.vault.seal_authorization(authorization), history)])

    async def states(self) -> Counter[tuple[str, State]]:
        return Counter((s.account.provider, s.shown.state) for s in await self.store.snapshots() if s.shown)


def driven(story: Callable[[Bench], Awaitable[Any]]) -> None:
    """Tells ``story`` of a worker that runs all the while, and ends when told to."""
    loop = VirtualLoop()

    async def main() -> None:
        bench = Bench(loop)
        running = asyncio.create_task(bench.scheduler.run())
        try:
            await story(bench)
        finally:
            bench.scheduler.stop()
            await running

    run_virtual(main(), loop)


def test_a_dead_host_costs_one_probe_at_a_time_and_not_a_time_out_for_each_account() -> None:
    async def story(bench: Bench) -> None:
        bench.hosts.take[KIMI] = FOR_EVER
        await bench.sign_in(300)
        bench.scheduler.wake()
        # What was in flight when nobody knew yet may time out, and four more until the fifth silence tells.
        await asyncio.sleep(TIMEOUT + 1.0)
        assert bench.hosts.sent[KIMI] <= CONCURRENCY + 5
        await asyncio.sleep(TIMEOUT)
        bench.hosts.most.clear()
        before = bench.hosts.sent[KIMI]
        await asyncio.sleep(600.0)
        assert bench.hosts.most[KIMI] == 1
        # A probe takes its time-out, and then half a minute passes: 600 s have room for some twenty.
        assert 10 <= bench.hosts.sent[KIMI] - before <= 30
        # The first answer lets everybody through.
        bench.hosts.take.clear()
        await asyncio.sleep(60.0)
        assert await bench.states() == {("kimi", State.PENDING): 300}

    driven(story)


@pytest.mark.parametrize("takes", [FOR_EVER, TIMEOUT * 0.8], ids=["silent", "slow"])
@pytest.mark.parametrize("signed_in", [False, True], ids=["sign-ins", "refreshes"])
def test_a_slow_host_delays_no_account_of_another(takes: float, signed_in: bool) -> None:
    async def story(bench: Bench) -> None:
        bench.hosts.take[KIMI] = takes
        begin = bench.grant if signed_in else bench.sign_in
        # The slow host's have been due for longer, and are more than one worker may have at a time.
        await begin(200, "kimi")
        await asyncio.sleep(0.001)
        await begin(30, "kimi-global")
        bench.scheduler.wake()
        await asyncio.sleep(5.0)
        assert bench.hosts.sent[GLOBAL] >= 30
        assert (await bench.states())["kimi-global", State.GRANTED if signed_in else State.PENDING] == 30
        assert 0 < bench.hosts.most[KIMI] < CONCURRENCY
        assert bench.scheduler.in_flight <= 7 * CONCURRENCY, "memory grows with what is in flight, not with accounts"
        # And so it stays, however long the queue of the other.
        await begin(30, "kimi-global", 30)
        bench.scheduler.wake()
        await asyncio.sleep(5.0)
        assert (await bench.states())["kimi-global", State.GRANTED if signed_in else State.PENDING] == 60

    driven(story)


@pytest.mark.parametrize(
    ("gateway", "seconds"),
    [
        (httpx.Response(404, text="404 page not found"), 45.0),
        (httpx.Response(401, text="<html><h1>401 Authorization Required</h1></html>"), 45.0),
        (httpx.Response(401, json={"error": "invalid_client"}), 225.0),
    ],
    ids=["a router", "a proxy", "another client id"],
)
def test_who_is_refused_for_hours_asks_for_a_person_once_and_is_well_again_when_the_server_is(
    gateway: httpx.Response, seconds: float, caplog: pytest.LogCaptureFixture
) -> None:
    """It has not said a word about the grants."""

    async def story(bench: Bench) -> None:
        bench.hosts.gateway = gateway
        await bench.grant(5)
        bench.scheduler.wake()
        await asyncio.sleep(1_000.0)
        before = bench.hosts.sent[KIMI]
        await asyncio.sleep(FOR_EVER)
        assert await bench.states() == {("kimi", State.REFRESHING): 5}
        now = bench.machine.now()
        assert all(advance.needs_person(s.grant, now) for s in await bench.store.snapshots() if s.grant)
        tries = (bench.hosts.sent[KIMI] - before) / 5
        assert tries == pytest.approx(FOR_EVER / seconds, rel=0.1)
        bench.hosts.gateway = None
        await asyncio.sleep(300.0)
        assert await bench.states() == {("kimi", State.GRANTED): 5}

    with caplog.at_level("WARNING", "kimiflow"):
        driven(story)
    told = [record for record in caplog.records if "person_needed" in record.getMessage()]
    assert len(told) == 5


def test_what_nobody_told_of_is_found_within_half_a_minute() -> None:
    async def story(bench: Bench) -> None:
        await asyncio.sleep(5.0)
        await bench.sign_in(1)  # by another process, and its notice was lost
        await asyncio.sleep(30.0)
        assert await bench.states() == {("kimi", State.PENDING): 1}

    driven(story)


def test_after_the_machine_slept_what_fell_due_meanwhile_is_found_within_half_a_minute() -> None:
    async def story(bench: Bench) -> None:
        await bench.sign_in(1)
        bench.scheduler.wake()
        await asyncio.sleep(1.0)
        row = next(iter(bench.store._rows.values()))
        in_an_hour = bench.machine.now() + 3_600.0
        bench.store._write(
            row,
            row.authorization._replace(next_attempt_at=in_an_hour, code_expires_at=in_an_hour + 900.0),
            lease_owner=None,
            claimable_at=in_an_hour,
        )
        bench.scheduler.wake()
        await asyncio.sleep(45.0)
        assert bench.hosts.sent[KIMI] == 1
        bench.machine.slept = 3_600.0
        await asyncio.sleep(31.0)
        assert bench.hosts.sent[KIMI] >= 2, "it was polled"

    driven(story)


def test_to_stop_wakes_it_and_lets_what_is_in_flight_land() -> None:
    async def story(bench: Bench) -> None:
        await bench.sign_in(5)
        bench.scheduler.wake()
        await asyncio.sleep(0.03)
        assert bench.hosts.now[KIMI] == 5
        bench.scheduler.stop()
        asked = bench.loop.time()
        while bench.scheduler.in_flight:
            await asyncio.sleep(0.01)
        assert bench.loop.time() - asked < 1.0
        assert await bench.states() == {("kimi", State.PENDING): 5}

    driven(story)


def test_to_stop_ends_a_sleep_at_once() -> None:
    loop = VirtualLoop()

    async def main() -> float:
        bench = Bench(loop)
        running = asyncio.create_task(bench.scheduler.run())
        await asyncio.sleep(5.0)
        asked = loop.time()
        bench.scheduler.stop()
        await running
        return loop.time() - asked

    assert run_virtual(main(), loop) == 0.0


def test_an_account_whose_provider_is_gone_says_so_and_what_to_do() -> None:
    async def story(bench: Bench) -> None:
        await bench.sign_in(1, "corp")
        bench.scheduler.wake()
        await asyncio.sleep(1.0)
        (snapshot,) = await bench.store.snapshots()
        assert snapshot.shown is not None
        assert snapshot.shown.error == "misconfigured"
        assert snapshot.shown.error_description == (
            "the provider 'corp' of account corp-0 is not known; there are: kimi, kimi-global; "
            "Others are set up in config.toml, under [providers.corp]."
        )
        assert not bench.hosts.sent

    driven(story)


class TestWhatNobodyHasThoughtOf:
    """Anything that the store, or a defect, raises in the middle of a round."""

    def surprising(self, bench: Bench, times: float) -> list[int]:
        """Makes the next ``times`` looks for what is due fail, in a way that no store is known to."""
        rounds: list[int] = []
        claim_due = bench.store.claim_due

        async def odd(*arguments: Any, **named: Any) -> Any:
            rounds.append(1)
            if len(rounds) <= times:
                raise RuntimeError("refresh_token=hunter2-hunter2 is in the way")
            return await claim_due(*arguments, **named)

        bench.store.claim_due = odd  # type: ignore[method-assign]
        return rounds

    def test_costs_that_round_and_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        async def story(bench: Bench) -> None:
            await bench.grant(3)
            self.surprising(bench, 2)
            bench.scheduler.wake()
            await asyncio.sleep(10.0)
            assert await bench.states() == {("kimi", State.GRANTED): 3}
            assert bench.hosts.sent[KIMI] == 3
            bench.store.claim_due = MemoryStore.claim_due.__get__(bench.store)  # type: ignore[method-assign]
            self.surprising(bench, 2)
            bench.scheduler.wake()
            await asyncio.sleep(1_000.0)
            assert bench.hosts.sent[KIMI] >= 6, "what was before does not count"

        driven(story)
        failures = [record for record in caplog.records if "round_failed" in record.getMessage()]
        assert len(failures) == 4
        assert "RuntimeError" in failures[0].getMessage()
        assert "Traceback" in failures[0].getMessage()
        assert "hunter2" not in caplog.text

    def test_a_cancellation_that_nobody_asked_for_is_one_of_them(self) -> None:
        async def story(bench: Bench) -> None:
            async def cancelled(*_: Any, **__: Any) -> Any:
                raise asyncio.CancelledError

            bench.store.claim_due = cancelled  # type: ignore[method-assign]
            bench.scheduler.wake()
            await asyncio.sleep(60.0)

        with pytest.raises(RuntimeError, match="cancelled, and by nobody here"):
            driven(story)

    def test_three_in_a_row_end_the_worker_with_what_was_in_flight_committed(self) -> None:
        async def story(bench: Bench) -> None:
            bench.hosts.take[KIMI] = 5.0
            await bench.grant(3)
            bench.scheduler.wake()
            await asyncio.sleep(1.0)
            assert bench.hosts.now[KIMI] == 3
            rounds = self.surprising(bench, float("inf"))
            bench.scheduler.wake()
            await asyncio.sleep(60.0)
            assert len(rounds) == 3
            assert await bench.states() == {("kimi", State.GRANTED): 3}

        with pytest.raises(RuntimeError, match="in the way"):
            driven(story)

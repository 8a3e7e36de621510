"""The same world, driven step by step by Hypothesis: what no storm would think of, and shrunk to the shortest story."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ..virtual import VirtualLoop
from .faults import CALM
from .judge import Violation
from .world import World

NAMES = ("work", "personal", "team-1")
names = st.sampled_from(NAMES)
probability = st.sampled_from((0.0, 0.3, 1.0))


class Authorizations(RuleBasedStateMachine):
    """People, workers, the network and time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.loop = VirtualLoop()
        asyncio.set_event_loop(self.loop)

    def run(self, awaitable: Any) -> Any:
        return self.loop.run_until_complete(awaitable)

    async def _in_loop(self, call: Any) -> Any:
        return call()

    @initialize(seed=st.integers(0, 2**32))
    def a_world_with_one_worker(self, seed: int) -> None:
        self.world = World(self.loop, seed)
        self.asked: set[str] = set()
        self.run(self._in_loop(self.world.start_worker))

    @rule(name=names)
    def a_person_asks_for_a_sign_in(self, name: str) -> None:
        if name not in self.asked:
            self.asked.add(name)
            self.run(self.world.log_in(name))

    @rule(name=names, approve=st.booleans())
    def a_person_decides(self, name: str, approve: bool) -> None:
        if name in self.asked - self.world.approved.keys() - self.world.denied - self.world.signed_out:
            self.run(self.world.decide(name, approve=approve))

    @rule(name=names)
    def a_person_signs_out(self, name: str) -> None:
        if name in self.asked:
            self.run(self.world.sign_out(name))

    @rule()
    def a_worker_joins(self) -> None:
        if len(self.world.living) < 3:
            self.run(self._in_loop(self.world.start_worker))

    @rule(which=st.integers(0, 2))
    def a_worker_is_killed(self, which: int) -> None:
        if self.world.living:
            self.run(self._in_loop(self.world.living[which % len(self.world.living)].crash))

    @rule(which=st.integers(0, 2), leases=st.sampled_from((0.3, 1.2)))
    def a_worker_is_stopped_for_a_while(self, which: int, leases: float) -> None:
        if self.world.living:
            worker = self.world.living[which % len(self.world.living)]
            worker.paused_until = self.loop.time() + self.world.lease * leases

    @rule(
        request=probability, reply=probability, nonsense=probability, slow=probability, slow_down=probability,
        before=st.sampled_from((0.0, 0.3)), after=st.sampled_from((0.0, 0.3)), crash=st.sampled_from((0.0, 0.05)),
    )  # fmt: skip
    def the_weather_changes(
        self,
        request: float,
        reply: float,
        nonsense: float,
        slow: float,
        slow_down: float,
        before: float,
        after: float,
        crash: float,
    ) -> None:
        self.world.weather = replace(
            CALM,
            request_lost=request,
            reply_lost=reply,
            nonsense=nonsense,
            slow=slow,
            slow_down=slow_down,
            store_fails_before=before,
            store_fails_after=after,
            crash=crash,
        )

    @rule()
    def the_weather_clears(self) -> None:
        self.world.weather = CALM

    @rule(seconds=st.sampled_from((0.05, 1.0, 6.0, 40.0, 400.0)))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    @invariant()
    def nothing_is_broken_so_far(self) -> None:
        if hasattr(self, "world") and self.world.judge.broken:
            raise Violation("; ".join(self.world.judge.broken))

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.world.weather = CALM
                if not self.world.living:
                    self.run(self._in_loop(self.world.start_worker))
                self.run(asyncio.sleep(2_500.0))
                self.run(self.world.judge.verdict())
        finally:
            if hasattr(self, "world"):
                self.run(self.world.end())
            asyncio.set_event_loop(None)
            self.loop.close()
            logging.disable(logging.NOTSET)


TestAuthorizations = Authorizations.TestCase
TestAuthorizations.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), database=None
)

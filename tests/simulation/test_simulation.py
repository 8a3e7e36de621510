"""Seeds that pass, and mistakes that do not."""

from __future__ import annotations

import logging
from itertools import count
from typing import TYPE_CHECKING

import pytest

from .faults import Weather
from .judge import Violation
from .mutations import MUTATIONS
from .world import simulate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("first", range(0, 300, 25))
def test_every_promise_holds_whatever_goes_wrong(first: int) -> None:
    for seed in range(first, first + 25):
        try:
            simulate(seed)
        except Violation as violation:
            pytest.fail(f"seed {seed}: {violation}")


def test_a_seed_replays_exactly() -> None:
    first, second = simulate(7), simulate(7)
    assert first.judge.counts == second.judge.counts
    assert [repr(e) for e in first.authority.log] == [repr(e) for e in second.authority.log]


# Where a mistake shows only in weather that is seldom drawn, it is given that weather.
WEATHER = {
    "late_tokens_are_dropped": Weather(pause=0.02),
    "signed_out_accounts_come_back": Weather(latency=2.0),
    "time_by_each_hosts_own_clock": Weather(skew=90.0),
    "interrupted_polls_go_on_at_once": Weather(crash=0.01, slow_down=0.5),
}


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_a_mistake_made_on_purpose_is_caught(name: str) -> None:
    """Some seed finds it; a mutation that hundreds of runs survive would mean that the judge is blind to it."""
    with MUTATIONS[name]():
        for seed in count():
            try:
                simulate(seed, accounts=8, weather=WEATHER.get(name))
            except Violation:
                return
            assert seed < 400, f"{name} was not noticed"

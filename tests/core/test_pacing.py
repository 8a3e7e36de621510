"""When the next step is due, as numbers.

``spread`` is the jitter: 0 is the earliest that may be drawn, just under 1 the latest.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow.pacing import Pacing

from .samples import NOW, PACING, quick

spreads = st.floats(0, 1, exclude_max=True)
durations = st.floats(0.001, 1e6)


class TestTheInterval:
    @pytest.mark.parametrize(
        ("sent", "floor", "interval"),
        [
            (5.0, 5.0, 5.0),
            (7.0, 5.0, 7.0),
            (1.0, 5.0, 5.0),  # never under the floor, whatever the server says
            (None, 5.0, 5.0),  # RFC 8628 §3.2: 5 s where the server names none…
            (None, 0.05, 5.0),  # …also where our floor would allow less
            (None, 9.0, 9.0),
            (0.5, 0.05, 0.5),
        ],
    )
    def test_is_what_was_sent_or_5_s_and_never_under_the_floor(
        self, sent: float | None, floor: float, interval: float
    ) -> None:
        assert Pacing(poll_interval_floor=floor).first_interval(sent) == interval

    @pytest.mark.parametrize(("sent", "slower"), [(None, 10.0), (3.0, 10.0), (10.0, 10.0), (60.0, 60.0)])
    def test_grows_by_5_s_at_slow_down_or_to_what_was_sent(self, sent: float | None, slower: float) -> None:
        assert PACING.slower_interval(5.0, sent) == slower

    @quick
    @given(st.floats(0, 1e5), st.none() | st.floats(0, 1e5))
    def test_always_grows_at_slow_down(self, current: float, sent: float | None) -> None:
        assert PACING.slower_interval(current, sent) >= current + 5.0


class TestTheTimeToApprove:
    @pytest.mark.parametrize(("expires_in", "allowed"), [(1800.0, 900.0), (900.0, 900.0), (600.0, 600.0)])
    def test_is_the_servers_but_at_most_ours(self, expires_in: float, allowed: float) -> None:
        assert PACING.code_deadline(NOW, expires_in) == NOW + allowed


class TestTheNextPoll:
    @quick
    @given(durations, spreads)
    def test_is_never_early_and_hardly_late(self, interval: float, spread: float) -> None:
        at = PACING.next_poll(NOW, interval, spread)
        assert NOW + interval <= at <= NOW + interval + 0.25 + 1e-6


class TestTheRefresh:
    @pytest.mark.parametrize(
        ("life", "before_its_end"),
        [
            (3600.0, 300.0),
            (900.0, 300.0),  # Kimi's tokens
            (600.0, 300.0),
            (400.0, 200.0),  # the lead is never more than half of the life
            (10.0, 5.0),
        ],
    )
    def test_comes_one_lead_before_the_end(self, life: float, before_its_end: float) -> None:
        assert PACING.refresh_at(NOW, NOW + life, 0.0) == NOW + life - before_its_end

    def test_may_be_told_to_wait_for_the_very_end(self) -> None:
        assert Pacing(refresh_lead=0.0).refresh_at(NOW, NOW + 900.0, 0.5) == NOW + 900.0

    @quick
    @given(st.floats(2.0, 1e7), spreads, st.floats(0, 86_400))
    def test_falls_into_the_second_half_of_the_life_and_before_its_end(
        self, life: float, spread: float, lead: float
    ) -> None:
        expires_at = NOW + life
        at = Pacing(refresh_lead=lead).refresh_at(NOW, expires_at, spread)
        assert NOW + life / 2 - 1e-6 <= at <= expires_at
        assert at >= expires_at - lead - 1e-6

    @pytest.mark.parametrize("life", [1e-9, 0.001, 0.5, 1.0, 1.9])
    def test_a_token_that_is_dead_on_arrival_does_not_make_a_hot_loop(self, life: float) -> None:
        assert PACING.refresh_at(NOW, NOW + life, 0.0) >= NOW + 1.0


class TestTheBackoff:
    @pytest.mark.parametrize(
        ("attempts", "least", "most"),
        [
            (1, 0.5, 1.0),
            (2, 1.0, 2.0),
            (3, 2.0, 4.0),
            (6, 16.0, 32.0),
            (7, 30.0, 60.0),
            (1_000_000, 30.0, 60.0),
        ],
    )
    def test_doubles_up_to_a_minute_and_half_of_it_is_drawn(self, attempts: int, least: float, most: float) -> None:
        assert PACING.backoff(attempts, 0.0) == least
        assert PACING.backoff(attempts, math.nextafter(1.0, 0.0)) == pytest.approx(most)

    @quick
    @given(st.integers(1, 10_000), spreads)
    def test_stays_within_its_bounds(self, attempts: int, spread: float) -> None:
        assert 0.5 <= PACING.backoff(attempts, spread) <= 60.0

"""A dead host costs one probe at a time, not a time-out for each account."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow.scheduling.breaker import Breaker

from .samples import quick

FEW = 4
"""Failures in a row that prove nothing yet."""


def after_silences(count: int, now: float = 100.0, spread: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(count):
        breaker = breaker.silent(now, spread)
    return breaker


class TestClosed:
    @pytest.mark.parametrize("failures", range(FEW + 1))
    def test_it_lets_everything_through_until_the_fifth_silence_in_a_row(self, failures: int) -> None:
        breaker = after_silences(failures)
        assert breaker.closed
        assert not breaker.may_probe(1e9), "nothing needs to be probed"

    def test_an_answer_starts_the_count_again(self) -> None:
        breaker = after_silences(FEW).answered()
        assert breaker == Breaker()
        for _ in range(FEW):
            breaker = breaker.silent(100.0, 0.0)
        assert breaker.closed

    def test_an_answer_that_was_expected_costs_nothing(self) -> None:
        breaker = Breaker()
        assert breaker.answered() is breaker


class TestOpen:
    def test_it_opens_at_the_fifth_silence_for_about_a_second(self) -> None:
        assert not after_silences(FEW + 1).closed
        assert after_silences(FEW + 1, spread=0.0).retry_at == 100.75
        assert after_silences(FEW + 1, spread=1.0).retry_at == 101.0

    def test_a_probe_may_leave_when_the_pause_is_over_and_only_one(self) -> None:
        breaker = after_silences(FEW + 1)
        assert not breaker.may_probe(100.74)
        assert breaker.may_probe(100.75)
        probing = breaker.with_probe(until=160.0)
        assert not probing.may_probe(159.9)
        assert probing.without_probe().may_probe(101.0), "there was nothing to send"

    def test_a_probe_that_is_never_heard_of_does_not_keep_the_host_shut_for_ever(self) -> None:
        probing = after_silences(FEW + 1).with_probe(until=160.0)
        assert probing.next_look() == 160.0
        assert probing.may_probe(160.0)

    def test_requests_that_left_before_it_opened_do_not_prolong_the_pause(self) -> None:
        breaker = after_silences(FEW + 1)
        for moment in (100.1, 100.5, 100.74):
            assert breaker.silent(moment, 0.9) is breaker

    def test_a_probe_without_an_answer_doubles_the_pause_up_to_half_a_minute(self) -> None:
        breaker, now, pauses = after_silences(FEW + 1, spread=1.0), 101.0, []
        for _ in range(7):
            breaker = breaker.with_probe(now + 60.0).silent(now, 1.0)
            pauses.append(breaker.retry_at - now)
            assert not breaker.closed
            assert breaker.next_look() == breaker.retry_at
            now = breaker.retry_at
        assert pauses == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

    def test_any_answer_closes_it(self) -> None:
        """Also a late one, also a 503: a host that answers, however badly, is alive."""
        assert after_silences(50).answered() == Breaker()
        assert after_silences(50).with_probe(until=160.0).answered() == Breaker()

    @quick
    @given(st.lists(st.tuples(st.sampled_from(["silent", "answered", "probe", "none"]), st.floats(0, 100))))
    def test_a_host_is_never_given_up(self, happenings: list[tuple[str, float]]) -> None:
        breaker, now = Breaker(), 0.0
        for what, seconds in happenings:
            now += seconds
            match what:
                case "silent":
                    breaker = breaker.silent(now, 0.5)
                case "answered":
                    breaker = breaker.answered()
                case "probe" if breaker.may_probe(now):
                    breaker = breaker.with_probe(now + 60.0)
                case "none":
                    breaker = breaker.without_probe()
            assert breaker.closed or breaker.may_probe(breaker.next_look())
            assert breaker.next_look() <= now + 60.0

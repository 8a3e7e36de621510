"""Whoever stops a worker as the README says is patient enough for its longest request."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kimiflow.scheduling.limits import Limits
from kimiflow.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("who", ["TimeoutStopSec=", "stop_grace_period: ", "terminationGracePeriodSeconds: "])
def test_who_stops_it_waits_for_the_longest_request(who: str) -> None:
    timeout = Settings.model_fields["http_timeout"].default
    longest = Limits.for_timeout(timeout, 256).longest_stop
    given = [int(number) for number in re.findall(rf"{re.escape(who)}(\d+)", README)]
    assert given
    assert all(seconds > longest for seconds in given)
    assert longest == timeout + 15.0, "as the README says"

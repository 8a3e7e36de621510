from __future__ import annotations

import random
from typing import Any

import pytest

from kimiflow.sandbox import Fault, FaultError, Faults, describe_faults, parse_fault
from kimiflow.sandbox.fault_kinds import KINDS, RetryAfter


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("reset", Fault(kind="reset")),
        ("503:poll=0.2", Fault(kind="503", endpoint="poll", probability=0.2)),
        ("503/20:refresh=x2", Fault(kind="503", value=RetryAfter(20), endpoint="refresh", times=2)),
        ("429/date+20", Fault(kind="429", value=RetryAfter(20, as_date=True))),
        ("slow_down/30=0.1", Fault(kind="slow_down", value=30.0, probability=0.1)),
        ("invalid_grant/401", Fault(kind="invalid_grant", value=401)),
        ("html", Fault(kind="html", value=200)),
        ("html/403", Fault(kind="html", value=403)),
        ("missing/scope:token", Fault(kind="missing", value="scope", endpoint="token")),
        ("expires_in/nan", Fault(kind="expires_in", value="nan")),
        ("interval/30:device", Fault(kind="interval", value=30.0, endpoint="device")),
        ("delay/2.5", Fault(kind="delay", value=2.5)),
        ("lost:any=x1", Fault(kind="lost", value="close", times=1)),
        (" reset : refresh = x2 ", Fault(kind="reset", endpoint="refresh", times=2)),
        ("reset=1", Fault(kind="reset")),
        ("reset=0", Fault(kind="reset", probability=0)),
    ],
)
def test_a_fault_is_read_as_typed(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault
    assert parse_fault(fault.spec) == fault


@pytest.mark.parametrize(
    ("text", "bad", "allowed"),
    [
        ("teapot", "'teapot'", "kinds are 400…599, slow_down"),
        ("", "''", "kinds are"),
        ("302", "'302'", "kinds are"),
        ("400…599", "'400…599'", "kinds are"),
        ("reset:tokens", "'tokens'", "endpoints are any, device, poll, refresh, token"),
        ("reset:", "''", "endpoints are any"),
        ("interval/zero:poll", "'poll'", "endpoints are any, device"),
        ("reset=2", "'2'", "a probability from 0 to 1, such as 0.2, or the next so many, such as x2"),
        ("reset=x0", "'x0'", "such as x2"),
        ("reset=nan", "'nan'", "a probability from 0 to 1"),
        ("reset/5", "'5'", "takes no value"),
        ("delay", "delay needs a value", "by so many seconds"),
        ("delay/soon", "'soon'", "by so many seconds"),
        ("delay/inf", "'inf'", "by so many seconds"),
        ("503/soon", "'soon'", "date+20"),
        ("html/700", "'700'", "HTTP status"),
        ("huge/0", "'0'", "MiB"),
        ("redirect/200", "'200'", "301, 302, 303, 307 or 308"),
        ("lost/found", "'found'", "close (by itself), reset or cut_off"),
        ("missing/access_token", "'access_token'", "refresh_token, scope"),
        ("interval/abc", "'abc'", "string, float, word, nan"),
        ("reset:poll:poll", "KIND[/VALUE][:ENDPOINT]", "=xCOUNT"),
    ],
)
def test_a_bad_fault_is_named_with_what_is_allowed(text: str, bad: str, allowed: str) -> None:
    with pytest.raises(FaultError) as error:
        parse_fault(text)
    message = str(error.value)
    assert message.startswith(f"fault {text!r}: ")
    assert bad in message
    assert allowed in message


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "nothing"},
        {"kind": "delay"},
        {"kind": "html", "value": "x"},
        {"kind": "reset", "times": 0},
        {"kind": "reset", "probability": 1.5},
        {"kind": "reset", "endpoint": "tokens"},
    ],
)
def test_a_fault_made_in_code_is_checked_as_well(options: dict[str, Any]) -> None:
    with pytest.raises(FaultError):
        Fault(**options)


def test_every_kind_is_described() -> None:
    assert len(describe_faults().splitlines()) == len(KINDS)
    assert "delay/VALUE: " in describe_faults()
    assert "html[/VALUE]: " in describe_faults()
    assert "reset: " in describe_faults()


def test_probability_is_drawn_from_the_generator_that_is_passed() -> None:
    fault = parse_fault("reset=0.25")
    hits = [fault.strikes("poll", random.Random(seed)) for seed in range(2_000)]
    assert 400 < sum(hits) < 600
    assert hits == [fault.strikes("poll", random.Random(seed)) for seed in range(2_000)]


def test_a_count_is_used_up_by_requests_in_its_scope_only() -> None:
    faults, dice = Faults([parse_fault("reset:poll=x2")]), random.Random(1)
    assert faults.first("refresh", "a", dice) is None
    assert faults.first("poll", "a", dice) is not None
    assert faults.first("poll", "b", dice) is not None
    assert faults.first("poll", "c", dice) is None
    assert not faults


def test_token_means_poll_and_refresh() -> None:
    fault, dice = parse_fault("reset:token"), random.Random(1)
    assert [fault.strikes(endpoint, dice) for endpoint in ("device", "poll", "refresh", "token")] == [
        False, True, True, True,
    ]  # fmt: skip


def test_a_fault_can_be_one_devices_own() -> None:
    faults, dice = Faults([Fault(kind="reset", device_id="a", times=1)]), random.Random(1)
    assert faults.first("poll", "b", dice) is None
    assert faults.first("poll", "a", dice) is not None
    assert faults.first("poll", "a", dice) is None
    assert not faults


def test_the_oldest_fault_comes_first() -> None:
    faults, dice = Faults([parse_fault("503=x1"), parse_fault("reset")]), random.Random(1)
    struck = [faults.first("poll", "a", dice) for _ in range(3)]
    assert [fault and fault.kind for fault in struck] == ["503", "reset", "reset"]

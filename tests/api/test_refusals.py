"""What a reply says about the account that asked, and about when it is served again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kimiflow.api.refusals import PAUSE_LIMITED, PAUSE_REFUSED, refusal_in
from kimiflow.roster import Absence, Roster
from kimiflow.secret import Secret

NOW = 1_764_000_000.0
SENT = Secret("the-token-that-was-sent")


def read(status: int, body: Any = None, header: str | None = None) -> Any:
    return refusal_in(status, header, b"" if body is None else json.dumps(body).encode(), NOW, SENT)


@pytest.mark.parametrize("status", [200, 204, 302, 400, 404, 500, 503])
def test_other_statuses_say_nothing(status: int) -> None:
    assert read(status, {"error": {"type": "access_terminated_error"}}, "20") is None


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"type": "access_terminated_error", "message": "weekly limit"}},
        {"error": {"code": "access_terminated_error", "type": "error"}},
        {"type": "access_terminated_error"},
    ],
)
def test_a_terminated_access(body: Any) -> None:
    refusal = read(403, body)
    assert refusal.reason.startswith("403 access_terminated_error")
    assert (refusal.until, refusal.guessed) == (NOW + PAUSE_REFUSED, True)


@pytest.mark.parametrize("body", [None, {}, [], "x", {"error": "forbidden"}, {"error": {"type": "permission"}}])
def test_any_other_403_is_the_callers(body: Any) -> None:
    assert read(403, body) is None


@pytest.mark.parametrize(
    ("header", "body", "wait"),
    [
        ("20", None, 20),
        ("0", None, 1),
        ("Mon, 24 Nov 2025 16:01:00 GMT", None, 60),
        ("20", {"error": {"resetTime": "2025-11-24T18:00:00Z"}}, 20),
        (None, {"error": {"resetTime": "2025-11-24T16:02:00.123456789Z"}}, 120.123456),
        (None, {"error": {"reset_at": NOW + 90}}, 90),
        (None, {"error": {"resetAt": str(int(NOW + 90) * 1000)}}, 90),
        (None, {"error": {"retry_after": "45"}}, 45),
        (None, {"reset_in": 45}, 45),
        (None, {"error": {"resetTime": "2020-01-01T00:00:00Z"}}, 1),
        (None, {"error": {"resetTime": "2999-01-01T00:00:00Z"}}, 8 * 86_400),
    ],
)
def test_a_429_with_a_time(header: str | None, body: Any, wait: float) -> None:
    refusal = read(429, body, header)
    assert refusal.until == pytest.approx(NOW + wait, abs=1e-4)
    assert not refusal.guessed


@pytest.mark.parametrize(
    ("header", "body"),
    [
        (None, None),
        ("soon", {"error": {"resetTime": "soon", "message": 7}}),
        (None, {"error": {"resetTime": None, "retry_after": -1}}),
        (None, {"error": {"resetTime": True, "retry_after": "NaN"}}),
        (None, {"error": "slow down"}),
        (None, [1]),
    ],
)
def test_a_429_without_one(header: str | None, body: Any) -> None:
    refusal = read(429, body, header)
    assert (refusal.until, refusal.guessed) == (NOW + PAUSE_LIMITED, True)


def test_the_servers_words_are_one_short_line() -> None:
    assert read(402, {"error": {"message": "no\n\x1b[31m membership"}}).reason == (
        "402, no membership: no [31m membership"
    )
    assert len(read(402, {"error": {"message": "x" * 10_000}}).reason) < 230
    assert read(429, {"error": "slow down"}).reason == "429: slow down"


def test_more_time_wins_and_what_was_learned_replaces_a_guess() -> None:
    roster = Roster(["a", "b"])
    guess, told = Absence(NOW + 30, "guess"), Absence(NOW + 60, "told")
    roster.set_aside("a", guess, NOW)
    roster.set_aside("a", told, NOW)
    roster.set_aside("a", Absence(NOW + 10, "less"), NOW)
    assert roster.absence("a", NOW) is told
    roster.correct("a", guess, Absence(NOW + 1000, "learned"))
    assert roster.absence("a", NOW) is told, "somebody was told in the meantime"
    roster.correct("a", told, Absence(NOW + 40, "learned"))
    found = roster.absence("a", NOW)
    assert found is not None
    assert found.reason == "learned"
    assert roster.absence("a", NOW + 40) is None
    assert roster.absence("b", NOW) is None

"""What is said, without a process: rows, durations, tables, the QR code."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from kimiflow.cli import tables, words
from kimiflow.cli.history import folded
from kimiflow.cli.live import waiting_table
from kimiflow.cli.qr import qr_lines
from kimiflow.model import State, Transition
from kimiflow.status import Status

NOW = 1_000_000.0

PENDING = Status(
    account="work",
    provider="kimi",
    state=State.PENDING,
    user_code="ABCD-EFGH",
    verification_uri="https://example.com/device",
    verification_uri_complete=None,
    code_expires_at=NOW + 872,
    interval=5.0,
    token_expires_at=None,
    next_attempt_at=NOW + 3,
    attempts=0,
    error=None,
    error_description=None,
    updated_at=NOW,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0.9, "0 s"), (99, "99 s"), (100, "1 min"), (899, "14 min"), (7200, "2 h"), (200_000, "2 d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0:00"), (59, "0:59"), (872.9, "14:32"), (3661, "1:01:01")])
def test_countdowns(seconds: float, text: str) -> None:
    assert words.countdown(seconds) == text


@pytest.mark.parametrize(
    ("change", "holds", "next_step"),
    [
        ({}, "ABCD-EFGH (14 min left)", "poll in 3 s"),
        ({"next_attempt_at": NOW - 5}, "ABCD-EFGH (14 min left)", "poll now"),
        ({"next_attempt_at": NOW - 300}, "ABCD-EFGH (14 min left)", "poll overdue by 5 min"),
        ({"token_expires_at": NOW + 60}, "ABCD-EFGH (14 min left); token 60 s left", "poll in 3 s"),
        ({"state": State.REQUESTED, "user_code": None}, "no code yet", "ask for a code in 3 s"),
        ({"state": State.GRANTED, "token_expires_at": NOW + 600}, "token 10 min left", "refresh in 3 s"),
        ({"state": State.GRANTED, "token_expires_at": NOW - 1}, "token has ended", "refresh in 3 s"),
        (
            {"state": State.REFRESHING, "token_expires_at": NOW + 60, "next_attempt_at": NOW},
            "token 60 s left",
            "being refreshed",
        ),
        ({"state": State.GRANTED, "next_attempt_at": None}, "token without an end", "nothing to do"),
        (
            {"state": State.REFRESHING, "token_expires_at": NOW - 60, "attempts": 9, "needs_person": True},
            "token has ended",
            "needs a person; refresh in 3 s",
        ),
        ({"state": State.DENIED, "next_attempt_at": None}, "", "sign in again"),
        ({"state": None, "next_attempt_at": None}, "", "sign in"),
    ],
)
def test_rows(change: dict[str, Any], holds: str, next_step: str) -> None:
    line = words.describe(replace(PENDING, **change), NOW)
    assert (line.holds, line.next) == (holds, next_step)


def test_errors_name_their_attempts() -> None:
    failed = replace(PENDING, error="timeout", error_description="no reply within 30 s", attempts=3)
    assert words.describe(failed, NOW).error == "timeout: no reply within 30 s (attempt 3)"


def rendered(what: object, width: int) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, markup=False).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_table_is_wider_than_its_terminal_and_markup_is_text(width: int) -> None:
    nasty = replace(PENDING, account="a" * 64, error="x", error_description="[bold]no[/bold] [/] " + "y" * 200)
    lines = rendered(tables.status_table([words.describe(nasty, NOW)], width), width)
    assert all(len(line) <= width for line in lines)
    assert "[bold]no[/bold]" in "".join(lines).replace(" ", "").replace("\n", "") or width > 60


def test_a_pipe_gets_a_line_an_account_uncut() -> None:
    long = replace(PENDING, account="a" * 64, error="x", error_description="y" * 300)
    shown = tables.plain_status([words.describe(PENDING, NOW), words.describe(long, NOW)])
    assert len(shown) == 3
    assert "a" * 64 in shown[2]
    assert "y" * 300 in shown[2]


@pytest.mark.parametrize("width", [28, 40, 44, 60, 80])
def test_the_code_and_the_time_left_are_whole_on_any_screen(width: int) -> None:
    lines = rendered(waiting_table([replace(PENDING, account="a" * 64)], NOW, width, 24), width)
    assert any("ABCD-EFGH" in line and "14:32" in line for line in lines)


def test_what_settled_gives_way_to_what_has_not() -> None:
    settled = [replace(PENDING, account=f"done{n}", state=State.GRANTED) for n in range(50)]
    lines = rendered(waiting_table([*settled, PENDING], NOW, 80, 20), 80)
    assert len(lines) <= 20
    assert any(line.startswith("work ") for line in lines)
    assert "50 of 51 settled. Ctrl-C leaves, and loses nothing." in lines


def test_history_folds_what_repeats_itself_and_leads_nowhere() -> None:
    def row(at: float, came_from: State | None, to: State, event: str, detail: str | None = None) -> Transition:
        return Transition(at, came_from, to, event, detail)

    pending = State.PENDING
    rows = [
        row(1, None, State.REQUESTED, "login_requested"),
        row(2, State.REQUESTED, pending, "device_code_issued"),
        *(row(at, pending, pending, "authorization_pending") for at in (3, 4, 5)),
        row(6, pending, pending, "attempt_failed", "timeout"),
        row(7, pending, pending, "authorization_pending"),
        row(8, pending, State.GRANTED, "access_token_issued"),
    ]
    assert [(each.at, each.event, count) for each, count in folded(rows)] == [
        (1, "login_requested", 1),
        (2, "device_code_issued", 1),
        (5, "authorization_pending", 3),
        (6, "attempt_failed", 1),
        (7, "authorization_pending", 1),
        (8, "access_token_issued", 1),
    ]


def test_qr_code() -> None:
    lines = qr_lines("https://www.kimi.com/code/authorize_device?user_code=ABCD-1234")
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= 40
    assert set("".join(lines)) <= set(" ▀▄█")
    assert qr_lines("x" * 10_000) == []

"""What the tour claims, looked up in the store's history and the server's log instead of taken for granted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimiflow.model import HOLDS_TOKENS, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimiflow.cli.demo_stage import Stage

__all__ = ["Finding", "findings"]

_ENDS = {
    "early": HOLDS_TOKENS,
    "late": HOLDS_TOKENS,
    "slowed": HOLDS_TOKENS,
    "denied": {State.DENIED},
    "forgotten": {State.EXPIRED},
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One claim, and whether it held."""

    claim: str
    holds: bool
    instead: str = ""


async def findings(stage: Stage, first_codes: Mapping[str, str]) -> list[Finding]:
    """Every claim of the tour, checked."""
    return [
        await _all_settled(stage),
        await _first_codes_kept(stage, first_codes),
        await _slowed_down(stage),
        await _refreshed(stage),
        _behaved(stage),
    ]


async def _all_settled(stage: Stage) -> Finding:
    found = {s.account: s.state for s in await stage.flow.status()}
    return Finding(
        "every sign-in ended as it had to: three granted, one denied, one expired",
        all(found[name] in ends for name, ends in _ENDS.items()),
        ", ".join(f"{name} is {state.value if state else 'signed out'}" for name, state in found.items()),
    )


async def _first_codes_kept(stage: Stage, first_codes: Mapping[str, str]) -> Finding:
    last = {s.account: s.user_code for s in await stage.flow.status()}
    others = [f"{name} had {code}, then {last[name]}" for name, code in first_codes.items() if last[name] != code]
    asked = len(stage.sandbox.log("device_authorization"))
    if asked != len(first_codes):
        others.append(f"the server was asked for {asked} codes")
    return Finding(
        "each finished with the user code that it had first; nobody was asked twice", not others, "; ".join(others)
    )


async def _slowed_down(stage: Stage) -> Finding:
    events = [t.event for t in await stage.flow.history("slowed")]
    return Finding(
        "slowed was told to slow down, and was signed in all the same",
        "slow_down" in events and "access_token_issued" in events,
        f"its history is {', '.join(events)}",
    )


async def _refreshed(stage: Stage) -> Finding:
    history = await stage.flow.history("early")
    times = sum(t.from_state is State.REFRESHING and t.event == "access_token_issued" for t in history)
    token = await stage.command("token", "early")
    works = bool(token) and stage.sandbox.is_valid(token)
    return Finding(
        f"the token of early was refreshed ({times} times), and the server takes it",
        times > 0 and works,
        f"it was refreshed {times} times; the server {'takes' if works else 'does not take'} it",
    )


def _behaved(stage: Stage) -> Finding:
    polls, refreshes = stage.sandbox.log("poll"), stage.sandbox.log("refresh")
    fast = sum(entry.too_fast for entry in polls)
    reused = sum(entry.reuse or entry.concurrent for entry in refreshes)
    return Finding(
        f"none of {len(polls)} polls came early, none of {len(refreshes)} refreshes used a spent token",
        not fast and not reused,
        f"{fast} polls came early, {reused} refreshes used a token twice",
    )

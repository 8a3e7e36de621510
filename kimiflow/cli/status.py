"""``kimiflow status``: what every account is, once or for as long as somebody watches."""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimiflow.cli import tables, words
from kimiflow.cli.names import expanded
from kimiflow.cli.profile import show_profiles
from kimiflow.cli.running import run
from kimiflow.cli.talk import is_terminal, paint, result, result_json, say
from kimiflow.errors import UsageError
from kimiflow.model import HOLDS_TOKENS
from kimiflow.outcome import failed_attempt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.cli.selection import Selection
    from kimiflow.flow import KimiFlow
    from kimiflow.status import Status

__all__ = ["status"]

_MOST_TOLD = 3
"""Accounts that are told of one by one."""

_PAUSE = 0.5
"""Seconds between two looks while watching."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What was asked for."""

    patterns: Sequence[str]
    selection: Selection
    as_json: bool
    long: bool

    async def found(self, flow: KimiFlow) -> list[Status]:
        """The accounts that are meant, as they are now."""
        return self.selection.of(await flow.status(await expanded(flow, self.patterns) or None))

    def json(self, found: Sequence[Status]) -> list[dict[str, Any]]:
        return [each.as_json(long=self.long) for each in found]


def status(
    patterns: Sequence[str],
    selection: Selection,
    *,
    as_json: bool,
    watch: bool,
    profile: bool = False,
    workers: bool = False,
    long: bool = False,
) -> int:
    """Runs the command; returns the exit code."""
    wish = _Wish(patterns, selection, as_json, long)
    if workers and (watch or profile or not selection.is_everything):
        raise UsageError("--workers goes with none of --watch, --profile, --state and --label", hint="Leave it out.")
    if workers:
        from kimiflow.cli.workers import show_workers

        async def show_them(flow: KimiFlow) -> int:
            return await show_workers(flow, await expanded(flow, patterns) or None, as_json=as_json)

        return run(show_them)
    if watch and profile:
        raise UsageError("--profile asks the API once, and --watch goes on", hint="Leave one of them out.")
    if watch:
        return run(lambda flow: _watch(flow, wish), interrupted=lambda _code: 0)
    return run(lambda flow: _once(flow, wish, profile=profile))


async def _once(flow: KimiFlow, wish: _Wish, *, profile: bool) -> int:
    found = await wish.found(flow)
    if wish.as_json and profile:
        return await show_profiles(flow, found, as_json=True, long=wish.long)
    if wish.as_json:
        result_json(wish.json(found))
        return 0
    if not found:
        say(_nobody(wish))
        return 0
    now = await flow.now()
    tables.show_status(found, now)
    if any(words.describe(each, now).overdue for each in found):
        say(paint("Nobody seems to be driving these accounts. Start a worker with: kimiflow run", "yellow", sys.stderr))
    _tell_who_is_needed([each for each in found if each.needs_person and each.state in HOLDS_TOKENS])
    return await show_profiles(flow, found, as_json=False) if profile else 0


def _tell_who_is_needed(found: Sequence[Status]) -> None:
    """What a person can do for accounts that have not ended; of the others the table says it."""
    for each in found[:_MOST_TOLD]:
        told = failed_attempt(each)
        say(f"{paint(told.message, 'yellow', sys.stderr)}\n{told.hint}")
    if len(found) > _MOST_TOLD:
        say(f"… and {len(found) - _MOST_TOLD} more like that")


def _nobody(wish: _Wish) -> str:
    if wish.selection.is_everything:
        return "There are no accounts yet. Sign one in with: kimiflow login NAME"
    return "No account is like that. See them all with: kimiflow status"


async def _watch(flow: KimiFlow, wish: _Wish) -> int:
    if not wish.as_json and is_terminal(sys.stdout):
        return await _watch_live(flow, wish)
    before: list[dict[str, Any]] | None = None
    while True:
        found = await wish.found(flow)
        values = [each.as_json(long=True) for each in found]
        if values != before:
            if wish.as_json:
                result_json(wish.json(found))
            else:
                result(words.clock_time(time.time()))
                tables.show_status(found, await flow.now()) if found else result("no accounts")
                result("")
            before = values
        await asyncio.sleep(_PAUSE)


async def _watch_live(flow: KimiFlow, wish: _Wish) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = tables.console_on(sys.stdout)
    with Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False) as live:
        while True:
            now = await flow.now()
            lines = [words.describe(each, now) for each in await wish.found(flow)]
            table = tables.status_table(lines, console.width) if lines else Text(_nobody(wish))
            live.update(Group(table, Text("\nCtrl-C ends the watch.", style="dim")), refresh=True)
            await asyncio.sleep(_PAUSE)

"""``kimiflow status --profile``: who the accounts are, what is left of their quotas, and who is there twice."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from kimiflow.api.profile import Profile, duplicates
from kimiflow.cli import failures, tables, words
from kimiflow.cli.talk import is_terminal, paint, result, result_json, say
from kimiflow.errors import KimiFlowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from kimiflow.api.profile import QuotaWindow
    from kimiflow.flow import KimiFlow
    from kimiflow.status import Status

__all__ = ["show_profiles"]

HEADINGS = ("ACCOUNT", "USER", "LEVEL", "REGION", "QUOTA")

_AT_ONCE = 16


async def show_profiles(flow: KimiFlow, found: Sequence[Status], *, as_json: bool, long: bool = False) -> int:
    """Asks for the profiles of all that hold tokens, at once, and shows them; returns the exit code."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(name: str) -> Profile | KimiFlowError:
        try:
            async with slots:
                return await flow.profile(name)
        except KimiFlowError as error:
            return error

    names = [status.account for status in found if status.holds_tokens]
    profiles = dict(zip(names, await asyncio.gather(*map(one, names)), strict=True))
    people = duplicates(profile for profile in profiles.values() if isinstance(profile, Profile))
    if as_json:
        result_json([_json(status, profiles.get(status.account), people, long=long) for status in found])
    elif profiles:
        _show([row_of(name, profile, time.time()) for name, profile in profiles.items()])
    for user_id, accounts in people.items():
        listed = f"{', '.join(accounts[:-1])} and {accounts[-1]}"
        say(paint(f"{listed} are the same person ({user_id}), and share one quota.", "yellow", sys.stderr))
    return failures.worst(failures.code_of(error) for error in profiles.values() if isinstance(error, KimiFlowError))


def row_of(name: str, profile: Profile | KimiFlowError, now: float) -> tuple[str, ...]:
    """A profile in a person's words; of one that could not be had, why not. Pure."""
    if isinstance(profile, KimiFlowError):
        return name, "-", "-", "-", profile.message
    known = [profile.nickname or profile.user_id, f"<{profile.email}>" if profile.email else None]
    quota = "; ".join([*(_quota(window, now) for window in profile.quota), *profile.problems])
    user = " ".join(filter(None, known))
    return name, user or "-", profile.level or "-", profile.region or "-", quota or "-"


def _quota(window: QuotaWindow, now: float) -> str:
    name = window.name or (words.duration(window.seconds) if window.seconds else "")
    used = "?" if window.used is None else f"{window.used:g}"
    text = used if window.limit is None else f"{used} of {window.limit:g}"
    if window.resets_at is not None and window.resets_at > now:
        text += f", anew in {words.duration(window.resets_at - now)}"
    return f"{name}: {text}" if name else text


def _json(
    status: Status, profile: Profile | KimiFlowError | None, people: dict[str, list[str]], *, long: bool
) -> dict[str, Any]:
    values = status.as_json(long=long)
    values["profile"] = profile.as_json() if isinstance(profile, Profile) else None
    values["profile_error"] = profile.message if isinstance(profile, KimiFlowError) else None
    same = people.get(profile.user_id or "", []) if isinstance(profile, Profile) else []
    values["same_person_as"] = [name for name in same if name != status.account]
    return values


def _show(rows: Sequence[tuple[str, ...]]) -> None:
    if not is_terminal(sys.stdout):
        result("")
        result("\n".join(tables.plain_columns([HEADINGS, *rows])))
        return
    console = tables.console_on(sys.stdout)
    console.print()
    console.print(_table(rows))


def _table(rows: Sequence[tuple[str, ...]]) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, overflow="fold")
    for name, *cells in rows:
        table.add_row(Text(name, style="bold"), *map(Text, cells))
    return table

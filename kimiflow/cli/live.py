"""The table that counts down, and what keeps other output from tearing it apart."""

from __future__ import annotations

import logging
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kimiflow.cli import words
from kimiflow.model import ON_ITS_WAY, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.console import RenderableType

    from kimiflow.status import Status

__all__ = ["logs_above", "waiting_table"]

_NARROW = 60
_TINY = 40
"""Columns below which there is no room for news, and for the words of states (their colours stay)."""

_STATE = 9
_LEFT = 7
_NEWS = 16
"""Widths of columns: the longest state, hours of time left, and the least that is worth reading."""


@contextmanager
def logs_above() -> Iterator[None]:
    """While a live table is on stderr, log lines go through what Rich has put in the place of ``sys.stderr``."""
    handlers = [h for h in logging.getLogger("kimiflow").handlers if isinstance(h, logging.StreamHandler)]
    before = [handler.setStream(sys.stderr) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, before, strict=True):
            if stream is not None:
                handler.setStream(stream)


def waiting_table(statuses: Sequence[Status], now: float, width: int, height: int) -> RenderableType:
    """Sign-ins on their way, with the time that is left for each.

    Those that have the least time left come first where the screen has not room for all; settled ones give way to them.
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    room = max(3, height - 5)
    ordered = list(statuses)
    if len(ordered) > room:
        ordered.sort(key=lambda s: (s.state not in ON_ITS_WAY, s.code_expires_at or 0.0))
    narrow, tiny = width < _NARROW, width < _TINY
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    # Only names and news give way on a narrow screen: a code with a piece missing is worth nothing.
    code = max([4, *(len(s.user_code or "") for s in statuses)])
    rest = code + _LEFT + 4 + (0 if tiny else _STATE + 2)
    name = min(max([7, *(len(s.account) for s in statuses)]), max(4, width - rest - (0 if narrow else _NEWS + 2)))
    table.add_column("ACCOUNT", width=name, no_wrap=True, overflow="ellipsis")
    if not tiny:
        table.add_column("STATE", width=_STATE, no_wrap=True)
    table.add_column("CODE", width=code, no_wrap=True)
    table.add_column("LEFT", width=_LEFT, no_wrap=True)
    if not narrow:
        table.add_column("NEWS", width=width - name - rest - 2, no_wrap=True, overflow="ellipsis")
    for status in ordered[:room]:
        left = "" if status.code_expires_at is None else words.countdown(status.code_expires_at - now)
        style = words.state_style(status.state)
        table.add_row(
            Text(status.account, style=f"bold {style}" if tiny else "bold"),
            *([] if tiny else [Text(words.state_word(status.state), style=style)]),
            Text(status.user_code or ""),
            Text(left if status.on_its_way else ""),
            *([] if narrow else [Text(_news(status, now), style="dim")]),
        )
    lines: list[RenderableType] = [Text(""), table]
    if len(ordered) > room:
        lines.append(Text(f"… and {len(ordered) - room} more", style="dim"))
    lines.append(Text(_summary(statuses), style="dim"))
    return Group(*lines)


def _news(status: Status, now: float) -> str:
    if not status.on_its_way:
        return words.settled_words(status, now)
    line = words.describe(status, now)
    if line.error:
        return f"{line.error}; {line.next}"
    if status.state is State.SLOW_DOWN and status.interval:
        return f"the server asked for fewer polls: every {words.duration(status.interval)}"
    return "asking for a code" if status.state is State.REQUESTED else ""


def _summary(statuses: Sequence[Status]) -> str:
    waiting = sum(s.on_its_way for s in statuses)
    if len(statuses) > 1:
        return f"{len(statuses) - waiting} of {len(statuses)} settled. Ctrl-C leaves, and loses nothing."
    return "Waiting for the approval. Ctrl-C leaves, and loses nothing."

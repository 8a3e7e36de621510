"""``kimiflow history``: every transition of an account."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import TYPE_CHECKING, Any

from kimiflow.cli import tables, words
from kimiflow.cli.running import run
from kimiflow.cli.talk import is_terminal, result, result_json
from kimiflow.status import rfc3339

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kimiflow.flow import KimiFlow
    from kimiflow.model import State, Transition

__all__ = ["folded", "history"]

_HEADINGS = ("AT", "FROM", "TO", "EVENT", "DETAIL")

_NARROW = 100
"""Columns below which no room is left for the details beside the rest."""


def history(name: str, *, as_json: bool, unfolded: bool) -> int:
    """Runs the command; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        transitions = await flow.history(name)
        if as_json:
            result_json([_as_json(each) for each in transitions])
        else:
            _show([(each, 1) for each in transitions] if unfolded else list(folded(transitions)))
        return 0

    return run(body)


def folded(transitions: Sequence[Transition]) -> Iterator[tuple[Transition, int]]:
    """Each transition and how often it came in a row; only those that lead nowhere are folded, into their last."""

    def key(each: Transition) -> tuple[object, ...]:
        if each.from_state is each.to_state:
            return each.from_state, each.event, each.detail
        return (id(each),)

    for _, run_ in groupby(transitions, key):
        rows = list(run_)
        yield rows[-1], len(rows)


def _as_json(each: Transition) -> dict[str, Any]:
    return {
        "at": rfc3339(each.at),
        "from": each.from_state.value if each.from_state else None,
        "to": each.to_state.value if each.to_state else None,
        "event": each.event,
        "detail": each.detail,
    }


def _cells(each: Transition, count: int) -> tuple[str, str, str, str, str]:
    def word(state: State | None) -> str:
        return state.value if state else "-"

    times = f" ×{count}" if count > 1 else ""  # noqa: RUF001 - times, in the typographic sense
    return (
        words.clock_time(each.at),
        word(each.from_state),
        word(each.to_state),
        f"{each.event}{times}",
        each.detail or "",
    )


def _show(rows: Sequence[tuple[Transition, int]]) -> None:
    cells = [_cells(each, count) for each, count in rows]
    if not is_terminal(sys.stdout):
        result("\n".join(tables.plain_columns([_HEADINGS, *cells])))
        return
    from rich.table import Table
    from rich.text import Text

    console = tables.console_on(sys.stdout)
    if console.width < _NARROW:
        for (at, came_from, to, event, detail), (each, _) in zip(cells, rows, strict=True):
            console.print(Text.assemble((at, "dim"), " ", event))
            console.print(Text.assemble("  ", came_from, " → ", (to, words.state_style(each.to_state))))
            if detail:
                console.print(Text(f"  {detail}", overflow="fold"))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, no_wrap=heading != "DETAIL", overflow="fold")
    for (at, came_from, to, event, detail), (each, _) in zip(cells, rows, strict=True):
        style = words.state_style(each.to_state)
        table.add_row(Text(at, style="dim"), Text(came_from), Text(to, style=style), Text(event), Text(detail))
    console.print(table)

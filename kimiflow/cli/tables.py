"""Tables: plain columns for pipes, Rich ones for a person, stacked lines where a terminal is too narrow for columns."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from kimiflow.cli import words
from kimiflow.cli.talk import is_terminal, result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from rich.console import Console, RenderableType

    from kimiflow.cli.words import Line
    from kimiflow.status import Status

__all__ = ["NARROW", "console_on", "plain_columns", "plain_status", "show_status", "status_table", "workers_table"]

HEADINGS = ("ACCOUNT", "STATE", "HOLDS", "NEXT STEP", "LAST ERROR")
WORKER = "WORKER"
"""A column that is there only where somebody is at work, or where it was asked for."""
LABEL = "LABEL"
"""A column that is there only where somebody has labelled an account."""

NARROW = 72
"""Columns below which five columns of words are not readable any more."""


def show_status(found: Sequence[Status], now: float, *, workers: bool = False) -> None:
    """Prints the accounts as a table; ``workers``: with who is at each, even where nobody is."""
    lines = [words.describe(each, now) for each in found]
    if is_terminal(sys.stdout):
        console = console_on(sys.stdout)
        console.print(status_table(lines, console.width, workers=workers))
    else:
        result("\n".join(plain_status(lines, workers=workers)))


def console_on(stream: TextIO) -> Console:
    """A Rich console that writes to ``stream``; it knows about NO_COLOR itself."""
    from rich.console import Console

    return Console(file=stream, highlight=False, markup=False, emoji=False)


def plain_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines with aligned columns, nothing cut and nothing wrapped: one line a row, for grep."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def plain_status(lines: Sequence[Line], *, workers: bool = False) -> list[str]:
    """The status of accounts, for a pipe; with who is at each, where anybody is or ``workers`` says so."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    rows += [(line.account, line.state, line.holds or "-", line.next, line.error or "-") for line in lines]
    if any(line.label for line in lines):
        labels = [LABEL, *(line.label or "-" for line in lines)]
        rows = [(*row, label) for row, label in zip(rows, labels, strict=True)]
    if workers or any(line.worker for line in lines):
        holders = [WORKER, *(line.worker or "-" for line in lines)]
        rows = [(*row, holder) for row, holder in zip(rows, holders, strict=True)]
    return plain_columns(rows)


def status_table(lines: Sequence[Line], width: int, *, workers: bool = False) -> RenderableType:
    """The status of accounts, for a person whose terminal is ``width`` columns wide."""
    return _stacked(lines) if width < NARROW else _table(lines, workers=workers or any(line.worker for line in lines))


def workers_table(rows: Sequence[Sequence[str]]) -> RenderableType:
    """Workers, for a person; the first row holds the headings."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in rows[0]:
        table.add_column(heading, overflow="fold")
    for row in rows[1:]:
        table.add_row(*(Text(cell) for cell in row))
    return table


def _table(lines: Sequence[Line], *, workers: bool) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    troubled = any(line.error for line in lines)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS if troubled else HEADINGS[:-1]:
        folds = heading in {"ACCOUNT", "LAST ERROR"}
        table.add_column(heading, overflow="fold" if folds else "ellipsis", no_wrap=heading == "STATE")
    labelled = any(line.label for line in lines)
    if labelled:
        table.add_column(LABEL, overflow="fold")
    if workers:
        table.add_column(WORKER, overflow="fold")
    for line in lines:
        cells = [
            Text(line.account, style="bold"),
            Text(line.state, style=line.style),
            Text(line.holds),
            Text(line.next, style="yellow" if line.overdue else ""),
        ]
        if troubled:
            cells.append(Text(line.error, style="red" if line.error else ""))
        if labelled:
            cells.append(Text(line.label))
        if workers:
            cells.append(Text(line.worker))
        table.add_row(*cells)
    return table


def _stacked(lines: Sequence[Line]) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[RenderableType] = []
    for line in lines:
        parts.append(Text.assemble((line.account, "bold"), "  ", (line.state, line.style), overflow="fold"))
        facts = [Text(line.holds)] if line.holds else []
        facts.append(Text(line.next, style="yellow" if line.overdue else ""))
        if line.error:
            facts.append(Text(line.error, style="red", overflow="fold"))
        if line.label:
            facts.append(Text(line.label, style="dim", overflow="fold"))
        if line.worker:
            facts.append(Text(f"held by {line.worker}", overflow="fold"))
        parts += [Padding(fact, (0, 0, 0, 2)) for fact in facts]
    return Group(*parts)

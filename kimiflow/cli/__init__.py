"""The command line.

Importing this costs next to nothing, and each command imports what it needs when it runs: most of the time
of a short command would otherwise be spent on libraries that it does not use.

``commands`` and ``tools`` hold what can be typed, with its help; every command's work is in a module of its own, which
knows nothing of Typer. Commands return their exit code, and raise what they cannot deal with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Runs a command line, without the program's name; returns the exit code, and never raises."""
    from kimiflow.cli import failures

    with failures.reported() as outcome:
        from kimiflow.cli.app import build

        outcome.code = build()(args=list(argv), prog_name="kimiflow", standalone_mode=False) or 0
    return outcome.code

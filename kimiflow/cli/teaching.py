"""Commands with the help that teaches them: what they do, and examples to copy."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import typer

__all__ = ["add", "examples"]


def add(app: typer.Typer, command: Callable[..., int], *lines: str, name: str | None = None) -> None:
    """Adds ``command`` to ``app``: its docstring is the help, ``lines`` are the examples below it."""
    app.command(name, help=_reflowed(command.__doc__ or ""), epilog=examples(*lines))(command)


def examples(*lines: str, heading: str = "Examples") -> str:
    """An epilog of command lines, each on a line of its own.

    Blanks that keep columns apart are made unbreakable, because help texts are reflowed.
    """
    shown = "\n".join("\u00a0\u00a0" + line.replace("  ", "\u00a0\u00a0") for line in lines)
    return f"[bold]{heading}[/bold]\n{shown}"


def _reflowed(text: str) -> str:
    """Paragraphs without the source's line breaks, which would be kept."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))

"""Commands with the help that teaches them: what they do, and examples to copy."""

from __future__ import annotations

import inspect
import re
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

    Blanks that keep columns apart are made unbreakable, because help texts are reflowed; and brackets are kept from being
    taken for markup, which would swallow them.
    """
    shown = "\n".join("\u00a0\u00a0" + _unmarked(line).replace("  ", "\u00a0\u00a0") for line in lines)
    return f"[bold]{heading}[/bold]\n{shown}"


def _unmarked(line: str) -> str:
    """As ``rich.markup.escape`` has it, without importing Rich."""
    return re.sub(r"\[(?=[a-z#/@])", r"\\[", line)


def _reflowed(text: str) -> str:
    """Paragraphs without the source's line breaks, which would be kept."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in inspect.cleandoc(text).split("\n\n"))

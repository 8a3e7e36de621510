"""The two ways out: results on stdout for whoever reads them, talk on stderr for a person.

Nothing here needs Rich, so that a command in a pipe does not pay for it.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["is_terminal", "paint", "result", "result_json", "say", "shown"]

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def result(line: str) -> None:
    """One line that was asked for."""
    print(line, flush=True)  # noqa: T201 - what stdout is for


def result_json(value: Any) -> None:  # noqa: ANN401 - whatever json takes
    """One JSON value, on one line."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # the name of a file that is not UTF-8
        text = json.dumps(value)
    result(text)


def say(line: str) -> None:
    """One line for a person; where nobody is there any more, none."""
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):  # the terminal was closed, or the stream
        print(line, file=sys.stderr, flush=True)  # noqa: T201 - what stderr is for


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody is looking who can be shown more than plain lines."""
    if stream is None or os.environ.get("TERM") == "dumb":
        return False
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def paint(text: str, style: str, stream: TextIO | None) -> str:
    """``text`` in a colour, where ``stream`` is a terminal and nobody asked for none (https://no-color.org)."""
    if os.environ.get("NO_COLOR") or not is_terminal(stream):
        return text
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m"


def shown(path: object) -> str:
    """The name of a file, which may be any bytes, as a line can hold it: without what moves a cursor, or is no text."""
    return "".join(character if character.isprintable() else "?" for character in str(path))

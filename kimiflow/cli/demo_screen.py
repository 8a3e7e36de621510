"""How the tour is told: what happens, a line each, and below it on a terminal the accounts as they are."""

from __future__ import annotations

import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kimiflow.cli import tables, words
from kimiflow.cli.talk import is_terminal, result
from kimiflow.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.live import Live

    from kimiflow.status import Status

__all__ = ["Screen"]


class Screen:
    """Lines that stay, and a table that moves; in a pipe the table's changes are lines as well."""

    def __init__(self) -> None:
        self._live: Live | None = None
        self._console = tables.console_on(sys.stdout) if is_terminal(sys.stdout) else None
        self._told: dict[str, tuple[str, str | None]] = {}
        self._token_ends: dict[str, float] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        """For as long as the accounts are shown."""
        if self._console is None:
            yield
            return
        from rich.live import Live

        with Live(console=self._console, auto_refresh=False, redirect_stdout=False) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def tell(self, line: str, style: str = "") -> None:
        """A line of the story."""
        if self._console is None:
            result(line)
        else:
            from rich.text import Text

            self._console.print(Text(line, style=style))

    def show(self, statuses: Sequence[Status]) -> None:
        """The accounts as they are now."""
        now = time.time()
        for each in statuses:
            if each.token_expires_at:
                before = self._token_ends.setdefault(each.account, each.token_expires_at)
                if each.token_expires_at > before:
                    self._token_ends[each.account] = each.token_expires_at
                    self.tell(f"     {each.account}: its token was refreshed")
        if self._live is not None and self._console is not None:
            lines = [words.describe(each, now) for each in statuses]
            self._live.update(tables.status_table(lines, self._console.width), refresh=True)
            return
        for each in statuses:
            if each.state is State.REFRESHING:
                continue  # a moment's state, that is told by what comes of it
            news = (words.state_word(each.state), each.user_code)
            if self._told.get(each.account) != news:
                self._told[each.account] = news
                result(f"     {each.account}: {news[0]}{f', code {news[1]}' if news[1] else ''}")

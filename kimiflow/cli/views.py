"""How sign-ins are shown while they are on their way: to a pipe, to a program, to a person."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Protocol

from kimiflow.cli import words
from kimiflow.cli.talk import is_terminal, result_json, say

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from rich.console import Console, RenderableType

    from kimiflow.model import State
    from kimiflow.status import Status

__all__ = ["JsonView", "LiveView", "PlainView", "View", "view_for"]

_TICK = 0.5
"""Seconds between two looks at the clock."""

_BLINK = 0.1
"""Seconds below which nobody sees the difference; hundreds of accounts may move at once."""


class View(Protocol):
    """Where the news of sign-ins goes."""

    def open(self) -> AbstractAsyncContextManager[None]:
        """For as long as there may be news."""

    def known(self, status: Status) -> None:
        """An account that is signed in already."""

    def moved(self, status: Status) -> None:
        """Another state, another code, or another failed attempt."""


def view_for(begun: Sequence[Status], *, as_json: bool) -> View:
    """The view for whoever is at the other end; ``begun`` is what the accounts are at the start."""
    if as_json:
        return JsonView()
    return LiveView(begun) if is_terminal(sys.stderr) else PlainView()


class JsonView:
    """One status object a line on stdout, whenever a flow changes its state, and nothing else."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[State | None, str | None]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    def known(self, status: Status) -> None:
        self.moved(status)

    def moved(self, status: Status) -> None:
        news = (status.state, status.user_code)
        if self._told.get(status.account) != news:
            self._told[status.account] = news
            result_json(status.as_json())


class PlainView:
    """Lines on stderr, for a pipe or a log."""

    def __init__(self) -> None:
        self._codes: dict[str, str | None] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        yield

    def known(self, status: Status) -> None:
        say(already(status))

    def moved(self, status: Status) -> None:
        now = time.time()
        if status.on_its_way and status.user_code and self._codes.get(status.account) != status.user_code:
            self._codes[status.account] = status.user_code
            left = "" if status.code_expires_at is None else f", within {words.duration(status.code_expires_at - now)}"
            say(f"{status.account}: {invitation(status)}{left}")
        if status.on_its_way and status.attempts:
            line = words.describe(status, now)
            say(f"{status.account}: {line.error}; {line.next}")


class LiveView:
    """Links, codes and QR codes scroll by once; below them a table counts down until all have settled."""

    def __init__(self, begun: Sequence[Status]) -> None:
        self._statuses = {s.account: s for s in begun if s.on_its_way}
        self._invited: dict[str, str] = {}
        self._drawn = 0.0
        self._console = _console()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        from rich.live import Live

        from kimiflow.cli.live import logs_above

        with Live(console=self._console, auto_refresh=False, transient=True, redirect_stdout=False) as self._live:
            ticking = asyncio.create_task(self._tick(), name="kimiflow-tick")
            try:
                with logs_above():
                    yield
            finally:
                ticking.cancel()
                await asyncio.wait({ticking})

    def known(self, status: Status) -> None:
        self._print(already(status))

    def moved(self, status: Status) -> None:
        self._statuses[status.account] = status
        if status.on_its_way and status.user_code and self._invited.get(status.account) != status.user_code:
            self._invited[status.account] = status.user_code
            self._invite(status)
        if time.monotonic() - self._drawn > _BLINK:
            self._refresh()

    async def _tick(self) -> None:
        while True:
            self._refresh()
            await asyncio.sleep(_TICK)

    def _refresh(self) -> None:
        from kimiflow.cli.live import waiting_table

        self._drawn = time.monotonic()
        width, height = self._console.size
        self._live.update(waiting_table(list(self._statuses.values()), time.time(), width, height), refresh=True)

    def _invite(self, status: Status) -> None:
        from rich.text import Text

        link = status.verification_uri_complete or status.verification_uri or ""
        code = (status.user_code or "", "bold")
        self._print(Text.assemble((status.account, "bold"), f": {_verb(status)} the code ", code, " at"))
        # Never wrapped: a link in two pieces can be neither clicked nor copied.
        self._print(Text(f"  {link}", style="cyan"), whole=True)
        self._print_qr(link)

    def _print_qr(self, link: str) -> None:
        from rich.text import Text

        from kimiflow.cli.qr import qr_lines

        lines = qr_lines(link) if link and self._console.encoding.startswith("utf") else []
        width, height = self._console.size
        # All codes have to be on the screen at once, each below its link, and above the table; else none is of use.
        needed = len(self._statuses) * (len(lines) + 3) + 4
        if not lines or len(lines[0]) > width or needed > height:
            return
        for line in lines:
            self._print(Text(line, style="white on black"))

    def _print(self, what: RenderableType, *, whole: bool = False) -> None:
        self._console.print(what, soft_wrap=whole)


def _console() -> Console:
    from kimiflow.cli.tables import console_on

    return console_on(sys.stderr)


def already(status: Status) -> str:
    """What is said of an account that needs no sign-in."""
    now, ends = time.time(), status.token_expires_at
    life = f"; {words.life_of(ends, now)}" if ends is None or ends > now else ""
    return f"{status.account} is already signed in{life}\nSign in anew with: kimiflow login --force {status.account}"


def invitation(status: Status) -> str:
    """What a person has to do."""
    link = status.verification_uri_complete or status.verification_uri
    return f"{_verb(status)} the code {status.user_code} at {link}"


def _verb(status: Status) -> str:
    # A complete link fills the code in; then it is only compared (RFC 8628 §3.3.1).
    return "approve" if status.verification_uri_complete else "enter"

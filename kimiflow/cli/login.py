"""``kimiflow login``: begins sign-ins or picks them up, and stays until all have settled."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kimiflow.cli import failures, words
from kimiflow.cli.browser import can_open, open_page
from kimiflow.cli.login_list import Entry, check_known, read, with_defaults
from kimiflow.cli.running import run, settled_settings
from kimiflow.cli.talk import is_terminal, result, say
from kimiflow.cli.views import view_for
from kimiflow.errors import KimiFlowError, StillPending, UsageError
from kimiflow.events import ExpiredToken
from kimiflow.model import HOLDS_TOKENS, State
from kimiflow.outcome import failed_attempt, left_pending, settled_badly, signed_out

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

    from kimiflow.cli.views import View
    from kimiflow.flow import KimiFlow
    from kimiflow.status import Status

__all__ = ["Wish", "login"]

_PATIENCE = 3
"""Failed attempts to get a first code, after which a person is told instead of kept waiting."""

_PATIENCE_SECONDS = 5.0
"""Where many accounts share those attempts: not before this."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was typed."""

    names: Sequence[str] = ()
    provider: str | None = None
    proxy: str | None = None
    browser: bool = True
    wait: bool = True
    force: bool = False
    timeout: float | None = None
    from_file: str | None = None
    renew: int = 0
    """How often another code may be asked for, for each account."""
    as_json: bool = False


@dataclass(slots=True)
class _Progress:
    """What is known of the sign-ins that are followed."""

    wish: Wish
    names: list[str] = field(default_factory=list)
    """Those that were on their way at the start."""
    renewed: Counter[str] = field(default_factory=Counter)
    """The codes that were asked for in the place of one that ran out."""
    failed_before: dict[str, int] = field(default_factory=dict)
    """The failed attempts that they had then, which say nothing about the server now."""
    latest: dict[str, Status] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def waiting(self) -> list[Status]:
        return [s for s in self.latest.values() if s.on_its_way]

    @property
    def all_shown(self) -> bool:
        """Each has had its code, or will not have one soon."""
        without = sum(s.state is State.REQUESTED for s in self.waiting)
        return len(self.latest) == len(self.names) and without == len(self.in_vain)

    @property
    def in_vain(self) -> list[Status]:
        """Those whose requests for a code have failed often enough to say so."""
        return [
            s
            for s in self.waiting
            if s.state is State.REQUESTED and s.attempts - self.failed_before[s.account] >= _PATIENCE
        ]

    @property
    def stuck(self) -> Status | None:
        """The one that tells why, where nothing is left but requests for codes that fail."""
        waiting = self.waiting
        if len(self.latest) < len(self.names) or any(s.state is not State.REQUESTED for s in waiting):
            return None
        attempts = {s.account: max(0, s.attempts - self.failed_before[s.account]) for s in waiting}
        tried = max(waiting, key=lambda s: attempts[s.account], default=None)
        if tried is None:
            return None
        # While a host is silent only one account at a time tries it, so the attempts of many add up slowly for each.
        again = sum(max(0, count - 1) for count in attempts.values())
        long_enough = time.monotonic() - self.started >= _PATIENCE_SECONDS
        enough = attempts[tried.account] >= _PATIENCE or (again >= _PATIENCE - 1 and long_enough)
        return tried if enough else None


def login(wish: Wish) -> int:
    """Runs the command; returns the exit code."""
    if not wish.names and wish.from_file is None:
        raise UsageError("which accounts?", hint="It is: kimiflow login NAME..., or: kimiflow login --from FILE")
    if wish.renew and not wish.wait:
        raise UsageError("--renew waits for codes to run out, and --no-wait does not", hint="Leave one of them out.")
    settings = settled_settings()
    entries = [Entry("", name, wish.provider, wish.proxy) for name in dict.fromkeys(wish.names)]
    if wish.from_file is not None:
        listed = with_defaults(read(wish.from_file, settings.all_providers()), wish.provider, wish.proxy)
        entries += [entry for entry in listed if entry.name not in wish.names]
    progress = _Progress(wish)
    return run(
        lambda flow: _login(flow, progress, entries),
        settings=settings,
        interrupted=lambda code: _interrupted(progress, code),
    )


async def _begun(flow: KimiFlow, entries: Sequence[Entry], *, force: bool) -> list[Status]:
    """All of them, in the order of the list, or none where one of them cannot be begun."""
    if any(entry.where for entry in entries):
        check_known(entries, await flow.status())
    alike: defaultdict[tuple[str | None, str | None], list[str]] = defaultdict(list)
    for entry in entries:
        alike[entry.provider, entry.proxy].append(entry.name)
    found: dict[str, Status] = {}
    for (provider, proxy), names in alike.items():
        begun = await flow.begin(names, provider=provider, proxy=proxy, force=force)
        found.update((status.account, status) for status in begun)
    return [found[entry.name] for entry in entries]


async def _login(flow: KimiFlow, progress: _Progress, entries: Sequence[Entry]) -> int:
    wish = progress.wish
    begun = await _begun(flow, entries, force=wish.force)
    view = view_for(begun, as_json=wish.as_json)
    for status in begun:
        if status.on_its_way:
            progress.names.append(status.account)
            progress.failed_before[status.account] = status.attempts
        else:
            view.known(status)
    timed_out: StillPending | None = None
    if progress.names:
        async with view.open():
            try:
                while await _follow(flow, progress, view):
                    pass
            except StillPending as error:
                timed_out = error
    return _told(progress, timed_out)


def _changes(flow: KimiFlow, progress: _Progress) -> AsyncGenerator[Status, None]:
    # What ``follow`` returns can be closed, which its declared type does not say.
    timeout = progress.wish.timeout
    if timeout is not None:
        timeout = max(0.0, timeout - (time.monotonic() - progress.started))
    return flow.follow(progress.names, timeout=timeout)


async def _follow(flow: KimiFlow, progress: _Progress, view: View) -> bool:
    """Follows the sign-ins until all have settled, or are not to be waited for.

    Returns whether some have begun anew, and are to be followed from there.
    """
    wish = progress.wish
    wants_browser = wish.browser and not wish.as_json and len(progress.names) == 1 and is_terminal(sys.stderr)
    again = False
    async with aclosing(_changes(flow, progress)) as changes:
        async for status in changes:
            progress.latest[status.account] = status
            view.moved(status)
            if _ran_out(status) and progress.renewed[status.account] < wish.renew:
                await _renew(flow, progress, status.account)
                again = True
            link = status.verification_uri_complete or status.verification_uri
            if wants_browser and status.on_its_way and link and can_open(link):
                wants_browser = False
                open_page(link)
            if progress.stuck or (progress.all_shown and not wish.wait):
                return False
    return again


def _ran_out(status: Status) -> bool:
    """Whether nobody approved in time; not where a person or the server has said no."""
    over = status.code_expires_at is not None and status.code_expires_at <= status.updated_at
    return status.state is State.EXPIRED and (status.error == ExpiredToken.name or over)


async def _renew(flow: KimiFlow, progress: _Progress, name: str) -> None:
    progress.renewed[name] += 1
    progress.failed_before[name] = 0
    if not progress.wish.as_json:
        say(f"{name}: the code ran out; asking for another one ({progress.renewed[name]} of {progress.wish.renew})")
    (progress.latest[name],) = await flow.begin([name], force=progress.wish.force)


def _told(progress: _Progress, timed_out: StillPending | None) -> int:
    """Says how each sign-in ended; the exit code of the worst."""
    now = time.time()
    codes = [0]
    for status in progress.latest.values():
        if status.on_its_way:
            continue
        if status.state in HOLDS_TOKENS:
            if not progress.wish.as_json:
                result(f"{status.account}: {words.settled_words(status, now)}")
        else:
            codes.append(failures.report(_ended_badly(status)))
    if timed_out is not None:
        codes.append(failures.report(timed_out))
    elif stuck := progress.stuck:
        failure = failed_attempt(stuck)
        if others := len(progress.waiting) - 1:
            failure.message += f", and {others} more"
        failure.hint = f"Nothing is lost; try again with: kimiflow login {_names(progress.waiting)}"
        codes.append(failures.report(failure))
    elif not progress.wish.wait and progress.in_vain:
        codes += [failures.report(failed_attempt(status)) for status in progress.in_vain]
    elif progress.waiting and not progress.wish.as_json:
        say(f"Polling goes on with: kimiflow run, or: kimiflow login {_names(progress.waiting)}")
    return failures.worst(codes)


def _ended_badly(status: Status) -> KimiFlowError:
    if status.state is None:
        return signed_out(status.account)
    return settled_badly(status.account, status.state, status.error, status.error_description)


def _interrupted(progress: _Progress, code: int) -> int:
    # Not the code of a command that was cut short: the flows are in the store and wait for their person, as 4 says.
    waiting = progress.waiting
    if not waiting:
        return code
    say(
        f"Left with {_are_pending(waiting)}. {left_pending(waiting, f'pick up with: kimiflow login {_names(waiting)}')}"
    )
    return failures.PENDING


def _are_pending(waiting: Sequence[Status]) -> str:
    return f"{waiting[0].account} pending" if len(waiting) == 1 else f"{len(waiting)} sign-ins pending"


def _names(statuses: Sequence[Status]) -> str:
    return " ".join(s.account for s in statuses)

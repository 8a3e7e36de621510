"""``kimiflow import``: accounts that other tools have signed in."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kimiflow.cli import words
from kimiflow.cli.failures import FAILURE, PERSON_NEEDED
from kimiflow.cli.running import run, settled_settings
from kimiflow.cli.talk import paint, result, result_json, say, shown
from kimiflow.errors import KimiFlowError, SignInNeeded, UsageError
from kimiflow.files import Folder
from kimiflow.formats.base import Unusable
from kimiflow.formats.looking import Verdict, look_into, usual_places
from kimiflow.http.proxies import checked_proxy
from kimiflow.neighbours.moving import Residents
from kimiflow.provider import checked_url, find_provider, issuer_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow
    from kimiflow.formats.base import Credential
    from kimiflow.formats.looking import Found
    from kimiflow.settings import Settings

__all__ = ["BACKUP", "Wish", "import_"]

BACKUP: Final = ".before-kimiflow"
"""What is added to a file's name for its backup; the tools look for names that end in .json."""

_AT_ONCE: Final = 64
"""Refreshes that are waited for at the same time."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was typed."""

    paths: Sequence[Path]
    name: str | None
    provider: str | None
    proxy: str | None
    origin: str | None
    take_over: bool
    dry_run: bool
    as_json: bool


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one file. ``code`` is what it adds to the exit code."""

    found: Found
    outcome: str
    line: str
    account: str | None = None
    code: int = 0
    backup: Path | None = None
    taken_over: bool = False

    def as_json(self) -> dict[str, Any]:
        """One object of ``--json``."""
        return {
            "path": str(self.found.path),
            "format": self.found.format.name if self.found.format else None,
            "account": self.account,
            "outcome": self.outcome,
            "detail": self.line,
            "taken_over": self.taken_over,
            "backup": str(self.backup) if self.backup else None,
        }


def import_(wish: Wish) -> int:
    """Runs the command; returns the exit code: 0, 3 where nothing failed but dead tokens, else 1."""
    settings = settled_settings()
    places = [path.expanduser() for path in wish.paths] or usual_places(os.environ, Path.home())
    if not places:
        raise KimiFlowError(
            "neither CLIProxyAPI nor kimi-cli nor kimi-code has files where they usually are",
            hint="Say where: kimiflow import PATH",
        )
    founds = [found for found in look_into(places) if found.verdict is not Verdict.STRANGER]
    if not founds:
        raise KimiFlowError(f"there are no credentials of Kimi in {', '.join(map(str, places))}")
    if wish.proxy is not None:
        checked_proxy("--proxy", wish.proxy, may_hold_password=False)
    if wish.origin is not None:
        checked_url("--origin", wish.origin)
    if wish.name is not None and sum(found.credential is not None for found in founds) > 1:
        raise UsageError("--name is for one account, and there are several", hint="Name the one file.")

    async def body(flow: KimiFlow) -> int:
        return _told(await _Import(flow, settings, wish).run(founds), wish)

    if wish.dry_run:
        return _told(_rehearse(founds, settings, wish), wish)
    return run(body, settings=settings, interrupted=_interrupted)


def _interrupted(code: int) -> int:
    say("Stopped. What was taken in is kept; the same command goes on where this one ended.")
    return code


def _told(fates: Sequence[Fate], wish: Wish) -> int:
    if wish.as_json:
        result_json([fate.as_json() for fate in fates])
    else:
        for fate in fates:
            line = f"{shown(fate.found.path)}: {fate.line}"
            if fate.code:
                say(f"{paint('error:', 'red', sys.stderr)} {line}")
            else:
                result(line)
    owed = [fate for fate in fates if fate.account and not fate.code and not fate.taken_over]
    if owed and not wish.dry_run:
        tools = " and ".join(sorted({fate.found.format.tool for fate in owed if fate.found.format}))
        say(
            f"These tokens are kimiflow's from now on: {tools} must no longer refresh them, or both lose the sign-in.\n"
            "Stop it, or keep it from trying with: kimiflow import --take-over"
        )
    codes = {fate.code for fate in fates} - {0}
    return FAILURE if FAILURE in codes else max(codes, default=0)


def _rehearse(founds: Sequence[Found], settings: Settings, wish: Wish) -> list[Fate]:
    """What would be done. Nothing is written: where there is no store yet, none is made."""
    plain_file = not settings.database_url.get_secret_value()
    if plain_file and not (settings.home / "kimiflow.db").exists():
        return _Plan(Residents.of(()), settings, wish).of(founds)
    fates: list[Fate] = []

    async def body(flow: KimiFlow) -> int:
        fates.extend(_Plan(await flow.moving.residents(), settings, wish).of(founds))
        return 0

    run(body, settings=settings)
    return fates


class _Plan:
    """Who is to be called what, and which files are not worth a request. Writes nothing."""

    def __init__(self, residents: Residents, settings: Settings, wish: Wish) -> None:
        self._residents = residents
        self._settings = settings
        self._wish = wish

    def of(self, founds: Sequence[Found]) -> list[Fate]:
        """A fate for each file: ``planned`` and ``known`` ones have an account, and are still to be worked on."""
        fates: list[Fate] = []
        taken: set[str] = set()
        first: dict[str, Fate] = {}
        for found in founds:
            if found.credential is None:
                fates.append(_useless(found))
                continue
            token = found.credential.refresh_token.reveal()
            if token in first:
                there = first[token]
                line = f"the same grant as in {shown(there.found.path)}; skipped"
                fates.append(Fate(found, "duplicate", line, there.account, there.code))
                continue
            fate = self._one(found, found.credential, taken)
            first[token] = fate
            taken.add(fate.account or "")
            fates.append(fate)
        return fates

    def _one(self, found: Found, credential: Credential, taken: set[str]) -> Fate:
        holder = self._residents.holder(credential.refresh_token)
        if holder is not None:
            return Fate(found, "known", f"{holder} has it already{self._other_name(holder)}", holder)
        provider = self.provider_of(credential)
        if (problem := self._problem(credential, provider)) is not None:
            return Fate(found, "failed", problem, None, FAILURE)
        if self._wish.name is None:
            name = self._residents.free_name(credential, provider, taken)
        else:
            name = self._wish.name
            if (reason := self._residents.fits(name, credential, provider)) is not None:
                return Fate(found, "failed", f"{reason}; choose another name with --name", None, FAILURE)
        return Fate(found, "planned", f"would be taken in as {name}", name)

    def _other_name(self, holder: str) -> str:
        if self._wish.name in {None, holder}:
            return ""
        return f" (to call it {self._wish.name}: kimiflow rename {holder} {self._wish.name})"

    def _problem(self, credential: Credential, provider: str) -> str | None:
        """Why no account can be made with this provider and proxy; ``None`` where one can."""
        try:
            found = find_provider(self._settings.all_providers(), provider)
            if (issuer := issuer_of(found, self._wish.origin)) != found.origin:
                return (
                    f"it comes from {issuer}, but {found.placed_by or provider} is at {found.origin}; nothing was sent. "
                    f"Where it was issued there, say: --origin {found.origin}"
                )
            if self._wish.proxy is None and credential.proxy is not None:
                # Whether it could be used if it were not for a password is the first question.
                checked_proxy("its proxy", credential.proxy, may_hold_password=True)
                if urlsplit(credential.proxy).password is not None:
                    return (
                        "its proxy carries a password, which kimiflow does not store; put that URL into an environment "
                        "variable, say WORK_PROXY, and import this file with --proxy env:WORK_PROXY"
                    )
        except UsageError as error:
            return error.message
        return None

    def provider_of(self, credential: Credential) -> str:
        """The provider that was asked for, or the one in the file, or the usual one."""
        return self._wish.provider or credential.provider or self._settings.provider


def _useless(found: Found) -> Fate:
    match found.verdict:
        case Verdict.NOTHING_TO_TAKE:
            return Fate(found, "nothing_to_take", f"{found.problem}; skipped")
        case Verdict.REVOKED:
            return Fate(found, "revoked", found.problem, None, PERSON_NEEDED)
        case _:
            return Fate(found, "failed", found.problem, None, FAILURE)


class _Import:
    """Plans, commits, verifies, blanks; in this order, so that a kill at any moment loses nothing."""

    def __init__(self, flow: KimiFlow, settings: Settings, wish: Wish) -> None:
        self._flow = flow
        self._settings = settings
        self._wish = wish
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def run(self, founds: Sequence[Found]) -> list[Fate]:
        """Works on all files; one that fails keeps no other from being taken in."""
        plan = _Plan(await self._flow.moving.residents(), self._settings, self._wish)
        fates = [await self._committed(fate, plan) for fate in plan.of(founds)]
        fates = list(await asyncio.gather(*map(self._verified, fates)))
        verified = {
            _token(fate): fate for fate in fates if fate.found.credential and fate.outcome in {"imported", "known"}
        }
        return [self._taken_over(fate, verified.get(_token(fate))) for fate in fates]

    async def _committed(self, fate: Fate, plan: _Plan) -> Fate:
        credential = fate.found.credential
        if fate.outcome != "planned" or credential is None or fate.account is None:
            return fate
        form = fate.found.format.name if fate.found.format else ""
        try:
            await self._flow.moving.adopt(
                fate.account,
                credential,
                provider=plan.provider_of(credential),
                proxy=self._wish.proxy or credential.proxy,
                origin=self._wish.origin,
                source=f"{form}: {shown(fate.found.path)}",
            )
        except KimiFlowError as error:
            return replace(fate, outcome="failed", line=error.message, account=None, code=FAILURE)
        return fate

    async def _verified(self, fate: Fate) -> Fate:
        """One refresh: where the store has newer tokens by now, there was one already, and nothing is sent."""
        credential = fate.found.credential
        if fate.outcome not in {"planned", "known"} or credential is None or fate.account is None:
            return fate
        try:
            async with self._slots:
                token = await self._flow.refresh(fate.account, seen=credential.access_token.reveal())
        except SignInNeeded as error:
            # The account stays: its name and its device id are what the next sign-in needs, and its history says why.
            # A server of another region knows none of its tokens either, and says so in the same words.
            asked = {status.account: status.provider for status in await self._flow.status()}.get(fate.account)
            line = f"its tokens are dead: {error.message}; sign in with: kimiflow login {fate.account}"
            if asked is not None:
                line += (
                    f"; or, where it belongs to another provider than {asked}: "
                    f"kimiflow logout --forget {fate.account}, and import it with --provider"
                )
            return replace(fate, outcome="dead", line=line, code=PERSON_NEEDED)
        except KimiFlowError as error:
            line = f"taken in as {fate.account}, but not verified: {error.message}; it is tried again by: kimiflow run"
            return replace(fate, outcome="not_verified", line=line, code=FAILURE)
        life = words.life_of(token.expires_at, time.time())
        if fate.outcome == "known":
            return replace(fate, line=f"{fate.line}; {life}")
        remark = "; it is disabled there" if credential.disabled else ""
        return replace(fate, outcome="imported", line=f"taken in as {fate.account}; {life}{remark}")

    def _taken_over(self, fate: Fate, verified: Fate | None) -> Fate:
        if not self._wish.take_over or verified is None:
            return fate
        try:
            backup = _blank(fate.found)
        except OSError as error:
            return replace(
                fate,
                line=f"{fate.line}; but the refresh token could not be blanked: {error.strerror}",
                code=FAILURE,
            )
        except Unusable as error:
            return replace(fate, line=f"{fate.line}; but it was left as it is: {error}", code=FAILURE)
        return replace(
            fate,
            line=f"{fate.line}; refresh token blanked, backup {shown(backup.name)}",
            backup=backup,
            taken_over=True,
        )


def _token(fate: Fate) -> str:
    return "" if fate.found.credential is None else fate.found.credential.refresh_token.reveal()


def _blank(found: Found) -> Path:
    """Blanks the refresh token in a file, after a backup, which it returns.

    :raises Unusable: where the file has changed since it was read.
    """
    assert found.format is not None  # noqa: S101 - what has a credential has a format
    assert found.credential is not None  # noqa: S101 - and was verified
    if found.place is None:
        raise Unusable("it came through a pipe")
    root, file = found.place
    # Held open, so that what is read here is what is replaced, and nothing else.
    with Folder.open(root) as top, top.below(file.parent.parts) as folder:
        data = folder.read(file.name) or b""
        if found.format.refresh_token_in(data).strip() != found.credential.refresh_token.reveal():
            raise Unusable("its tool has changed it meanwhile; stop that tool, and import once more")
        backup = folder.write_beside(file.name, BACKUP, data)
        folder.write(file.name, found.format.blanked(data))
    return root / file.parent / backup

"""``httpx.Auth`` for several accounts: each request is served by one that is not set aside.

An account that the API refuses for reasons of its own (see :mod:`kimiflow.api.refusals`) is set aside until its quota is
back, or for some minutes where nobody knows when that is, and the request is made again as the next account, once for
each that is left. What is known of absences lives in the pool object, so requests should share one; after a restart it
is learned anew.

Where no account is left, :class:`~kimiflow.errors.PoolExhausted` is raised, rather than the last reply returned: that
one speaks for one account, its ``Retry-After`` is not that of the account which returns first, and where all were set
aside before there is no reply at all. The error names them all. A request whose body cannot be sent twice gets the
reply of the one account that it was made as.

Requests go to the accounts' API, and to the origins that were named, or not at all. What comes from behind a redirect to
another origin, which was followed without token and device headers, says nothing about an account, and is the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import httpx

from kimiflow.api.origins import Origins, bore
from kimiflow.api.refusals import ABOUT_THE_ACCOUNT, PAUSE_LIMITED, refusal_in
from kimiflow.authflow import AuthFlow, ask, body_of
from kimiflow.errors import (
    ForeignOrigin,
    KimiFlowError,
    PoolExhausted,
    RequestFailed,
    SignInNeeded,
    StillPending,
    UsageError,
)
from kimiflow.roster import Absence, Roster
from kimiflow.secret import Secret
from kimiflow.status import rfc3339

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Mapping, Sequence
    from typing import Any

    from kimiflow.api.refusals import Refusal
    from kimiflow.authflow import Await, ReadBody, Steps
    from kimiflow.roster import Strategy
    from kimiflow.status import Token

__all__ = ["KimiPool", "Lender"]

_PASSED_OVER = (SignInNeeded, StillPending)
"""Errors of an account that takes no part for now, which is no fault of the API."""

_MOST_TOLD = 8
"""Accounts that an error lists one by one."""


class Lender(Protocol):
    """Where a pool gets tokens, and what it can learn about the accounts."""

    def now(self) -> float:
        """Unix seconds."""

    def api_base(self, name: str) -> str | None:
        """The API that an account's tokens are for; ``None`` where it has none, or has not been looked up yet."""

    async def look_up(self, name: str) -> object:
        """Learns of an account that may be handed out. Raises :class:`SignInNeeded` where it may not."""

    async def token(self, name: str) -> Token:
        """A fresh token of an account that may be handed out. Raises :class:`SignInNeeded` where it may not."""

    async def refresh(self, name: str, *, seen: str | None = None) -> Token:
        """A token other than ``seen``."""

    async def returns_at(self, name: str) -> float | None:
        """When the quota that is used up is back, by the account's usages; ``None`` where they do not say."""


class KimiPool(AuthFlow):
    """Authenticates each request of an httpx client as one of several accounts. Made by ``flow.pool(names)``.

    Accounts that are not signed in, or may not be handed out, are passed over for as long as that is so.
    """

    def __init__(
        self,
        lender: Lender,
        names: Sequence[str],
        strategy: Strategy = "round_robin",
        origins: Collection[str] = (),
    ) -> None:
        self._lender = lender
        self._origins = Origins(lender.api_base, lender.look_up, origins)
        self._roster = Roster(names, strategy)
        self._api: tuple[str, str | None] | None = None

    @property
    def set_aside(self) -> Mapping[str, Absence]:
        """The accounts that are set aside now: until when, and why."""
        now = self._lender.now()
        absences = {name: self._roster.absence(name, now) for name in self._roster.names}
        return {name: absence for name, absence in absences.items() if absence is not None}

    def steps(self, request: httpx.Request) -> Steps:
        """The request as one account after the other, until one is served.

        :raises PoolExhausted: where no account is left.
        :raises ForeignOrigin: where it goes elsewhere than to the accounts' API and the origins that were named.
        """
        lender, roster, origins = self._lender, self._roster, self._origins
        passed_over: dict[str, str] = {}
        for name in roster.turn():
            if roster.absence(name, lender.now()) is not None:
                continue
            token: Token | None
            try:
                yield from origins.admit(request, name)
                token = yield from ask(lender.token, name)
            except ForeignOrigin:
                self._check_api(name)  # which has more to say where it is the pool that does not fit
                raise
            except _PASSED_OVER as error:
                passed_over[name] = error.message
                continue
            except RequestFailed as error:
                self._set_aside(name, PAUSE_LIMITED, error.message)
                continue
            self._check_api(name)
            response = yield origins.signed(request, token)
            if response.status_code == httpx.codes.UNAUTHORIZED and bore(response, token):
                try:
                    token = yield from ask(lender.refresh, name, seen=token.access_token)
                except _PASSED_OVER as error:
                    passed_over[name] = error.message
                    token = None
                except RequestFailed as error:
                    self._set_aside(name, PAUSE_LIMITED, f"401, and no other token is to be had: {error.message}")
                    token = None
                if not _can_be_repeated(request):
                    return
                if token is None:
                    continue
                response = yield origins.signed(request, token)
            refused = yield from self._refused(name, response, token)
            if not refused or not _can_be_repeated(request):
                return
        raise self._exhausted(passed_over)

    def _refused(self, name: str, response: httpx.Response, token: Token) -> Generator[Await | ReadBody, Any, bool]:
        """Whether the account was refused; then it is set aside."""
        if response.status_code not in ABOUT_THE_ACCOUNT or not bore(response, token):
            return False
        body = yield from body_of(response)
        now = self._lender.now()
        sent = Secret(token.access_token)
        refusal = refusal_in(response.status_code, response.headers.get("Retry-After"), body, now, sent)
        if refusal is None:
            return False
        known = self._roster.absence(name, now)
        guess = Absence(refusal.until, refusal.reason)
        self._roster.set_aside(name, guess, now)
        if known is None and refusal.guessed:
            # Of many requests that were refused together only the first asks.
            yield from self._learn(name, guess, refusal)
        return True

    def _learn(self, name: str, guess: Absence, refusal: Refusal) -> Generator[Await, Any, None]:
        try:
            at = yield from ask(self._lender.returns_at, name)
        except KimiFlowError:
            return  # the guess has to do
        if at is not None and at > self._lender.now():
            self._roster.correct(name, guess, Absence(at, refusal.reason))

    def _check_api(self, name: str) -> None:
        """Keeps the token of one API from being sent to another, where it would only get the account set aside."""
        base = self._lender.api_base(name)
        self._api = self._api or (name, base)
        first, its_base = self._api
        if base != its_base:
            raise UsageError(
                f"the pool spans two APIs: {first} belongs to {its_base}, {name} to {base}",
                hint="Make a pool, and a client, for each.",
                account=name,
            )

    def _set_aside(self, name: str, seconds: float, reason: str) -> None:
        now = self._lender.now()
        self._roster.set_aside(name, Absence(now + seconds, reason), now)

    def _exhausted(self, passed_over: Mapping[str, str]) -> PoolExhausted:
        absences = self.set_aside
        reasons = {name: f"{name} until {rfc3339(each.until)} ({each.reason})" for name, each in absences.items()}
        reasons |= {name: why for name, why in passed_over.items() if name not in reasons}
        listed = [*reasons.values()][:_MOST_TOLD]
        more = len(reasons) - len(listed)
        if more:
            listed.append(f"and {more} more")
        returning = min(absences, key=lambda name: absences[name].until, default=None)
        if returning is None:
            hint = f"Sign in with: kimiflow login {' '.join(self._roster.names[:_MOST_TOLD])}"
            return PoolExhausted(f"no account of the pool can serve: {'; '.join(listed)}", hint=hint)
        at = absences[returning].until
        return PoolExhausted(
            f"no account of the pool is left: {'; '.join(listed)}",
            hint=f"The next to return is {returning}, in {max(at - self._lender.now(), 0):.0f} s.",
            account=returning,
            returns_at=at,
        )


def _can_be_repeated(request: httpx.Request) -> bool:
    """Whether the body is at hand, and not a stream that the first try has used up."""
    try:
        _ = request.content
    except RuntimeError:  # RequestNotRead, of httpx or of httpx2
        return False
    return True

"""Grants that move out to another tool: written there, then gone from the store. Nobody else refreshes meanwhile.

1. The row is claimed, as for a refresh, so that nobody refreshes it meanwhile.
2. It is committed as paused until its access token ends, with an error that says where it is going.
3. The file is written, durably.
4. The row is deleted, in one commit with its last row of history.

A kill before 3 loses nothing: the pause ends by itself. A kill after 3 and before 4, which is one commit wide, leaves
two owners, but not silently: status and history name the file, nothing is refreshed here until the access token ends,
and until then ``kimiflow logout`` finishes the move. The other order would lose the only copy of the token. The claim
is kept through the pause, so that not even a forced refresh comes between 2 and 4, and one that is asked for after a
kill there is refused until the pause is over (:class:`~kimiflow.tokens.TokenSource`).
"""

from __future__ import annotations

import os
import secrets
import socket
from typing import TYPE_CHECKING, Final, Protocol

from kimiflow.errors import RequestFailed, StillPending, UsageError
from kimiflow.finishing import finish
from kimiflow.formats.base import Grant
from kimiflow.model import State, Transition
from kimiflow.neighbours.aside import Aside
from kimiflow.outcome import no_grant
from kimiflow.provider import find_provider
from kimiflow.scheduling.committer import Committer
from kimiflow.status import Token
from kimiflow.stores.base import HANDED_OVER, Outcome, Step

if TYPE_CHECKING:
    from kimiflow.engine import Engine
    from kimiflow.model import Account, Authorization, Sealed
    from kimiflow.secret import Secret
    from kimiflow.stores.base import Claim

__all__ = ["HANDING_OVER", "Handover", "Place", "cut_short", "grant_of"]

HANDING_OVER: Final = "handing_over"
"""The error of a grant that is about to leave, and that of one whose leaving was cut short."""

_NOT_HANDED_OVER: Final = "not_handed_over"

_PATIENCE: Final = 30.0
"""Seconds for a file to be written. A disk that takes longer may never answer."""


class Place(Protocol):
    """The place that a grant goes to."""

    def write(self, grant: Grant) -> None:
        """Writes the grant down; durable when it returns. It may raise, and is then told to :meth:`withdraw`."""

    def withdraw(self) -> None:
        """Takes back what was written, if anything was: its refresh token is used here again."""


class Handover:
    """One grant on its way out of an engine's store."""

    def __init__(self, engine: Engine, name: str, place: Place, destination: str) -> None:
        self._engine = engine
        self._name = name
        self._place = place
        self._destination = destination
        self._committer = Committer(engine.store, engine.log)

    async def carry_out(self) -> None:
        """The four steps. See :meth:`Moving.hand_over`."""
        claim = await self._claim()
        outcome = await finish(self._engine.start(self._give(claim), "kimiflow-hand-over"))
        # Where it is gone, somebody signed it out meanwhile: nobody here refreshes it, which is what was asked for.
        if outcome not in {Outcome.COMMITTED, Outcome.GONE}:
            raise RequestFailed(
                f"{self._name} was refreshed by another worker, because this one stood still; nothing was handed over",
                hint="Try again.",
                account=self._name,
            )

    async def _claim(self) -> Claim:
        """A lease on the grant, which nobody is refreshing."""
        engine, name = self._engine, self._name
        owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        deadline = engine.clock.monotonic() + engine.settings.http_timeout + 5.0
        while True:
            moved = engine.moved
            snapshot = await engine.snapshot(name)
            grant = snapshot.grant
            if grant is None:
                raise no_grant(snapshot)
            if grant.refresh_token is None:
                raise _nothing_to_hand_over(name)
            if grant.error == HANDING_OVER:
                raise cut_short(name, grant, engine.clock.now())
            # A row that is being refreshed is left to its worker, and one whose refresh is in doubt to the next.
            if grant.state is State.GRANTED:
                now = engine.clock.now()
                # Only what is due can be claimed. Another worker may be faster, and then the token is fresher.
                await engine.store.hasten([(grant.id, grant.token_version)], now)
                ttl = engine.settings.http_timeout * 1.5 + 15.0
                claims = await engine.store.claim_due(owner, now, ttl, 2, only=[snapshot.account.id])
                ours = [claim for claim in claims if claim.authorization.state is State.GRANTED]
                await engine.store.commit([Step(claim, claim.authorization) for claim in claims if claim not in ours])
                if ours:
                    return ours[0]
            try:
                await engine.wait_for(moved, deadline)
            except StillPending:
                raise RequestFailed(
                    f"{name} is in the middle of a refresh, and its refresh token in doubt until that lands",
                    hint=f"Nothing was handed over. See how it goes with: kimiflow status {name}",
                    account=name,
                ) from None

    async def _give(self, claim: Claim) -> Outcome:
        engine, commit = self._engine, self._committer.commit
        try:
            opened = (await engine.vault()).open_authorization(claim.authorization)
            token = _token_of(claim.account, opened)
            grant = grant_of(engine, claim.account, token, _refresh_token_of(opened, self._name))
        except BaseException:
            await commit(Step(claim, claim.authorization))
            raise
        paused = self._paused(claim)
        intent = Transition(paused.updated_at, State.GRANTED, State.GRANTED, HANDING_OVER, self._destination)
        outcome = await commit(Step(claim, paused, (intent,), keep_lease=True))
        if outcome is Outcome.GONE:
            raise RequestFailed(
                f"{self._name} was signed out, or in anew, just now; nothing was handed over",
                hint=f"See how it is with: kimiflow status {self._name}",
                account=self._name,
            )
        if outcome is not Outcome.COMMITTED:
            return outcome
        aside = Aside(self._destination, _PATIENCE)
        try:
            await aside.run(lambda: self._place.write(grant))
        except BaseException as error:
            if aside.is_busy:
                # Whether it will be there, nobody knows: as after a kill, the pause stays, and says where to look.
                raise _no_answer(self._name, self._destination) from None
            # Where not even this works, likewise.
            await aside.run(self._place.withdraw)
            await commit(self._resumed(claim, type(error).__name__))
            raise
        now = engine.clock.now()
        last = Transition(now, State.GRANTED, None, HANDED_OVER, self._destination)
        outcome = await commit(Step(claim, paused._replace(updated_at=now), (last,), ends=True))
        if outcome is Outcome.LOST:
            await aside.run(self._place.withdraw)
        engine.stirred()
        return outcome

    def _paused(self, claim: Claim) -> Authorization[Sealed]:
        now = self._engine.clock.now()
        return claim.authorization._replace(
            updated_at=now,
            next_attempt_at=max(now, claim.authorization.token_expires_at or now),
            error=HANDING_OVER,
            error_description=f"to {self._destination}; if it is there, sign out here: kimiflow logout {self._name}",
        )

    def _resumed(self, claim: Claim, reason: str) -> Step:
        """The way back, where nothing could be written."""
        now, before = self._engine.clock.now(), claim.authorization
        at = self._engine.settings.pacing.refresh_at(now, before.token_expires_at or now, 0.0)
        after = before._replace(updated_at=now, next_attempt_at=at)
        return Step(claim, after, (Transition(now, State.GRANTED, State.GRANTED, _NOT_HANDED_OVER, reason),))


def grant_of(engine: Engine, account: Account, token: Token, refresh_token: Secret | None = None) -> Grant:
    """What there is to write down for an account.

    :raises UnknownProvider: where its provider is not configured any more.
    """
    provider = find_provider(engine.providers, account.provider, account=account.name)
    return Grant(token, account.provider, provider.api_base, engine.clock.now(), refresh_token)


def _token_of(account: Account, opened: Authorization[Secret]) -> Token:
    """The access token of an authorization that holds one."""
    assert opened.access_token is not None  # noqa: S101 - granted and refreshing hold one
    return Token(
        account=account.name,
        access_token=opened.access_token.reveal(),
        token_type=opened.token_type or "Bearer",
        expires_at=opened.token_expires_at,
        scope=opened.scope,
        device_id=account.device_id,
    )


def cut_short(name: str, grant: Authorization[Sealed], now: float) -> RequestFailed:
    """Why nobody may touch a grant that is leaving, or whose leaving was cut short, and what to do."""
    left = max(0.0, (grant.next_attempt_at or now) - now)
    return RequestFailed(
        f"{name} was about to be handed over before, {grant.error_description}",
        hint=f"If it is not there, nothing was handed over, and kimiflow goes on with {name} in {left:.0f} s.",
        account=name,
    )


def _no_answer(name: str, destination: str) -> RequestFailed:
    return RequestFailed(
        f"{destination} does not answer, so nobody can tell whether {name} will have been handed over",
        hint=f"Look whether it is there once it answers: if so, sign out here: kimiflow logout {name}; "
        "if not, kimiflow goes on with it when its access token ends.",
        account=name,
    )


def _refresh_token_of(opened: Authorization[Secret], name: str) -> Secret:
    if opened.refresh_token is None:
        raise _nothing_to_hand_over(name)
    return opened.refresh_token


def _nothing_to_hand_over(name: str) -> UsageError:
    return UsageError(f"the server gave {name} no refresh token, so there is none to hand over", account=name)

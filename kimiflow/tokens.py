"""Fresh access tokens, one refresh for all who ask at once."""

from __future__ import annotations

import math
from _thread import get_ident
from typing import TYPE_CHECKING

from kimiflow.advance import INTERRUPTED
from kimiflow.errors import RequestFailed, ServerUnreachable, SignInNeeded, StillPending, TokenRefused
from kimiflow.model import State
from kimiflow.neighbours.handover import HANDING_OVER, cut_short
from kimiflow.outcome import failed_attempt, no_grant, renamed
from kimiflow.status import Token, status_of
from kimiflow.stores.base import SHARED

if TYPE_CHECKING:
    from kimiflow.engine import Engine
    from kimiflow.model import Authorization, Sealed
    from kimiflow.stores.base import Snapshot

__all__ = ["TokenSource"]

_MOST_CACHED = 1_024

_PAUSE_AFTER_A_REFUSAL = 60.0
"""Seconds in which an API that refuses a new token as well causes no other refresh."""

_WORTH_HANDING_OUT = 5.0
"""Seconds of life that make a token usable when its refresh fails."""


class TokenSource:
    """Hands out access tokens from an engine's store.

    Nobody here sends a request. Who needs a refresh makes it due, for the token version that he saw, and whoever
    claims the row first, in whatever process, does it for all.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._belonging = engine.belonging
        self._clock = engine.clock
        self._stamp = engine.stamp
        self._cache: dict[str, tuple[Token, float, object]] = {}
        self._refused: dict[str, float] = {}
        """When the API last refused a token, which was refreshed for that where it can be; monotonic, by account id."""

    def cached(self, name: str) -> Token | None:
        """The token that was handed out last, where it is certain that it is still the one, and fresh.

        Certain means that nobody anywhere has committed anything since it was read: no refresh, no sign-out.

        :raises UsageError: as :meth:`Engine.check`, where there is one.
        """
        try:
            found = self._cache.get(name)
        except TypeError:  # not hashable, so no name; who looks it up says so
            return None
        if found is None:
            return None
        token, due, stamp = found
        here = self._belonging
        if get_ident() != here.thread or not here.loop.is_running():  # type: ignore[union-attr] # a thread has one
            here.check()
        clock = self._clock
        if stamp == self._stamp() and clock.is_synchronised() and clock.now() < due:
            return token
        del self._cache[name]
        return None

    async def fresh(self, snapshot: Snapshot, timeout: float | None, stamp: object | None = None) -> Token:
        """A token that is not due for a refresh, or the best that can be had. See :meth:`KimiFlow.token`.

        :param stamp: the store's, from before ``snapshot`` was read, where the token may be cached.
        """
        grant = _grant(snapshot)
        now = self._engine.clock.now()
        if grant.state is State.GRANTED and (grant.next_attempt_at is None or grant.next_attempt_at > now):
            if grant.refresh_token is None and self._refused_ago(snapshot) is not None:
                raise _not_to_be_refreshed(snapshot, refused=True)
            token = await self._open(snapshot, grant)
            if stamp is not None:
                if len(self._cache) >= _MOST_CACHED:
                    self._cache.clear()
                self._cache[snapshot.account.name] = token, _fresh_until(grant), stamp
            return token
        if self._usable(grant) and (grant.attempts or (grant.not_before or now) > now):
            # Somebody is at it already and waits between two attempts; the token still works.
            return await self._open(snapshot, grant)
        return await self._refresh(snapshot, grant, timeout, at_once=False, fallback=True)

    async def refreshed(self, snapshot: Snapshot, seen: str | None, timeout: float | None) -> Token:
        """A token newer than ``seen``, or than the present one. See :meth:`KimiFlow.refresh`."""
        grant = _grant(snapshot)
        if seen is not None:
            present = await self._open(snapshot, grant)
            if present.access_token != seen:
                return present
        if grant.refresh_token is None:
            if self._usable(grant):
                if seen is not None:
                    self._note_refusal(snapshot)
                raise _not_to_be_refreshed(snapshot, refused=seen is not None)
        elif seen is not None:
            self._check_pause(snapshot)
        token = await self._refresh(snapshot, grant, timeout, at_once=seen is None, fallback=False)
        if seen is not None:
            self._note_refusal(snapshot)
        return token

    def _note_refusal(self, snapshot: Snapshot) -> None:
        self._refused[snapshot.account.id] = self._engine.clock.monotonic()
        self._cache.pop(snapshot.account.name, None)

    def _refused_ago(self, snapshot: Snapshot) -> float | None:
        """Seconds since the API has refused its token, where that is not long ago."""
        now = self._engine.clock.monotonic()
        self._refused = {each: at for each, at in self._refused.items() if now < at + _PAUSE_AFTER_A_REFUSAL}
        at = self._refused.get(snapshot.account.id)
        return None if at is None else now - at

    def _check_pause(self, snapshot: Snapshot) -> None:
        name, ago = snapshot.account.name, self._refused_ago(snapshot)
        if ago is not None:
            raise TokenRefused(
                f"the API refuses the token of {name}, which was refreshed for that {ago:.0f} s ago",
                hint=f"Another refresh would not help. Look at the account with: kimiflow status --profile {name}",
                account=name,
            )

    async def _refresh(
        self,
        snapshot: Snapshot,
        grant: Authorization[Sealed],
        timeout: float | None,
        *,
        at_once: bool,
        fallback: bool,
    ) -> Token:
        """Waits for a refresh.

        :param at_once: whether a person asks, who does not wait for what the server asked for.
        :param fallback: whether the present token will do where that fails.
        """
        engine, name = self._engine, snapshot.account.name
        now = engine.clock.now()
        if grant.error == HANDING_OVER and (grant.next_attempt_at or now) > now:
            # Its refresh token may be another tool's by now, and to use it here would end the sign-in for both.
            raise cut_short(name, grant, now)
        if grant.not_before is not None and grant.not_before > now and not at_once:
            raise RequestFailed(
                f"the server asked for no refresh of {name} for another {grant.not_before - now:.0f} s",
                hint=f"After that it is refreshed by: kimiflow run; and at once by: kimiflow refresh {name}",
                account=name,
            )
        patience = engine.settings.http_timeout + 5.0 if timeout is None else timeout
        deadline = engine.clock.monotonic() + patience
        before, current = grant, grant
        # After a failure who is no person waits for the next try, however many ask, and however often.
        due = grant.next_attempt_at or now
        backs_off = bool(grant.attempts) and due > now and not at_once
        if backs_off and due > now + patience:
            raise failed_attempt(status_of(snapshot, now, grant))
        async with engine.driving([snapshot.account.id]):
            if not backs_off:
                await engine.make_due(grant)
            while True:
                moved = engine.moved_of(snapshot.account.id)
                was, snapshot = snapshot.account.id, await engine.snapshot(name)
                if snapshot.account.id != was:
                    raise renamed(name)
                current = _grant(snapshot)
                if (current.id, current.token_version) != (before.id, before.token_version):
                    return await self._open(snapshot, current)
                if current.attempts > before.attempts and current.error != INTERRUPTED:
                    failure = failed_attempt(status_of(snapshot, engine.clock.now(), current))
                    break
                try:
                    await engine.wait_for(moved, deadline)
                except StillPending:
                    failure = ServerUnreachable(
                        f"{name} was not refreshed within {patience:g} s",
                        hint=f"See what happened with: kimiflow history {name}",
                        account=name,
                    )
                    break
        if fallback and self._usable(current):
            engine.log.warning("refresh_failed_token_still_good", account=name, reason=failure.message)
            return await self._open(snapshot, current)
        raise failure

    def _usable(self, grant: Authorization[Sealed]) -> bool:
        return grant.token_expires_at is None or grant.token_expires_at > self._engine.clock.now() + _WORTH_HANDING_OUT

    async def _open(self, snapshot: Snapshot, grant: Authorization[Sealed]) -> Token:
        vault = await self._engine.vault()
        assert grant.access_token is not None  # noqa: S101 - granted and refreshing hold one
        opened = vault.open(grant.access_token, grant.id, "access_token")
        return Token(
            account=snapshot.account.name,
            access_token=opened.reveal(),
            token_type=grant.token_type or "Bearer",
            expires_at=grant.token_expires_at,
            scope=grant.scope,
            device_id=snapshot.account.device_id,
        )


def _fresh_until(grant: Authorization[Sealed]) -> float:
    return min((at for at in (grant.next_attempt_at, grant.token_expires_at) if at is not None), default=math.inf)


def _grant(snapshot: Snapshot) -> Authorization[Sealed]:
    """The authorization that holds tokens.

    :raises KimiFlowError: saying why there is none.
    """
    if snapshot.grant is None:
        raise no_grant(snapshot)
    return snapshot.grant


def _not_to_be_refreshed(snapshot: Snapshot, *, refused: bool) -> SignInNeeded:
    """Why there is no other token. The present one is kept: what refuses it may be a gateway, and pass."""
    name = snapshot.account.name
    what = "the API refuses its access token" if refused else "its access token still works"
    grant = snapshot.grant
    shared = grant is not None and grant.error == SHARED
    why = f"{name}: {grant.error_description}" if grant and shared else f"the server gave {name} no refresh token"
    return SignInNeeded(
        f"{why}; {what}",
        hint=f"For a new one: kimiflow login --force {name}",
        account=name,
    )

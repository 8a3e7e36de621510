"""One step of an authorization: ``(authorization, event, now) -> authorization``. Pure.

The machine says which state follows; this says what else changes, and when the next step is due. Everything that
a flow does can be read and tested here, without a loop, a store or a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimiflow import events
from kimiflow.machine import next_state
from kimiflow.model import HOLDS_TOKENS, RESTS, Authorization, State, Transition
from kimiflow.pacing import DEFAULT_TOKEN_LIFETIME
from kimiflow.secret import Secret
from kimiflow.wire import About, about

if TYPE_CHECKING:
    from kimiflow.events import Event
    from kimiflow.model import DeviceAuthorization, TokenSet
    from kimiflow.pacing import Pacing

__all__ = [
    "IMPORTED",
    "INTERRUPTED",
    "OUT_OF_TIME",
    "adopt",
    "advance",
    "begin",
    "in_doubt",
    "is_overdue",
    "local_event",
    "needs_person",
]

Open = Authorization[Secret]

OUT_OF_TIME = events.ExpiredToken("nobody approved it in time")

_LAST_POLL_WITHIN = 300.0
"""Seconds after our deadline in which a server that does not answer is still asked."""

INTERRUPTED = "interrupted"
"""The error of a refresh whose worker vanished: the request may have reached the server."""

_IN_DOUBT = frozenset({INTERRUPTED, "timeout", "connection_failed", "invalid_response"})
"""Errors of attempts that the server may have answered with tokens which nobody has read."""

_NOT_READ = "an earlier reply could not be read; it may have held tokens"
_NO_REPLY = "an earlier attempt had no reply; it may have reached the server and rotated the token unseen"
_POLL_CUT_SHORT = "a worker stopped during the poll before; the code may have been spent on it"


IMPORTED = "imported"
"""The history's word for an authorization that began elsewhere and was taken over with its tokens."""


def begin(authorization_id: str, account_id: str, now: float) -> tuple[Open, Transition]:
    """A new authorization, ``requested`` and due at once, and the first row of its history."""
    authorization: Open = Authorization(
        id=authorization_id,
        account_id=account_id,
        state=State.REQUESTED,
        created_at=now,
        updated_at=now,
        next_attempt_at=now,
        not_before=None,
        attempts=0,
        error=None,
        error_description=None,
        interval=None,
        user_code=None,
        verification_uri=None,
        verification_uri_complete=None,
        code_expires_at=None,
        origin=None,
        token_type=None,
        scope=None,
        token_expires_at=None,
        refresh_token_expires_at=None,
        refresh_token_digest=None,
        token_version=0,
        device_code=None,
        access_token=None,
        refresh_token=None,
    )
    return authorization, Transition(now, None, State.REQUESTED, events.LoginRequested.name)


def adopt(
    authorization_id: str, account_id: str, tokens: TokenSet, now: float, *, origin: str, detail: str | None = None
) -> tuple[Open, Transition]:
    """An authorization that was granted elsewhere, due for a refresh at once, and the first row of its history.

    ``origin`` is that of the token endpoint that issued ``tokens``.

    The refresh shows whether the tokens are still good, and rotates them away from whoever had them before.
    """
    fresh, _ = begin(authorization_id, account_id, now)
    authorization = fresh._replace(
        state=State.GRANTED,
        origin=origin,
        token_type=tokens.token_type or "Bearer",
        scope=tokens.scope,
        token_expires_at=_token_ends(tokens, tokens.refresh_token, now),
        refresh_token_digest=None if tokens.refresh_token is None else tokens.refresh_token.digest(origin),
        token_version=1,
        access_token=tokens.access_token,
        refresh_token=tokens.refresh_token,
    )
    return authorization, Transition(now, None, State.GRANTED, IMPORTED, detail)


def is_overdue(authorization: Authorization[Any], now: float) -> bool:
    """Whether our own deadline for an approval has passed."""
    return authorization.code_expires_at is not None and now >= authorization.code_expires_at


def in_doubt(error: str | None, description: str | None) -> bool:
    """Whether this failure, or one before it, may have cost tokens that the server has given out."""
    return error in _IN_DOUBT or _doubt_in(description) is not None


def needs_person(authorization: Authorization[Any], now: float) -> bool:
    """Whether only a person can help.

    It has ended; or this program is misconfigured; or refreshes have been refused beyond the token's end, and not for
    reasons that pass by themselves. In the last two tries go on, and may succeed.
    """
    if authorization.state in RESTS:
        return True
    if not authorization.attempts or authorization.error is None:
        return False
    match about(authorization.error):
        case About.CLIENT:
            return True
        case About.REQUEST:
            ends = authorization.token_expires_at
            return authorization.state in HOLDS_TOKENS and ends is not None and now >= ends
        case _:
            return False


def local_event(authorization: Open, now: float) -> Event | None:
    """What the clock alone says about an authorization that is due; ``None`` where the server must be asked."""
    match authorization.state:
        case State.PENDING | State.SLOW_DOWN if is_overdue(authorization, now):
            # One last poll asks whether somebody approved while nobody polled; it is not waited for long.
            waits = authorization.not_before is not None and authorization.not_before > now
            if waits or now >= (authorization.code_expires_at or now) + _LAST_POLL_WITHIN:
                return OUT_OF_TIME
        case State.REFRESHING if authorization.refresh_token is None:
            why = authorization.error_description or "the server issued no refresh token"
            return events.InvalidGrant(authorization.error or "no_refresh_token", why)
        case State.GRANTED:
            return events.RefreshDue()
        case _:
            pass
    return None


@dataclass(frozen=True, slots=True)
class _Step:
    """What every kind of step needs to know."""

    before: Open
    state: State
    now: float
    pacing: Pacing
    spread: float

    def polled(self, interval: float, wait: float | None) -> Open:
        at = max(self.pacing.next_poll(self.now, interval, self.spread), self.now + self._asked_for(wait))
        return self._cleared(interval=interval, next_attempt_at=at)

    def failed(self, event: events.AttemptFailed) -> Open:
        attempts = self.before.attempts + 1
        # An interrupted attempt has already waited for its worker's whole lease.
        wait = 0.0 if event.error == INTERRUPTED else self.pacing.backoff(attempts, self.spread)
        if self.state in HOLDS_TOKENS and about(event.error) is About.CLIENT:
            wait = max(wait, self.pacing.seldom(self.spread))
        asked_for = self._asked_for(event.retry_after)
        # RFC 8628 §3.5: after a time-out polls come less often than before, not just as often.
        wait = max(wait + (self.before.interval or 0.0), asked_for)
        error, description = event.error, event.description
        if needs_person(self.before, self.now) and about(event.error) is About.MOMENT:
            # That it was refused is not over because something else came between.
            error, description = self.before.error or error, _reason(error, description)
        return self.before._replace(
            state=self.state,
            updated_at=self.now,
            next_attempt_at=self._within_deadline(self.now + wait),
            not_before=self.now + asked_for if asked_for else None,
            attempts=attempts,
            error=error,
            error_description=_with_doubt(self.before, description),
        )

    def code_issued(self, issued: DeviceAuthorization) -> Open:
        interval = self.pacing.first_interval(issued.interval)
        deadline = self.pacing.code_deadline(self.now, issued.expires_in)
        return self._cleared(
            next_attempt_at=min(self.pacing.next_poll(self.now, interval, self.spread), deadline),
            interval=interval,
            user_code=issued.user_code,
            verification_uri=issued.verification_uri,
            verification_uri_complete=issued.verification_uri_complete,
            code_expires_at=deadline,
            origin=issued.origin,
            device_code=issued.device_code,
            token_version=self.before.token_version + 1,
        )

    def tokens_issued(self, tokens: TokenSet) -> Open:
        before = self.before
        refresh_token = tokens.refresh_token or before.refresh_token
        expires_at = _token_ends(tokens, refresh_token, self.now)
        if refresh_token is None or expires_at is None:
            # There is nothing to do until the access token ends, if ever it does.
            refresh_expires_at, due = None, expires_at
        else:
            refresh_expires_at = self._refresh_token_ends(tokens)
            due = self.pacing.refresh_at(self.now, min(expires_at, refresh_expires_at or expires_at), self.spread)
        return self._cleared(
            next_attempt_at=due,
            interval=None,
            # The user code stays: it tells which sign-in this grant came from.
            verification_uri=None,
            verification_uri_complete=None,
            code_expires_at=None,
            device_code=None,
            access_token=tokens.access_token,
            refresh_token=refresh_token,
            refresh_token_digest=None if refresh_token is None else refresh_token.digest(before.origin),
            token_type=tokens.token_type or before.token_type or "Bearer",
            scope=tokens.scope or before.scope,
            token_expires_at=expires_at,
            refresh_token_expires_at=refresh_expires_at,
            token_version=before.token_version + 1,
        )

    def refreshing(self) -> Open:
        # Due again at once: should this worker vanish, only its lease stands between the row and the next one.
        after = self._cleared(next_attempt_at=self.now)
        if self.before.refresh_token is None:
            # Why it has none is what its end will say.
            return after._replace(error=self.before.error, error_description=self.before.error_description)
        return after

    def settled(self, error: str, description: str | None) -> Open:
        return self._cleared(
            next_attempt_at=None,
            error=error,
            error_description=description,
            device_code=None,
            access_token=None,
            refresh_token=None,
            refresh_token_digest=None,
        )

    def renewed(self) -> Open:
        fresh, _ = begin(self.before.id, self.before.account_id, self.now)
        return fresh._replace(created_at=self.before.created_at, token_version=self.before.token_version + 1)

    def _refresh_token_ends(self, tokens: TokenSet) -> float | None:
        if tokens.refresh_expires_in is not None:
            return self.now + tokens.refresh_expires_in
        # One that is kept ends when it would have; unless it has outlived that, and so does not.
        ends = None if tokens.refresh_token is not None else self.before.refresh_token_expires_at
        return ends if ends is not None and ends > self.now else None

    def _asked_for(self, wait: float | None) -> float:
        """Seconds that the server asked to wait, as far as there is time for it."""
        before = self.before
        if self.state in HOLDS_TOKENS:
            ends = min((end for end in (before.token_expires_at, before.refresh_token_expires_at) if end), default=None)
        else:
            ends = before.code_expires_at
        return self.pacing.bounded_wait(wait or 0.0, self.now, ends)

    def _within_deadline(self, at: float) -> float:
        """``at``, or as soon after our deadline as the interval allows: what is long past it is given up, not put off."""
        deadline = self.before.code_expires_at
        return at if deadline is None else min(at, max(deadline, self.now + (self.before.interval or 0.0)))

    def _cleared(self, **changes: Any) -> Open:  # noqa: ANN401 - the fields of an authorization
        """The authorization in its new state, with the failures before forgotten."""
        values = {"not_before": None, "attempts": 0, "error": None, "error_description": None, **changes}
        return self.before._replace(state=self.state, updated_at=self.now, **values)


def _token_ends(tokens: TokenSet, refresh_token: Secret | None, now: float) -> float | None:
    """When the access token does; ``None`` for never: nobody has said when, and nothing is there to refresh it with."""
    lifetime = tokens.expires_in
    if lifetime is None and refresh_token is not None:
        lifetime = DEFAULT_TOKEN_LIFETIME
    return None if lifetime is None else now + lifetime


def advance(authorization: Open, event: Event, now: float, *, pacing: Pacing, spread: float) -> tuple[Open, Transition]:
    """The authorization after ``event``, and the row of history that goes with it.

    ``spread`` in [0, 1) is the jitter that the caller drew.

    :raises IllegalTransition: where the machine has no such step.
    """
    if isinstance(event, events.AuthorizationPending | events.SlowDown) and is_overdue(authorization, now):
        event = OUT_OF_TIME  # that was the last poll
    state = next_state(authorization.state, event.name)
    step = _Step(authorization, state, now, pacing, spread)
    after, detail = _taken(step, event)
    return after, Transition(now, authorization.state, state, event.name, detail)


def _taken(step: _Step, event: Event) -> tuple[Open, str | None]:
    before = step.before
    match event:
        case events.AuthorizationPending(retry_after=wait):
            return step.polled(before.interval or step.pacing.first_interval(None), wait), None
        case events.SlowDown(interval=sent, retry_after=wait):
            interval = step.pacing.slower_interval(before.interval or step.pacing.first_interval(None), sent)
            return step.polled(interval, wait), f"interval {interval:g} s from now on"
        case events.AttemptFailed(error=error, description=description):
            return step.failed(event), _reason(error, description)
        case events.DeviceCodeIssued(device_authorization=issued):
            after = step.code_issued(issued)
            return after, f"user code {after.user_code}, interval {after.interval:g} s"
        case events.AccessTokenIssued(tokens=tokens):
            after = step.tokens_issued(tokens)
            ends = after.token_expires_at
            return after, "access token without an end" if ends is None else f"access token for {ends - step.now:g} s"
        case events.RefreshDue():
            return step.refreshing(), None
        case events.LoginRequested():
            return step.renewed(), None
        case events.AccessDenied(error=error, description=description):
            return step.settled(error, description), _reason(error, description)
        case events.ExpiredToken(description=description):
            return step.settled(event.name, description), description
        case events.InvalidGrant(error=error, description=description):
            description = _with_doubt(before, description)
            return step.settled(error, description), _reason(error, description)


def _reason(error: str, description: str | None) -> str:
    return f"{error}: {description}" if description else error


def _with_doubt(before: Open, description: str | None) -> str | None:
    """Keeps in mind the one outcome that no client can prevent: the reply that would have carried the tokens was lost."""
    doubt = _doubt_of(before)
    if doubt is None or doubt in (description or ""):
        return description
    return f"{description}; {doubt}" if description else doubt


def _doubt_of(before: Open) -> str | None:
    if before.error == "invalid_response":
        return _NOT_READ
    if before.state is State.REFRESHING and before.error in _IN_DOUBT:
        return _NO_REPLY
    if before.error == INTERRUPTED:
        return _POLL_CUT_SHORT
    return _doubt_in(before.error_description)


def _doubt_in(description: str | None) -> str | None:
    """The doubt that a description has kept."""
    return next((words for words in (_NOT_READ, _NO_REPLY, _POLL_CUT_SHORT) if words in (description or "")), None)

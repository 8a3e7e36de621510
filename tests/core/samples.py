"""Small makers for the nouns, so that a test names only what matters to it."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import settings

from kimiflow.advance import advance, begin
from kimiflow.events import AccessTokenIssued, DeviceCodeIssued, Event, RefreshDue, SlowDown
from kimiflow.model import Account, Authorization, DeviceAuthorization, State, TokenSet, Transition
from kimiflow.pacing import Pacing
from kimiflow.provider import Provider
from kimiflow.secret import Secret
from kimiflow.wire import Identity, Reply

NOW = 1_700_000_000.0
"""When these tests take place."""

PACING = Pacing()
"""The defaults: floor 5 s, 900 s to approve, lead 300 s."""

IDENTITY = Identity("kimiflow", "1.2.3", "host", "Linux amd64")

PROVIDER = Provider(
    name="kimi",
    device_authorization_endpoint="https://auth.example/api/oauth/device_authorization",
    token_endpoint="https://auth.example/api/oauth/token",
    client_id="the-client",
)

Open = Authorization[Secret]

quick = settings(max_examples=150, deadline=None, database=None)
"""Enough examples to find what breaks, few enough to run at each save."""


def account(**changes: Any) -> Account:
    return replace(Account("account-1", "work", "kimi", "device-1", None, NOW), **changes)


def issued(**changes: Any) -> DeviceCodeIssued:
    """A device authorization response."""
    plain = DeviceAuthorization(
        device_code=Secret("the-device-code"),
        user_code="GZ4V-K8PN",
        verification_uri="https://kimi.example/device",
        verification_uri_complete="https://kimi.example/device?user_code=GZ4V-K8PN",
        expires_in=1800.0,
        interval=5.0,
    )
    return DeviceCodeIssued(replace(plain, **changes))


def tokens(**changes: Any) -> AccessTokenIssued:
    """An access token response."""
    plain = TokenSet(
        access_token=Secret("access-1"),
        refresh_token=Secret("refresh-1"),
        token_type="Bearer",
        scope="coding",
        expires_in=900.0,
    )
    return AccessTokenIssued(replace(plain, **changes))


def step(before: Open, event: Event, now: float = NOW, *, pacing: Pacing = PACING, spread: float = 0.0) -> Open:
    """The authorization after ``event``."""
    return recorded(before, event, now, pacing=pacing, spread=spread)[0]


def recorded(
    before: Open, event: Event, now: float = NOW, *, pacing: Pacing = PACING, spread: float = 0.0
) -> tuple[Open, Transition]:
    """The same, with the row of history."""
    return advance(before, event, now, pacing=pacing, spread=spread)


def authorization_in(state: State, **changes: Any) -> Open:
    """An authorization that got to ``state`` by the shortest way."""
    requested, _ = begin("authorization-1", "account-1", NOW)
    pending = step(requested, issued())
    granted = step(pending, tokens())
    made = {
        State.REQUESTED: requested,
        State.PENDING: pending,
        State.SLOW_DOWN: step(pending, SlowDown()),
        State.GRANTED: granted,
        State.REFRESHING: step(granted, RefreshDue()),
        State.DENIED: pending._replace(state=State.DENIED, device_code=None, next_attempt_at=None),
        State.EXPIRED: pending._replace(state=State.EXPIRED, device_code=None, next_attempt_at=None),
    }[state]
    return made._replace(**changes)


def polling(device_code: Secret) -> Open:
    """A sign-in that waits for its person."""
    return authorization_in(State.PENDING, device_code=device_code)


def refreshing(refresh_token: Secret) -> Open:
    """A grant whose refresh is under way."""
    return authorization_in(State.REFRESHING, refresh_token=refresh_token)


def reply(body: object = None, status: int = 200, **changes: Any) -> Reply:
    """A reply with ``body``: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return replace(Reply(status, raw), **changes)

"""The nouns, frozen. Words are those of RFC 6749 and RFC 8628.

All times are Unix seconds (``float``, UTC); all durations are seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, NamedTuple, NewType, TypeVar

from kimiflow.errors import InvalidAccountName, UsageError
from kimiflow.parameters import shown
from kimiflow.secret import Secret

__all__ = [
    "HOLDS_TOKENS",
    "ON_ITS_WAY",
    "RESTS",
    "WAITS_FOR_US",
    "Account",
    "AccountTransition",
    "Authorization",
    "DeviceAuthorization",
    "Sealed",
    "State",
    "TokenSet",
    "Transition",
    "account_names",
    "valid_account_name",
]

Sealed = NewType("Sealed", str)
"""A secret that the vault has sealed: printable ASCII, safe to store."""

S = TypeVar("S", bound=Secret | Sealed)
R = TypeVar("R", bound=Secret | Sealed)

_SECRETS: Final = 3
"""The last fields of an authorization: device code, access token, refresh token."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


def valid_account_name(name: str) -> str:
    """``name`` itself where the rule allows it.

    :raises InvalidAccountName: naming the value and the rule.
    """
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:  # type: ignore[redundant-expr] # not all are checked
        raise InvalidAccountName(
            f"{shown(name)} is not an account name",
            hint="A name is a letter or digit, then up to 63 letters, digits and . _ @ + -",
        )
    return name


def account_names(names: Iterable[str]) -> list[str]:
    """``names``, each once, whatever they come in.

    :raises UsageError: where it is a single name, whose letters would be names too, or nothing to go through.
    :raises InvalidAccountName: for the first that breaks the rule.
    """
    if isinstance(names, str | bytes) or not isinstance(names, Iterable):
        raise UsageError(f"names of accounts come in a list, not as {shown(names)}", hint="As in: ['work', 'home']")
    return list(dict.fromkeys(map(valid_account_name, names)))


class State(Enum):
    """The seven states of an authorization."""

    REQUESTED = "requested"
    PENDING = "pending"
    SLOW_DOWN = "slow_down"
    GRANTED = "granted"
    REFRESHING = "refreshing"
    DENIED = "denied"
    EXPIRED = "expired"


ON_ITS_WAY = frozenset({State.REQUESTED, State.PENDING, State.SLOW_DOWN})
"""A sign-in that has not settled; an account has at most one such authorization."""

HOLDS_TOKENS = frozenset({State.GRANTED, State.REFRESHING})
"""A grant; an account has at most one such authorization."""

WAITS_FOR_US = HOLDS_TOKENS | {State.REQUESTED}
"""Nothing but our own pacing decides when its next request leaves, so a person may ask for it sooner."""

RESTS = frozenset({State.DENIED, State.EXPIRED})
"""Settled without a grant; only a person starts it again."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who signs in. Provider and device id stay the same for the account's whole life.

    ``proxy`` is a URL, or ``env:NAME`` for one that the environment holds because it carries a password. One that is
    ``disabled`` is kept fresh, and not handed out by pools; ``label`` is what a person noted about it.
    """

    id: str
    name: str
    provider: str
    device_id: str
    proxy: str | None
    created_at: float
    disabled: bool = False
    label: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceAuthorization:
    """The device authorization response (RFC 8628 §3.2), its numbers already made sane."""

    device_code: Secret
    user_code: str
    verification_uri: str
    verification_uri_complete: str | None
    expires_in: float
    interval: float
    origin: str | None = None
    """Of the token endpoint that the code is for. No field of the response: whoever asked knows it."""


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The access token response (RFC 6749 §5.1). ``None`` where the server left a field out.

    ``refresh_expires_in`` is no field of the RFC; some servers say with it how long the refresh token lives.
    """

    access_token: Secret
    refresh_token: Secret | None
    token_type: str | None
    scope: str | None
    expires_in: float | None
    refresh_expires_in: float | None = None


class Authorization(NamedTuple, Generic[S]):
    """The stored state machine: one sign-in, from request to grant and through every refresh.

    ``Authorization[Secret]`` is open and lives in a worker's memory only; ``Authorization[Sealed]`` is
    what stores see. It is a tuple because it is made anew four times for each poll, and a frozen dataclass takes five times
    as long. The order of the fields is the order of the columns, so that a row becomes one without a look at any name.
    """

    id: str
    account_id: str
    state: State
    created_at: float
    updated_at: float
    next_attempt_at: float | None
    """When the next step is due; ``None`` where it rests."""
    not_before: float | None
    """The server asked for no request before then (``Retry-After``); only a person does not wait for it."""
    attempts: int
    """Failed attempts in a row at the present step."""
    error: str | None
    error_description: str | None
    interval: float | None
    user_code: str | None
    verification_uri: str | None
    verification_uri_complete: str | None
    code_expires_at: float | None
    origin: str | None
    """Scheme, host and port of the token endpoint that issued its secrets, which go there alone. ``None`` before there
    are any, and in a row of an older kimiflow: then it is where its provider usually is."""
    token_type: str | None
    scope: str | None
    token_expires_at: float | None
    """``None`` also for a token without an end: one that came with neither a lifetime nor a refresh token."""
    refresh_token_expires_at: float | None
    """``None`` where the server does not say."""
    refresh_token_digest: str | None
    """Equal for equal refresh tokens, and tells nothing else of them; ``None`` also in a row of an older kimiflow."""
    token_version: int
    """Counts how often device code or tokens were replaced: equal numbers mean the same secrets."""
    device_code: S | None
    access_token: S | None
    refresh_token: S | None

    def __repr__(self) -> str:
        """Without the secrets, sealed or not."""
        shown = zip(self._fields[:-_SECRETS], self, strict=False)
        return f"Authorization({', '.join(f'{name}={value!r}' for name, value in shown)})"

    def with_secrets(self, device_code: R | None, access_token: R | None, refresh_token: R | None) -> Authorization[R]:
        """The same authorization with its secrets sealed or opened."""
        return Authorization(*self[:-_SECRETS], device_code, access_token, refresh_token)


@dataclass(frozen=True, slots=True)
class Transition:
    """One row of an account's history.

    ``from_state`` is ``None`` where an authorization begins, ``to_state`` where it is taken away.
    """

    at: float
    from_state: State | None
    to_state: State | None
    event: str
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class AccountTransition:
    """A transition in the history of all accounts.

    ``cursor`` goes up from one to the next; ``account`` is the name that the account has now.
    """

    cursor: int
    account: str
    authorization_id: str
    transition: Transition

"""What an account looks like from outside: no secret in it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from kimiflow.advance import needs_person
from kimiflow.model import ON_ITS_WAY, State

if TYPE_CHECKING:
    from kimiflow.model import Account, Authorization, Sealed
    from kimiflow.stores.base import Lease, Snapshot

__all__ = ["Status", "Token", "rfc3339", "status_of"]

_NOT_TOLD = frozenset({"lease", "holds_tokens"})
_SAID = frozenset({"disabled", "label"})
_TIMES = frozenset({"code_expires_at", "token_expires_at", "next_attempt_at", "updated_at"})


def rfc3339(at: float | None) -> str | None:
    """Unix seconds as RFC 3339 in UTC, to the millisecond."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class Status:
    """One account. Times are Unix seconds; ``state`` is ``None`` where it is signed out.

    A token that has no end has no ``token_expires_at``.
    Where a new sign-in is on its way while an older grant still works, ``state`` and the codes are those of the
    sign-in, and ``token_expires_at`` is the grant's.
    """

    account: str
    provider: str
    state: State | None
    user_code: str | None
    verification_uri: str | None
    verification_uri_complete: str | None
    code_expires_at: float | None
    interval: float | None
    token_expires_at: float | None
    next_attempt_at: float | None
    attempts: int
    error: str | None
    error_description: str | None
    updated_at: float
    needs_person: bool = False
    """Whether only a person can help: it has ended, or is misconfigured, or its refreshes are refused beyond the token's
    end."""
    lease: Lease | None = None
    """Which worker holds it, and until when; not part of the JSON."""
    holds_tokens: bool = False
    """Whether there is a grant, be it beside a sign-in on its way; not part of the JSON."""
    disabled: bool = False
    """Whether it is kept fresh, but not handed out by pools; only part of the long JSON, as is ``label``."""
    label: str | None = None

    @property
    def on_its_way(self) -> bool:
        """Whether the sign-in has not settled yet."""
        return self.state in ON_ITS_WAY

    def as_json(self, *, long: bool = False) -> dict[str, Any]:
        """JSON values, times in RFC 3339.

        :param long: with what people said about the account.
        """
        values: dict[str, Any] = {}
        for each in fields(self):
            if each.name in _NOT_TOLD or (each.name in _SAID and not long):
                continue
            value = getattr(self, each.name)
            if each.name in _TIMES:
                value = rfc3339(value)
            elif isinstance(value, State):
                value = value.value
            values[each.name] = value
        return values


@dataclass(frozen=True, slots=True)
class Token:
    """An access token, ready to be sent. ``repr`` does not show it.

    ``expires_at`` in Unix seconds; ``None`` for one without an end, which is good until the API says otherwise.
    """

    account: str
    access_token: str = field(repr=False)
    token_type: str
    expires_at: float | None
    scope: str | None
    device_id: str

    def as_json(self) -> dict[str, Any]:
        """JSON values, the time in RFC 3339."""
        return {
            "account": self.account,
            "access_token": self.access_token,
            "token_type": self.token_type,
            "expires_at": rfc3339(self.expires_at),
            "scope": self.scope,
            "device_id": self.device_id,
        }


def status_of(snapshot: Snapshot, now: float, authorization: Authorization[Sealed] | None = None) -> Status:
    """The status of an account, seen from ``authorization``, or from the one that matters most.

    :param now: by the store's clock.
    """
    shown = authorization or snapshot.shown
    grant = snapshot.grant
    account: Account = snapshot.account
    if shown is None:
        return Status(
            account=account.name,
            provider=account.provider,
            state=None,
            user_code=None,
            verification_uri=None,
            verification_uri_complete=None,
            code_expires_at=None,
            interval=None,
            token_expires_at=None,
            next_attempt_at=None,
            attempts=0,
            error=None,
            error_description=None,
            updated_at=account.created_at,
            disabled=account.disabled,
            label=account.label,
        )
    return Status(
        account=account.name,
        provider=account.provider,
        state=shown.state,
        user_code=shown.user_code,
        verification_uri=shown.verification_uri,
        verification_uri_complete=shown.verification_uri_complete,
        code_expires_at=shown.code_expires_at,
        interval=shown.interval,
        token_expires_at=grant.token_expires_at if grant else shown.token_expires_at,
        next_attempt_at=shown.next_attempt_at,
        attempts=shown.attempts,
        error=shown.error,
        error_description=shown.error_description,
        updated_at=shown.updated_at,
        needs_person=needs_person(shown, now),
        lease=snapshot.lease_of(shown),
        holds_tokens=grant is not None,
        disabled=account.disabled,
        label=account.label,
    )

"""Accounts, authorizations and steps for the tests of stores, without a worker or a server.

Secrets here are plain strings: a store never looks into them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimiflow.model import Account, Authorization, Sealed, State, Transition
from kimiflow.stores.base import Beginning, Step

if TYPE_CHECKING:
    from kimiflow.stores.base import Claim, Store

__all__ = [
    "NOW",
    "TTL",
    "account",
    "beginning",
    "claim_one",
    "give_back",
    "granted",
    "issue",
    "now_granted",
    "pending",
    "poll",
    "refreshing",
    "requested",
    "settle",
]

NOW = 1_764_000_000.25
TTL = 60.0


def account(name: str = "ann", **fields: Any) -> Account:
    """An account whose id is made of its name."""
    values: dict[str, Any] = {"provider": "kimi", "device_id": f"device-{name}", "proxy": None, "created_at": NOW}
    return Account(id=f"acc-{name}", name=name, **(values | fields))


def requested(row_id: str = "one", name: str = "ann", **fields: Any) -> Authorization[Sealed]:
    """A sign-in that has not asked for its code yet."""
    values: dict[str, Any] = dict.fromkeys(Authorization._fields)
    values |= {"created_at": NOW, "updated_at": NOW, "next_attempt_at": NOW, "attempts": 0, "token_version": 0}
    values |= {"id": row_id, "account_id": f"acc-{name}", "state": State.REQUESTED}
    return Authorization(**(values | fields))


def pending(row_id: str = "one", name: str = "ann", **fields: Any) -> Authorization[Sealed]:
    """A sign-in that waits for a person."""
    values: dict[str, Any] = {
        "state": State.PENDING,
        "interval": 5.0,
        "user_code": "ABCD-EFGH",
        "verification_uri": "https://example.test/device",
        "verification_uri_complete": "https://example.test/device?user_code=ABCD-EFGH",
        "code_expires_at": NOW + 900,
        "token_version": 1,
        "device_code": Sealed(f"key.device-code-{row_id}"),
    }
    return requested(row_id, name, **(values | fields))


def granted(row_id: str = "one", name: str = "ann", **fields: Any) -> Authorization[Sealed]:
    """A grant with tokens."""
    values: dict[str, Any] = {
        "state": State.GRANTED,
        "user_code": "ABCD-EFGH",
        "token_type": "Bearer",
        "scope": "kimi-code",
        "token_expires_at": NOW + 900,
        "refresh_token_expires_at": NOW + 9_000,
        "token_version": 2,
        "access_token": Sealed(f"key.access-{row_id}-2"),
        "refresh_token": Sealed(f"key.refresh-{row_id}-2"),
    }
    return requested(row_id, name, **(values | fields))


def beginning(authorization: Authorization[Sealed], **fields: Any) -> Beginning:
    """Puts ``authorization`` into a store as it is, whatever its state."""
    history = Transition(authorization.updated_at, None, authorization.state, "login_requested")
    return Beginning(authorization, history, **fields)


async def issue(store: Store, *authorizations: Authorization[Sealed], beside_grant: bool = False) -> None:
    """Stores these authorizations, and the accounts they need."""
    names = dict.fromkeys(a.account_id.removeprefix("acc-") for a in authorizations)
    await store.add_accounts([account(name) for name in names])
    begun = await store.begin([beginning(a, beside_grant=beside_grant) for a in authorizations])
    assert begun == [True] * len(authorizations)


def now_granted(claim: Claim, at: float, tag: str = "new", **fields: Any) -> Step:
    """The step by which tokens arrive."""
    before = claim.authorization
    values: dict[str, Any] = {
        "state": State.GRANTED,
        "updated_at": at,
        "next_attempt_at": at + 600,
        "code_expires_at": None,
        "interval": None,
        "token_expires_at": at + 900,
        "refresh_token_expires_at": at + 9_000,
        "token_version": before.token_version + 1,
        "device_code": None,
        "access_token": Sealed(f"key.access-{tag}"),
        "refresh_token": Sealed(f"key.refresh-{tag}"),
    }
    history = (Transition(at, before.state, State.GRANTED, "access_token_issued", "for 900 s"),)
    return Step(claim, before._replace(**(values | fields)), history)


def poll(claim: Claim, at: float, **fields: Any) -> Step:
    """The step by which a poll had no result yet."""
    before = claim.authorization
    values: dict[str, Any] = {"updated_at": at, "next_attempt_at": at + 5}
    history = (Transition(at, before.state, before.state, "authorization_pending"),)
    return Step(claim, before._replace(**(values | fields)), history)


def settle(claim: Claim, at: float, state: State = State.EXPIRED) -> Step:
    """The step by which an authorization comes to rest."""
    values: dict[str, Any] = dict.fromkeys(("next_attempt_at", "device_code", "access_token", "refresh_token"))
    after = claim.authorization._replace(state=state, updated_at=at, **values)
    return Step(claim, after, (Transition(at, claim.authorization.state, state, "invalid_grant", "spent"),))


def refreshing(claim: Claim, at: float) -> Step:
    """The step that is committed before a refresh leaves; its worker goes on with the row."""
    after = claim.authorization._replace(state=State.REFRESHING, updated_at=at, next_attempt_at=at)
    return Step(claim, after, (Transition(at, State.GRANTED, State.REFRESHING, "refresh_due"),), keep_lease=True)


def give_back(claim: Claim) -> Step:
    """The step of a worker that does nothing with its claim."""
    return Step(claim, claim.authorization)


async def claim_one(store: Store, owner: str = "A", at: float = NOW, ttl: float = TTL) -> Claim:
    """Claims the only row that is due."""
    (claim,) = await store.claim_due(owner, at, ttl, 10)
    return claim

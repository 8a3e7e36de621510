"""Errors for accounts that have no token to give: what happened, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.advance import in_doubt
from kimiflow.errors import (
    AccessDenied,
    AuthorizationExpired,
    Misconfigured,
    RefreshRefused,
    RequestFailed,
    ServerUnreachable,
    SignedOut,
    StillPending,
)
from kimiflow.model import HOLDS_TOKENS, State
from kimiflow.wire import MISCONFIGURED, About, about

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimiflow.errors import KimiFlowError, SignInNeeded
    from kimiflow.status import Status
    from kimiflow.stores.base import Snapshot

__all__ = ["failed_attempt", "left_pending", "no_grant", "renamed", "settled_badly", "signed_out"]

_UNREACHABLE = frozenset({"connection_failed", "timeout"})


def no_grant(snapshot: Snapshot) -> KimiFlowError:
    """Why an account holds no tokens."""
    name = snapshot.account.name
    flow, resting = snapshot.on_its_way, snapshot.resting
    if flow is not None:
        link = flow.verification_uri_complete or flow.verification_uri
        where = f": open {link} (code {flow.user_code})" if link else ""
        return StillPending(
            f"{name} waits for somebody to approve it{where}",
            hint=f"Then type: kimiflow login {name}",
            account=name,
        )
    if resting is not None:
        return settled_badly(name, resting.state, resting.error, resting.error_description)
    return signed_out(name)


def signed_out(name: str) -> SignedOut:
    """Nothing is there, and nothing is on its way."""
    return SignedOut(f"{name} is signed out", hint=f"Sign in with: kimiflow login {name}", account=name)


def renamed(name: str) -> RequestFailed:
    """The error where a name came to be another account's while its owner was being dealt with."""
    return RequestFailed(f"{name} is the name of another account by now", hint="Try again.", account=name)


def settled_badly(name: str, state: State, error: str | None, description: str | None) -> SignInNeeded:
    """A sign-in that ended without a grant, or a grant that ended."""
    reason = f" ({error}: {description})" if error and description else f" ({error or description or 'no reason'})"
    hint = f"Sign in again with: kimiflow login {name}"
    if state is State.DENIED:
        return AccessDenied(f"the sign-in of {name} was denied{reason}", hint=hint, account=name)
    return AuthorizationExpired(f"the sign-in of {name} has expired{reason}", hint=hint, account=name)


def left_pending(statuses: Iterable[Status], go_on: str) -> str:
    """What to do about sign-ins that nobody waits for any longer; ``go_on`` begins with a verb: ``go on with: …``."""
    if any(_in_doubt(status) for status in statuses):
        return f"The last reply may have held tokens, and was not read; {go_on}"
    return f"Nothing is lost; {go_on}"


def _in_doubt(status: Status) -> bool:
    return status.state is not State.REQUESTED and in_doubt(status.error, status.error_description)


def failed_attempt(status: Status) -> RequestFailed:
    """An attempt that proves nothing, and is tried again by whoever drives the account."""
    name, error, description = status.account, status.error or "", status.error_description
    reason = f"{error}: {description}" if description else error
    holds_tokens = status.state in HOLDS_TOKENS
    again = f"kimiflow {'refresh' if holds_tokens else 'login'} {name}"
    if status.needs_person and about(error) is About.CLIENT:
        kept = "Its tokens are kept. " if holds_tokens else ""
        if error == MISCONFIGURED:
            return Misconfigured(
                description or f"{name} is misconfigured",
                hint=f"{kept}Nothing was sent. Once that is mended: {again}",
                account=name,
            )
        return Misconfigured(
            f"{name} is misconfigured ({reason})",
            hint=f"{kept}Mend its provider's client_id in the settings, then type: {again}",
            account=name,
        )
    if status.needs_person:
        kept = "A reply may have held its next refresh token" if _in_doubt(status) else "Its refresh token is kept"
        return RefreshRefused(
            f"the server does not refresh {name}, whose token has ended ({reason})",
            hint=f"{kept}, and kimiflow run tries on. To sign in anew: kimiflow login {name}",
            account=name,
        )
    hint = f"Nothing is lost; it is tried again by: kimiflow run, or: {again}"
    if _in_doubt(status):
        hint = f"The reply may have held new tokens; the next try will show. It is made by: kimiflow run, or: {again}"
    if error in _UNREACHABLE:
        return ServerUnreachable(f"the server of {name} could not be reached ({reason})", hint=hint, account=name)
    return RequestFailed(f"the server's answer for {name} was of no use ({reason})", hint=hint, account=name)

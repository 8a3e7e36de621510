"""What a store decides, as pure functions of the step and of the row: the same answer in every store.

A store reads the few columns that these ask for, under whatever keeps others from writing the row at the same time,
and writes what they say.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, RESTS, Authorization, Sealed, State, Transition
from kimiflow.stores.base import REPLACED, SHARED, SIGNED_OUT, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimiflow.stores.base import Amendment, Beginning, Step

__all__ = [
    "Fence",
    "disowned",
    "keeps_lease",
    "looks_written",
    "may_amend",
    "may_begin",
    "outcome_of",
    "replaced",
    "signed_out",
    "verdict",
]


class Fence(NamedTuple):
    """The columns of a row that a step is measured against."""

    lease_owner: str | None
    generation: int
    token_version: int
    updated_at: float


def outcome_of(step: Step, row: Fence | None) -> Outcome:
    """What becomes of ``step`` when the row is as it is."""
    if row is None:
        return Outcome.GONE
    claim = step.claim
    if row.lease_owner == claim.owner and row.generation == claim.generation:
        return Outcome.COMMITTED
    if step.brings_tokens and row.token_version == claim.authorization.token_version:
        return Outcome.MERGED
    return Outcome.LOST


def verdict(step: Step, row: Fence, stored: Authorization[Sealed] | None) -> tuple[Outcome, bool]:
    """The outcome of ``step``, and whether it has still to be written.

    :param stored: the whole row; may be ``None`` where :func:`looks_written` says no.
    """
    before = None if stored is None else _was_written(step, row, stored)
    if before is not None:
        return before, False
    outcome = outcome_of(step, row)
    return outcome, outcome in {Outcome.COMMITTED, Outcome.MERGED}


def looks_written(step: Step, row: Fence) -> bool:
    """Whether an earlier call may have written ``step``, so that only the whole row can tell.

    A step that keeps no lease ends its claim; one that keeps it leaves its own time.
    """
    if row.lease_owner == step.claim.owner and row.generation == step.claim.generation:
        return step.keep_lease and row.updated_at == step.authorization.updated_at
    return True


def _was_written(step: Step, row: Fence, stored: Authorization[Sealed]) -> Outcome | None:
    """The outcome of the earlier call that wrote ``step``, where the row proves that there was one.

    A sealed token has a nonce of its own, so one that is the same was written by this very step, whatever happened to
    the row since. Any other step is recognised while nobody has touched the row after it.
    """
    after = step.authorization
    same_generation = row.generation == step.claim.generation
    if step.brings_tokens:
        if (stored.token_version, stored.access_token) == (after.token_version, after.access_token):
            return Outcome.COMMITTED if same_generation else Outcome.MERGED
    elif same_generation and stored == after:
        still_held = row.lease_owner == step.claim.owner and step.keep_lease and bool(step.history)
        if row.lease_owner is None or still_held:
            return Outcome.COMMITTED
    return None


def disowned(step: Step, holder: str) -> Step:
    """``step`` without the refresh token that it brings, because the account ``holder`` has a grant with the same one.

    A refresh token has one user. A grant that had another one keeps that: who gave out one token twice may still honour it.
    """
    before, after = step.claim.authorization, step.authorization
    # Unless it is that very one: then it has had none of its own all along.
    kept = before.refresh_token is not None and before.refresh_token_digest != after.refresh_token_digest
    after = after._replace(
        refresh_token=before.refresh_token if kept else None,
        refresh_token_digest=before.refresh_token_digest if kept else None,
        refresh_token_expires_at=before.refresh_token_expires_at if kept else None,
        next_attempt_at=after.next_attempt_at if kept else after.token_expires_at,
        error=SHARED,
        error_description=f"the server gave it the refresh token of {holder}, which {holder} keeps",
    )
    *earlier, last = step.history
    told = replace(last, detail=f"{last.detail or ''}; {after.error_description}".removeprefix("; "))
    return replace(step, authorization=after, history=(*earlier, told))


def keeps_lease(step: Step) -> bool:
    """Whether the row stays claimed when the step is written."""
    return step.keep_lease and step.authorization.next_attempt_at is not None


def may_begin(beginning: Beginning, rows: Iterable[tuple[str, State, float]]) -> bool:
    """Whether a sign-in may begin beside the account's ``rows``: their ids, states and ``updated_at``."""
    wanted = beginning.authorization.id
    beside_grant = beginning.beside_grant and beginning.authorization.state not in HOLDS_TOKENS
    restarts = False
    for row_id, state, updated_at in rows:
        if row_id == wanted:
            restarts = state in RESTS and updated_at == beginning.renews
            if not restarts:
                return False
        elif state in ON_ITS_WAY or (state in HOLDS_TOKENS and not beside_grant):
            return False
    return restarts or beginning.renews is None


def may_amend(
    amendment: Amendment, stored: Authorization[Sealed], owner: str | None, claimable_at: float | None, now: float
) -> bool:
    """Whether a row may be put right: it is the one that was looked at, and nobody is at it."""
    return stored == amendment.before and (owner is None or claimable_at is None or claimable_at <= now)


def replaced(state: State, step: Step) -> Transition:
    """The last row of history of an authorization that ``step`` replaces."""
    return Transition(step.authorization.updated_at, state, None, REPLACED)


def signed_out(state: State, now: float) -> Transition:
    """The last row of history of an authorization that a sign-out deletes."""
    return Transition(now, state, None, SIGNED_OUT)

"""Rows into objects and back: the hottest lines of the SQL store, so they look at no column by name."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from kimiflow.model import Account, Authorization, Sealed, State, Transition
from kimiflow.stores.tables import accounts, authorizations

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "ACCOUNT",
    "AUTHORIZATION",
    "CHANGING",
    "PACE",
    "STATES",
    "WIDTH",
    "differs_in_pace",
    "to_account",
    "to_authorization",
    "to_transition",
    "values_of_account",
    "values_of_authorization",
    "values_of_changing",
    "values_of_pace",
    "values_of_transition",
]

STATES: Final = {state.value: state for state in State}

WIDTH: Final = len(Authorization._fields)

ACCOUNT: Final = tuple(accounts.c)
AUTHORIZATION: Final = tuple(authorizations.c)[:WIDTH]

PACE: Final = (
    "state",
    "updated_at",
    "next_attempt_at",
    "not_before",
    "attempts",
    "error",
    "error_description",
    "interval",
)
"""What a poll changes that brought neither a code nor tokens."""
CHANGING: Final = (*PACE, *Authorization._fields[Authorization._fields.index(PACE[-1]) + 1 :])
"""What may change in the life of an authorization."""

_STATE: Final = Authorization._fields.index("state")
_FROM: Final = Authorization._fields.index("updated_at")
_PACE_ENDS: Final = Authorization._fields.index(PACE[-1]) + 1


def values_of_authorization(authorization: Authorization[Sealed]) -> tuple[Any, ...]:
    """The columns :data:`AUTHORIZATION`."""
    return (*authorization[:_STATE], authorization.state.value, *authorization[_STATE + 1 :])


def values_of_changing(authorization: Authorization[Sealed]) -> tuple[Any, ...]:
    """The columns :data:`CHANGING`."""
    return (authorization.state.value, *authorization[_FROM:])


def values_of_pace(authorization: Authorization[Sealed]) -> tuple[Any, ...]:
    """The columns :data:`PACE`."""
    return (authorization.state.value, *authorization[_FROM:_PACE_ENDS])


def differs_in_pace(before: Authorization[Sealed], after: Authorization[Sealed]) -> bool:
    """Whether a step has changed no more than the columns :data:`PACE`."""
    return before[_PACE_ENDS:] == after[_PACE_ENDS:]


values_of_account: Final[Callable[[Account], tuple[Any, ...]]] = attrgetter(*(c.name for c in ACCOUNT))


def to_account(row: Sequence[Any]) -> Account:
    """From the columns :data:`ACCOUNT`."""
    return Account(*row)


def to_authorization(row: Sequence[Any]) -> Authorization[Sealed]:
    """From the columns :data:`AUTHORIZATION`."""
    return Authorization._make((*row[:_STATE], STATES[row[_STATE]], *row[_STATE + 1 : WIDTH]))


def to_transition(row: Sequence[Any]) -> Transition:
    """From ``at``, ``from_state``, ``to_state``, ``event`` and ``detail``."""
    at, before, after, event, detail = row
    return Transition(
        at,
        None if before is None else STATES[before],
        None if after is None else STATES[after],
        event,
        detail,
    )


def values_of_transition(account_id: str, authorization_id: str, row: Transition) -> tuple[Any, ...]:
    """The columns of ``history`` after its id."""
    return (
        account_id,
        authorization_id,
        row.at,
        None if row.from_state is None else row.from_state.value,
        None if row.to_state is None else row.to_state.value,
        row.event,
        row.detail,
    )

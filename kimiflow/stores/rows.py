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
    "STATES",
    "WIDTH",
    "to_account",
    "to_authorization",
    "to_transition",
    "values_of_account",
    "values_of_authorization",
    "values_of_changing",
    "values_of_transition",
]

STATES: Final = {state.value: state for state in State}

_NAMES: Final = Authorization._fields
_FIXED: Final = frozenset({"id", "account_id", "created_at"})

WIDTH: Final = len(_NAMES)

ACCOUNT: Final = tuple(accounts.c)
AUTHORIZATION: Final = tuple(authorizations.c)[:WIDTH]
CHANGING: Final = tuple(name for name in _NAMES if name not in _FIXED)
"""What may change in the life of an authorization."""


def _getter(names: Sequence[str]) -> Callable[[Authorization[Sealed]], tuple[Any, ...]]:
    getter: Callable[[Authorization[Sealed]], tuple[Any, ...]] = attrgetter(
        *("state.value" if name == "state" else name for name in names)
    )
    return getter


values_of_authorization: Final = _getter(_NAMES)
values_of_changing: Final = _getter(CHANGING)
values_of_account: Final[Callable[[Account], tuple[Any, ...]]] = attrgetter(*(c.name for c in ACCOUNT))


def to_account(row: Sequence[Any]) -> Account:
    """From the columns :data:`ACCOUNT`."""
    return Account(*row)


def to_authorization(row: Sequence[Any]) -> Authorization[Sealed]:
    """From the columns :data:`AUTHORIZATION`."""
    row_id, account_id, state, *rest = row
    return Authorization(row_id, account_id, STATES[state], *rest)


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

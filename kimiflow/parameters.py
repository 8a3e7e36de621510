"""What callers give, looked at before anything is done with it.

A value of a wrong type would be found out somewhere below, after half of the work, in words of the library that stumbled
over it; or never: a text is a sequence of names, and any text is true. What is shown of it is no secret.
"""

from __future__ import annotations

import math
from numbers import Real

from kimiflow.errors import UsageError

__all__ = ["cursor", "flag", "seconds", "shown", "text"]

_LONGEST = 80


def shown(value: object) -> str:
    """A wrong value, as an error may show it; of what may hold anything, only the type."""
    if isinstance(value, str):
        return repr(value if len(value) <= _LONGEST else f"{value[:_LONGEST]}…")
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    return f"an object of the type {type(value).__name__}"


def seconds(name: str, value: object) -> float | None:
    """A time-out; ``None`` for none.

    :raises UsageError: where it is no number.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise UsageError(f"{name} is {shown(value)}", hint=f"{name} is a number of seconds, or None.")
    return float(value)


def flag(name: str, value: object) -> bool:
    """Yes or no. Not whatever Python takes for true, which ``"no"`` is.

    :raises UsageError: where it is something else.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {shown(value)}", hint=f"{name} is True or False.")
    return value


def text(name: str, value: object) -> str | None:
    """A text that is not empty, or ``None`` for none.

    :raises UsageError: where it is something else.
    """
    if value is None or (isinstance(value, str) and value):
        return value
    raise UsageError(f"{name} is {shown(value)}", hint=f"{name} is a str that is not empty, or None.")


def cursor(name: str, value: object) -> int | None:
    """A place in the history, or ``None`` for none.

    :raises UsageError: where it is something else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise UsageError(f"{name} is {shown(value)}", hint=f"{name} is the cursor of a transition, 0, or None.")

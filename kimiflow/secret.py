"""A string that never prints itself."""

from __future__ import annotations

import hashlib
import hmac
from typing import NoReturn

__all__ = ["Secret"]


class Secret:
    """Holds a device code or a token; only :meth:`reveal` gives it away.

    ``repr``, ``str`` and ``format`` show a mask, and it refuses to be pickled, so that a log line, a
    traceback or a debugger's dump of locals never carries it by accident.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The clear text, for the wire and the vault."""
        return self._value

    def digest(self, origin: str | None) -> str:
        """Equal for equal secrets of one server, and tells nothing else of one that cannot be guessed.

        Half of a SHA-256, as hex. Servers that count their tokens give out the same ones as others do.
        """
        return hashlib.sha256(f"{origin or ''} {self._value}".encode()).hexdigest()[:32]

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        msg = "a Secret is not to be pickled"
        raise TypeError(msg)

"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kimiflow.errors import KimiFlowError

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """One word for it."""
    ok: bool
    what: str
    """How it is."""
    todo: str = ""
    """What to do; empty where all is fine."""

    @classmethod
    def of(cls, check: str, error: KimiFlowError, todo: str) -> Finding:
        """What an error says, and what to do first; its own hint, which may be none, comes after that."""
        return cls(check, ok=False, what=error.message, todo=f"{todo} {error.hint}".strip())

"""What an examination finds."""

from __future__ import annotations

from dataclasses import dataclass

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

"""User codes, made for being typed (RFC 8628 §6.1), and fingerprints, made for being shown."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import random

__all__ = ["fingerprint", "format_user_code", "new_user_code", "normalise_user_code"]

# No vowels, so that no code is a word; nothing that is taken for a digit (B, I, L, O, S, Z), and no digit that is
# taken for a letter (0, 1). 2, 5 and 8 may stay, since the letters that look like them are gone.
_LETTERS: Final = "CDFGHJKMNPQRTVWX"
_DIGITS: Final = "23456789"


def new_user_code(random: random.Random) -> str:
    """Eight characters without the dash: four letters and four digits, one of 268 million."""
    return "".join(random.choices(_LETTERS, k=4) + random.choices(_DIGITS, k=4))


def normalise_user_code(typed: str) -> str:
    """What a person typed, as it is looked up: upper case, without dashes, spaces or anything else between."""
    return "".join(c for c in typed if c.isascii() and c.isalnum()).upper()


def format_user_code(user_code: str) -> str:
    """``ABCD-1234``, as it is shown and sent."""
    return f"{user_code[:4]}-{user_code[4:]}"


def fingerprint(credential: str) -> str:
    """Eight hex digits that stand for a code or token where people look; ``#`` in front says that it is no secret."""
    return f"#{hashlib.sha256(credential.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"

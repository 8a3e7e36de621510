"""Names as they are typed: of one account, or of all that a glob matches.

No account name has a ``*``, ``?`` or ``[`` in it, so there is no doubt which is which.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from kimiflow.errors import UnknownAccount

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow

__all__ = ["expanded", "is_pattern", "matching"]


def is_pattern(name: str) -> bool:
    """Whether it is a glob."""
    return any(character in name for character in "*?[")


async def expanded(flow: KimiFlow, patterns: Sequence[str]) -> list[str]:
    """The names that are meant, each once, in the order in which they were typed; those of a glob sorted.

    :raises UnknownAccount: where a glob matches nothing. A plain name is not looked up.
    """
    if not any(map(is_pattern, patterns)):
        return list(dict.fromkeys(patterns))
    return matching(patterns, [status.account for status in await flow.status()])


def matching(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """The same, among ``names``."""
    found: dict[str, None] = {}
    for pattern in patterns:
        if not is_pattern(pattern):
            found[pattern] = None
            continue
        matches = sorted(name for name in names if fnmatchcase(name, pattern))
        if not matches:
            raise UnknownAccount(f"unknown account: no name matches {pattern!r}", hint="See them all: kimiflow status")
        found |= dict.fromkeys(matches)
    return list(found)

"""How neighbouring tools write a grant down. Each module here that has a ``FORMAT`` is a format; that is the registry.

To add one: a module with a subclass of :class:`~kimiflow.formats.base.Format` and ``FORMAT``, an instance of it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from kimiflow.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kimiflow.formats.base import Format

__all__ = ["all_formats", "find_format"]


@cache
def all_formats() -> Mapping[str, Format]:
    """Every format, by name; in the order in which they are asked whether a file is theirs."""
    modules = (import_module(f"{__name__}.{found.name}") for found in iter_modules(__path__))
    found: list[Format] = [module.FORMAT for module in modules if hasattr(module, "FORMAT")]
    return {each.name: each for each in found}


def find_format(name: str) -> Format:
    """The format called ``name``.

    :raises UsageError: naming those there are.
    """
    formats = all_formats()
    if name not in formats:
        raise UsageError(f"{name!r} is not a format; there are: {', '.join(sorted(formats))}")
    return formats[name]

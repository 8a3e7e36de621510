"""Finds the store for a database URL by its scheme."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final, cast

from kimiflow.errors import InvalidSetting

if TYPE_CHECKING:
    from kimiflow.stores.base import Store, StoreFactory

__all__ = ["GROUP", "known_schemes", "open_store"]

GROUP: Final = "kimiflow.stores"
"""The group of entry points by which a package offers a store; the name of each is the scheme of its URLs."""

_BUILT_IN: Final = {
    "memory": ("kimiflow.stores.memory", "MemoryStore"),
    "postgres": ("kimiflow.stores.sql", "SqlStore"),
    "postgresql": ("kimiflow.stores.sql", "SqlStore"),
    "sqlite": ("kimiflow.stores.sql", "SqlStore"),
}
"""Found without a look at what is installed, which reads a file of every package."""


def open_store(url: str) -> Store:
    """The store that ``url`` means, not opened yet.

    What stands before the first ``:`` or ``+`` is the scheme. It is one of kimiflow's own, or the name of an entry
    point that an installed package offers in the group ``kimiflow.stores``.

    :raises InvalidSetting: where no store has that scheme, or the one that has it does not load. The message
        names the scheme only: the rest of the URL may hold a password.
    """
    scheme = url.partition(":")[0].partition("+")[0].strip().lower() if ":" in url else ""
    if scheme in _BUILT_IN:
        module, name = _BUILT_IN[scheme]
        factory: StoreFactory = getattr(import_module(module), name).from_url
        return factory(url)
    offered = [point for point in entry_points(group=GROUP) if point.name == scheme]
    if not offered:
        what = f"the scheme {scheme!r}, which no store has" if scheme else "no scheme"
        raise InvalidSetting(
            f"KIMIFLOW_DATABASE_URL has {what}",
            hint=f"Known here: {', '.join(known_schemes())}. "
            "Other stores are packages with an entry point in kimiflow.stores.",
        )
    return _loaded(offered[0], scheme)(url)


def known_schemes() -> list[str]:
    """The schemes of kimiflow's own stores and of those that are installed."""
    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group=GROUP))})


def _loaded(point: EntryPoint, scheme: str) -> StoreFactory:
    try:
        return cast("StoreFactory", point.load())
    except (ImportError, AttributeError) as error:
        raise InvalidSetting(
            f"KIMIFLOW_DATABASE_URL has the scheme {scheme!r}, but its store ({point.value}) does not load: {error}",
            hint="Install or repair the package that offers it.",
        ) from error

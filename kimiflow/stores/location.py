"""Where an SQLite database is, told from its URL without anything heavy to import."""

from __future__ import annotations

from pathlib import Path

__all__ = ["sqlite_path"]


def sqlite_path(url: str) -> Path | None:
    """The file that ``url`` names; ``None`` where it is another kind of database."""
    scheme, _, rest = url.partition(":")
    if scheme.partition("+")[0].strip().lower() != "sqlite" or not rest.startswith("///"):
        return None
    return Path(rest.removeprefix("///")).absolute()

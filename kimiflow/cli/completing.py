"""What a shell completes beside commands and options: at once or not at all, and without a word.

Names of accounts are read straight from the database. It is not opened as a command would: nothing is made, migrated
or changed.
"""

from __future__ import annotations

import os
from pathlib import Path

import typer  # noqa: TC002 - Typer reads the annotations at run time

__all__ = ["account_names", "format_names", "states"]

_PATIENCE = 1.0
_MOST = 500


def account_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """The accounts whose names begin with ``incomplete``, without those that were typed already."""
    try:
        given = ctx.params.get("names") or ()
        return [name for name in _names(incomplete) if name not in given]
    except Exception:  # noqa: BLE001 - whatever it is, a shell that is half-way through a line is no place to say it
        return []


def format_names(incomplete: str) -> list[str]:
    """The formats of ``kimiflow export`` that begin with ``incomplete``."""
    from kimiflow.formats import all_formats

    return [name for name in all_formats() if name.startswith(incomplete)]


def states(incomplete: str) -> list[str]:
    """The states of ``kimiflow status --state``; of a list the last one is completed."""
    from kimiflow.cli.selection import STATES

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in STATES if name.startswith(last)]


def _names(prefix: str) -> list[str]:
    home, url = _place()
    scheme, _, rest = url.partition(":")
    match scheme.partition("+")[0].lower():
        case "sqlite":
            return _from_file(Path(rest.removeprefix("///")) if rest else home / "kimiflow.db", prefix)
        case "postgresql" | "postgres":
            import asyncio

            return asyncio.run(_from_server(url, prefix))
    return []


def _place() -> tuple[Path, str]:
    """The home, and the database's URL; the settings proper take several times as long to load."""
    given = os.environ.get("KIMIFLOW_HOME")
    if given:
        home = Path(given).expanduser().absolute()
    else:
        import platformdirs

        home = platformdirs.user_data_path("kimiflow", appauthor=False)
    url = os.environ.get("KIMIFLOW_DATABASE_URL")
    if not url and (home / "config.toml").exists():
        import tomllib

        from kimiflow.files import read_regular

        url = tomllib.loads(read_regular(home / "config.toml").decode()).get("database_url")
    return home, url or "sqlite:"


def _from_file(path: Path, prefix: str) -> list[str]:
    if not path.exists():
        return []
    import sqlite3
    from urllib.parse import quote

    # Without a log beside it the file is all there is, and reading it must not make one.
    mode = "ro" if path.with_name(f"{path.name}-wal").exists() else "ro&immutable=1"
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode={mode}", uri=True, timeout=_PATIENCE)
    try:
        rows = connection.execute(
            "SELECT name FROM accounts WHERE substr(name, 1, ?) = ? ORDER BY name LIMIT ?", (len(prefix), prefix, _MOST)
        )
        return [name for (name,) in rows]
    finally:
        connection.close()


async def _from_server(url: str, prefix: str) -> list[str]:
    import asyncio

    from kimiflow.stores.address import Address

    async with asyncio.timeout(_PATIENCE):
        connection = await Address(url, {}).connect()
        try:
            rows = await connection.fetch(
                "SELECT name FROM accounts WHERE starts_with(name, $1) ORDER BY name LIMIT $2", prefix, _MOST
            )
        finally:
            connection.terminate()
    return [row["name"] for row in rows]

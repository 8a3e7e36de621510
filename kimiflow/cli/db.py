"""``kimiflow db``: the schema of the database."""

from __future__ import annotations

import asyncio

from kimiflow.cli.failures import FAILURE
from kimiflow.cli.running import settled_settings
from kimiflow.cli.talk import result, say
from kimiflow.errors import SchemaMismatch
from kimiflow.keys.loading import make_folder

__all__ = ["check", "current", "upgrade"]

_UPGRADE = "Bring it up to date with: kimiflow db upgrade"


def upgrade() -> int:
    """Runs ``kimiflow db upgrade``; returns the exit code."""
    from kimiflow.stores import migrate

    settings = settled_settings()

    async def body() -> tuple[str | None, str | None]:
        before = await migrate.current(settings.store_url)
        await migrate.upgrade(settings.store_url)
        return before, await migrate.current(settings.store_url)

    make_folder(settings.home)
    before, after = asyncio.run(body())
    result(f"{after}: nothing to do" if before == after else f"{before or 'empty'} -> {after}")
    return 0


def current() -> int:
    """Runs ``kimiflow db current``; returns the exit code."""
    from kimiflow.stores import migrate

    revision = asyncio.run(migrate.current(settled_settings().store_url))
    result(revision or "empty")
    return 0


def check() -> int:
    """Runs ``kimiflow db check``; returns the exit code."""
    from kimiflow.stores import migrate
    from kimiflow.stores.migrate import Standing

    report = asyncio.run(migrate.check(settled_settings().store_url))
    match report.standing:
        case Standing.CURRENT if not report.differences:
            result(f"{report.revision}: up to date")
            return 0
        case Standing.CURRENT:
            say(f"The database is at {report.revision}, but is not what this program declares:")
            for difference in report.differences:
                say(f"  {difference}")
        case Standing.EMPTY:
            say("There are no tables yet; the first command that needs them makes them, or: kimiflow db upgrade")
        case Standing.OLDER:
            say(f"The database is at {report.revision}, this program at {report.head}. {_UPGRADE}")
        case Standing.NEWER:
            raise SchemaMismatch(
                f"the database is at {report.revision}, which is newer than this program ({report.head})",
                hint="Upgrade kimiflow: pip install --upgrade kimiflow",
            )
    return FAILURE

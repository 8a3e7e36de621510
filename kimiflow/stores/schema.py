"""Which schema a database has, read without Alembic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from kimiflow.errors import SchemaMismatch
from kimiflow.stores.tables import HEAD, marks

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from kimiflow.stores.backend import Backend

__all__ = ["OLDEST_WRITER", "may_write", "newer", "revision_of"]

OLDEST_WRITER: Final = "oldest_writer"
"""Under which name a database keeps its revision, and the oldest one whose programs may still write it."""

_VERSION = sa.table("alembic_version", sa.column("version_num", sa.Text))


async def revision_of(backend: Backend, connection: AsyncConnection) -> str | None:
    """The revision of the database's schema; ``None`` where it has none of our tables yet.

    :raises SchemaMismatch: where the tables are not kimiflow's.
    """
    tables = await connection.run_sync(lambda sync: set(sa.inspect(sync).get_table_names()))
    if _VERSION.name not in tables:
        if backend.is_foreign(tables):
            raise SchemaMismatch(
                f"{backend.where} holds the tables of another program",
                hint="Give kimiflow a database of its own in KIMIFLOW_DATABASE_URL; nothing was changed.",
            )
        return None
    revisions = list(await connection.scalars(sa.select(_VERSION.c.version_num)))
    if len(revisions) > 1:
        raise newer(backend, ", ".join(sorted(revisions)))
    return revisions[0] if revisions else None


async def may_write(connection: AsyncConnection, revision: str) -> bool:
    """Whether this program may write a database that is newer than itself."""
    if revision <= HEAD or not await connection.run_sync(lambda sync: sa.inspect(sync).has_table(marks.name)):
        return False
    word: str | None = await connection.scalar(sa.select(marks.c.value).where(marks.c.name == OLDEST_WRITER))
    said_of, _, oldest = (word or "").partition(" ")
    return said_of == revision and bool(oldest) and oldest <= HEAD


def newer(backend: Backend, revision: str) -> SchemaMismatch:
    """The error for a revision that this program does not know."""
    return SchemaMismatch(
        f"{backend.where} has the schema {revision!r}, which this kimiflow does not know (its own is {HEAD!r})",
        hint="Upgrade kimiflow: the database was used by a newer one. Nothing was changed.",
    )

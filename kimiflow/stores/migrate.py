"""Alembic, driven by kimiflow: up, down, where a database stands, and whether it is what the program declares.

``alembic upgrade head`` in the top folder of the repository does the same, through the same ``migrations/env.py``.
A migration is one transaction that keeps every other process out, so that several may open a new database at once.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from kimiflow.errors import UsageError
from kimiflow.stores.backends import backend_for
from kimiflow.stores.schema import OLDEST_WRITER, newer, revision_of
from kimiflow.stores.tables import HEAD, marks, metadata, put
from kimiflow.stores.trouble import trouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kimiflow.stores.backend import Backend

__all__ = [
    "SchemaReport",
    "Standing",
    "check",
    "check_known",
    "configuration",
    "current",
    "downgrade",
    "folder",
    "note_oldest_writer",
    "run",
    "run_at",
    "to_head",
    "upgrade",
]


class Standing(Enum):
    """A database's schema, compared with the program's."""

    EMPTY = "empty"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


@dataclass(frozen=True, slots=True)
class SchemaReport:
    """Where a database stands."""

    revision: str | None
    head: str
    standing: Standing
    differences: tuple[str, ...] = ()
    """What a current database has that the program does not declare, or the other way round: one line each."""


def folder() -> Path:
    """Where the migrations are: in the installed package, or at the top of the repository."""
    package = Path(__file__).parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def configuration(connection: sa.Connection | None = None) -> Config:
    """Alembic's configuration, without an ``alembic.ini``; ``connection`` is used as it is, in its transaction."""
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def to_head(connection: sa.Connection) -> None:
    """Migrates to the newest schema; nothing to do where another process was faster."""
    command.upgrade(configuration(connection), "head")


def note_oldest_writer(connection: sa.Connection) -> None:
    """Has the database say which programs may still write it; see :mod:`kimiflow.stores.opening`."""
    if not sa.inspect(connection).has_table(marks.name):
        return
    revision = MigrationContext.configure(connection).get_current_revision()
    applied = ScriptDirectory.from_config(configuration()).iterate_revisions(revision, "base")
    oldest = max(getattr(script.module, OLDEST_WRITER, script.revision) for script in applied)
    word = {"name": OLDEST_WRITER, "value": f"{revision} {oldest}"}
    if connection.scalar(sa.select(marks.c.value).where(marks.c.name == OLDEST_WRITER)) != word["value"]:
        connection.execute(put(marks), word)


async def run(backend: Backend, act: Callable[[sa.Connection], None]) -> None:
    """Does ``act`` while nobody else migrates; all of it, or nothing."""
    async with backend.writer.begin() as connection:
        await backend.alone(connection)
        await connection.run_sync(act)


async def check_known(backend: Backend, revision: str | None) -> None:
    """Looks the revision up among the scripts.

    :raises SchemaMismatch: where it is not there.
    """
    if revision is not None and not await asyncio.to_thread(_known, revision):
        raise newer(backend, revision)


def _known(revision: str) -> bool:
    scripts = ScriptDirectory.from_config(configuration())
    return any(script.revision == revision for script in scripts.walk_revisions())


async def upgrade(url: str, revision: str = "head") -> None:
    """Migrates up to ``revision``, and makes the database where there is none.

    :raises SchemaMismatch: where the database is newer than this program, or somebody else's.
    :raises UsageError: where there is no such revision, or it is not above the database's.
    """
    await run_at(url, lambda connection: command.upgrade(configuration(connection), revision))


async def run_at(url: str, act: Callable[[sa.Connection], None]) -> None:
    """Does ``act`` to the database at ``url``, which is made where it is missing, while nobody else migrates.

    :raises SchemaMismatch: as :func:`upgrade`; then ``act`` is not called.
    """
    async with _opened(url) as backend:
        await backend.make()
        await _move(backend, act)


async def downgrade(url: str, revision: str) -> None:
    """Migrates down to ``revision``; ``base`` takes all tables away, with all that is in them.

    :raises SchemaMismatch: as :func:`upgrade`.
    :raises UsageError: where there is no such revision, or it is not below the database's.
    """
    async with _opened(url) as backend:
        if not await backend.exists():
            raise UsageError(f"{backend.where} is not there", hint="Look at KIMIFLOW_DATABASE_URL.")
        await _move(backend, lambda connection: command.downgrade(configuration(connection), revision))


async def _move(backend: Backend, act: Callable[[sa.Connection], None]) -> None:
    async with backend.reader.connect() as connection:
        revision = await revision_of(backend, connection)
    await check_known(backend, revision)
    await backend.settle_in()
    try:
        await run(backend, act)
    except CommandError as error:
        raise UsageError(f"the schema cannot be moved there: {error}", hint="See: kimiflow db check") from None


async def current(url: str) -> str | None:
    """The revision of the database; ``None`` where it has no tables yet. Makes nothing.

    :raises SchemaMismatch: where the tables are somebody else's.
    """
    async with _opened(url) as backend:
        return await _current(backend)


async def _current(backend: Backend) -> str | None:
    if not await backend.exists():
        return None
    async with backend.reader.connect() as connection:
        return await revision_of(backend, connection)


async def check(url: str) -> SchemaReport:
    """Compares the database with what this program declares. Changes nothing.

    :raises SchemaMismatch: where the tables are somebody else's.
    """
    async with _opened(url) as backend:
        revision = await _current(backend)
        if revision is None:
            return SchemaReport(None, HEAD, Standing.EMPTY)
        if revision != HEAD:
            known = await asyncio.to_thread(_known, revision)
            return SchemaReport(revision, HEAD, Standing.OLDER if known else Standing.NEWER)
        async with backend.reader.connect() as connection:
            return SchemaReport(revision, HEAD, Standing.CURRENT, await connection.run_sync(_differences))


def _differences(connection: sa.Connection) -> tuple[str, ...]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return tuple(_told(difference) for difference in compare_metadata(context, metadata))


def _told(difference: object) -> str:
    # Alembic's own form: ("add_index", Index(…)), or a list of changes to one column.
    if isinstance(difference, list):
        return "; ".join(_told(part) for part in difference)
    return " ".join(str(part) for part in difference) if isinstance(difference, tuple) else str(difference)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[Backend]:
    backend = backend_for(url)
    with trouble(backend.where):
        try:
            yield backend
        finally:
            await backend.close()

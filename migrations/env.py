"""What Alembic runs around the migrations, from the command line and from kimiflow itself.

kimiflow hands a connection over, with a transaction that keeps everybody else out. On the command line the
database is ``-x url=…``, else ``KIMIFLOW_DATABASE_URL``, else the one that kimiflow uses by itself.
"""

from __future__ import annotations

import asyncio
import os
from logging.config import fileConfig
from typing import TYPE_CHECKING

from alembic import context

from kimiflow.stores import migrate
from kimiflow.stores.tables import metadata

if TYPE_CHECKING:
    import sqlalchemy as sa

config = context.config


def database_url() -> str:
    given = context.get_x_argument(as_dictionary=True).get("url") or os.environ.get("KIMIFLOW_DATABASE_URL")
    if given:
        return given
    # Only who has no URL needs the settings.
    from kimiflow.settings import load_settings  # noqa: PLC0415

    return load_settings().store_url


def run(connection: sa.Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        compare_type=True,
        # SQLite changes a column by building its table anew.
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()
        migrate.note_oldest_writer(connection)


async def run_from_the_command_line() -> None:
    await migrate.run_at(database_url(), run)


def print_sql() -> None:
    """``alembic upgrade head --sql``."""
    scheme = database_url().partition(":")[0].partition("+")[0]
    dialect = "postgresql" if scheme == "postgres" else scheme
    context.configure(dialect_name=dialect, target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)

if context.is_offline_mode():
    print_sql()
elif config.attributes.get("connection") is not None:
    run(config.attributes["connection"])
else:
    asyncio.run(run_from_the_command_line())

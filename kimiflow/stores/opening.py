"""A database's first look: whose it is, and whether it has to be migrated.

Programs of two releases may share a database while one replaces the other, because a migration first only adds
(*expands*); what nobody reads any more goes one release later (*contracts*). So

- a program that is newer than the schema migrates it, and those that have it open go on as before;
- a program that is older opens it where each migration since its own says, by its ``oldest_writer``, that it may still
  write; the database itself keeps the word of the newest one, for the older program does not have its script;
- any other older program is refused when it opens the database, and changes nothing.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import TYPE_CHECKING

from kimiflow.stores.schema import may_write, revision_of
from kimiflow.stores.tables import HEAD

if TYPE_CHECKING:
    from kimiflow.stores.backend import Backend

__all__ = ["bring_up_to_date"]


async def bring_up_to_date(backend: Backend) -> None:
    """Migrates to the schema of this program; one read where it is there already.

    :raises SchemaMismatch: where the schema is newer, or somebody else's. Then nothing is touched.
    """
    async with backend.reader.connect() as connection:
        revision = await revision_of(backend, connection)
        welcome = revision == HEAD or (revision is not None and await may_write(connection, revision))
    if welcome:
        await backend.settle_in()
        return
    # Alembic takes longer to import than everything else to run: only who needs it pays for it, and not on the loop.
    await asyncio.to_thread(import_module, "kimiflow.stores.migrate")
    from kimiflow.stores import migrate  # noqa: PLC0415

    await migrate.check_known(backend, revision)
    await backend.settle_in()
    await migrate.run(backend, migrate.to_head)

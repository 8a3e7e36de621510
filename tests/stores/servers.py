"""A PostgreSQL server for the tests: one of their own, or the one that ``KIMIFLOW_TEST_POSTGRES_URL`` names."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from tests.postgres import VARIABLE, our_own


@dataclass(frozen=True)
class PostgresqlServer:
    url: sa.URL

    def new_database(self, name: str) -> str:
        """The URL of a new and empty database."""
        import asyncpg

        async def create() -> None:
            connection = await asyncpg.connect(self.url.render_as_string(hide_password=False))
            await connection.execute(f'CREATE DATABASE "{name}"')
            await connection.close()

        # A loop of its own, in a thread of its own: fixtures may be inside a running one.
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, create()).result()
        return self.url.set(database=name).render_as_string(hide_password=False)


@contextmanager
def running_postgresql(*, durable: bool = False) -> Iterator[PostgresqlServer]:
    """The one that is named, or one that runs as long as the block; ``durable`` is as in :func:`our_own`."""
    given = os.environ.get(VARIABLE)
    if given:
        yield PostgresqlServer(sa.make_url(given))
        return
    with our_own(durable=durable) as server:
        yield PostgresqlServer(server.url)

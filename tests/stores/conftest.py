"""The stores that the contract is held against."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from kimiflow.stores.base import Store
from kimiflow.stores.memory import MemoryStore
from kimiflow.stores.registry import open_store

from .servers import PostgresqlServer, running_postgresql


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresqlServer]:
    """One server for the whole run."""
    with running_postgresql() as server:
        yield server


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a test's SQLite database is to be."""
    return f"sqlite:///{tmp_path / 'kimiflow.db'}"


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, url: str) -> str:
    """An empty place for a store of each kind."""
    match request.param:
        case "memory":
            return "memory://"
        case "postgresql":
            server: PostgresqlServer = request.getfixturevalue("postgresql")
            return server.new_database(f"kimiflow_{uuid.uuid4().hex}")
        case _:
            return url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """An opened and empty store of each kind."""
    opened = open_store(store_url)
    await opened.open()
    yield opened
    await opened.close()


@pytest.fixture
async def peer(store: Store, store_url: str) -> AsyncIterator[Store]:
    """A second store object on the same data; in memory there is only the one."""
    if isinstance(store, MemoryStore):
        yield store
        return
    other = open_store(store_url)
    await other.open()
    yield other
    await other.close()

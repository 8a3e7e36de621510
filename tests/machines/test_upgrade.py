"""A release takes the place of another, on a database that both have open."""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from kimiflow.errors import SchemaMismatch
from kimiflow.stores import migrate, opening, schema, tables
from kimiflow.stores.base import Outcome
from kimiflow.stores.migrate import Standing
from kimiflow.stores.sql import SqlStore
from tests.stores.contract.making import NOW, account, claim_one, granted, issue, now_granted, pending, poll

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIRST = "0001"
LEVELS = ["0001", "0002", "0003", "0004", "0005"]


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> object:
    """Makes this program one of another level."""

    def be(level: str) -> None:
        for module in (opening, schema, migrate):
            monkeypatch.setattr(module, "HEAD", level)

    return be


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore(url)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def write_as_before(url: str, *names: str) -> None:
    """Accounts as a program of the first release writes them: with no column that came later."""
    backend = migrate.backend_for(url)
    columns = "id, name, provider, device_id, proxy, created_at"
    async with backend.writer.begin() as connection:
        for name in names:
            values = {"id": f"acc-{name}", "name": name, "at": NOW}
            await connection.execute(
                sa.text(f"INSERT INTO accounts ({columns}) VALUES (:id, :name, 'kimi', 'device', NULL, :at)"), values
            )
    await backend.close()


async def test_a_newer_program_migrates_and_goes_on_with_what_there_is(database_url: str) -> None:
    await migrate.upgrade(database_url, FIRST)
    await write_as_before(database_url, "ann", "bob")
    async with opened(database_url) as store:
        assert await migrate.current(database_url) == tables.HEAD
        rows = [pending("a", "ann"), granted("b", "bob")]
        assert [await store.begin([_beginning(row)]) for row in rows] == [[True], [True]]
        claims = await store.claim_due("new", NOW, 60.0, 10)
        assert await store.commit([now_granted(claim, NOW) for claim in claims]) == [Outcome.COMMITTED] * 2


def _beginning(row: object) -> object:
    from tests.stores.contract.making import beginning

    return beginning(row)  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [level for level in LEVELS if level < tables.HEAD and level > FIRST])
async def test_an_older_program_that_has_it_open_goes_on_beside_the_newer_one(
    database_url: str, at: object, level: str
) -> None:
    """What was claimed before the migration is committed after it, and the other way round."""
    await migrate.upgrade(database_url, level)
    await write_as_before(database_url, "ann", "bob")
    at(level)  # type: ignore[operator]
    async with opened(database_url) as older:
        assert await migrate.current(database_url) == level
        async with migrate._opened(database_url) as backend, backend.writer.begin() as connection:
            rows = [("a", "ann"), ("b", "bob")]
            for row_id, name in rows:
                await connection.execute(
                    _INSERT, {"id": row_id, "account": f"acc-{name}", "at": NOW, "code": NOW + 900}
                )
        held = await _claim(database_url, "older", "a")
        at(tables.HEAD)  # type: ignore[operator]
        async with opened(database_url) as newer:
            assert await migrate.current(database_url) == tables.HEAD
            claims = await newer.claim_due("newer", NOW, 60.0, 10)
            assert [claim.authorization.id for claim in claims] == ["b"]
            assert held == 1
            # The older program's commit: the columns that it knows, under the fence that it knows.
            assert await _commit(database_url, "older", "a") == 1
            (again,) = await newer.claim_due("newer", NOW + 5, 60.0, 10)
            assert (again.authorization.id, again.generation) == ("a", 2)
            assert await _commit(database_url, "older", "a") == 0
            steps = [poll(claim, NOW + 6) for claim in (*claims, again)]
            assert await newer.commit(steps) == [Outcome.COMMITTED] * 2
        assert await older.next_due() == NOW + 11


_INSERT = sa.text(
    "INSERT INTO authorizations (id, account_id, state, created_at, updated_at, next_attempt_at, attempts, "
    "token_version, device_code, code_expires_at, interval, claimable_at, generation) "
    "VALUES (:id, :account, 'pending', :at, :at, :at, 0, 1, 'key.code', :code, 5, :at, 0)"
)
_CLAIM = sa.text(
    "UPDATE authorizations SET lease_owner = :owner, claimable_at = :until, generation = generation + 1 WHERE id = :id"
)
_COMMIT = sa.text(
    "UPDATE authorizations SET lease_owner = NULL, claimable_at = :next, next_attempt_at = :next, updated_at = :at "
    "WHERE id = :id AND lease_owner = :owner AND generation = 1"
)


async def _claim(url: str, owner: str, row_id: str) -> int:
    async with migrate._opened(url) as backend, backend.writer.begin() as connection:
        done = await connection.execute(_CLAIM, {"owner": owner, "until": NOW + 60, "id": row_id})
        return done.rowcount


async def _commit(url: str, owner: str, row_id: str) -> int:
    async with migrate._opened(url) as backend, backend.writer.begin() as connection:
        values = {"owner": owner, "next": NOW + 5, "at": NOW, "id": row_id}
        return (await connection.execute(_COMMIT, values)).rowcount


@pytest.fixture
def later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The script of the release after this one, which only adds."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    script = folder / "versions" / "later.py"
    script.write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f'revision, down_revision, oldest_writer = "0999", "{tables.HEAD}", "{tables.HEAD}"\n'
        "def upgrade():\n"
        '    op.add_column("authorizations", sa.Column("later", sa.Text))\n'
        "def downgrade():\n"
        '    op.drop_column("authorizations", "later")\n'
    )
    monkeypatch.setattr(migrate, "folder", lambda: folder)
    return script


@pytest.mark.usefixtures("later")
async def test_this_program_has_it_open_while_the_next_one_expands_it(database_url: str) -> None:
    async with opened(database_url) as store:
        await issue(store, pending("a", "ann"), pending("b", "bob"))
        first = await store.claim_due("this", NOW, 60.0, 1)
        await migrate.upgrade(database_url)
        second = await store.claim_due("this", NOW, 60.0, 1)
        steps = [now_granted(claim, NOW) for claim in (*first, *second)]
        assert await store.commit(steps) == [Outcome.COMMITTED] * 2
        assert len(await store.history("acc-ann")) == 2


async def test_this_program_opens_what_the_next_one_expanded(
    database_url: str, later: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate.upgrade(database_url)
    # Only the next program has the script; this one has the word of the database.
    later.unlink()
    monkeypatch.undo()
    async with opened(database_url) as store:
        await issue(store, pending())
        assert await store.commit([now_granted(await claim_one(store), NOW)]) == [Outcome.COMMITTED]
        await store.add_accounts([account("bob")])
    assert await migrate.current(database_url) == "0999"
    assert (await migrate.check(database_url)).standing is Standing.NEWER
    # To move it is for who knows the scripts.
    for act in (migrate.upgrade(database_url), migrate.downgrade(database_url, FIRST)):
        with pytest.raises(SchemaMismatch, match="'0999', which this kimiflow does not know"):
            await act


@pytest.mark.parametrize("line", ['"0998"', '"0999"', "None"])
async def test_this_program_is_refused_where_the_next_one_contracted(
    database_url: str, later: Path, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = later.read_text()
    if line == "None":
        # A script that does not say who may still write lets nobody.
        text = text.replace(", oldest_writer", "").replace(f', "{tables.HEAD}"\n', "\n")
    else:
        text = text.replace(f'"{tables.HEAD}"\n', f"{line}\n")
    later.write_text(text)
    await migrate.upgrade(database_url)
    later.unlink()
    monkeypatch.undo()
    with pytest.raises(SchemaMismatch, match="'0999', which this kimiflow does not know") as caught:
        await SqlStore(database_url).open()
    assert "Upgrade kimiflow" in caught.value.hint
    assert await migrate.current(database_url) == "0999"


async def test_every_level_says_who_may_write(database_url: str) -> None:
    told = []
    for level in (*LEVELS[1:], *([tables.HEAD] if tables.HEAD not in LEVELS else [])):
        await migrate.upgrade(database_url, level)
        async with migrate._opened(database_url) as backend, backend.reader.connect() as connection:
            told.append(await connection.scalar(sa.text("SELECT value FROM marks WHERE name = 'oldest_writer'")))
    assert told == [f"{level} 0001" for level in LEVELS[1:]]
    await migrate.downgrade(database_url, "0002")
    async with migrate._opened(database_url) as backend, backend.reader.connect() as connection:
        assert await connection.scalar(sa.text("SELECT value FROM marks WHERE name = 'oldest_writer'")) == "0002 0001"

"""The schema: made, moved, recognised, and the same by every road."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from kimiflow.errors import SchemaMismatch, UsageError
from kimiflow.stores import migrate, opening, schema, tables
from kimiflow.stores.migrate import Standing
from kimiflow.stores.sql import SqlStore

from .contract.making import NOW, granted, issue, requested

REPOSITORY = Path(__file__).parents[2]


def path_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def schema_of(path: Path) -> dict[str, list[str]]:
    """The statements that made a database, without the differences that mean nothing: white space, the order of columns."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    connection.close()
    made = {
        name: sorted(re.sub(r"\s+", " ", sql.strip(" )")).split(", "))
        for name, sql in rows
        if not name.startswith("sqlite_")
    }
    made.pop("alembic_version", None)
    return made


async def opened(url: str) -> SqlStore:
    store = SqlStore(url)
    await store.open()
    return store


async def test_the_migrated_schema_is_the_declared_one(url: str, tmp_path: Path) -> None:
    await (await opened(url)).close()
    declared = tmp_path / "declared.db"
    engine = sa.create_engine(f"sqlite:///{declared}")
    tables.metadata.create_all(engine)
    engine.dispose()
    assert schema_of(path_of(url)) == schema_of(declared)
    report = await migrate.check(url)
    assert (report.standing, report.revision, report.differences) == (Standing.CURRENT, tables.HEAD, ())


def test_the_program_knows_the_newest_script() -> None:
    scripts = ScriptDirectory.from_config(migrate.configuration())
    assert scripts.get_heads() == [tables.HEAD]


async def test_a_difference_is_told(url: str) -> None:
    await (await opened(url)).close()
    raw = sqlite3.connect(path_of(url))
    raw.execute("DROP INDEX ix_authorizations_claimable_at")
    raw.execute("ALTER TABLE accounts ADD COLUMN shoe_size INTEGER")
    raw.close()
    told = "\n".join((await migrate.check(url)).differences)
    assert "ix_authorizations_claimable_at" in told
    assert "shoe_size" in told


async def test_down_and_up_again(url: str) -> None:
    store = await opened(url)
    await issue(store, granted())
    await store.close()
    before = schema_of(path_of(url))
    await migrate.downgrade(url, "base")
    assert schema_of(path_of(url)) == {}
    assert await migrate.current(url) is None
    assert (await migrate.check(url)).standing is Standing.EMPTY
    await migrate.upgrade(url)
    assert schema_of(path_of(url)) == before
    await migrate.upgrade(url)
    store = await opened(url)
    assert await store.snapshots() == []
    await store.close()


@pytest.fixture
def next_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The program as it may be one revision later."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.folder(), folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "later.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f'revision, down_revision = "0999", "{tables.HEAD}"\n'
        "def upgrade():\n"
        '    with op.batch_alter_table("authorizations") as table:\n'
        '        table.add_column(sa.Column("later", sa.Text))\n'
        "def downgrade():\n"
        '    with op.batch_alter_table("authorizations") as table:\n'
        '        table.drop_column("later")\n'
    )
    monkeypatch.setattr(migrate, "folder", lambda: folder)
    return "0999"


async def test_what_is_stored_survives_the_way_up_and_down(url: str, next_revision: str) -> None:
    row = granted()
    rests = requested("two", "bob", state=granted().state, next_attempt_at=None)
    # Made by today's program.
    await migrate.upgrade(url, tables.HEAD)
    store = await opened(url)
    await issue(store, row, rests)
    before, history = await store.snapshots(), await store.history("acc-ann")
    await store.close()
    made = schema_of(path_of(url))

    await migrate.upgrade(url)
    assert await migrate.current(url) == next_revision
    assert schema_of(path_of(url)) != made
    await migrate.downgrade(url, "-1")
    assert await migrate.current(url) == tables.HEAD

    store = await opened(url)
    assert await store.snapshots() == before
    assert await store.history("acc-ann") == history
    assert len(await store.claim_due("A", NOW, 60, 10)) == 1
    await store.close()


async def test_an_older_database_is_migrated_when_it_is_opened(
    url: str, next_revision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate.upgrade(url, tables.HEAD)
    for module in (opening, schema, migrate):
        monkeypatch.setattr(module, "HEAD", next_revision)
    assert (await migrate.check(url)).standing is Standing.OLDER
    await (await opened(url)).close()
    assert await migrate.current(url) == next_revision


async def test_a_newer_database_is_refused_and_untouched(url: str) -> None:
    await (await opened(url)).close()
    path = path_of(url)
    raw = sqlite3.connect(path)
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    for act in (
        lambda: SqlStore(url).open(),
        lambda: migrate.upgrade(url),
        lambda: migrate.downgrade(url, "base"),
        lambda: migrate.downgrade(url, "0001"),
    ):
        with pytest.raises(SchemaMismatch, match="'9999', which this kimiflow does not know") as caught:
            await act()
        assert "Upgrade kimiflow" in caught.value.hint
    assert (await migrate.check(url)).standing is Standing.NEWER
    assert await migrate.current(url) == "9999"
    assert path.read_bytes() == before


async def test_looking_makes_nothing(url: str) -> None:
    assert await migrate.current(url) is None
    assert (await migrate.check(url)).standing is Standing.EMPTY
    with pytest.raises(UsageError, match="is not there"):
        await migrate.downgrade(url, "base")
    assert not path_of(url).exists()


async def test_a_revision_that_is_not_there(url: str) -> None:
    with pytest.raises(UsageError, match="nonsense"):
        await migrate.upgrade(url, "nonsense")
    assert schema_of(path_of(url)) == {}


async def test_a_migration_that_fails_leaves_nothing(url: str, next_revision: str) -> None:
    script = migrate.folder() / "versions" / "later.py"
    script.write_text(script.read_text().replace("def downgrade", "    raise RuntimeError('halfway')\ndef downgrade"))
    with pytest.raises(RuntimeError, match="halfway"):
        await migrate.upgrade(url)
    assert schema_of(path_of(url)) == {}
    assert await migrate.current(url) is None


def alembic(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=REPOSITORY,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
    )


async def test_alembic_itself_makes_the_same(url: str, tmp_path: Path) -> None:
    by_store = tmp_path / "by-store.db"
    await (await opened(f"sqlite:///{by_store}")).close()
    path = path_of(url)

    alembic("upgrade", "head", KIMIFLOW_DATABASE_URL=url)
    assert schema_of(path) == schema_of(by_store)
    assert path.stat().st_mode & 0o777 == 0o600
    assert f"{tables.HEAD} (head)" in alembic("-x", f"url={url}", "current").stdout
    assert "No new upgrade operations" in alembic("-x", f"url={url}", "check").stdout
    alembic("-x", f"url={url}", "downgrade", "base", KIMIFLOW_DATABASE_URL="nowhere://")
    assert schema_of(path) == {}

    home = tmp_path / "home"
    alembic("upgrade", "head", KIMIFLOW_HOME=str(home))
    assert schema_of(home / "kimiflow.db") == schema_of(by_store)


def test_alembic_writes_sql(url: str) -> None:
    script = alembic("-x", f"url={url}", "upgrade", "head", "--sql").stdout
    assert "CREATE TABLE authorizations" in script
    assert not path_of(url).exists()


async def test_many_processes_open_a_new_database_at_once(url: str) -> None:
    store = "tests.stores.children"
    children = [
        subprocess.Popen(
            [sys.executable, "-m", store, "open_and_begin", url],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for child in children:
        assert child.stdout is not None
        assert await asyncio.to_thread(child.stdout.readline) == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    ends = [await asyncio.to_thread(child.communicate) for child in children]
    assert [child.returncode for child in children] == [0] * 6, ends
    assert {out for out, _ in ends} == {"[False]\n"}
    assert (await migrate.check(url)).standing is Standing.CURRENT


def test_opening_a_current_database_needs_no_alembic(url: str) -> None:
    told = [
        subprocess.run(
            [sys.executable, "-m", "tests.stores.children", "open_and_tell_of_alembic", url],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for _ in range(2)
    ]
    assert told == ["True\n", "False\n"]

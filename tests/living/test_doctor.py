"""``kimiflow doctor``: each thing that may be wrong is found, has a line, and that line says what to do."""

from __future__ import annotations

import os
import shutil
import threading
import time
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow.settings import load_settings
from tests.formats.house import Done, House
from tests.living.test_key_rotation import execute, key_file
from tests.living.test_small import OTHER, unused_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECKS = ["files", "disk", "unsaved", "database", "schema", "key", "clock", "workers", "proxy", "server"]


@pytest.fixture
def home(house: House, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One where nothing is wrong, and nothing outside of this machine is asked."""
    monkeypatch.setenv("KIMIFLOW_API_BASE", f"{house.sandbox.url}/coding")
    place = load_settings().home
    place.chmod(0o700)
    (place / "kimiflow.db").chmod(0o600)
    house.sign_in("work")
    return place


def wrong(done: Done) -> dict[str, dict[str, Any]]:
    """What is wrong, by its check; each has something to do."""
    found = {each["check"]: each for each in done.json if not each["ok"]}
    assert all(each["todo"] for each in found.values()), found
    assert done.code == (1 if found else 0)
    return found


def test_where_all_is_well(house: House, home: Path) -> None:
    before = {each.name: each.stat().st_mtime_ns for each in home.iterdir() if each.suffix != ".db-shm"}
    plain, told = house.good("doctor"), house.good("doctor", "--json")
    assert [each["check"] for each in told.json] == CHECKS
    assert all(each.keys() == {"check", "ok", "what", "todo"} and each["ok"] for each in told.json)
    assert [line.split()[:2] for line in plain.out.splitlines()] == [["ok", check] for check in CHECKS]
    after = {each.name: each.stat().st_mtime_ns for each in home.iterdir() if each.suffix != ".db-shm"}
    assert before == after, "it only looks"
    assert not house.sandbox.log("refresh")


def test_before_anything_was_made_it_makes_nothing(house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMIFLOW_HOME", str(home / "new"))
    monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", house.sandbox.url)
    assert not wrong(house.good("doctor", "--json"))
    assert not (home / "new").exists()


def test_settings(house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMIFLOW_CONCURRENCY", "many")
    found = wrong(house("doctor", "--json"))
    assert "KIMIFLOW_CONCURRENCY is 'many'" in found["settings"]["what"]
    plain = house("doctor").out.splitlines()
    assert (plain[0].split()[:2], plain[1].strip()[:2]) == (["BAD", "settings"], "->")


def test_a_server_that_is_elsewhere_now(house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    house.sign_in("spare")
    monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", "http://127.0.0.1:9")
    found = wrong(house("doctor", "--json"))
    assert f"spare was signed in at {house.sandbox.url}, but KIMIFLOW_OAUTH_HOST says" in found["origin"]["what"]
    assert "Unset KIMIFLOW_OAUTH_HOST" in found["origin"]["todo"]


def test_files_that_others_can_read(house: House, home: Path) -> None:
    key_file().chmod(0o644)
    home.chmod(0o755)
    found = wrong(house("doctor", "--json"))
    assert list(found) == ["files"]
    assert found["files"]["todo"] == f"chmod 700 {home}; chmod 600 {key_file()}"
    assert os.system(found["files"]["todo"]) == 0
    assert not wrong(house("doctor", "--json")), "that was it"


def test_a_full_disk(house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 3 * 2**20))  # type: ignore[attr-defined]
    assert wrong(house("doctor", "--json"))["disk"]["what"].endswith("has room for 3 MiB only")


def test_results_that_the_database_does_not_have(house: House, home: Path) -> None:
    file = home / "unsaved-1-abc.json"
    file.write_text("[]")
    file.chmod(0o600)
    assert not wrong(house("doctor", "--json")), "its worker may be about to"
    os.utime(file, (time.time() - 120, time.time() - 120))
    assert str(file) in wrong(house("doctor", "--json"))["unsaved"]["what"]


class TestTheKey:
    def test_is_missing(self, house: House, home: Path) -> None:
        key_file().unlink()
        found = wrong(house("doctor", "--json"))["key"]
        assert "work" in found["what"]
        assert "kimiflow key new" in found["todo"]
        assert not key_file().exists()

    def test_is_another(self, house: House, home: Path) -> None:
        key_file().write_text(OTHER)
        assert "does not open the secrets of 1 account: work" in wrong(house("doctor", "--json"))["key"]["what"]

    def test_is_none(self, house: House, home: Path) -> None:
        key_file().write_text("hunter2")
        done = house("doctor", "--json")
        assert "is not a key" in wrong(done)["key"]["what"]
        assert "hunter2" not in done.out

    def test_is_half_way_to_another(self, house: House, home: Path) -> None:
        key_file().write_text(f"{OTHER}\n{key_file().read_text()}")
        assert wrong(house("doctor", "--json"))["key"]["todo"] == "kimiflow key rotate"
        house.good("key", "rotate")
        assert not wrong(house("doctor", "--json"))


class TestTheDatabase:
    @pytest.mark.parametrize(("revision", "todo"), [("0001", "kimiflow db upgrade"), ("9999", "pip install --upgrade")])
    def test_has_another_schema(self, house: House, home: Path, revision: str, todo: str) -> None:
        execute("UPDATE alembic_version SET version_num = ?", revision)
        found = wrong(house("doctor", "--json"))
        assert revision in found["schema"]["what"]
        assert todo in found["schema"]["todo"]

    def test_was_changed_by_somebody(self, house: House, home: Path) -> None:
        execute("ALTER TABLE accounts ADD COLUMN extra TEXT")
        assert "extra" in wrong(house("doctor", "--json"))["schema"]["what"]

    def test_is_no_database(self, house: House, home: Path) -> None:
        for file in home.glob("kimiflow.db*"):
            file.unlink()
        (home / "kimiflow.db").write_text("something else, and long enough to be looked at" * 10)
        (home / "kimiflow.db").chmod(0o600)
        assert "is no SQLite database" in wrong(house("doctor", "--json"))["database"]["what"]

    def test_is_away(self, house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        port = unused_port()
        monkeypatch.setenv("KIMIFLOW_DATABASE_URL", f"postgresql://me:s3cret@127.0.0.1:{port}/x")
        done = house("doctor", "--json")
        found = wrong(done)["database"]
        assert f"connection refused (127.0.0.1:{port})" in found["what"]
        assert "KIMIFLOW_DATABASE_URL" in found["todo"]
        assert "s3cret" not in done.out

    def test_has_a_time_of_its_own(self, house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async def later(*_: object) -> float:
            return time.time() + 3_600

        monkeypatch.setattr("kimiflow.doctor.storage._now", later)
        assert "ahead of this machine's" in wrong(house("doctor", "--json"))["clock"]["what"]


class TestWorkers:
    def test_that_went_silent(self, house: House, home: Path) -> None:
        seen = time.time() - 600
        execute("INSERT INTO workers VALUES ('host:1:abcd', 'host', ?, 0, ?)", seen - 60, seen)
        assert "host:1:abcd (10 min ago)" in wrong(house("doctor", "--json"))["workers"]["what"]

    def test_that_there_are_not(self, house: House, home: Path) -> None:
        execute("UPDATE authorizations SET next_attempt_at = ?", time.time() - 600)
        found = wrong(house("doctor", "--json"))["workers"]
        assert ("work" in found["what"], found["todo"]) == (True, "kimiflow run")


class Slow(BaseHTTPRequestHandler):
    """A server whose clock is an hour behind."""

    def do_GET(self) -> None:
        self.send_response_only(200)
        self.send_header("Date", formatdate(time.time() - 3_600, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def behind() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class TestServers:
    def test_that_cannot_be_reached(self, house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        port = unused_port()
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", f"http://127.0.0.1:{port}")
        found = wrong(house("doctor", "--json"))
        assert list(found) == ["origin", "server"]
        assert f"http://127.0.0.1:{port} cannot be reached: connection refused" in found["server"]["what"]

    def test_that_have_another_time(
        self, house: House, home: Path, monkeypatch: pytest.MonkeyPatch, behind: str
    ) -> None:
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", behind)
        found = wrong(house("doctor", "--json"))
        assert list(found) == ["origin", "time"]
        assert f"ahead of {behind}" in found["time"]["what"]

    def test_behind_a_proxy_that_is_away(self, house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        port = unused_port()
        monkeypatch.setenv("KIMIFLOW_PROXY", f"http://me:s3cret@127.0.0.1:{port}")
        done = house("doctor", "--json")
        assert f"through http://127.0.0.1:{port}" in wrong(done)["server"]["what"]
        assert "s3cret" not in done.out

    def test_behind_a_proxy_that_nobody_knows(self, house: House, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KIMIFLOW_PROXY", "env:NOBODY_HAS_SET_THIS")
        assert "NOBODY_HAS_SET_THIS" in wrong(house("doctor", "--json"))["proxy"]["what"]

    def test_of_a_provider_that_is_not_known_any_more(self, house: House, home: Path) -> None:
        execute("UPDATE accounts SET provider = 'gone'")
        found = wrong(house("doctor", "--json"))["provider"]
        assert ("work" in found["what"], "[providers.gone]" in found["todo"]) == (True, True)

"""``kimiflow key rotate`` and ``check``: while others work, and after a kill at any moment."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow.keys.keyring import parse_keys
from kimiflow.sandbox.server import Sandbox
from kimiflow.settings import load_settings
from tests.cli.processes import until
from tests.formats.house import House, mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimiflow.sandbox.threads import ThreadedSandbox


def key_file() -> Path:
    return load_settings().key_path


def key_ids() -> list[str]:
    return list(parse_keys("it", key_file().read_text()).key_ids)


def rows() -> dict[str, dict[str, Any]]:
    """Every authorization, by its id."""
    with sqlite3.connect(load_settings().home / "kimiflow.db") as database:
        database.row_factory = sqlite3.Row
        found = {row["id"]: dict(row) for row in database.execute("SELECT * FROM authorizations")}
    database.close()
    return found


def execute(statement: str, *values: Any) -> None:
    database = sqlite3.connect(load_settings().home / "kimiflow.db")
    with database:
        database.execute(statement, values)
    database.close()


SECRETS = ("device_code", "access_token", "refresh_token")


def test_everything_is_sealed_anew_and_nothing_else_changes(house: House) -> None:
    house.sign_in("work", "home")
    house.good("login", "later", "--no-wait")
    tokens = {name: house.good("token", name).out for name in ("work", "home")}
    (old,), before = key_ids(), rows()

    done = house.good("key", "rotate")
    (new,) = key_ids()
    assert new != old
    assert done.out == f"Everything is sealed with key {new} now; 3 rows sealed anew.\n"
    assert f"The old key {old} was dropped" in done.err
    assert mode(key_file()) == 0o600

    after = rows()
    assert {
        value.partition(".")[0] for row in after.values() for column in SECRETS if (value := row[column]) is not None
    } == {new}
    for row_id, row in after.items():
        kept = [column for column in row if column not in SECRETS]
        assert {c: row[c] for c in kept} == {c: before[row_id][c] for c in kept}, "token_version and generation too"
        assert [row[c] is None for c in SECRETS] == [before[row_id][c] is None for c in SECRETS]
    assert {name: house.good("token", name).out for name in tokens} == tokens
    assert house.refreshes() == 0
    assert house.good("key", "check", "--json").json == {
        "source": f"the key file {key_file()}",
        "key": new,
        "also_open": [],
        "next": [],
        "sealed": {new: 5},
        "unopened": {},
    }


def test_it_may_be_done_again_and_again(house: House) -> None:
    house.sign_in("work")
    seen = set(key_ids())
    for _ in range(3):
        house.good("key", "rotate")
        seen |= set(key_ids())
    assert len(seen) == 4
    house.good("refresh", "work")


def test_without_a_key_there_is_nothing_to_change(house: House) -> None:
    done = house("key", "rotate")
    assert (done.code, done.out) == (1, "")
    assert "is missing, so there is nothing to change" in done.err
    assert house.good("key", "check").out.endswith("it is made when it is first needed\n")
    assert not key_file().exists()


KILLS = {
    "before the file is written": "import kimiflow.keys.loading as k; k.write_file = die",
    "once the new key seals": "import kimiflow.keys.rotation as r; r.Rekeying._reseal = adie",
    "between two batches": (
        "import kimiflow.keys.loss as k, kimiflow.stores.sql as s\n"
        "k._AT_ONCE = 1\n"
        "amend = s.SqlStore.amend\n"
        "async def then_die(*a): await amend(*a); die()\n"
        "s.SqlStore.amend = then_die"
    ),
    "before the old key is dropped": (
        "import kimiflow.keys.loading as k\n"
        "write, calls = k.write_file, []\n"
        "def second_dies(*a):\n"
        "    if calls: die()\n"
        "    calls.append(a); write(*a)\n"
        "k.write_file = second_dies"
    ),
    "while the old key is dropped": (
        "import os, kimiflow.keys.loading as k\n"
        "write, calls = k.write_file, []\n"
        "def second_dies(*a):\n"
        "    if calls: os.replace = die; __import__('pathlib').Path.replace = die\n"
        "    calls.append(a); write(*a)\n"
        "k.write_file = second_dies"
    ),
    "once it was dropped": (
        "import kimiflow.keys.loading as k\n"
        "write, calls = k.write_file, []\n"
        "def second_dies(*a):\n"
        "    write(*a)\n"
        "    if calls: die()\n"
        "    calls.append(a)\n"
        "k.write_file = second_dies"
    ),
}


@pytest.mark.parametrize("when", KILLS)
def test_a_kill_loses_nothing_and_doing_it_again_finishes(house: House, when: str) -> None:
    house.sign_in("a", "b", "c")
    tokens = {name: house.good("token", name).out for name in "abc"}
    (old,) = key_ids()
    house.killed(KILLS[when], "key", "rotate")
    assert {name: house.good("token", name).out for name in "abc"} == tokens
    house.good("refresh", "a")
    house.good("key", "check")

    house.good("key", "rotate")
    (new,) = key_ids()
    assert new != old
    assert house.good("key", "check", "--json").json["sealed"] == {new: 6}
    assert len(house.good("refresh", "--all").out.splitlines()) == 3
    assert not list(key_file().parent.glob(".kimiflow-*.tmp")) or when == "while the old key is dropped"


class TestWhileWorkersRun:
    @pytest.fixture
    def sandbox(self) -> Iterator[ThreadedSandbox]:
        """Tokens live so briefly that somebody is refreshing all the time."""
        with Sandbox.in_thread(interval=0.1, token_lifetime=1.2) as server:
            yield server

    def test_no_worker_misses_a_key(self, house: House, sandbox: ThreadedSandbox) -> None:
        names = [f"account{number}" for number in range(6)]
        house.sign_in(*names)
        house.good("login", "later", "--no-wait")
        workers = [house.cli.start("run") for _ in range(2)]
        for worker in workers:
            worker.wait_for("Driving every account")
        for _ in range(3):
            refreshes = house.refreshes()
            house.good("key", "rotate")
            until(lambda before=refreshes: house.refreshes() > before + 2 * len(names))
        (code,) = sandbox.pending()
        sandbox.approve(code.user_code)
        until(lambda: house.status()["later"]["state"] in {"granted", "refreshing"})
        for worker in workers:
            worker.signal(signal.SIGTERM)
            assert worker.end() == 0
            assert "secret_not_opened" not in worker.stderr
            assert "key_file" not in worker.stderr
        (key_id,) = key_ids()
        assert house.good("key", "check", "--json").json["sealed"].keys() == {key_id}
        assert {each["state"] for each in house.status().values()} == {"granted"}
        assert not [entry for entry in sandbox.log("refresh") if entry.status != 200], "no token was sent twice"

    def test_killed_at_any_moment_while_a_worker_refreshes(self, house: House, sandbox: ThreadedSandbox) -> None:
        names = [f"account{number}" for number in range(4)]
        house.sign_in(*names)
        worker = house.cli.start("run")
        worker.wait_for("Driving every account")
        for number in range(6):
            rotating = house.cli.start("key", "rotate")
            until(lambda: len(key_ids()) == 2 or rotating.process.poll() is not None)
            time.sleep(0.004 * number)
            rotating.process.kill()
            rotating.end()
        house.good("key", "rotate")
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert "secret_not_opened" not in worker.stderr
        assert len(key_ids()) == 1
        house.good("key", "check")
        house.good("refresh", "--all")

    def test_the_key_of_another_home_seals_nothing(self, house: House, sandbox: ThreadedSandbox) -> None:
        """Put there by mistake for a while, as by a restore into the wrong folder, and then mended."""
        names = [f"account{number}" for number in range(4)]
        house.sign_in(*names)
        right = key_file().read_text()
        (key_id,) = key_ids()
        worker = house.cli.start("run")
        until(lambda: bool(house.cli.json("status", "--workers")))  # it has the key by then
        for wrong in ("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n", "no key at all\n"):
            key_file().write_text(wrong)
            refreshes = house.refreshes()
            until(lambda before=refreshes: house.refreshes() > before + 2 * len(names), 60.0)
            key_file().write_text(right)
            assert house.good("key", "check", "--json").json["sealed"].keys() == {key_id}
        worker.signal(signal.SIGTERM)
        assert worker.end() == 0
        assert worker.stderr.count("key_file_lost") == 2, "said once for each"
        assert f"and not {key_id}, which is in force" in worker.stderr
        house.good("refresh", "--all")
        assert not [entry for entry in sandbox.log("refresh") if entry.status != 200]


def test_who_claimed_before_the_change_is_waited_for(house: House, sandbox: ThreadedSandbox) -> None:
    """Its commit may bring what was sealed with the old key, so that stays until then."""
    house.sign_in("work")
    sandbox.inject("late/1.5:refresh")
    refreshing = house.cli.start("refresh", "work")
    until(lambda: house.status()["work"]["state"] == "refreshing")
    rotating = house.cli.start("key", "rotate")
    rotating.wait_for("Waiting for 1 requests in flight.")
    assert refreshing.process.poll() is None
    assert len(key_ids()) == 2
    assert (refreshing.end(), rotating.end()) == (0, 0)
    house.good("key", "check")
    assert len(key_ids()) == 1


def test_only_one_changes_the_file_at_a_time(house: House, sandbox: ThreadedSandbox) -> None:
    house.sign_in("work")
    sandbox.inject("late/2:refresh")
    refreshing = house.cli.start("refresh", "work")
    until(lambda: house.status()["work"]["state"] == "refreshing")
    rotating = house.cli.start("key", "rotate")
    rotating.wait_for("Waiting for 1 requests in flight.")
    for arguments in (["rotate"], ["rotate", "--prepare"]):
        second = house("key", *arguments)
        assert (second.code, "is being changed by another process" in second.err) == (2, True)
    assert (refreshing.end(), rotating.end()) == (0, 0)


def test_what_is_kept_aside_keeps_its_key(house: House) -> None:
    house.sign_in("work")
    (old,) = key_ids()
    path = load_settings().home / f"unsaved-{os.getppid()}-1.json"
    path.write_text(json.dumps([{"after": {"access_token": f"{old}.abc"}}]))
    done = house("key", "rotate")
    assert done.code == 1
    assert "The old key stays in the key file: a worker keeps aside" in done.err
    assert key_ids()[1:] == [old]
    path.unlink()
    house.good("key", "rotate")
    assert len(key_ids()) == 1


class TestOtherMachines:
    """A worker that reports itself from another host would be left without the new key."""

    @pytest.fixture
    def elsewhere(self, house: House) -> House:
        house.sign_in("work")
        now = time.time() + 5  # reports are by the store's clock, and this one is not to be stale
        execute("INSERT INTO workers VALUES ('far:1:a', 'far', ?, 0, ?)", now, now)
        return house

    def test_are_not_left_behind(self, elsewhere: House) -> None:
        before = key_file().read_text()
        done = elsewhere("key", "rotate")
        assert done.code == 2
        assert "workers on other machines (far) would not have the new key" in done.err
        assert "--prepare" in done.err
        assert key_file().read_text() == before

    def test_get_the_key_first(self, elsewhere: House) -> None:
        (old,) = key_ids()
        prepared = elsewhere.good("key", "rotate", "--prepare")
        assert key_ids()[0] == old, "it seals on"
        new = key_ids()[1]
        assert new in prepared.out
        assert elsewhere.good("key", "rotate", "--prepare").out == prepared.out, "there is one already"
        elsewhere.good("refresh", "work")
        assert elsewhere.good("key", "check", "--json").json["next"] == [new]
        assert set(elsewhere.good("key", "check", "--json").json["sealed"]) == {old}

        switched = elsewhere("key", "rotate")
        assert switched.code == 1
        assert "far may still seal with the old one" in switched.err
        assert key_ids() == [new, old]
        assert set(elsewhere.good("key", "check", "--json").json["sealed"]) == {new}

        elsewhere.good("key", "rotate", "--everywhere")
        assert key_ids() == [new]

    def test_that_hold_a_lease_are_seen_too(self, house: House) -> None:
        house.sign_in("work")
        far = f"far:1:{'0' * 8}"
        execute("UPDATE authorizations SET lease_owner = ?, claimable_at = ?", far, time.time() + 60)
        assert "other machines (far)" in house("key", "rotate").err
        execute("UPDATE authorizations SET lease_owner = ?", f"{socket.gethostname()}:1:0")
        execute("UPDATE authorizations SET claimable_at = ?", time.time() - 60)
        house.good("key", "rotate")


class TestTheEnvironment:
    """What holds the key there is not ours to change."""

    OLD, NEW = (base64.b64encode(bytes([n] * 32)).decode() for n in (1, 2))

    def test_says_what_to_put_where_and_seals_anew(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KIMIFLOW_KEY", self.OLD)
        house.sign_in("work")
        told = house("key", "rotate")
        assert told.code == 1
        assert "KIMIFLOW_KEY=NEW,PRESENT" in told.err
        assert "--prepare" not in told.err
        assert house("key", "rotate", "--prepare").code == 2

        monkeypatch.setenv("KIMIFLOW_KEY", f"{self.OLD}, next:{self.NEW}")
        house.good("refresh", "work")
        old, new = (house.good("key", "check", "--json").json[name] for name in ("key", "next"))
        assert set(house.good("key", "check", "--json").json["sealed"]) == {old}

        monkeypatch.setenv("KIMIFLOW_KEY", f"{self.NEW},{self.OLD}")
        done = house.good("key", "rotate")
        assert f"Everything is sealed with key {new[0]}; 1 row sealed anew." in done.out
        assert f"Key {old} is needed no more" in done.err
        monkeypatch.setenv("KIMIFLOW_KEY", self.NEW)
        house.good("refresh", "work")
        house.good("key", "check")
        assert not (load_settings().home / "key").exists()
        assert self.OLD not in told.err + done.err + done.out


def test_check_names_what_does_not_open(house: House) -> None:
    house.sign_in("work", "home")
    execute(
        "UPDATE authorizations SET refresh_token = '01234567.' || substr(refresh_token, 10) "
        "WHERE account_id = (SELECT id FROM accounts WHERE name = 'home')"
    )
    done = house("key", "check")
    assert done.code == 1
    assert "1 secret sealed with 01234567; no key at hand opens them" in done.out
    assert "home: a secret is sealed with key '01234567'" in done.err
    assert "kimiflow key new" in done.err
    told = house("key", "check", "--json")
    assert (told.code, list(json.loads(told.out)["unopened"])) == (1, ["home"])
    rotated = house.good("key", "rotate")
    assert "2 rows" in rotated.out, "what opens is not held up by what does not"
    house.good("refresh", "work")


def test_a_spoilt_row_keeps_the_old_key(house: House) -> None:
    house.sign_in("work", "home")
    (old,) = key_ids()
    execute(
        "UPDATE authorizations SET refresh_token = access_token "
        "WHERE account_id = (SELECT id FROM accounts WHERE name = 'home')"
    )
    done = house("key", "rotate")
    assert done.code == 1
    assert "not all opens that is sealed with it (1)" in done.err
    assert key_ids()[1:] == [old]
    assert house.good("token", "work").out


def test_help_teaches(house: House) -> None:
    for command in ("check", "rotate", "new"):
        assert f"kimiflow key {command}" in house.good("key", command, "--help").out.partition("Examples")[2]

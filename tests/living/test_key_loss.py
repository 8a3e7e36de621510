"""The way back after the key was lost: ``kimiflow key new``."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from tests.cli.processes import until
from tests.formats.house import House
from tests.living.test_key_rotation import execute, key_file, key_ids, rows

if TYPE_CHECKING:
    from kimiflow.sandbox.threads import ThreadedSandbox


def test_the_loss_is_explained_by_every_command_that_needs_the_key(house: House) -> None:
    house.sign_in("work")
    key_file().unlink()
    for command in (["token", "work"], ["login", "--force", "work"], ["run", "--until-settled"]):
        done = house(*command)
        assert done.code == 1, command
        assert f"the key file {key_file()} is missing" in done.err
        assert "kimiflow key new" in done.err
    assert house.status()["work"]["state"] == "granted"
    assert not key_file().exists()


def test_nothing_is_given_up_unasked(house: House) -> None:
    house.sign_in("work", "home")
    before = rows()
    key_file().unlink()
    done = house("key", "new")
    assert (done.code, done.out) == (1, "")
    for word in ("The secrets of 2 accounts cannot be opened", "work: ", "home: ", "kimiflow key new --yes", "backup"):
        assert word in done.err
    assert rows() == before
    assert not key_file().exists()


def test_names_and_device_ids_are_kept_and_signing_in_again_works(house: House, sandbox: ThreadedSandbox) -> None:
    house.sign_in("work", "home")
    house.good("login", "later", "--no-wait")
    devices = sandbox_devices(sandbox)
    (old,) = key_ids()
    key_file().unlink()
    done = house.good("key", "new", "--yes")
    (new,) = key_ids()
    assert done.out == f"Key {new} seals from now on; 3 accounts must sign in again.\n"
    assert "kimiflow login --force home later work" in done.err
    status = house.status()
    assert {(each["state"], each["error"]) for each in status.values()} == {("expired", "key_lost")}
    assert all(old in each["error_description"] for each in status.values())
    assert house("token", "work").code == 3
    last = house.good("history", "work", "--json").json[-1]
    assert (last["from"], last["to"], last["event"]) == ("granted", "expired", "key_lost")

    house.good("login", "--force", "work", "home", "later", "--no-wait")
    for code in sandbox.pending():
        if code.user_code != status["later"]["user_code"]:
            sandbox.approve(code.user_code)
    house.good("run", "--until-settled")
    assert {each["state"] for each in house.status().values()} == {"granted"}
    assert sandbox_devices(sandbox) == devices
    house.good("refresh", "--all")
    assert house.good("key", "check", "--json").json["sealed"].keys() == {new}


def sandbox_devices(sandbox: ThreadedSandbox) -> set[str]:
    return {entry.device_id for entry in sandbox.log("device_authorization")}


def test_no_other_account_is_harmed(house: House) -> None:
    """Only what no key at hand opens is given up."""
    house.sign_in("lost")
    key_text = key_file().read_text()
    lost = rows()
    key_file().unlink()
    house.good("key", "new", "--yes")
    house.sign_in("work")
    token = house.good("token", "work").out
    # The lost one's secrets are there once more, say from a backup of its row; the key is not.
    (row_id,) = lost
    execute(
        "UPDATE authorizations SET state = 'granted', access_token = ?, refresh_token = ? WHERE id = ?",
        lost[row_id]["access_token"],
        lost[row_id]["refresh_token"],
        row_id,
    )
    assert house("key", "new").code == 1
    house.good("key", "new", "--yes")
    assert house.good("token", "work").out == token
    assert {name: each["state"] for name, each in house.status().items()} == {"lost": "expired", "work": "granted"}
    assert key_text not in key_file().read_text()


def test_a_key_that_was_found_again_opens_everything(house: House) -> None:
    house.sign_in("work")
    token = house.good("token", "work").out
    found = key_file().read_text()
    key_file().unlink()
    key_file().write_text("# made by somebody\nAAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n")
    assert house("token", "work").code == 1
    assert "work" in house("key", "check").err
    with key_file().open("a") as file:
        file.write(found)
    assert house.good("token", "work").out == token
    house.good("key", "check")
    house.good("key", "rotate")
    assert house.good("token", "work").out == token
    assert len(key_ids()) == 1


def test_where_nothing_is_lost_it_does_nothing(house: House) -> None:
    house.sign_in("work")
    before = key_file().read_text()
    for arguments in ([], ["--yes"]):
        done = house("key", "new", *arguments)
        assert done.code == 2
        assert "nothing is lost" in done.err
        assert "kimiflow key rotate" in done.err
    assert key_file().read_text() == before


def test_a_kill_in_the_middle_is_finished_by_doing_it_again(house: House) -> None:
    house.sign_in("a", "b", "c")
    key_file().unlink()
    patch = "import kimiflow.stores.sql as s; s.SqlStore.amend = adie"
    house.killed(patch, "key", "new", "--yes")
    (key_id,) = key_ids()
    assert "kimiflow key new" in house("token", "a").err
    house.good("key", "new", "--yes")
    assert key_ids() == [key_id]
    assert {each["state"] for each in house.status().values()} == {"expired"}


def test_a_worker_that_has_the_key_in_memory_goes_on_and_saves_what_it_refreshes(
    house: House, sandbox: ThreadedSandbox
) -> None:
    house.sign_in("work")
    worker = house.cli.start("run")
    worker.wait_for("Driving every account")
    house.good("refresh", "work")
    (lost,) = house.good("key", "check", "--json").json["sealed"]
    key_file().unlink()
    house("key", "new")
    # Whoever makes another key file, and says in it that it goes on from there, gives the worker a key to seal with.
    key_file().write_text(f"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n# replaced: {lost}\n")
    execute("UPDATE authorizations SET next_attempt_at = updated_at, claimable_at = updated_at")
    until(lambda: house("key", "check").code == 0)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0
    assert sandbox.is_valid(house.good("token", "work").out.strip())

"""SIGKILL where it hurts most: nothing is lost, no token is sent twice, and no tool is left with a blanked file."""

from __future__ import annotations

import time

from tests.formats.house import House, loaded
from tests.living.test_key_rotation import execute


def test_import_between_the_commit_and_the_verifying_refresh(house: House) -> None:
    path = house.cliproxyapi("kimi-work.json")
    before = path.read_bytes()
    patch = (
        "import kimiflow.neighbours.moving as m\n"
        "adopt = m.Moving.adopt\n"
        "async def then_die(*a, **k): await adopt(*a, **k); die()\n"
        "m.Moving.adopt = then_die"
    )
    house.killed(patch, "import", path, "--take-over")
    assert path.read_bytes() == before
    assert house.refreshes() == 0
    assert house.status()["work"]["state"] == "granted"

    done = house.good("import", path, "--take-over")
    assert "work has it already" in done.out
    assert loaded(path)["refresh_token"] == ""
    assert house.refreshes() == 1


def test_import_between_the_refresh_and_the_blanking(house: House) -> None:
    path = house.cliproxyapi("kimi-work.json")
    before = path.read_bytes()
    for patched in ("write_beside", "write"):
        house.killed(f"import kimiflow.files as f; f.Folder.{patched} = die", "import", path, "--take-over")
        assert path.read_bytes() == before
    assert house.refreshes() == 1
    house.good("import", path, "--take-over")
    assert loaded(path)["refresh_token"] == ""
    assert house.refreshes() == 1, "the token in the file was spent, and is not sent again"
    assert house.sandbox.is_valid(house.good("token", "work").out.strip())


def test_import_in_the_middle_of_the_refresh_blanks_nothing(house: House) -> None:
    path = house.cliproxyapi("kimi-work.json")
    house.killed("import kimiflow.client as c; c.Client.refresh = adie", "import", path, "--take-over")
    assert house.status()["work"]["state"] == "refreshing"
    assert loaded(path)["refresh_token"], "not verified, so not blanked"
    assert house.refreshes() == 0


def test_export_before_the_file_is_written(house: House) -> None:
    house.sign_in("work")
    file = house.root / "out.json"
    patch = "import kimiflow.files as f; f.Folder.write = die"
    house.killed(patch, "export", "work", "--output", file, "--with-refresh-token")
    assert not file.exists()
    assert house.good("token", "work").code == 0, "still here"
    status = house.status()["work"]
    assert (status["state"], status["error"]) == ("granted", "handing_over")
    started = time.monotonic()
    again = house("export", "work", "--output", file, "--with-refresh-token")
    assert (again.code, "If it is not there, nothing was handed over" in again.err) == (1, True)
    assert time.monotonic() - started < 2


def test_export_after_the_file_was_written_says_so_and_refreshes_nothing(house: House) -> None:
    house.sign_in("work")
    file = house.root / "out.json"
    patch = (
        "import kimiflow.cli.exporting as e\n"
        "write = e._Files.write\n"
        "def then_die(*a): write(*a); die()\n"
        "e._Files.write = then_die"
    )
    house.killed(patch, "export", "work", "--output", file, "--with-refresh-token")
    assert loaded(file)["refresh_token"] in house.secrets()
    status = house.status()["work"]
    assert status["error"] == "handing_over"
    assert str(file) in status["error_description"]
    assert "kimiflow logout work" in status["error_description"]
    assert house("run", "--until-settled").code == 0
    assert house.good("token", "work").code == 0
    assert house.refreshes() == 0, "the file's owner is the only one who may"
    house.good("logout", "work")
    house.good("import", file)
    assert house.good("token", "work").code == 0


def test_export_after_the_file_was_written_is_not_undone_by_a_forced_refresh(house: House) -> None:
    """Nor by a 401 from the API, which forces one: the tool that has the file would lose its sign-in."""
    house.sign_in("work")
    file = house.root / "out.json"
    patch = (
        "import kimiflow.cli.exporting as e\n"
        "write = e._Files.write\n"
        "def then_die(*a): write(*a); die()\n"
        "e._Files.write = then_die"
    )
    house.killed(patch, "export", "work", "--output", file, "--with-refresh-token")
    # The lease of the one that was killed is over, long before its pause is.
    execute("UPDATE authorizations SET lease_owner = NULL, claimable_at = next_attempt_at")
    done = house("refresh", "work")
    assert (done.code, house.refreshes()) == (1, 0)
    assert str(file) in done.err
    assert "kimiflow logout work" in done.err
    assert house.good("token", "work").out, "the access token is as good as before"

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from kimiflow.errors import UsageError
from kimiflow.files import Folder
from kimiflow.flow import KimiFlow
from kimiflow.formats import find_format
from kimiflow.formats.base import Grant
from kimiflow.formats.folder import Report
from kimiflow.model import Account
from kimiflow.neighbours.syncing import parse_target, stems
from kimiflow.secret import Secret
from kimiflow.status import Token
from tests.cli.processes import until
from tests.formats.house import HEX, House, loaded, mode


def synced(house: House, *targets: str) -> None:
    """Brings folders up to date, and ends."""
    house.good("run", "--until-settled", *(part for target in targets for part in ("--sync", target)))


def files(folder: Path) -> list[str]:
    return sorted(
        str(each.relative_to(folder))
        for each in folder.rglob("*")
        if each.is_file() and not each.name.startswith(".kimiflow-")
    )


def test_every_format_and_no_refresh_token(house: House) -> None:
    house.sign_in("work", "home")
    formats = ("cliproxyapi", "kimi-cli", "kimi-code", "env", "json")
    synced(house, *(f"{name}:{house.root}/{name}" for name in formats))
    assert {name: files(house.root / name) for name in formats} == {
        "cliproxyapi": ["kimi-home.json", "kimi-work.json"],
        "kimi-cli": [
            "home/credentials/kimi-code.json",
            "home/device_id",
            "work/credentials/kimi-code.json",
            "work/device_id",
        ],
        "kimi-code": [
            "home/credentials/kimi-code.json",
            "home/device_id",
            "work/credentials/kimi-code.json",
            "work/device_id",
        ],
        "env": ["home.env", "work.env"],
        "json": ["home.json", "work.json"],
    }
    everything = [each for each in house.root.rglob("*") if each.is_file()]
    assert not [each for each in everything for secret in house.secrets() if secret.encode() in each.read_bytes()]
    assert {mode(each) for each in everything} == {0o600}
    assert {mode(each) for each in house.root.rglob("*") if each.is_dir()} == {0o700}
    token = house.good("token", "work").out.strip()
    assert all(token.encode() in each.read_bytes() for each in everything if "work" in str(each) and each.suffix)


def test_rotations_and_sign_outs_by_other_processes(house: House) -> None:
    house.sign_in("work", "home")
    folder = house.root / "proxy"
    worker = house.cli.start("run", "--sync", f"cliproxyapi:{folder}", KIMIFLOW_LOG_FORMAT="json")
    work, home = folder / "kimi-work.json", folder / "kimi-home.json"
    until(lambda: work.exists() and home.exists())
    first, untouched = loaded(work), home.stat().st_mtime_ns

    house.good("refresh", "work")
    token = house.good("token", "work").out.strip()
    assert token != first["access_token"]
    until(lambda: loaded(work)["access_token"] == token)
    assert loaded(work)["refresh_token"] == ""
    assert home.stat().st_mtime_ns == untouched

    house.good("logout", "work")
    until(lambda: not work.exists())
    house.sandbox.revoke(house.good("token", "home", "--json").json["device_id"])
    assert house("refresh", "home").code == 3
    until(lambda: not home.exists())
    house.sign_in("work")
    until(work.exists)
    worker.signal(signal.SIGTERM)
    assert worker.end() == 0, worker.stderr
    assert files(folder) == ["kimi-work.json"]
    assert "Traceback" not in worker.stderr
    assert {json.loads(line)["event"] for line in worker.stderr.splitlines()} >= {"synced"}


def test_a_rotation_by_the_worker_itself(house: House) -> None:
    house.sandbox.inject("expires_in/2:poll=x1")
    house.sign_in("work")
    folder = house.root / "env"
    worker = house.cli.start("run", "--sync", f"env:{folder}")
    until(lambda: house.refreshes() == 1)
    token = house.sandbox.log("refresh")[0].issued_access_token
    until(lambda: (folder / "work.env").exists() and token is not None and token in (folder / "work.env").read_text())
    worker.signal(signal.SIGINT)
    assert worker.end() == 0


def test_at_the_start_it_clears_up_what_is_its_own(house: House) -> None:
    house.sign_in("a", "b", "c")
    folder = house.root / "proxy"
    theirs = house.cliproxyapi("kimi-theirs.json")
    token = house.root / "kimi-cli"
    synced(house, f"cliproxyapi:{folder}", f"kimi-cli:{token}")
    for draft, age in ((folder / ".kimiflow-0123.tmp", 3600), (folder / ".kimiflow-4567.tmp", 0)):
        draft.write_text("left by a worker that was killed")
        os.utime(draft, (time.time() - age, time.time() - age))
    house.good("logout", "a", "--forget")
    house.good("logout", "b")
    written = (folder / "kimi-c.json").stat().st_mtime_ns
    synced(house, f"cliproxyapi:{folder}", f"kimi-cli:{token}")
    assert files(folder) == ["kimi-c.json", "kimi-theirs.json"]
    assert loaded(theirs)["refresh_token"]
    assert (folder / "kimi-c.json").stat().st_mtime_ns == written, "what is up to date is not written again"
    assert not (folder / ".kimiflow-0123.tmp").exists()
    assert (folder / ".kimiflow-4567.tmp").exists(), "somebody may be at it"
    assert sorted(each.name for each in token.iterdir() if each.is_dir()) == ["c"]


def test_what_it_did_not_write_is_never_touched(house: House) -> None:
    house.sign_in("work", "home")
    folder = house.root / "proxy"
    mine = house.cliproxyapi("kimi-work.json")
    before = mine.read_bytes()
    done = house.good("run", "--until-settled", "--sync", f"cliproxyapi:{folder}")
    assert "left alone" in done.err
    assert mine.read_bytes() == before
    house.good("logout", "work", "home")
    synced(house, f"cliproxyapi:{folder}")
    assert mine.read_bytes() == before
    assert files(folder) == ["kimi-work.json"]


def test_a_file_that_an_import_has_blanked_is_taken_up_again(house: House) -> None:
    numbered = house.cliproxyapi(priority=7)
    named = house.cliproxyapi("kimi-work.json", device_id=HEX)
    folder = numbered.parent
    house.good("import", folder, "--take-over")
    synced(house, f"cliproxyapi:{folder}")
    assert [each for each in files(folder) if each.endswith(".json")] == [numbered.name, named.name]
    assert loaded(numbered)["priority"] == 7
    for file, account in ((numbered, "kimi-1712345678901"), (named, "work")):
        assert loaded(file)["access_token"] == house.good("token", account).out.strip()
        assert loaded(file)["refresh_token"] == ""


def test_two_accounts_with_one_file(house: House) -> None:
    house.sign_in("kimi-1712345678901", "1712345678901")
    done = house.good("run", "--until-settled", "--sync", f"cliproxyapi:{house.root}/proxy")
    assert "two accounts have this file; rename one" in done.err
    assert files(house.root / "proxy") == ["kimi-1712345678901.json"]


def test_who_signs_in_there_with_the_tool_itself_keeps_it(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "kimi"
    synced(house, f"kimi-cli:{folder}")
    theirs = house.kimi_cli("kimi/work")
    before = theirs.read_bytes()
    house.good("refresh", "work")
    assert "somebody signed in there" in house.good("run", "--until-settled", "--sync", f"kimi-cli:{folder}").err
    house.good("logout", "work")
    synced(house, f"kimi-cli:{folder}")
    assert theirs.read_bytes() == before
    assert (folder / "work" / "device_id").exists()


def test_what_a_person_sets_in_a_file_is_kept(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "proxy"
    synced(house, f"cliproxyapi:{folder}")
    file = folder / "kimi-work.json"
    file.write_text(json.dumps(loaded(file) | {"disabled": True, "priority": 5}))
    house.good("refresh", "work")
    synced(house, f"cliproxyapi:{folder}")
    after = loaded(file)
    assert (after["disabled"], after["priority"]) == (True, 5)
    assert after["access_token"] == house.good("token", "work").out.strip()


def test_a_file_that_is_missing_or_old_comes_back(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "json"
    synced(house, f"json:{folder}")
    whole = (folder / "work.json").read_bytes()
    for damage in (b"", whole[:40]):
        (folder / "work.json").write_bytes(damage)
        synced(house, f"json:{folder}")
        assert (folder / "work.json").read_bytes() == whole
    (folder / "work.json").unlink()
    synced(house, f"json:{folder}")
    assert (folder / "work.json").read_bytes() == whole


def test_two_workers_share_a_folder_and_one_takes_over(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "json"
    first, second = (house.cli.start("run", "--sync", f"json:{folder}") for _ in range(2))
    until(lambda: "standing_by" in first.stderr + second.stderr and (folder / "work.json").exists())
    keeper, other = (second, first) if "standing_by" in first.stderr else (first, second)
    keeper.signal(signal.SIGKILL)
    keeper.end()
    house.good("refresh", "work")
    token = house.good("token", "work").out.strip()
    until(lambda: loaded(folder / "work.json")["access_token"] == token)
    other.signal(signal.SIGTERM)
    assert other.end() == 0


def test_killed_between_the_list_and_the_file(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "json"
    patch = (
        "from kimiflow.files import Folder\n"
        "write = Folder.write\n"
        "Folder.write = lambda self, name, data: die() if name.endswith('.json') else write(self, name, data)"
    )
    house.killed(patch, "run", "--sync", f"json:{folder}")
    assert files(folder) == []
    synced(house, f"json:{folder}")
    assert files(folder) == ["work.json"]
    house.good("logout", "work")
    synced(house, f"json:{folder}")
    assert files(folder) == []


def test_a_folder_of_another_store_is_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.sign_in("work")
    folder = house.root / "json"
    synced(house, f"json:{folder}")
    monkeypatch.setenv("KIMIFLOW_HOME", str(house.root / "other"))
    done = house("run", "--until-settled", "--sync", f"json:{folder}")
    assert (done.code, "is kept in sync" in done.err) == (2, True)
    assert files(folder) == ["work.json"]


def test_a_folder_that_cannot_be_used(house: House) -> None:
    (house.root / "file").write_text("")
    for target in (f"json:{house.root}/file", "json", "json:", f"yaml:{house.root}"):
        done = house("run", "--until-settled", "--sync", target)
        assert done.code == 2, done
        assert len(done.err.splitlines()) <= 3
    twice = ("--sync", f"json:{house.root}/x", "--sync", f"env:{house.root}/x/")
    assert house("run", "--until-settled", *twice).code == 2
    damaged = house.root / "damaged"
    damaged.mkdir()
    (damaged / ".kimiflow-sync").write_text("{")
    done = house("run", "--until-settled", "--sync", f"json:{damaged}")
    assert (done.code, "is damaged" in done.err) == (2, True)


def test_a_disk_that_refuses(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said by the call that opens the file, because root may write to any folder whatever its mode."""
    house.sign_in("work")
    folder = house.root / "json"
    folder.mkdir()
    really = os.open

    def refusing(path: str | os.PathLike[str], flags: int, *rest: int, **named: int) -> int:
        if named.get("dir_fd") is not None and flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, flags, *rest, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refusing)
        done = house("run", "--until-settled", "--sync", f"json:{folder}")
    assert (done.code, "Permission denied" in done.err) == (2, True), done
    assert files(folder) == []
    synced(house, f"json:{folder}")
    assert files(folder) == ["work.json"]


def test_one_file_that_cannot_be_written_keeps_no_other_back(house: House) -> None:
    house.sign_in("a", "b")
    folder = house.root / "json"
    synced(house, f"json:{folder}")
    (folder / "a.json").unlink()
    (folder / "a.json").mkdir()
    (folder / "b.json").unlink()
    done = house.good("run", "--until-settled", "--sync", f"json:{folder}")
    assert (folder / "b.json").is_file()
    assert "not_synced" in done.err
    shutil.rmtree(folder / "a.json")
    synced(house, f"json:{folder}")
    assert files(folder) == ["a.json", "b.json"]


def test_targets() -> None:
    assert str(parse_target("json:~/x").folder) == str(Path.home() / "x")
    assert str(parse_target("json:/a:b").folder) == "/a:b"
    with pytest.raises(UsageError):
        parse_target("/a")


def test_names_that_differ_only_in_case_are_two_files() -> None:
    accounts = [
        Account(f"{number}2345678-9", name, "kimi", "d", None, number) for number, name in enumerate(("a", "A", "b"))
    ]
    assert stems(reversed(accounts)) == {"02345678-9": "a", "12345678-9": "A-12345678", "22345678-9": "b"}


def test_a_grant_that_is_handed_over_into_the_folder_is_not_written_over(house: House) -> None:
    """The export comes between the look at the old file and its replacement, which is when the only copy would go."""
    import threading

    from kimiflow.cli.exporting import _Files

    house.sign_in("work")
    folder = house.root / "proxy"
    form = find_format("cliproxyapi")
    synced(house, f"cliproxyapi:{folder}")
    house.good("refresh", "work")
    file = folder / "kimi-work.json"
    token = Token("work", "an-access-token", "Bearer", time.time() + 900, "kimi-code", HEX)
    handed = Grant(token, "kimi", None, time.time(), Secret("the-only-copy"))
    exporting = threading.Thread(target=_Files.at(f"{folder}/", form, "work", several=False).write, args=(handed,))

    write = Folder.write

    def overtaken(self: Folder, name: str, data: bytes) -> None:
        if self.path / name == file and not exporting.ident:
            exporting.start()
            exporting.join(0.3)  # it waits for this write; where it does not, it is done by now
        write(self, name, data)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Folder, "write", overtaken)
        synced(house, f"cliproxyapi:{folder}")
    exporting.join()
    assert loaded(file)["refresh_token"] == "the-only-copy"


async def test_a_look_that_fails_is_not_the_last(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kimiflow.neighbours.syncing._AGAIN", 0.01)
    looks = 0
    stop = asyncio.Event()

    def defective(*_: object) -> Report:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise RuntimeError("a defect")
        stop.set()
        return Report()

    async with KimiFlow.open() as flow:
        syncing = flow.syncing([parse_target(f"json:{house.root}/json")])
        await syncing.start()
        monkeypatch.setattr("kimiflow.formats.folder.KeptFolder.bring_up_to_date", defective)
        await asyncio.wait_for(syncing.run(stop), 20)
    assert looks >= 2

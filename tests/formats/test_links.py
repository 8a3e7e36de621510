"""Links lead nowhere: who may write in a folder decides about that folder, and about nothing outside of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from kimiflow.files import Folder, Irregular, is_plain, write_file
from kimiflow.formats import find_format
from kimiflow.formats.folder import KeptFolder, Wanted
from tests.cli.processes import until
from tests.formats.house import House, loaded

SECRET = '{"type": "kimi", "access_token": "mine", "refresh_token": ""}'


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that has nothing to do with any of this."""
    made = tmp_path / "outside"
    made.mkdir()
    (made / "mine.json").write_text(SECRET)
    return made


def content(folder: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in folder.iterdir()}


def listed(house: House, folder: Path, form: str, *files: str) -> None:
    """The list of what kimiflow wrote there, by somebody else's hand."""
    folder.mkdir(exist_ok=True)
    told = {"format": form, "owner": os.environ["KIMIFLOW_HOME"], "files": list(files)}
    (folder / ".kimiflow-sync").write_text(json.dumps(told))


def synced(house: House, form: str, folder: Path) -> str:
    return house.good("run", "--until-settled", "--sync", f"{form}:{folder}").err


# A folder that is kept in sync


@pytest.mark.parametrize("form", ["json", "kimi-cli"])
def test_a_list_that_leads_through_a_link_removes_nothing_outside(house: House, outside: Path, form: str) -> None:
    folder = house.root / "synced"
    listed(house, folder, form, "way/mine.json", "way/deeper/mine.json")
    (outside / "deeper").mkdir()
    (outside / "deeper/mine.json").write_text(SECRET)
    (folder / "way").symlink_to(outside)
    said = synced(house, form, folder)
    assert (outside / "mine.json").read_text() == (outside / "deeper/mine.json").read_text() == SECRET
    assert f"{folder}/way/mine.json" in said
    assert "it is a symbolic link, not a folder; move it away" in said
    assert (folder / "way").is_symlink()


@pytest.mark.parametrize(
    "file", ["../outside/mine.json", "a/../../../outside/mine.json", "{outside}/mine.json", "", ".", "a\0b", "\ud800"]
)
def test_a_list_that_leads_elsewhere_by_name(house: House, outside: Path, file: str) -> None:
    folder = house.root / "synced"
    listed(house, folder, "json", file.format(outside=outside), "old.json")
    (folder / "a").mkdir()
    (folder / "old.json").write_text("{}")
    assert "not_synced" not in synced(house, "json", folder)
    assert content(outside) == {"mine.json": SECRET}
    assert not (folder / "old.json").exists(), "the others on the list are what they always were"


@pytest.mark.parametrize("is_listed", [False, True])
@pytest.mark.parametrize("there", ["nothing", "a file", "a file of the folder"])
def test_a_link_in_the_place_of_a_file_is_neither_followed_nor_replaced(
    house: House, outside: Path, there: str, is_listed: bool
) -> None:
    house.sign_in("w")
    folder = house.root / "synced"
    listed(house, folder, "json", *(["w.json"] if is_listed else []))
    target = {"nothing": outside / "new.json", "a file": outside / "mine.json"}.get(there, folder / "other.json")
    (folder / "other.json").write_text(SECRET)
    (folder / "w.json").symlink_to(target)
    said = synced(house, "json", folder)
    assert f"{folder}/w.json" in said
    assert "it is a symbolic link, not a regular file; move it away" in said
    assert content(outside) == {"mine.json": SECRET}
    assert (folder / "w.json").readlink() == target
    house.good("logout", "w")
    synced(house, "json", folder)
    assert content(outside) == {"mine.json": SECRET}
    assert (folder / "other.json").read_text() == SECRET


@pytest.mark.parametrize("part", ["work", "work/credentials", "work/credentials/kimi-code.json", "work/device_id"])
def test_no_part_of_the_way_to_a_file_may_be_a_link(house: House, outside: Path, part: str) -> None:
    house.sign_in("work", "home")
    folder = house.root / "kimi"
    link = folder / part
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if "." not in link.name and link.name != "device_id" else outside / "new")
    said = synced(house, "kimi-cli", folder)
    assert "it is a symbolic link" in said
    assert content(outside) == {"mine.json": SECRET}
    assert (folder / "home/credentials/kimi-code.json").exists(), "it keeps no other back"


@pytest.mark.parametrize("name", [".kimiflow-sync", ".kimiflow-sync.lock"])
@pytest.mark.parametrize("there", [True, False])
def test_neither_the_list_nor_its_lock_is_made_elsewhere(house: House, outside: Path, name: str, there: bool) -> None:
    folder = house.root / "synced"
    folder.mkdir()
    (folder / name).symlink_to(outside / ("mine.json" if there else "new"))
    done = house("run", "--until-settled", "--sync", f"json:{folder}")
    assert (done.code, f"{folder / name}: it is a symbolic link, not a regular file; move it away" in done.err) == (
        2,
        True,
    ), done
    assert content(outside) == {"mine.json": SECRET}


def test_drafts_of_others_are_not_cleared_away(house: House, outside: Path) -> None:
    """What a worker that was killed leaves is looked for in folders of this one only."""
    folder = house.root / "kimi"
    draft = outside / ".kimiflow-0123.tmp"
    draft.write_text("somebody's")
    (outside / "credentials").mkdir()
    (outside / "credentials/.kimiflow-0123.tmp").write_text("somebody's")
    for each in (draft, outside / "credentials/.kimiflow-0123.tmp"):
        os.utime(each, (time.time() - 3600, time.time() - 3600))
    listed(house, folder, "kimi-cli", "work/credentials/kimi-code.json")
    (folder / "work").symlink_to(outside)
    synced(house, "kimi-cli", folder)
    assert draft.exists()
    assert (outside / "credentials/.kimiflow-0123.tmp").exists()


def test_drafts_are_cleared_away_where_they_are_written(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "kimi"
    synced(house, "kimi-cli", folder)
    drafts = [folder / place / ".kimiflow-0123.tmp" for place in ("", "work", "work/credentials")]
    for draft in drafts:
        draft.write_text("")
        os.utime(draft, (time.time() - 3600, time.time() - 3600))
    synced(house, "kimi-cli", folder)
    assert [draft for draft in drafts if draft.exists()] == []


def test_the_folder_itself_may_be_a_link(house: House, outside: Path) -> None:
    house.sign_in("work")
    (house.root / "named").symlink_to(outside)
    assert "not_synced" not in synced(house, "json", house.root / "named")
    assert loaded(outside / "work.json")["account"] == "work"
    house.good("logout", "work")
    synced(house, "json", house.root / "named")
    assert not (outside / "work.json").exists()
    assert (outside / "mine.json").read_text() == SECRET


def test_a_folder_that_is_swapped_for_a_link_between_the_look_and_the_write(house: House, outside: Path) -> None:
    """What is held open is what is written to, whatever its name leads to by then."""
    folder = house.root / "kimi"
    credentials, moved = folder / "work/credentials", folder / "work/moved"
    kept = KeptFolder(find_format("kimi-cli"), folder, "owner")
    house.sign_in("work")
    synced(house, "kimi-cli", house.root / "example")
    data = (house.root / "example/work/credentials/kimi-code.json").read_bytes()

    def swapped() -> str:
        credentials.rename(moved)
        credentials.symlink_to(outside)
        return "another"

    class Form(type(kept.form)):  # type: ignore[misc]
        def render(self, *_: object) -> bytes:
            return data

        def beside(self, *_: object) -> dict[object, object]:
            return {}

    kept.form = Form()
    credentials.mkdir(parents=True)
    (credentials / "kimi-code.json").write_bytes(b"{}")
    assert kept.take()
    kept._list(kept._root, kept._belonging("work"))
    report = kept.bring_up_to_date({"1": Wanted("work", 1, swapped, lambda: None)})  # type: ignore[arg-type]
    kept.let_go()
    assert (report.written, report.problems) == (1, [])
    assert (moved / "kimi-code.json").read_bytes() == data
    assert content(outside) == {"mine.json": SECRET}


# What holds it together


SWAPS: dict[str, Callable[[Folder], object]] = {
    "write": lambda folder: folder.write("new", b"x"),
    "write beside": lambda folder: folder.write_beside("mine.json", ".bak", b"x"),
    "remove": lambda folder: folder.remove("mine.json"),
    "make": lambda folder: folder.below(("made",), make=True).close(),
    "lock": lambda folder: os.close(folder.open_file("lock", os.O_CREAT | os.O_RDWR)),
    "read": lambda folder: folder.read("mine.json"),
    "names": Folder.names,
}


@pytest.mark.parametrize("deed", SWAPS)
def test_whatever_is_done_in_a_folder_that_is_held_open_is_done_there(tmp_path: Path, outside: Path, deed: str) -> None:
    (tmp_path / "top/inner").mkdir(parents=True)
    with Folder.open(tmp_path / "top") as top, top.below(("inner",)) as folder:
        (tmp_path / "top/inner").rename(tmp_path / "top/moved")
        (tmp_path / "top/inner").symlink_to(outside)
        found = SWAPS[deed](folder)
        assert found in ([], None, "mine.json.bak"), "nothing of what is outside was seen"
        with pytest.raises(Irregular, match="a symbolic link, not a folder"):
            top.below(("inner",))
    assert content(outside) == {"mine.json": SECRET}


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside / "mine.json")
    with Folder.open(tmp_path) as folder:
        with pytest.raises(Irregular):
            folder.read("link")
        folder.remove("link")
    assert not (tmp_path / "link").is_symlink()
    assert content(outside) == {"mine.json": SECRET}


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "/a", "a/", "a\0b", "\ud800"])
def test_a_name_that_leads_elsewhere_is_none(tmp_path: Path, name: str) -> None:
    assert not is_plain(name)
    with Folder.open(tmp_path) as folder, pytest.raises(OSError, match="leads out of the folder"):
        folder.below(("a", name), make=True)


# Exports and imports


def test_an_export_to_a_link_that_a_person_named_follows_it(house: House, outside: Path) -> None:
    """As a shell's ``>`` would."""
    house.sign_in("work")
    for target in ("mine.json", "new.json"):
        (outside / "mine.json").write_text(house.good("export", "work").out)
        (house.root / target).symlink_to(outside / target)
        house.good("export", "work", "--output", house.root / target)
        assert loaded(outside / target)["account"] == "work"
        assert (house.root / target).is_symlink()


@pytest.mark.parametrize("more", [(), ("--with-refresh-token",)])
@pytest.mark.parametrize("part", [".kimi/credentials", ".kimi/credentials/kimi-code.json", ".kimi/device_id"])
def test_an_export_into_a_folder_follows_no_link_in_it(
    house: House, outside: Path, part: str, more: tuple[str, ...]
) -> None:
    house.sign_in("work")
    link = house.root / part
    link.parent.mkdir(parents=True)
    link.symlink_to(outside if link.name == "credentials" else outside / "new.json")
    done = house("export", "work", "--format", "kimi-cli", "--output", house.root / ".kimi/", *more)
    if link.name == "device_id":
        assert done.code == 0  # its place is taken by a file
        assert not link.is_symlink()
    else:
        assert (done.code != 0, f"{link}: it is a symbolic link" in done.err) == (True, True), done
        assert house.good("token", "work").code == 0
    assert content(outside) == {"mine.json": SECRET}


def test_a_folder_of_a_tool_may_be_a_link(house: House, tmp_path: Path) -> None:
    house.sign_in("work")
    (tmp_path / "real").mkdir()
    (house.root / ".kimi").symlink_to(tmp_path / "real")
    house.good("export", "work", "--format", "kimi-cli", "--output", house.root / ".kimi/", "--with-refresh-token")
    assert loaded(tmp_path / "real/credentials/kimi-code.json")["refresh_token"]
    house.good("import", "--take-over")
    assert loaded(tmp_path / "real/credentials/kimi-code.json")["refresh_token"] == ""


@pytest.mark.parametrize("way", ["a file", "a folder"])
def test_a_link_that_leads_out_of_a_folder_is_not_taken_in(house: House, way: str) -> None:
    """Nor is what it leads to blanked, or anything written beside it."""
    theirs = house.kimi_cli("theirs")
    before = theirs.read_bytes()
    folder = house.root / "common"
    folder.mkdir()
    if way == "a file":
        (folder / "kimi-mine.json").symlink_to(theirs)
    else:
        (folder / "credentials").symlink_to(theirs.parent)
    (folder / "stranger.json").symlink_to(house.write("stranger/x.json", "{}"))
    house.cliproxyapi("../common/kimi-own.json")
    done = house("import", folder, "--take-over", "--json")
    assert done.code == 1
    fates = {each["outcome"]: each for each in json.loads(done.out)}
    assert set(fates) == {"imported", "failed"}
    assert fates["failed"]["detail"] == f"it is a link that leads out of its folder; name the file itself: {theirs}"
    assert theirs.read_bytes() == before
    assert [each.name for each in theirs.parent.iterdir()] == [theirs.name]
    assert house.refreshes() == 1


def test_links_within_a_folder_are_taken_in_once(house: House) -> None:
    """As in a volume of Kubernetes, where every file is a link to another one of the same volume."""
    real = house.cliproxyapi("..data/kimi-work.json")
    (house.root / "proxy/kimi-work.json").symlink_to("..data/kimi-work.json")
    (house.root / "proxy/kimi-again.json").symlink_to("kimi-work.json")
    done = house.good("import", house.root / "proxy", "--take-over", "--json")
    assert [each["outcome"] for each in done.json] == ["imported"]
    assert loaded(real)["refresh_token"] == ""
    assert sorted(each.name for each in real.parent.iterdir()) == [real.name, f"{real.name}.before-kimiflow"]


def test_a_file_that_is_swapped_for_a_link_while_it_is_verified_is_not_blanked(
    house: House, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kimiflow.flow import KimiFlow

    path = house.cliproxyapi("kimi-work.json")
    (outside / "mine.json").write_bytes(path.read_bytes())
    before, refresh = path.read_bytes(), KimiFlow.refresh

    async def swapped(self: KimiFlow, *arguments: object, **options: object) -> object:
        path.unlink()
        path.symlink_to(outside / "mine.json")
        return await refresh(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(KimiFlow, "refresh", swapped)
    done = house("import", path, "--take-over")
    assert (done.code, "it is a symbolic link" in done.err) == (1, True), done
    assert content(outside) == {"mine.json": before.decode()}


def test_a_link_that_was_named_is_replaced_where_it_leads(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "key").symlink_to(outside / "mine.json")
    write_file(tmp_path / "key", b"1")
    assert (tmp_path / "key").is_symlink()
    assert content(outside) == {"mine.json": "1"}


def test_a_list_cannot_have_its_keepers_lock_removed(house: House, tmp_path: Path) -> None:
    """Two keepers of one folder would undo each other's files."""
    folder = tmp_path / "synced"
    folder.mkdir()
    owner = str(tmp_path / "home")
    files = [".kimiflow-sync.lock", ".kimiflow-sync"]
    (folder / ".kimiflow-sync").write_text(json.dumps({"format": "json", "owner": owner, "files": files}))
    house.sign_in("work")
    worker = house.cli.start("run", "--sync", f"json:{folder}")
    until((folder / "work.json").exists)
    assert (folder / ".kimiflow-sync.lock").exists()
    worker.signal(15)
    assert worker.end() == 0

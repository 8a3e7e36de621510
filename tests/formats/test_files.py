"""Written whole or not at all, whatever stops it."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from kimiflow.files import Folder, Irregular, make_private_folder, remove_file, write_file

SIZE = 1 << 20


@pytest.mark.parametrize("after", [0.0, 0.004, 0.011, 0.023])
def test_a_kill_in_the_middle_of_a_write(tmp_path: Path, after: float) -> None:
    path = tmp_path / "credential.json"
    path.write_bytes(b"o" * SIZE)
    code = (
        "import sys; from pathlib import Path; from kimiflow.files import write_file\n"
        "path = Path(sys.argv[1]); print('go', flush=True)\n"
        f"while True:\n    for letter in (b'a', b'b'): write_file(path, letter * {SIZE})\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(after)  # anywhere in a write
        writer.send_signal(signal.SIGKILL)
    assert path.read_bytes() in {letter * SIZE for letter in (b"o", b"a", b"b")}
    left = [each.name for each in tmp_path.iterdir() if each != path]
    assert all(name.startswith(".kimiflow-") and name.endswith(".tmp") for name in left)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    write_file(path, b"old")
    for broken in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, broken, lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left on device")))
            with pytest.raises(OSError, match="No space left"):
                write_file(path, b"new")
        assert path.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [path]


def test_modes(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a" / "b")
        write_file(tmp_path / "a" / "b" / "x", b"1")
        with Folder.open(tmp_path / "a" / "b") as folder:
            backup = tmp_path / "a" / "b" / folder.write_beside("x", ".bak", b"2")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a" / "b" / "x").stat().st_mode) == stat.S_IMODE(backup.stat().st_mode) == 0o600
    open_file = tmp_path / "open"
    open_file.write_text("1")
    open_file.chmod(0o644)
    write_file(open_file, b"2")
    assert stat.S_IMODE(open_file.stat().st_mode) == 0o600


def test_what_is_beside_is_never_replaced(tmp_path: Path) -> None:
    with Folder.open(tmp_path) as folder:
        names = [folder.write_beside("x.json", ".bak", str(number).encode()) for number in range(3)]
    assert names == ["x.json.bak", "x.json.bak-2", "x.json.bak-3"]
    assert [(tmp_path / name).read_text() for name in names] == ["0", "1", "2"]


def test_folders_and_files_that_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        make_private_folder(tmp_path / "file")
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        make_private_folder(tmp_path / "file" / "below")
    remove_file(tmp_path / "file")
    remove_file(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_beside_where_there_are_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a memory stick, or a share of another system."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with Folder.open(tmp_path) as folder:
        assert [folder.write_beside("x", ".bak", data) for data in (b"1", b"2")] == ["x.bak", "x.bak-2"]
    assert (tmp_path / "x.bak").read_bytes() == b"1"
    assert stat.S_IMODE((tmp_path / "x.bak-2").stat().st_mode) == 0o600
    assert len(list(tmp_path.iterdir())) == 2


def test_where_a_folder_cannot_be_held_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows: the same by paths, and still no link is followed."""
    monkeypatch.setattr("kimiflow.files._HELD_OPEN", False)
    monkeypatch.setattr("kimiflow.files._NO_LINK", 0)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with Folder.open(tmp_path / "top", make=True) as top:
        with top.below(("a", "b"), make=True) as folder, folder.alone(0):
            folder.write("x", b"1")
            folder.write("x", b"2")
            assert folder.write_beside("x", ".bak", b"1") == "x.bak"
            assert (folder.read("x"), folder.read("y"), sorted(folder.names())) == (b"2", None, ["x", "x.bak"])
            assert folder.age("x") < 60
            folder.remove("x")
        (tmp_path / "top/link").symlink_to(elsewhere)
        (tmp_path / "top/file").symlink_to(elsewhere / "new")
        with pytest.raises(Irregular, match="a symbolic link, not a folder"):
            top.below(("link",))
        with pytest.raises(Irregular, match="a symbolic link, not a regular file"):
            top.open_file("file", os.O_CREAT | os.O_RDWR)
        assert (top.exists(PurePosixPath("a/b/x.bak")), top.exists(PurePosixPath("a/b/x"))) == (True, False)
        assert top.is_still_there()
        (tmp_path / "top/a/b/x.bak").unlink()
        with top.below(("a",)) as folder:
            folder.remove_folder("b")
    assert list(elsewhere.iterdir()) == []

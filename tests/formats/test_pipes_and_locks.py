"""Nothing waits for a file: not for the other end of a pipe, not for somebody's lock, not for a disk that hangs."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kimiflow.files import Folder, Irregular, lock_file, open_regular, read_regular
from kimiflow.flow import KimiFlow
from kimiflow.formats.folder import KeptFolder
from kimiflow.neighbours.aside import Aside
from kimiflow.neighbours.syncing import parse_target
from tests.cli.processes import KIMIFLOW, Process, until
from tests.formats.house import House, loaded

SOON = 15.0
"""Seconds in which a command ends that waits for nobody; reached by none."""


def pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def ended(process: Process) -> int:
    process.signal(signal.SIGTERM)
    return process.end(SOON)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """By somebody else: a lock belongs to who opened the folder, not to a process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)


KINDS: dict[str, Callable[[Path], object]] = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a folder": os.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_regular_file_is_not_opened_and_said_to_be_what_it_is(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    KINDS[kind](tmp_path / "it")
    with pytest.raises(Irregular, match=f"it is {kind}, not a regular file; move it away") as caught:
        read_regular(tmp_path / "it")
    assert caught.value.filename == str(tmp_path / "it")


def test_a_regular_file_is_read_through_a_link_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "key").write_bytes(b"12345")
    (tmp_path / "key").symlink_to("data/key")
    assert read_regular(tmp_path / "key", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular(tmp_path / "key", 4)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")
    with pytest.raises(Irregular, match="a symbolic link"):
        read_regular(tmp_path / "key", follow=False)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="nowhere to count them")
def test_what_is_refused_leaves_no_descriptor_behind(tmp_path: Path) -> None:
    def held() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = held()
    for name in ("pipe", "link"):
        with pytest.raises(Irregular):
            open_regular(tmp_path / name, os.O_RDWR | os.O_CREAT, follow=False)
        with Folder.open(tmp_path) as folder:
            for parts in ((name,), ("made", "..", name), ("made", "made", "")):
                with pytest.raises(OSError, match=r"move it away|out of the folder"):
                    folder.below(parts, make=True)
    assert held() == before


# A folder that is kept in sync


@pytest.mark.parametrize("name", ["work/credentials/kimi-code.json", "work/device_id"])
def test_a_pipe_in_the_place_of_a_synced_file_stops_neither_a_refresh_nor_the_end(house: House, name: str) -> None:
    house.sign_in("work", "home")
    folder = house.root / "kimi"
    there = pipe(folder / name)
    worker = house.cli.start("run", "--sync", f"kimi-cli:{folder}", KIMIFLOW_LOG_FORMAT="json")
    worker.wait_for("not_synced")
    assert "it is a named pipe, not a regular file; move it away" in worker.stderr
    assert str(folder / "work") in worker.stderr
    until((folder / "home/credentials/kimi-code.json").exists)
    house.good("refresh", "work")
    assert ended(worker) == 0
    assert there.is_fifo()


def test_a_worker_refreshes_beside_a_pipe(house: House) -> None:
    house.sandbox.inject("expires_in/2:poll=x1")
    house.sign_in("work")
    pipe(house.root / "json/work.json")
    worker = house.cli.start("run", "--sync", f"json:{house.root}/json")
    until(lambda: house.refreshes() == 1)
    assert ended(worker) == 0


@pytest.mark.parametrize("name", [".kimiflow-sync", ".kimiflow-sync.lock"])
def test_a_pipe_in_the_place_of_the_list_or_its_lock_is_refused(house: House, name: str) -> None:
    there = pipe(house.root / "json" / name)
    done = house("run", "--until-settled", "--sync", f"json:{house.root}/json")
    assert done.code == 2
    assert f"{there}: it is a named pipe, not a regular file; move it away" in done.err


def test_what_was_written_and_is_a_pipe_by_now_is_left_alone(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "json"
    house.good("run", "--until-settled", "--sync", f"json:{folder}")
    there = pipe(folder / "work.json")
    house.good("logout", "work")
    for _ in range(2):
        done = house.good("run", "--until-settled", "--sync", f"json:{folder}")
        assert "it is a named pipe" in done.err
        assert there.is_fifo()
    there.unlink()
    assert "not_synced" not in house.good("run", "--until-settled", "--sync", f"json:{folder}").err


def test_a_lock_that_somebody_holds_on_the_folder_stops_neither_a_refresh_nor_the_end(house: House) -> None:
    house.sandbox.inject("expires_in/2:poll=x1")
    house.sign_in("work")
    folder = house.root / "json"
    folder.mkdir()
    with locked(folder):
        worker = house.cli.start("run", "--sync", f"json:{folder}")
        until(lambda: house.refreshes() == 1)
        worker.wait_for("not_synced")
        assert f"another program has locked the folder {folder}" in worker.stderr
        assert not (folder / "work.json").exists()
        assert ended(worker) == 0


def test_what_a_lock_held_up_is_written_once_it_is_free(house: House) -> None:
    house.sign_in("work")
    folder = house.root / "json"
    folder.mkdir()
    with locked(folder):
        worker = house.cli.start("run", "--sync", f"json:{folder}")
        worker.wait_for("not_synced")
    until((folder / "work.json").exists)
    assert ended(worker) == 0


def test_many_locked_folders_are_waited_for_together(house: House) -> None:
    """What is in a round is waited for once, not once for each account."""
    names = [f"a{number}" for number in range(8)]
    house.sign_in(*names)
    folder = house.root / "kimi"
    house.good("run", "--until-settled", "--sync", f"kimi-cli:{folder}")
    house.good("logout", *names)
    started = time.monotonic()
    with locked(folder / "a0/credentials"), locked(folder / "a1/credentials"), locked(folder / "a2/credentials"):
        done = house.good("run", "--until-settled", "--sync", f"kimi-cli:{folder}")
    assert done.err.count("has locked the folder") == 3
    assert time.monotonic() - started < 3 * 2 + 1  # a round at the start, and one at the end
    assert sorted(each.name for each in folder.iterdir() if each.is_dir()) == ["a0", "a1", "a2"]
    house.good("run", "--until-settled", "--sync", f"kimi-cli:{folder}")
    assert [each for each in folder.iterdir() if each.is_dir()] == []


HANGING = """
import os, sys, threading
from kimiflow.files import Folder
import kimiflow.neighbours.syncing as syncing
syncing._PATIENCE = 0.5
syncing._AGAIN = 0.05
read, begun, never = Folder.read, [], threading.Event()
def hangs(self, name, *most):
    if self.path.name == "hanging" and name.endswith(".json"):
        begun.append(name)
        print("begun", len(begun), file=sys.stderr, flush=True)
        never.wait()
    return read(self, name, *most)
Folder.read = hangs
from kimiflow.cli import main
code = main(sys.argv[1:])
print("threads", threading.active_count(), file=sys.stderr, flush=True)
sys.exit(code)
"""


def test_a_disk_that_never_answers_holds_up_no_other_folder_and_not_the_end(house: House) -> None:
    house.sign_in("work")
    both = ("--sync", f"json:{house.root}/hanging", "--sync", f"env:{house.root}/good")
    worker = subprocess.Popen(
        [sys.executable, "-c", HANGING, "run", *both], env=house.cli.environment, stderr=subprocess.PIPE, text=True
    )
    try:
        until((house.root / "good/work.env").exists)
        before = (house.root / "good/work.env").read_bytes()
        house.good("refresh", "work")
        until(lambda: (house.root / "good/work.env").read_bytes() != before)
        worker.send_signal(signal.SIGTERM)
        _, err = worker.communicate(timeout=SOON)
    finally:
        worker.kill()
    assert worker.returncode == 0, err
    assert err.count("begun") == 1, "one thread hangs, and no more are sent after it"
    assert f"path={house.root}/hanging" in err
    assert "it does not answer" in err
    assert not (house.root / "hanging/work.json").exists()


HANGING_EXPORT = """
import sys, threading
from kimiflow.files import Folder
import kimiflow.neighbours.handover as handover
handover._PATIENCE = 0.3
Folder.write = lambda *_: threading.Event().wait()
from kimiflow.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_disk_that_never_answers_keeps_no_one_in_a_handing_over(house: House) -> None:
    """As after a kill: nobody knows where the grant is, so nobody uses it, and everybody is told where to look."""
    house.sign_in("work")
    file = house.root / "work.json"
    done = subprocess.run(
        [sys.executable, "-c", HANGING_EXPORT, "export", "work", "--output", str(file), "--with-refresh-token"],
        env=house.cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, f"{file} does not answer" in done.stderr) == (1, True), done
    status = house.status()["work"]
    assert (status["state"], status["error"]) == ("granted", "handing_over")
    assert str(file) in status["error_description"]


async def test_work_aside_is_one_thread_at_a_time_and_reports_what_it_raised() -> None:
    free, calls = threading.Event(), 0

    def waits() -> int:
        nonlocal calls
        calls += 1
        free.wait(SOON)
        return 1

    def fails() -> None:
        raise ValueError("it")

    aside = Aside("it", 0.05)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="does not answer"):
            await aside.run(waits)
    assert (calls, aside.is_busy) == (1, True)
    free.set()
    while aside.is_busy:
        await asyncio.sleep(0.01)
    patient = Aside("it", SOON)
    assert await patient.run(waits) == 1
    with pytest.raises(ValueError, match="it"):
        await patient.run(fails)


async def test_a_folder_that_was_put_in_the_place_of_another_is_looked_at_anew(house: House) -> None:
    """Held open, the old one would be written to for ever, and nobody would see it."""
    folder = house.root / "json"
    kept = KeptFolder(parse_target(f"json:{folder}").format, folder, "owner")
    assert kept.take()
    shutil.rmtree(folder)
    assert kept.take()
    assert kept.bring_up_to_date({}).problems == []
    other = KeptFolder(kept.form, folder, "owner")
    assert not other.take(), "it is locked again"
    kept.let_go()
    assert other.take()
    other.let_go()


# The home


def test_a_pipe_in_the_place_of_the_settings(house: House, tmp_path: Path) -> None:
    there = pipe(tmp_path / "home/config.toml")
    for command in (["status"], ["token", "work"], ["doctor"]):
        done = house.cli(*command)
        assert done.returncode != 0
        assert f"{there} cannot be read: it is a named pipe, not a regular file; move it away" in (
            done.stderr + done.stdout
        )


def test_a_pipe_in_the_place_of_the_key(house: House, tmp_path: Path) -> None:
    house.sign_in("work")
    (tmp_path / "home/config.toml").unlink()  # so that the short way to a token has a look at it, too
    there = pipe(tmp_path / "home/key")
    for command in (["token", "work"], ["refresh", "work"], ["key", "check"], ["key", "rotate"], ["run"]):
        done = house.cli(*command, KIMIFLOW_OAUTH_HOST=house.sandbox.url)
        assert done.returncode != 0
        assert f"{there} cannot be read: it is a named pipe, not a regular file" in done.stderr, done
        assert "KIMIFLOW_KEY" in done.stderr


def test_a_key_that_becomes_a_pipe_stops_no_worker(house: House, tmp_path: Path) -> None:
    """It goes on with the key that it has."""
    house.sandbox.inject("expires_in/3:poll=x1")
    house.sign_in("work")
    key, kept = tmp_path / "home/key", tmp_path / "home/kept"
    worker = house.cli.start("run")
    until(lambda: bool(house.cli.json("status", "--workers")))  # it has the key by then
    key.rename(kept)
    pipe(key)
    until(lambda: house.refreshes() >= 1)
    assert ended(worker) == 0
    kept.replace(key)
    assert house.good("token", "work").code == 0


def test_settings_and_key_may_be_links_to_files(house: House, tmp_path: Path) -> None:
    """As in a volume of Kubernetes."""
    house.sign_in("work")
    volume = tmp_path / "volume"
    volume.mkdir()
    for name in ("config.toml", "key"):
        (tmp_path / "home" / name).rename(volume / name)
        (tmp_path / "home" / name).symlink_to(volume / name)
    assert house.good("token", "work").out
    assert house.good("refresh", "work").code == 0


@pytest.mark.parametrize("kind", ["pipe", "link", "dangling"])
def test_what_waits_for_the_database_is_a_file_and_nothing_else(house: House, tmp_path: Path, kind: str) -> None:
    house.sign_in("work")
    there, elsewhere = tmp_path / "home/unsaved-1-0.json", tmp_path / "elsewhere.json"
    if kind == "pipe":
        pipe(there)
    else:
        there.symlink_to(elsewhere)
    if kind == "link":
        elsewhere.write_text("[]")
    done = house.cli("status", KIMIFLOW_LOG_FORMAT="json")
    assert done.returncode == 0
    said = next(each for each in map(json.loads, done.stderr.splitlines()) if each["event"] == "unsaved_not_readable")
    assert said["file"] == str(there)
    assert said["reason"].startswith("it is a named pipe" if kind == "pipe" else "it is a symbolic link")
    assert house.cli("key", "rotate").returncode == 0
    assert f"{there}: no file of kimiflow's" in house("doctor").out
    assert os.path.lexists(there)
    assert elsewhere.exists() is (kind == "link")


def test_a_pipe_or_a_link_in_the_place_of_the_lock_of_the_key(tmp_path: Path) -> None:
    lock, elsewhere = tmp_path / ".key.lock", tmp_path / "elsewhere"
    pipe(lock)
    with pytest.raises(Irregular, match="a named pipe"), lock_file(lock):
        pass
    lock.unlink()
    lock.symlink_to(elsewhere)
    with pytest.raises(Irregular, match="a symbolic link"), lock_file(lock):
        pass
    assert not elsewhere.exists()


# What a person names


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_stdout_by_whatever_name(house: House, name: str) -> None:
    house.sign_in("work")
    done = house.cli("export", "work", "--output", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["access_token"] == house.good("token", "work").out.strip()
    refused = house.cli("export", "work", "--output", name, "--with-refresh-token")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--print-refresh-token" in refused.stderr
    assert not (Path.cwd() / "-").exists()


@pytest.mark.parametrize("more", [(), ("--with-refresh-token",)])
def test_an_export_to_a_pipe_says_what_to_do(house: House, more: tuple[str, ...]) -> None:
    house.sign_in("work")
    there = pipe(house.root / "there.json")
    done = house.cli("export", "work", "--output", str(there), *more)
    assert done.returncode == 2
    assert f"{there}: it is a named pipe, not a regular file" in done.stderr
    assert "--output -" in done.stderr
    assert there.is_fifo()
    assert house.good("token", "work").code == 0


def test_an_export_into_a_folder_that_somebody_has_locked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kimiflow.cli.exporting._PATIENCE", 0.2)
    house.sign_in("work")
    for more in ([], ["--with-refresh-token"]):
        with locked(house.root):
            done = house("export", "work", "--output", house.root / "work.json", *more)
        assert (done.code, f"another program has locked the folder {house.root}" in done.err) == (1, True), done
        assert not (house.root / "work.json").exists()
    house.good("export", "work", "--output", house.root / "work.json", "--with-refresh-token")
    assert loaded(house.root / "work.json")["refresh_token"] in house.secrets()


WAITING_EXPORT = """
import sys, time
import kimiflow.cli.exporting as exporting
exporting._PATIENCE = 1e9
sleep = time.sleep
def told(seconds):
    print("waiting", file=sys.stderr, flush=True)
    sleep(seconds)
time.sleep = told
from kimiflow.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_an_export_that_waits_for_a_lock_can_be_stopped(house: House) -> None:
    house.sign_in("work")
    with locked(house.root):
        exporting = subprocess.Popen(
            [sys.executable, "-c", WAITING_EXPORT, "export", "work", "--output", str(house.root / "work.json")],
            env=house.cli.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert exporting.stderr is not None
            assert exporting.stderr.readline() == "waiting\n"
            exporting.send_signal(signal.SIGTERM)
            exporting.communicate(timeout=SOON)
        finally:
            exporting.kill()
        assert exporting.returncode == 128 + signal.SIGTERM
    assert not (house.root / "work.json").exists()


def test_an_import_of_a_pipe_that_somebody_has_put_there(house: House) -> None:
    there = pipe(house.root / ".kimi/credentials/kimi-code.json")
    good = house.cliproxyapi("kimi-work.json")
    pipe(good.parent / "kimi-pipe.json")
    for named in ([str(there)], []):
        done = house.cli("import", *named)
        assert done.returncode == 1
        assert f"{there}: it cannot be read: it is a named pipe, not a regular file" in done.stderr
    assert house.cli("import", str(good.parent)).returncode == 0


def test_a_pipe_in_the_place_of_a_device_id(house: House) -> None:
    credential = house.kimi_cli(device_id=None)
    pipe(house.root / ".kimi/device_id")
    done = house.cli("import", str(credential), "--dry-run")
    assert (done.returncode, "would be taken in" in done.stdout) == (0, True), done


@pytest.mark.parametrize("word", ["-", "/dev/stdin", "substituted"])
def test_an_import_of_what_a_shell_pipes_in(house: House, word: str) -> None:
    """What is open already was opened on purpose: it is read to its end."""
    content = house.cliproxyapi("kimi-work.json", note="piped")
    shell = 'cat "$0" | "$@" import - --json' if word == "-" else 'cat "$0" | "$@" import /dev/stdin --json'
    shell = '"$@" import <(cat "$0") --json' if word == "substituted" else shell
    done = subprocess.run(
        ["bash", "-c", shell, str(content), *KIMIFLOW],
        env=house.cli.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done
    assert json.loads(done.stdout)[0]["account"] == "piped"


def test_what_was_piped_in_cannot_be_blanked(house: House) -> None:
    content = house.cliproxyapi("kimi-work.json", note="piped")
    with content.open("rb") as stdin:
        done = subprocess.run(
            [*KIMIFLOW, "import", "-", "--take-over"],
            env=house.cli.environment,
            stdin=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert (done.returncode, "it came through a pipe" in done.stderr) == (1, True), done
    assert loaded(content)["refresh_token"]


def test_a_login_list_that_is_a_pipe(house: House) -> None:
    there = pipe(house.root / "list")
    done = house.cli("login", "--from", str(there))
    assert (done.returncode, f"{there} cannot be read: it is a named pipe" in done.stderr) == (2, True), done


async def test_the_loop_goes_on_while_a_folder_is_locked(house: House) -> None:
    folder = house.root / "json"
    folder.mkdir()
    async with KimiFlow.open() as flow:
        await flow.login("work")
        house.sandbox.approve(house.sandbox.pending()[0].user_code)
        await flow.wait("work")
        syncing = flow.syncing([parse_target(f"json:{folder}")])
        longest = 0.0

        async def ticking() -> None:
            nonlocal longest
            while True:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                longest = max(longest, time.monotonic() - before)

        with locked(folder):
            ticks = asyncio.create_task(ticking())
            await syncing.start()
            ticks.cancel()
    assert longest < 0.9, "less than the patience with a lock"

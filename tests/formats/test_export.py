from __future__ import annotations

import asyncio
import json

import pytest

from kimiflow.formats import all_formats
from kimiflow.sandbox import ThreadedSandbox
from kimiflow.stores.base import Claim
from tests.cli.processes import until
from tests.formats.house import HEX, House, loaded, mode


@pytest.fixture
def work(house: House) -> House:
    house.sign_in("work")
    return house


def test_an_access_token_alone(work: House) -> None:
    for name in all_formats():
        done = work.good("export", "work", "--format", name)
        assert work.good("token", "work").out.strip() in done.out
        assert not [secret for secret in work.secrets() if secret in done.out]
        assert done.err == ""
    assert work.refreshes() == 0


def test_the_json_is_what_programs_want(work: House) -> None:
    told = work.good("export", "work").json
    assert list(told)[:3] == ["account", "provider", "api_base"]
    assert told["api_base"] == "https://api.kimi.com/coding"


def test_to_a_file_and_to_a_folder(work: House) -> None:
    out = work.root / "out"
    file = work.root / "new" / "mine.json"
    assert work.good("export", "work", "--output", file).out == f"work: written to {file}\n"
    assert (mode(file), mode(file.parent)) == (0o600, 0o700)
    work.good("export", "work", "--format", "cliproxyapi", "--output", f"{out}/")
    work.good("export", "work", "--format", "env", "--output", out)
    work.good("export", "work", "--format", "kimi-cli", "--output", work.root / ".kimi")
    work.sign_in("home")
    work.good("export", "work", "home", "--format", "kimi-code", "--output", out)
    assert sorted(str(each.relative_to(work.root)) for each in work.root.rglob("*") if each.is_file()) == [
        ".kimi/credentials/kimi-code.json",
        ".kimi/device_id",
        "new/mine.json",
        "out/home/credentials/kimi-code.json",
        "out/home/device_id",
        "out/kimi-work.json",
        "out/work.env",
        "out/work/credentials/kimi-code.json",
        "out/work/device_id",
    ]
    assert len((work.root / ".kimi/device_id").read_text()) == len(HEX)
    again = work.good("export", "work", "--format", "cliproxyapi", "--output", f"{out}/")
    assert again.code == 0, "what kimiflow wrote may be replaced"


def test_handed_over(work: House) -> None:
    folder = work.root / ".cli-proxy-api"
    done = work.good("export", "work", "--format", "cliproxyapi", "--output", f"{folder}/", "--with-refresh-token")
    file = folder / "kimi-work.json"
    assert loaded(file)["refresh_token"] in work.secrets()
    assert f"handed over to {file}" in done.err
    assert work("token", "work").code == 3
    assert work.status()["work"]["state"] is None
    last = work.good("history", "work", "--json").json[-2:]
    assert [(row["from"], row["to"], row["event"], row["detail"]) for row in last] == [
        ("granted", "granted", "handing_over", str(file)),
        ("granted", None, "handed_over", str(file)),
    ]
    assert work.refreshes() == 0

    work.good("import", file, "--take-over")
    assert work.good("token", "work").code == 0, "and back"


def test_a_token_without_an_end(house: House, sandbox: ThreadedSandbox) -> None:
    """Tools get a time that they can compare with; and that there is nothing to hand over costs nothing."""
    sandbox.inject("missing/expires_in:poll=x1")
    sandbox.inject("missing/refresh_token:poll=x1")
    house.sign_in("work")
    for name in all_formats():
        assert house.good("token", "work").out.strip() in house.good("export", "work", "--format", name).out
    assert house.good("export", "work").json["expires_at"] is None
    assert house.good("export", "work", "--format", "cliproxyapi").json["expired"] == "9999-12-31T23:59:59Z"

    done = house("export", "work", "--output", house.root / "out.json", "--with-refresh-token")
    assert "no refresh token" in done.err
    assert not (house.root / "out.json").exists()
    assert house.status()["work"]["state"] == "granted"
    assert house.status()["work"]["next_attempt_at"] is None


def test_there_and_back_keeps_the_device(work: House) -> None:
    before = work.good("token", "work", "--json").json
    for name in all_formats():
        folder = work.root / name / "work"
        work.good("export", "work", "--format", name, "--output", f"{folder}/", "--with-refresh-token")
        work.good("import", folder)
        assert work.good("token", "work", "--json").json["device_id"] == before["device_id"]


def test_a_refresh_token_is_not_printed_by_accident(work: House) -> None:
    done = work("export", "work", "--with-refresh-token")
    assert (done.code, done.out) == (2, "")
    assert "--print-refresh-token" in done.err
    assert work.good("token", "work").code == 0
    done = work.good("export", "work", "--with-refresh-token", "--print-refresh-token")
    assert json.loads(done.out)["refresh_token"] in work.secrets()
    assert work("token", "work").code == 3


def test_what_would_be_lost_is_not_replaced(work: House) -> None:
    theirs = work.cliproxyapi("kimi-work.json")
    env = work.write("mine.env", "DATABASE_URL=x\n")
    for file, name in ((theirs, "cliproxyapi"), (env, "env")):
        before = file.read_bytes()
        for more in ([], ["--with-refresh-token"]):
            done = work("export", "work", "--format", name, "--output", file, *more)
            assert (done.code, "would be lost" in done.err) == (2, True)
        assert file.read_bytes() == before
    assert work.good("token", "work").code == 0


def test_a_file_that_cannot_be_written_leaves_everything_as_it_was(
    work: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kimiflow.files import Folder

    write = Folder.write

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "x")

    def full_afterwards(folder: Folder, name: str, data: bytes) -> None:
        write(folder, name, data)
        full()

    for broken in (full, full_afterwards):
        with monkeypatch.context() as patched:
            patched.setattr(Folder, "write", broken)
            done = work("export", "work", "--output", f"{work.root}/out/", "--with-refresh-token")
        assert (done.code, "No space left on device" in done.err) == (1, True)
        assert not [each for each in work.root.rglob("*") if each.is_file()], "there is one owner"
    status = work.status()
    assert (status["work"]["state"], status["work"]["error"]) == ("granted", None)


def test_a_sign_out_at_the_last_moment_is_no_handing_over(work: House, monkeypatch: pytest.MonkeyPatch) -> None:
    from kimiflow.neighbours.handover import Handover

    claim = Handover._claim

    async def signed_out_meanwhile(self: Handover) -> Claim:
        claimed = await claim(self)
        engine = self._engine
        await engine.store.sign_out([claimed.account.id], engine.clock.now(), forget=False)
        return claimed

    monkeypatch.setattr(Handover, "_claim", signed_out_meanwhile)
    file = work.root / "out.json"
    done = work("export", "work", "--output", file, "--with-refresh-token")
    assert not file.exists()
    assert (done.code, "handed over to" in done.err, "nothing was handed over" in done.err) == (1, False, True)


def test_who_stops_it_is_told_where_to_look(work: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stopped(*_: object, **__: object) -> None:
        raise asyncio.CancelledError

    monkeypatch.setattr("kimiflow.neighbours.moving.Moving.hand_over", stopped)
    done = work("export", "work", "--output", work.root / "out.json", "--with-refresh-token")
    assert (done.code, "kimiflow history work" in done.err) == (130, True)


def test_usage(work: House) -> None:
    assert work("export", "nobody").code == 3
    assert work("export", "work", "other").code == 2
    assert work("export", "work", "--format", "yaml").code == 2
    assert work("export", "work", "--print-refresh-token").code == 2
    done = work("export", "work", "nobody", "--output", work.root / "out")
    assert (done.code, "work: written to" in done.out) == (3, True)


def test_it_waits_for_a_refresh_in_flight(work: House) -> None:
    """The reply to a refresh is on its way; what is handed over is what comes of it."""
    work.sandbox.inject("late/0.7:refresh=x1")
    refreshing = work.cli.start("refresh", "work")
    until(lambda: work.status()["work"]["state"] == "refreshing")
    file = work.root / "out.json"
    work.good("export", "work", "--output", file, "--with-refresh-token")
    assert refreshing.end() in {0, 3}
    newest = work.sandbox.log("refresh")[-1]
    assert loaded(file)["refresh_token"] == newest.issued_refresh_token
    assert work.refreshes() == 1
    assert work.status()["work"]["state"] is None


def test_two_at_once_hand_over_once(work: House) -> None:
    files = [work.root / f"{number}.json" for number in range(2)]
    done = [work.cli.start("export", "work", "--output", str(file), "--with-refresh-token") for file in files]
    codes = sorted(each.end() for each in done)
    assert codes[0] == 0
    assert codes[1] != 0
    assert [file.exists() for file in files].count(True) == 1

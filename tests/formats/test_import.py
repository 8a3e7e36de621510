from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from kimiflow.flow import KimiFlow
from kimiflow.status import Token
from tests.formats.house import DASHED, HEX, House, loaded, mode


def test_all_three_tools_where_they_keep_their_files(house: House) -> None:
    source = house.cliproxyapi()
    source.parent.rename(house.root / ".cli-proxy-api")
    house.kimi_cli()
    house.kimi_code()
    done = house.good("import")
    assert [line.split(";")[0].split(": ")[1] for line in done.out.splitlines()] == [
        "taken in as kimi-1712345678901",
        "taken in as kimi-cli",
        "taken in as kimi-code",
    ]
    assert "CLIProxyAPI and kimi-cli and kimi-code must no longer refresh them" in done.err
    assert house.refreshes() == 3, "one each"
    tokens = {
        name: house.good("token", name, "--json").json for name in ("kimi-1712345678901", "kimi-cli", "kimi-code")
    }
    assert [each["device_id"] for each in tokens.values()] == [DASHED, HEX, DASHED]
    assert all(house.sandbox.is_valid(each["access_token"]) for each in tokens.values())
    assert all(entry.device_id in {DASHED, HEX} for entry in house.sandbox.log("refresh"))
    assert house.refreshes() == 3


def test_the_history_begins_with_the_import(house: House) -> None:
    path = house.cliproxyapi("kimi-work.json")
    house.good("import", path)
    rows = house.good("history", "work", "--json").json
    assert [(row["from"], row["to"], row["event"]) for row in rows] == [
        (None, "granted", "imported"),
        ("granted", "refreshing", "refresh_due"),
        ("refreshing", "granted", "access_token_issued"),
    ]
    assert rows[0]["detail"] == f"cliproxyapi: {path}"


def test_take_over_blanks_the_source_after_a_backup(house: House) -> None:
    path = house.cliproxyapi(priority=7, note="Night shift")
    before = path.read_bytes()
    done = house.good("import", path, "--take-over")
    assert "taken in as Night-shift" in done.out
    assert done.err == "", "nothing is owed"
    [backup] = path.parent.glob("*.before-kimiflow")
    assert backup.read_bytes() == before
    assert mode(backup) == mode(path) == 0o600
    assert loaded(path) == json.loads(before) | {"refresh_token": ""}
    assert sorted(each.name for each in path.parent.iterdir()) == sorted([path.name, backup.name])

    again = house.good("import", path.parent, "--take-over")
    assert again.out.endswith("it holds no refresh token: somebody else keeps it fresh; skipped\n")
    assert house.refreshes() == 1


def test_without_take_over_the_source_is_left_alone_and_a_second_import_sends_nothing(house: House) -> None:
    path = house.kimi_code()
    before = path.read_bytes()
    house.good("import", path)
    assert path.read_bytes() == before
    again = house.good("import", path)
    assert "kimi-code has it already" in again.out
    assert house.refreshes() == 1
    house.good("import", path, "--take-over")
    assert loaded(path)["refresh_token"] == ""
    assert path.read_text() == json.dumps(loaded(path), indent=2), "in its tool's own hand"
    assert house.refreshes() == 1


def test_a_token_that_an_account_holds_is_known_however_it_came_by_it(house: House) -> None:
    """By a sign-in, or by a refresh: it has one user, and to verify the file would be a second use."""
    house.sign_in("work")
    house.good("refresh", "work")
    (held,) = {entry.issued_refresh_token for entry in house.sandbox.log("refresh")}
    path = house.cliproxyapi("kimi-other.json", refresh_token=held)
    refreshes = house.refreshes()
    done = house("import", path)
    assert "work has it already" in done.out + done.err
    assert house.refreshes() == refreshes
    assert list(house.status()) == ["work"]
    house.good("refresh", "work")


def test_a_dry_run_writes_nothing(house: House) -> None:
    path = house.cliproxyapi("kimi-work.json")
    before = path.read_bytes()
    home = house.root.parent / "home"
    home.rename(house.root.parent / "aside")
    for _ in range(2):
        done = house.good("import", path.parent, "--dry-run", "--take-over")
        assert done.out == f"{path}: would be taken in as work\n"
    assert not home.exists()
    assert path.read_bytes() == before
    assert house.refreshes() == 0
    assert len(list(path.parent.iterdir())) == 1

    (house.root.parent / "aside").rename(home)
    house.good("import", path)
    assert "work has it already" in house.good("import", path, "--dry-run").out
    assert house.refreshes() == 1


def test_what_is_of_no_use_gets_a_line_each_and_the_rest_goes_on(house: House) -> None:
    good = house.cliproxyapi("kimi-good.json")
    house.write("proxy/kimi-empty.json", "")
    house.write("proxy/kimi-half.json", good.read_text()[:100])
    house.cliproxyapi("kimi-partial.json", access_token=None)
    house.cliproxyapi("kimi-damaged.json", refresh_token="line\nbreak")
    house.cliproxyapi("kimi-access.json", refresh_token="")
    house.write("proxy/kimi-twin.json", good.read_text())
    house.write("proxy/claude.json", '{"type": "claude", "refresh_token": "x"}')
    house.write("proxy/notes.txt", "not looked at")
    house.kimi_code(
        "proxy/revoked", access_token="", refresh_token="", expires_at=0, scope="", token_type="", expires_in=0
    )
    done = house("import", house.root / "proxy", "--json")
    assert done.code == 1
    assert {Path(each["path"]).name: each["outcome"] for each in done.json} == {
        "kimi-good.json": "imported",
        "kimi-empty.json": "failed",
        "kimi-half.json": "failed",
        "kimi-partial.json": "failed",
        "kimi-damaged.json": "failed",
        "kimi-access.json": "nothing_to_take",
        "kimi-twin.json": "duplicate",
        "kimi-code.json": "revoked",
    }
    assert house.refreshes() == 1
    assert list(house.status()) == ["good"]

    plain = house("import", house.root / "proxy")
    lines = plain.out.splitlines() + plain.err.splitlines()
    assert sum(str(house.root / "proxy") in line for line in lines) == 8
    assert "error: " + str(house.root / "proxy/kimi-half.json") + ": it is not JSON, or only a part of it" in lines


def test_dead_tokens_are_told_apart_and_the_account_stays_for_the_next_sign_in(house: House) -> None:
    path = house.cliproxyapi("kimi-dead.json")
    house.sandbox.revoke(DASHED)
    done = house("import", path, "--take-over")
    assert done.code == 3
    assert "its tokens are dead" in done.err
    assert "kimiflow login dead" in done.err
    assert loaded(path)["refresh_token"], "nothing is blanked"
    status = house.status()["dead"]
    assert (status["state"], status["error"]) == ("expired", "invalid_grant")
    assert house("import", path).code == 3
    assert house.refreshes() == 1, "a token that was refused is not sent again"

    house.sign_in("dead")
    assert house.good("token", "dead", "--json").json["device_id"] == DASHED


def test_tokens_of_another_provider_find_their_way(house: House) -> None:
    """The one that was asked first knows nothing of them, which looks like the end of the grant."""
    path = house.cliproxyapi("kimi-work.json")
    house.sandbox.inject("invalid_grant:refresh=x1")
    done = house("import", path)
    assert (done.code, "another provider than kimi: kimiflow logout --forget work" in done.err) == (3, True)
    house.good("logout", "--forget", "work")
    house.good("import", path, "--provider", "kimi-global")
    assert house.status()["work"]["provider"] == "kimi-global"


def test_a_file_that_is_dead_and_one_that_failed(house: House) -> None:
    house.cliproxyapi("kimi-dead.json")
    house.sandbox.revoke(DASHED)
    house.write("proxy/kimi-empty.json", "")
    assert house("import", house.root / "proxy").code == 1


def test_a_server_that_is_away_loses_nothing(house: House) -> None:
    path = house.cliproxyapi("kimi-work.json")
    house.sandbox.inject("503:refresh=x1")
    done = house("import", path, "--take-over")
    assert done.code == 1
    assert "taken in as work, but not verified" in done.err
    assert loaded(path)["refresh_token"]

    assert "work has it already; token good for" in house.good("import", path, "--take-over").out
    assert house.refreshes() == 2
    assert loaded(path)["refresh_token"] == ""


def test_names(house: House) -> None:
    first = house.cliproxyapi("kimi-a.json", note="team / night")
    house.cliproxyapi("kimi-b.json", note="team / night")
    house.cliproxyapi("kimi-c.json", prefix="prod")
    house.kimi_cli("exported/alice")
    house.kimi_code("exported/bob")
    done = house.good("import", first.parent, house.root / "exported", "--json")
    assert [each["account"] for each in done.json] == ["team-night", "team-night-2", "prod", "alice", "bob"]

    one = house.cliproxyapi("kimi-x.json")
    assert house.good("import", one, "--name", "mine", "--json").json[0]["account"] == "mine"
    assert "(to call it ours: kimiflow rename mine ours)" in house.good("import", one, "--name", "ours").out
    taken = house.cliproxyapi("kimi-y.json")
    done = house("import", taken, "--name", "mine")
    assert (done.code, "mine is signed in already" in done.err) == (1, True)
    assert house("import", first.parent, "--name", "all").code == 2
    assert house("import", one, "--name", "no/name").code == 2
    assert house("import", one, "--provider", "unheard-of").code == 0, "it is here already"
    done = house("import", taken, "--provider", "unheard-of")
    assert (done.code, "unheard-of" in done.err) == (1, True)


def test_an_account_that_signed_out_comes_back_under_its_name(house: House) -> None:
    house.good("import", house.cliproxyapi("kimi-work.json"))
    house.good("logout", "work")
    assert "taken in as work;" in house.good("import", house.cliproxyapi("kimi-work.json")).out
    house.good("logout", "work")
    other = house.cliproxyapi("kimi-work.json", device_id="another")
    assert "taken in as work-2;" in house.good("import", other).out, "a device id is for life"


def test_no_device_id_gets_one_that_is_always_the_same(house: House) -> None:
    path = house.kimi_cli(device_id=None)
    house.good("import", path)
    assert len(house.good("token", "kimi-cli", "--json").json["device_id"]) == 36


def test_a_proxy_comes_along_unless_it_holds_a_password(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ = house.cliproxyapi("kimi-open.json", proxy_url="http://127.0.0.1:9")
    assert house("import", open_).code == 1, "nothing listens there"
    assert house.refreshes() == 0
    hidden = house.cliproxyapi("kimi-hidden.json", proxy_url="http://me:s3cret@127.0.0.1:9")
    done = house("import", hidden)
    assert (done.code, "s3cret" in done.out + done.err) == (1, False)
    assert "password" in done.err
    assert "--proxy env:WORK_PROXY" in done.err, "what to do"
    typed = house("import", hidden, "--proxy", "http://me:s3cret@127.0.0.1:9")
    assert (typed.code, "s3cret" in typed.out + typed.err) == (2, False)
    monkeypatch.setenv("WORK_PROXY", "http://me:s3cret@127.0.0.1:9")
    done = house("import", hidden, "--proxy", "env:WORK_PROXY")
    assert "taken in as hidden, but not verified" in done.err
    direct = house.cliproxyapi("kimi-direct.json", proxy_url="direct")
    house.good("import", direct)


def test_a_dry_run_foresees_what_would_fail(house: House) -> None:
    good = house.cliproxyapi("kimi-good.json")
    house.cliproxyapi("kimi-hidden.json", proxy_url="http://me:s3cret@127.0.0.1:9")
    house.cliproxyapi("kimi-odd.json", proxy_url="gopher://127.0.0.1:9")
    for more in (["--dry-run"], []):
        done = house("import", good.parent, "--json", *more)
        assert [(each["account"], each["outcome"]) for each in done.json][1:] == [(None, "failed")] * 2
        assert "s3cret" not in done.out
    assert list(house.status()) == ["good"]
    done = house("import", house.cliproxyapi("kimi-new.json"), "--provider", "unheard-of", "--dry-run")
    assert (done.code, "unheard-of" in done.err) == (1, True)


def test_nothing_to_be_found(house: House) -> None:
    nothing = house("import")
    assert (nothing.code, "kimiflow import PATH" in nothing.err) == (1, True)
    (house.root / "empty").mkdir()
    assert house("import", house.root / "empty").code == 1
    missing = house("import", house.root / "missing.json")
    assert (missing.code, "it cannot be read: No such file or directory" in missing.err) == (1, True)
    other = house.write("other.json", "{}")
    assert "no credential of a tool that kimiflow knows" in house("import", other).err


def test_a_source_that_changes_meanwhile_is_left_as_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    path = house.cliproxyapi("kimi-work.json")
    refresh = KimiFlow.refresh

    async def rotated_there(self: KimiFlow, *arguments: Any, **options: Any) -> Token:
        token = await refresh(self, *arguments, **options)
        path.write_text(json.dumps(loaded(path) | {"refresh_token": "another"}))
        return token

    monkeypatch.setattr(KimiFlow, "refresh", rotated_there)
    done = house("import", path, "--take-over")
    assert (done.code, "stop that tool" in done.err) == (1, True)
    assert loaded(path)["refresh_token"] == "another"
    assert len(list(path.parent.iterdir())) == 1


def test_a_link_is_followed(house: House) -> None:
    real = house.cliproxyapi("kimi-real.json")
    link = house.root / "kimi-link.json"
    link.symlink_to(real)
    done = house.good("import", link, real, "--take-over", "--json")
    assert len(done.json) == 1
    assert link.is_symlink()
    assert loaded(real)["refresh_token"] == ""


def test_no_secret_is_said(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIMIFLOW_LOG_LEVEL", "debug")
    house.cliproxyapi("kimi-a.json")
    house.kimi_cli("proxy/b")
    said = [house("import", house.root / "proxy", "--take-over", *more) for more in ([], ["--json"], ["--dry-run"])]
    talk = "".join(done.out + done.err for done in said)
    assert len(house.secrets()) == 4
    assert not [secret for secret in house.secrets() if secret in talk]


def test_text_that_utf_8_cannot_hold_keeps_no_file_from_being_blanked(house: House) -> None:
    odd = house.cliproxyapi("kimi-a.json", note="half \ud800 a pair")
    plain = house.cliproxyapi("kimi-b.json", note="grün")
    done = house.good("import", odd.parent, "--take-over")
    assert done.out.count("refresh token blanked") == 2
    assert (loaded(odd)["refresh_token"], loaded(odd)["note"]) == ("", "half \ud800 a pair")
    assert (loaded(plain)["refresh_token"], "grün" in plain.read_text(encoding="utf-8")) == ("", True)


def test_a_file_may_have_any_name(house: House) -> None:
    """A name that is no UTF-8 cannot be printed, nor stored; and one with an escape sequence should not be."""
    plain = house.cliproxyapi("kimi-plain.json", device_id="plain")
    odd = plain.with_name(os.fsdecode(b"kimi-\xff\x1b[31m.json"))
    house.cliproxyapi("kimi-x.json").rename(odd)
    done = house.good("import", plain.parent, "--take-over")
    assert f"{plain.parent}/kimi-??[31m.json: taken in as 31m; " in done.out
    assert (loaded(odd)["refresh_token"], loaded(plain)["refresh_token"]) == ("", "")
    assert house.good("history", "31m", "--json").json[0]["detail"] == f"cliproxyapi: {plain.parent}/kimi-??[31m.json"
    told = house.good("import", plain.parent, "--json").json
    assert {each["path"] for each in told} == {str(odd), str(plain)}

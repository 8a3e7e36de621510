"""Secrets go to the server that issued them, wherever a setting points meanwhile."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from typing import TYPE_CHECKING

import pytest

from kimiflow import InvalidSetting, KimiFlow, Misconfigured
from kimiflow.provider import BUILT_IN
from kimiflow.sandbox.server import Sandbox
from tests.formats.house import House

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kimiflow.sandbox.threads import ThreadedSandbox

FLEET = ["a", "b", "c"]


@pytest.fixture
def stranger() -> Iterator[ThreadedSandbox]:
    """Another server, which would take what it is sent."""
    with Sandbox.in_thread(interval=0.1) as server:
        yield server


def rows(house: House, column: str) -> list[str | None]:
    with sqlite3.connect(house.root.parent / "home/kimiflow.db") as database:
        return [row[0] for row in database.execute(f"SELECT {column} FROM authorizations ORDER BY id")]


class TestAVariableThatPointsElsewhere:
    @pytest.mark.parametrize("variable", ["KIMIFLOW_OAUTH_HOST", "KIMI_CODE_OAUTH_HOST", "KIMI_OAUTH_HOST"])
    def test_ends_no_sign_in_and_gets_no_secret(
        self, house: House, stranger: ThreadedSandbox, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.sign_in(*FLEET)
        monkeypatch.setenv(variable, stranger.url)
        done = house("refresh", "--all")
        assert done.code == 3
        for name in FLEET:
            assert f"{name} was signed in at {house.sandbox.url}, but {variable} says {stranger.url}" in done.err
        assert f"Unset {variable}" in done.err
        assert stranger.log() == []
        found = house.status()
        assert {each["state"] for each in found.values()} == {"refreshing"}
        assert all(each["needs_person"] for each in found.values())
        assert house.good("token", "a").out  # the access token is as good as before

        monkeypatch.delenv(variable)
        house.good("refresh", "--all")
        assert {each["state"] for each in house.status().values()} == {"granted"}

    def test_gets_no_device_code(
        self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.good("login", "a", "--no-wait")
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", stranger.url)
        assert house("login", "a", "--timeout", "1").code != 0
        assert stranger.log() == []
        monkeypatch.delenv("KIMIFLOW_OAUTH_HOST")
        house.sandbox.approve(house.sandbox.pending()[0].user_code)
        house.good("login", "a")

    def test_is_where_a_new_sign_in_goes_and_stays(
        self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", stranger.url)
        house.good("login", "a", "--no-wait")
        stranger.approve(stranger.pending()[0].user_code)
        house.good("login", "a")
        house.good("refresh", "a")
        assert rows(house, "origin") == [stranger.url]
        monkeypatch.delenv("KIMIFLOW_OAUTH_HOST")
        done = house("refresh", "a")
        assert (done.code, house.sandbox.log()) == (3, [])
        assert f"a was signed in at {stranger.url}, but oauth_host in" in done.err

    def test_in_code(self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch) -> None:
        house.sign_in("a")
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", stranger.url)

        async def asked() -> None:
            async with KimiFlow.open() as flow:
                with pytest.raises(Misconfigured, match=f"KIMIFLOW_OAUTH_HOST says {stranger.url}"):
                    await flow.refresh("a")

        asyncio.run(asked())


class TestARowOfAnOlderKimiflow:
    def forget(self, house: House) -> None:
        with sqlite3.connect(house.root.parent / "home/kimiflow.db") as database:
            database.execute("UPDATE authorizations SET origin = NULL")

    def test_goes_where_its_provider_usually_is(
        self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.sign_in("a")
        self.forget(house)
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", stranger.url)
        assert house("refresh", "a").code == 3
        assert stranger.log() == []
        assert rows(house, "origin") == [house.sandbox.url]
        monkeypatch.delenv("KIMIFLOW_OAUTH_HOST")
        house.good("refresh", "a")

    def test_that_a_variable_had_signed_in_elsewhere_is_told_so_once(
        self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (house.root.parent / "home/config.toml").unlink()
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", stranger.url)
        house.good("login", "a", "--no-wait")
        stranger.approve(stranger.pending()[0].user_code)
        house.good("login", "a")
        self.forget(house)
        done = house("refresh", "a")
        assert (done.code, f"a was signed in at {BUILT_IN['kimi'].origin}" in done.err) == (3, True)
        assert f"kimiflow set a --origin {stranger.url}" in done.err
        house.good("set", "a", "--origin", stranger.url)
        house.good("refresh", "a")


class TestAServerThatHasMoved:
    def test_is_said_by_a_person(
        self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        house.sign_in("a", "b")
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", stranger.url)
        assert house("refresh", "a").code == 3
        done = house.good("set", "a", "--origin", f"{stranger.url}/some/path")
        assert done.out == f"a: its secrets go to {stranger.url} from now on\n"
        events = house.good("history", "a", "--json").json
        assert events[-1]["event"] == "origin_changed"
        assert events[-1]["detail"] == f"from {house.sandbox.url} to {stranger.url}"
        assert house("refresh", "a").code == 3  # this one does not know it, and says so
        assert house("refresh", "b").code == 3
        assert {entry.device_id for entry in stranger.log()} != set()
        assert house.status()["a"]["state"] == "expired"
        assert house.status()["b"]["state"] == "refreshing"

    @pytest.mark.parametrize("url", ["http://auth.example", "auth.example", "https://u:p@auth.example", ""])
    def test_at_a_place_that_no_secret_may_go_to(self, house: House, url: str) -> None:
        house.sign_in("a")
        done = house("set", "a", "--origin", url)
        assert (done.code, "the origin" in done.err) == (2, True)
        assert rows(house, "origin") == [house.sandbox.url]

    def test_of_nobody(self, house: House) -> None:
        assert house("set", "nobody", "--origin", "https://auth.example").code == 3


class TestAFileOfAnotherTool:
    def test_is_not_taken_to_a_server_that_a_variable_names(
        self, house: House, stranger: ThreadedSandbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = house.cliproxyapi("kimi-work.json")
        monkeypatch.setenv("KIMI_CODE_OAUTH_HOST", stranger.url)
        for more in ((), ("--dry-run",)):
            done = house("import", path, *more)
            assert done.code == 1
            assert f"it comes from {house.sandbox.url}, but KIMI_CODE_OAUTH_HOST is at {stranger.url}" in done.err
            assert f"--origin {stranger.url}" in done.err
        assert (stranger.log(), house.good("status", "--json").json) == ([], [])

    def test_unless_a_person_says_that_it_was_issued_there(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        path = house.cliproxyapi("kimi-work.json")
        (house.root.parent / "home/config.toml").unlink()
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", house.sandbox.url)
        assert house("import", path).code == 1
        house.good("import", path, "--origin", house.sandbox.url)
        assert rows(house, "origin") == [house.sandbox.url]

    def test_from_a_place_that_no_secret_may_go_to(self, house: House) -> None:
        done = house("import", house.cliproxyapi(), "--origin", "http://auth.example")
        assert (done.code, "--origin is 'http://auth.example'" in done.err) == (2, True)


def test_a_configured_provider_that_is_edited(house: House, stranger: ThreadedSandbox) -> None:
    home = house.root.parent / "home"

    def configured(url: str) -> None:
        (home / "config.toml").write_text(
            f'[providers.corp]\ndevice_authorization_endpoint = "{url}/api/oauth/device_authorization"\n'
            f'token_endpoint = "{url}/api/oauth/token"\nclient_id = "17e5f671-d194-4dfb-9706-5516cb48c098"\n'
        )

    configured(house.sandbox.url)
    house.good("login", "a", "--provider", "corp", "--no-wait")
    house.sandbox.approve(house.sandbox.pending()[0].user_code)
    house.good("login", "a")
    configured(stranger.url)
    done = house("refresh", "a")
    assert (done.code, stranger.log()) == (3, [])
    assert f"but [providers.corp] in {home / 'config.toml'} says {stranger.url}" in done.err
    assert "Correct [providers.corp]" in done.err


def test_a_file_with_a_host_that_cannot_be_used_is_refused_though_a_variable_hides_it(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    (house.root.parent / "home/config.toml").write_text("oauth_host = 5\n")
    monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", house.sandbox.url)
    done = house("status")
    assert (done.code, "oauth_host" in done.err, "config.toml" in done.err) == (2, True, True)


def test_nothing_is_written_where_the_url_is_wrong_in_code(house: House) -> None:
    house.sign_in("a")

    async def said() -> None:
        async with KimiFlow.open() as flow:
            with pytest.raises(InvalidSetting):
                await flow.accounts.set_origin(["a"], "http://auth.example")
            await flow.accounts.set_origin(["a"], "https://Auth.Example:443/")

    asyncio.run(said())
    assert json.dumps(rows(house, "origin")) == '["https://auth.example"]'

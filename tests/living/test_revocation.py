"""A sign-out is told to the server that issued the tokens (RFC 7009), and hangs on nothing that this server does."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from kimiflow import KimiFlow, SignedOut, UnknownAccount, sync
from kimiflow.sandbox import KIMI_CLIENT_ID, REVOCATION_PATH
from kimiflow.sandbox.server import Sandbox
from tests.formats.house import House

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


TOLD = "; the server was told\n"


def home(house: House) -> Path:
    return house.root.parent / "home"


def database(house: House) -> sqlite3.Connection:
    return sqlite3.connect(home(house) / "kimiflow.db")


def configure(house: House, revocation_endpoint: str | None) -> None:
    url = house.sandbox.url
    endpoint = "" if revocation_endpoint is None else f'revocation_endpoint = "{revocation_endpoint}"\n'
    (home(house) / "config.toml").write_text(
        f'provider = "corp"\n[providers.corp]\nclient_id = "{KIMI_CLIENT_ID}"\n'
        f'token_endpoint = "{url}/api/oauth/token"\n'
        f'device_authorization_endpoint = "{url}/api/oauth/device_authorization"\n{endpoint}'
    )


@pytest.fixture
def house(house: House) -> House:
    """Its provider is told of sign-outs."""
    configure(house, f"{house.sandbox.url}{REVOCATION_PATH}")
    return house


def untold(house: House, reason: str, *, name: str = "a", where: str | None = None) -> str:
    where = house.sandbox.url if where is None else where
    stay = "its tokens stay valid there until they end"
    return f"{name}: signed out here; {where} could not be told ({reason}): {stay}\n"


def tokens_of(house: House, name: str) -> tuple[str, str]:
    """The access token and the refresh token that an account got last."""
    device_id = next(d for n, d in database(house).execute("SELECT name, device_id FROM accounts") if n == name)
    last = [e for e in house.sandbox.log(device_id=device_id) if e.issued_access_token][-1]
    assert last.issued_access_token is not None
    assert last.issued_refresh_token is not None
    return last.issued_access_token, last.issued_refresh_token


def is_valid(house: House, access_token: str) -> bool:
    return house.sandbox.run(house.sandbox._sandbox.is_valid, access_token)


@contextmanager
def serving(answer: Callable[[dict[str, str]], tuple[int, bytes]]) -> Iterator[str]:
    """A server of the test's own: from a form to a status and a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, reply = answer(dict(parse_qsl(body.decode())))
            self.send_response(status)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_grant_is_over_at_the_server_as_well(house: House) -> None:
    house.sign_in("a", "b")
    access, refresh = tokens_of(house, "a")
    bystander, _ = tokens_of(house, "b")
    assert house.good("logout", "a").out == f"a: signed out{TOLD}"
    first, second = house.sandbox.log("revocation")
    assert (first.refresh_token, second.access_token) == (refresh, access)
    assert {first.outcome, second.outcome} == {"revoked"}
    assert first.device_id == second.device_id == house.sandbox.log(device_id=first.device_id)[0].device_id != ""
    assert (is_valid(house, access), is_valid(house, bystander)) == (False, True)
    assert house.good("logout", "a").out == "a: signed out\n"  # nothing was left to tell
    assert len(house.sandbox.log("revocation")) == 2


def test_who_is_forgotten_is_told_as_well(house: House) -> None:
    house.sign_in("a", "b")
    assert house.good("logout", "*", "--forget").out == f"a: forgotten{TOLD}b: forgotten{TOLD}"
    assert len(house.sandbox.log("revocation")) == 4


def test_the_secrets_are_gone_before_anything_is_sent(house: House) -> None:
    seen: list[Any] = []

    def look(form: dict[str, str]) -> tuple[int, bytes]:
        with database(house) as connection:
            seen.append((form["token_type_hint"], connection.execute("SELECT * FROM authorizations").fetchall()))
        return 200, b""

    house.sign_in("a")
    with serving(look) as url:
        configure(house, f"{url}/revoke")
        house.good("set", "a", "--origin", url)
        assert house.good("logout", "a").out == f"a: signed out{TOLD}"
    assert seen == [("refresh_token", []), ("access_token", [])]


class TestAServerThatCannotBeTold:
    @pytest.mark.parametrize(
        ("fault", "reason"),
        [
            ("503", "http_503"),
            ("404", "http_404"),
            ("redirect/308", "http_308"),
            ("invalid_client", "invalid_client"),
            ("reset", "connection_failed"),
        ],
    )
    def test_keeps_nobody_signed_in(self, house: House, fault: str, reason: str) -> None:
        house.sign_in("a")
        access, _ = tokens_of(house, "a")
        house.sandbox.inject(fault)
        assert house.good("logout", "a").out == untold(house, reason)
        assert house.status()["a"]["state"] is None
        assert house.sandbox.log("redirected") == []
        assert is_valid(house, access)

    def test_or_reached(self, house: House) -> None:
        house.sign_in("a")
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{taken.getsockname()[1]}"
            configure(house, f"{url}/revoke")
            house.good("set", "a", "--origin", url)
            assert house.good("logout", "a").out == untold(house, "connection_failed", where=url)
        assert database(house).execute("SELECT * FROM authorizations").fetchall() == []

    def test_or_hangs_holds_up_no_more_than_once_however_many_accounts_there_are(
        self, house: House, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [f"a{number}" for number in range(6)]
        house.sign_in(*names)
        house.sandbox.inject("hang")
        monkeypatch.setenv("KIMIFLOW_HTTP_TIMEOUT", "0.3")
        monkeypatch.setenv("KIMIFLOW_CONCURRENCY", "2")
        assert house.good("logout", "a*").out == "".join(untold(house, "timeout", name=name) for name in names)
        # Those for whom there was no room in time did not even try.
        assert len(house.sandbox.log("revocation")) <= 2

    def test_gets_no_secret_into_what_is_said_about_it(self, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
        def echo(form: dict[str, str]) -> tuple[int, bytes]:
            return 400, f'{{"error": "no {form["token"]}", "error_description": "{form["token"]} {access}"}}'.encode()

        house.sign_in("a")
        access, _ = tokens_of(house, "a")
        monkeypatch.setenv("KIMIFLOW_LOG_LEVEL", "debug")
        with serving(echo) as url:
            configure(house, f"{url}/revoke")
            house.good("set", "a", "--origin", url)
            done = house.good("logout", "a")
        assert done.out == untold(house, "no [redacted]", where=url)
        assert "revocation_failed" in done.err
        for secret in tokens_of(house, "a"):
            assert secret not in done.out + done.err

    def test_because_the_way_to_it_is_closed(self, house: House) -> None:
        """An account goes its own way, to sign out as well."""
        house.sign_in("a")
        with database(house) as connection:
            connection.execute("UPDATE accounts SET proxy = 'http://127.0.0.1:1'")
        assert house.good("logout", "a").out == untold(house, "connection_failed")
        assert house.sandbox.log("revocation") == []

    def test_because_the_key_is_gone(self, house: House) -> None:
        house.sign_in("a")
        (home(house) / "key").unlink()
        done = house.good("logout", "a")
        assert done.out.startswith(f"a: signed out here; {house.sandbox.url} could not be told (")
        assert not (home(house) / "key").exists()
        assert house.sandbox.log("revocation") == []


class TestNobodyIsTold:
    def test_at_another_origin(self, house: House) -> None:
        house.sign_in("a")
        with Sandbox.in_thread() as stranger:
            configure(house, f"{stranger.url}{REVOCATION_PATH}")
            reason = f"the revocation_endpoint of corp is at {stranger.url}"
            assert house.good("logout", "a").out == untold(house, reason)
            assert stranger.log() == []
        assert house.sandbox.log("revocation") == []

    def test_where_nobody_listens(self, house: House) -> None:
        configure(house, None)
        house.sign_in("a")
        house.sandbox.inject("503")
        assert house.good("logout", "a").out == "a: signed out\n"

    def test_of_a_sign_in_that_was_not_approved_yet(self, house: House) -> None:
        house.good("login", "a", "--no-wait")
        assert house.good("logout", "a").out == "a: signed out\n"
        assert house.sandbox.log("revocation") == []

    def test_where_a_person_does_not_want_it(self, house: House) -> None:
        house.sign_in("a")
        access, _ = tokens_of(house, "a")
        assert house.good("logout", "a", "--no-revoke").out == "a: signed out\n"
        assert is_valid(house, access)

    @pytest.mark.parametrize("error", ["handing_over", "shared_refresh_token"])
    def test_of_a_grant_that_lives_on_elsewhere(self, house: House, error: str) -> None:
        house.sign_in("a")
        access, _ = tokens_of(house, "a")
        with database(house) as connection:
            connection.execute("UPDATE authorizations SET error = ?", [error])
            if error == "shared_refresh_token":  # which went to who had it first
                connection.execute("UPDATE authorizations SET refresh_token = NULL, refresh_token_digest = NULL")
        assert house.good("logout", "a").out == "a: signed out\n"
        assert is_valid(house, access)

    def test_where_one_of_the_accounts_does_not_exist(self, house: House) -> None:
        house.sign_in("a")
        assert house("logout", "a", "nobody").code == 3
        assert house.sandbox.log("revocation") == []


class TestInCode:
    def test_it_is_part_of_a_logout(self, house: House) -> None:
        house.sign_in("a", "b", "c")

        async def asked() -> None:
            async with KimiFlow.open() as flow:
                assert await flow.logout(["a"]) == 1
                with pytest.raises(UnknownAccount):
                    await flow.logout(["b", "nobody"])
                [b] = await flow.sign_out(["b"])
                assert (b.account, b.authorizations, b.issuer, b.reason) == ("b", 1, house.sandbox.url, None)

        asyncio.run(asked())
        assert len(house.sandbox.log("revocation")) == 4
        with sync.KimiFlow.open() as flow:
            assert [each.issuer for each in flow.sign_out(["c"], revoke=False)] == [None]
            assert flow.logout(["c"], revoke=False) == 0
        assert len(house.sandbox.log("revocation")) == 4

    @pytest.mark.parametrize("fault", ["late/0.5:refresh", "delay/0.5:refresh"])
    def test_a_refresh_in_flight_brings_nothing_back_neither_here_nor_there(self, house: House, fault: str) -> None:
        house.sign_in("a")
        house.sandbox.inject(fault)

        async def crossed() -> None:
            async with KimiFlow.open() as worker, KimiFlow.open() as person:
                refreshing = asyncio.create_task(worker.refresh("a"))
                while worker.awaited() != ["a"]:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)
                [departure] = await person.sign_out(["a"])
                assert (departure.issuer, departure.reason) == (house.sandbox.url, None)
                with pytest.raises(SignedOut):
                    await refreshing

        asyncio.run(crossed())
        assert house.status()["a"]["state"] is None
        entries = house.sandbox.log()
        assert [entry.kind for entry in entries[-3:]] == ["revocation", "revocation", "refresh"]
        issued = [entry.issued_access_token for entry in entries if entry.issued_access_token]
        assert len(issued) == (2 if fault.startswith("late") else 1)
        assert not any(is_valid(house, token) for token in issued)

    def test_whoever_is_cancelled_meanwhile_has_told_nevertheless(self, house: House) -> None:
        house.sign_in("a")
        house.sandbox.inject("delay/0.3")

        async def cancelled() -> None:
            async with KimiFlow.open() as flow:
                leaving = asyncio.create_task(flow.logout(["a"]))
                while (await flow.status(["a"]))[0].state is not None:
                    await asyncio.sleep(0.01)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving

        asyncio.run(cancelled())
        assert [entry.outcome for entry in house.sandbox.log("revocation")] == ["revoked", "revoked"]


def test_the_help_says_so(house: House) -> None:
    shown = house.good("logout", "--help").out
    assert "revocation_endpoint" in shown
    assert "--no-revoke" in shown

"""Words for what a network does, the case of a log level, and a key file where there are no hard links."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow.errors import InvalidSetting
from kimiflow.http.network import in_words
from kimiflow.keys.keyring import parse_keys
from kimiflow.keys.loading import KeyFile, load_vault
from kimiflow.settings import Settings, load_settings
from tests.formats.house import House

if TYPE_CHECKING:
    from pathlib import Path

KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
OTHER = "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


class TestWhatWentWrong:
    async def test_a_refused_connection(self) -> None:
        port = unused_port()
        with pytest.raises(OSError) as caught:
            await asyncio.open_connection("127.0.0.1", port)
        assert in_words(caught.value) == f"connection refused (127.0.0.1:{port})"

    def test_of_several_addresses_the_first(self) -> None:
        error = OSError(
            "Multiple exceptions: [Errno 111] Connect call failed ('::1', 1, 0, 0), "
            "[Errno 111] Connect call failed ('127.0.0.1', 1)"
        )
        assert in_words(error) == "connection refused ([::1]:1)"

    def test_what_lies_beneath(self) -> None:
        try:
            try:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            except OSError as cause:
                raise httpx.ConnectError("All connection attempts failed") from cause
        except httpx.ConnectError as error:
            assert in_words(error) == "name or service not known"

    def test_a_certificate(self) -> None:
        error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed")
        error.verify_message = "self-signed certificate"
        assert in_words(error) == "the certificate is not to be trusted: self-signed certificate"

    def test_its_own_words_where_there_is_no_number(self) -> None:
        assert in_words(httpx.ReadError("the server\n hung up")) == "the server hung up"
        assert in_words(httpx.ReadError("")) == "ReadError"
        assert in_words(ConnectionResetError(errno.ECONNRESET, "x")) == "connection reset by peer"

    def test_on_a_terminal(self, house: House) -> None:
        port = unused_port()
        done = house.cli("login", "work", KIMIFLOW_OAUTH_HOST=f"http://127.0.0.1:{port}")
        assert done.returncode == 5
        assert f"connection refused (127.0.0.1:{port})" in done.stderr
        assert "Errno" not in done.stderr


@pytest.mark.parametrize("level", ["DEBUG", "Debug", "debug"])
def test_a_log_level_in_any_case(level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KIMIFLOW_LOG_LEVEL", level)
    assert load_settings(home=tmp_path).log_level == "debug"
    monkeypatch.setenv("KIMIFLOW_LOG_LEVEL", "Chatty")
    with pytest.raises(InvalidSetting, match="KIMIFLOW_LOG_LEVEL is 'Chatty'"):
        load_settings(home=tmp_path)


class TestAKeyFileWithoutHardLinks:
    @pytest.fixture(autouse=True)
    def no_links(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("KIMIFLOW_KEY", raising=False)

        def refused(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refused)

    def test_is_made_all_the_same(self, tmp_path: Path) -> None:
        settings = Settings(home=tmp_path / "home")
        vault = load_vault(settings, None)
        assert load_vault(settings, None).key_id == vault.key_id
        assert stat.S_IMODE(settings.key_path.stat().st_mode) == 0o600
        assert [each.name for each in settings.home.iterdir()] == ["key"]

    def test_one_that_came_first_is_never_replaced(self, tmp_path: Path) -> None:
        path = tmp_path / "key"
        path.write_text(KEY)
        assert KeyFile(path).make() == parse_keys("it", KEY)


class TestKeysAsText:
    def test_one_a_line_or_between_commas(self) -> None:
        ring = parse_keys("it", f"# the present one\n{KEY}\n\nnext:{OTHER}\n")
        assert (len(ring.keys), len(ring.upcoming)) == (1, 1)
        assert parse_keys("it", f"{KEY},next:{OTHER}") == ring == parse_keys("it", ring.text())
        assert len(set(ring.key_ids)) == 2
        assert parse_keys("it", f"{KEY}, {OTHER}").keys == ring.opening
        assert parse_keys("it", f"{KEY},{KEY},next:{KEY}").opening == ring.keys

    @pytest.mark.parametrize("text", [f"next:{KEY}", f"{KEY},hunter2", f"{KEY}\nnext:hunter2", "#", ","])
    def test_what_is_wrong_is_not_shown(self, text: str) -> None:
        with pytest.raises(InvalidSetting, match="is not a key") as caught:
            parse_keys("the place", text)
        assert "the place" in str(caught.value)
        assert "hunter2" not in str(caught.value)

    def test_which_one_is_wrong_is_told(self) -> None:
        with pytest.raises(InvalidSetting, match="the key 2 of the place"):
            parse_keys("the place", f"{KEY},x")

    def test_it_shows_no_key(self) -> None:
        assert KEY not in repr(parse_keys("it", KEY))
        assert "x00" not in repr(parse_keys("it", KEY))


class TestAVaultWhoseFileChanges:
    def test_it_looks_before_it_seals_and_when_it_meets_another_key(self, tmp_path: Path) -> None:
        from kimiflow.secret import Secret

        settings = Settings(home=tmp_path)
        (tmp_path / "key").write_text(KEY)
        first, second = load_vault(settings, None), load_vault(settings, None)
        old = first.seal(Secret("a"), "row", "column")
        KeyFile(tmp_path / "key").replace(parse_keys("it", f"{OTHER},{KEY}"))
        new = first.seal(Secret("b"), "row", "column")
        assert new[:8] != old[:8]
        assert second.open(new, "row", "column").reveal() == "b"
        assert second.open(old, "row", "column").reveal() == "a"
        assert second.key_id == new[:8]

    def test_a_file_that_is_gone_or_spoilt_takes_nothing_away(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        from kimiflow.logs import configure
        from kimiflow.secret import Secret

        configure("warning", "json")
        path = tmp_path / "key"
        path.write_text(KEY)
        vault = load_vault(Settings(home=tmp_path), None)
        path.unlink()
        for _ in range(3):
            assert vault.open(vault.seal(Secret("a"), "r", "c"), "r", "c").reveal() == "a"
        path.write_text("hunter2")
        assert vault.open(vault.seal(Secret("a"), "r", "c"), "r", "c").reveal() == "a"
        told = capsys.readouterr().err.splitlines()
        assert len(told) == 2, "once for each change"
        assert all('"event": "key_file_lost"' in line and "hunter2" not in line for line in told)
        path.write_text(f"{OTHER.strip()}\n# replaced: {vault.key_id}\n")
        sealed = vault.seal(Secret("b"), "r", "c")
        assert load_vault(Settings(home=tmp_path), sealed).open(sealed, "r", "c").reveal() == "b"

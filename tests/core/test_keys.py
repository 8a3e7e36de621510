"""Where the vault's key comes from, and that losing it harms nothing."""

from __future__ import annotations

import base64
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from kimiflow.errors import InvalidSetting, KeyMissing, WrongKey
from kimiflow.keys.keyring import decode_key, parse_keys
from kimiflow.keys.loading import load_vault, make_folder
from kimiflow.model import Sealed
from kimiflow.secret import Secret
from kimiflow.settings import Settings
from kimiflow.vault import Vault

if TYPE_CHECKING:
    from pathlib import Path

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home that does not exist yet."""
    for name in [name for name in os.environ if name.startswith("KIMIFLOW_")]:
        monkeypatch.delenv(name)
    return tmp_path / "above" / "home"


def settings(home: Path, **changes: Any) -> Settings:
    return Settings(home=home, **changes)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def sample(key: bytes = KEY) -> Sealed:
    return Vault(key).seal(Secret("x"), "row", "column")


class TestTheKeyFile:
    def test_is_made_on_first_use_for_the_user_alone(self, home: Path) -> None:
        vault = load_vault(settings(home), None)
        assert mode(home / "key") == 0o600
        assert mode(home) == 0o700
        assert len(base64.b64decode((home / "key").read_text())) == 32
        assert load_vault(settings(home), None).key_id == vault.key_id

    def test_whatever_the_umask(self, home: Path) -> None:
        before = os.umask(0)
        try:
            load_vault(settings(home), None)
        finally:
            os.umask(before)
        assert (mode(home / "key"), mode(home)) == (0o600, 0o700)

    @pytest.mark.skipif(os.name == "nt", reason="folders cannot be synced there")
    def test_survives_a_power_cut_no_less_than_the_secrets_it_opens(
        self, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced: list[bool] = []
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(stat.S_ISDIR(os.fstat(fd).st_mode)))
        load_vault(settings(home), None)
        assert synced == [False, True], "its bytes, then its name"

    def test_leaves_nothing_else_behind(self, home: Path) -> None:
        load_vault(settings(home), None)
        assert [each.name for each in home.iterdir()] == ["key"]

    def test_may_be_elsewhere(self, home: Path, tmp_path: Path) -> None:
        load_vault(settings(home, key_file=tmp_path / "vaults" / "mine"), None)
        assert mode(tmp_path / "vaults" / "mine") == 0o600
        assert not home.exists()

    def test_may_be_under_the_persons_folder(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(home.parent))
        assert settings(home, key_file="~/mine").key_path == home.parent / "mine"

    def test_is_made_once_when_processes_race(self, home: Path) -> None:
        program = (
            "import sys; from pathlib import Path; "
            "from kimiflow.keys.loading import load_vault; from kimiflow.settings import Settings; "
            "settings = Settings(home=Path(sys.argv[1])); print('ready', flush=True); sys.stdin.readline(); "
            "print(load_vault(settings, None).key_id)"
        )
        racers = [
            subprocess.Popen(
                [sys.executable, "-c", program, str(home)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        key_ids = {racer.communicate(timeout=30)[0].strip() for racer in racers}
        assert key_ids == {load_vault(settings(home), None).key_id}
        assert [each.name for each in home.iterdir()] == ["key"]

    def test_a_key_that_came_first_is_never_replaced(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Another process puts its key there between our look and our write."""
        real_link = os.link

        def faster(source: Path, target: Path) -> None:
            target.write_text(KEY_TEXT)
            real_link(source, target)

        monkeypatch.setattr(os, "link", faster)
        assert load_vault(settings(home), None).key_id == Vault(KEY).key_id

    def test_that_is_missing_while_the_store_holds_secrets_is_not_made_anew(self, home: Path) -> None:
        with pytest.raises(KeyMissing, match="is missing, and the store holds secrets") as caught:
            load_vault(settings(home), sample())
        assert Vault(KEY).key_id in str(caught.value)
        assert "kimiflow login --force" in caught.value.hint
        assert not home.exists(), "nothing was touched"

    def test_that_is_another_one_says_so_and_stays(self, home: Path) -> None:
        mine = load_vault(settings(home), None)
        before = (home / "key").read_bytes()
        with pytest.raises(WrongKey, match=f"{Vault(KEY).key_id}.*{mine.key_id}.*nothing was changed"):
            load_vault(settings(home), sample())
        assert (home / "key").read_bytes() == before

    def test_that_becomes_another_one_seals_nothing(self, home: Path) -> None:
        vault = load_vault(settings(home), None)
        before, file = vault.key_id, home / "key"
        right = file.read_text()
        file.write_text(f"{KEY_TEXT}\n")
        assert vault.seal(Secret("x"), "row", "column").startswith(before)
        assert vault.open(sample(), "row", "column") == Secret("x"), "but for what the store has from somebody else"
        file.write_text(f"{right}{KEY_TEXT}\n")
        assert vault.seal(Secret("x"), "row", "column").startswith(before)

    @pytest.mark.parametrize("looks", [True, False])
    def test_that_says_what_it_replaces_is_taken(self, home: Path, looks: bool) -> None:
        """Also by who slept through the moment in which it held both."""
        vault = load_vault(settings(home), None)
        old = vault.key_id
        if looks:
            (home / "key").write_text(f"{KEY_TEXT}\n{(home / 'key').read_text()}")
            vault.seal(Secret("x"), "row", "column")
        (home / "key").write_text(f"{KEY_TEXT}\n# replaced: 01234567 {old}\n")
        assert vault.seal(Secret("x"), "row", "column").startswith(Vault(KEY).key_id)
        assert parse_keys("x", (home / "key").read_text()).text() == (home / "key").read_text()

    def test_that_cannot_be_made_says_where_and_why(self, home: Path) -> None:
        home.parent.mkdir()
        home.write_text("a file where the folder should be")
        with pytest.raises(InvalidSetting, match=str(home)):
            load_vault(settings(home), None)

    def test_that_is_a_folder_cannot_be_read(self, home: Path) -> None:
        (home / "key").mkdir(parents=True)
        with pytest.raises(InvalidSetting, match="cannot be read"):
            load_vault(settings(home), None)

    @pytest.mark.parametrize("text", [b"", b"hunter2hunter2", b"\xff\xfe", b"Zm9v"])
    def test_that_holds_no_key_names_the_file_and_never_its_content(self, home: Path, text: bytes) -> None:
        home.mkdir(parents=True)
        (home / "key").write_bytes(text)
        with pytest.raises(InvalidSetting, match=str(home / "key")) as caught:
            load_vault(settings(home), None)
        assert "hunter2" not in str(caught.value)


class TestTheKeyInTheEnvironment:
    def test_comes_before_the_file(self, home: Path) -> None:
        vault = load_vault(settings(home, key=SecretStr(KEY_TEXT)), sample())
        assert vault.key_id == Vault(KEY).key_id
        assert not home.exists()

    @pytest.mark.parametrize(
        "text",
        [KEY_TEXT, f"  {KEY_TEXT}\n", base64.urlsafe_b64encode(bytes([255] * 32)).decode()],
        ids=["plain", "with space around", "url-safe"],
    )
    def test_may_be_any_usual_base64(self, text: str) -> None:
        assert len(decode_key("KIMIFLOW_KEY", text)) == 32

    @pytest.mark.parametrize("text", ["", "hunter2", KEY_TEXT[:-1], KEY_TEXT[:-4], KEY_TEXT + "AAAA", "hünter2", "!"])
    def test_that_is_none_is_named_and_never_shown(self, home: Path, text: str) -> None:
        with pytest.raises(InvalidSetting, match="KIMIFLOW_KEY is not a key; allowed is 32 bytes as base64") as caught:
            load_vault(settings(home, key=SecretStr(text)), None)
        assert len(text) < 2 or text not in str(caught.value)
        assert "openssl rand -base64 32" in caught.value.hint

    def test_that_is_another_one_says_so(self, home: Path) -> None:
        with pytest.raises(WrongKey, match="KIMIFLOW_KEY is key"):
            load_vault(settings(home, key=SecretStr(KEY_TEXT)), sample(bytes(32)))


def test_what_was_never_sealed_is_not_shown_as_a_key_id(home: Path) -> None:
    with pytest.raises(KeyMissing) as caught:
        load_vault(settings(home), Sealed("a-token-in-clear"))
    assert "a-token-in-clear" not in str(caught.value)


def test_a_folder_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_folder(tmp_path)
    assert mode(tmp_path) == 0o755

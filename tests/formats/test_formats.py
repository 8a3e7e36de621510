"""Each format to the byte, and back."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from kimiflow.cli import main
from kimiflow.errors import UsageError
from kimiflow.formats import all_formats, find_format
from kimiflow.formats.base import AccessOnly, Format, Grant, Revoked, Unusable, account_name
from kimiflow.formats.looking import Verdict, look_at
from kimiflow.secret import Secret
from kimiflow.status import Token
from tests.formats.house import DASHED, HEX

AT = 1_712_345_678.901
TOKEN = Token("work", "the-access-token", "Bearer", 1_712_346_578.25, "kimi-code", DASHED)
ACCESS = Grant(TOKEN, "kimi", "https://api.kimi.com/coding", AT)
WHOLE = Grant(TOKEN, "kimi", "https://api.kimi.com/coding", AT, Secret("the-refresh-token"))

CLIPROXYAPI = """{
  "access_token": "the-access-token",
  "device_id": "0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33",
  "disabled": false,
  "expired": "2024-04-05T19:49:38Z",
  "refresh_token": "%s",
  "scope": "kimi-code",
  "timestamp": 1712345678901,
  "token_type": "Bearer",
  "type": "kimi"
}
"""

KIMI_CLI = (
    '{"access_token": "the-access-token", "refresh_token": "%s", "expires_at": 1712346578.25, '
    '"scope": "kimi-code", "token_type": "Bearer", "expires_in": 899.3489999771118}'
)

KIMI_CODE = """{
  "access_token": "the-access-token",
  "refresh_token": "%s",
  "expires_at": 1712346578,
  "scope": "kimi-code",
  "token_type": "Bearer",
  "expires_in": 899
}"""

ENV = """KIMI_API_KEY=the-access-token
OPENAI_API_KEY=the-access-token
OPENAI_BASE_URL=https://api.kimi.com/coding/v1
"""

ENV_TOO = """KIMI_REFRESH_TOKEN=the-refresh-token
KIMI_TOKEN_EXPIRES_AT=1712346578
KIMI_DEVICE_ID=0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33
KIMI_PROVIDER=kimi
"""

JSON = """{
  "account": "work",
  "provider": "kimi",
  "api_base": "https://api.kimi.com/coding",
  "access_token": "the-access-token",
  "token_type": "Bearer",
  "expires_at": "2024-04-05T19:49:38.250Z",
  "scope": "kimi-code",
  "device_id": "0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33"%s
}
"""

BYTES = {
    "cliproxyapi": (CLIPROXYAPI % "", CLIPROXYAPI % "the-refresh-token"),
    "kimi-cli": (KIMI_CLI % "", KIMI_CLI % "the-refresh-token"),
    "kimi-code": (KIMI_CODE % "", KIMI_CODE % "the-refresh-token"),
    "env": (ENV, ENV + ENV_TOO),
    "json": (JSON % "", JSON % ',\n  "refresh_token": "the-refresh-token"'),
}

FORMATS = sorted(all_formats())


def file_of(form: Format, root: Path, data: bytes) -> Path:
    path = root / "work" / form.file_in("work")
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    return path


def test_there_are_these() -> None:
    assert set(BYTES) == set(FORMATS)
    with pytest.raises(
        UsageError, match="'yaml' is not a format; there are: cliproxyapi, env, json, kimi-cli, kimi-code"
    ):
        find_format("yaml")


@pytest.mark.parametrize("name", FORMATS)
def test_to_the_byte(name: str) -> None:
    form = find_format(name)
    assert form.render(ACCESS).decode() == BYTES[name][0]
    assert form.render(WHOLE).decode() == BYTES[name][1]


@pytest.mark.parametrize("name", FORMATS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    form = find_format(name)
    path = file_of(form, tmp_path, form.render(WHOLE))
    for file, data in form.beside(WHOLE).items():
        (tmp_path / "work" / file).write_bytes(data)
    found = look_at(path)
    assert (found.verdict, found.format) == (Verdict.USABLE, form)
    credential = found.credential
    assert credential is not None
    assert (credential.access_token.reveal(), credential.refresh_token.reveal()) == (
        "the-access-token",
        "the-refresh-token",
    )
    assert credential.expires_at == pytest.approx(TOKEN.expires_at, abs=1)
    assert (credential.name, (credential.device_id or "").replace("-", "")) == ("work", HEX)
    assert credential.scope == (None if name == "env" else "kimi-code")
    assert "the-refresh-token" not in repr(credential) + repr(WHOLE)
    assert "the-access-token" not in repr(credential) + repr(WHOLE)


@pytest.mark.parametrize("name", FORMATS)
def test_an_access_token_alone_is_nothing_to_take(name: str, tmp_path: Path) -> None:
    form = find_format(name)
    path = file_of(form, tmp_path, form.render(ACCESS))
    assert look_at(path).verdict is Verdict.NOTHING_TO_TAKE
    assert form.may_be_replaced(form.render(ACCESS), path)
    assert not form.may_be_replaced(form.render(WHOLE), path)
    assert not form.may_be_replaced(b"", path)
    assert not form.may_be_replaced(b'{"mine": 1}', path)


@pytest.mark.parametrize("name", FORMATS)
def test_blanked_is_the_same_without_the_refresh_token(name: str, tmp_path: Path) -> None:
    form = find_format(name)
    whole = form.render(WHOLE)
    blanked = form.blanked(whole)
    assert b"the-refresh-token" not in blanked
    assert form.refresh_token_in(blanked) == ""
    with pytest.raises(AccessOnly):
        form.parse(blanked, tmp_path / "work.json")
    before, after = form.fields(whole), form.fields(blanked)
    before = {key: value for key, value in before.items() if "refresh" not in key.lower()}
    assert {key: value for key, value in after.items() if "refresh" not in key.lower()} == before


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("data", [b"", b" \n", b"{", b"\xff\xfe", b"[]", b'"x"', b"[" * 100_000, b"NaN"])
def test_garbage_is_refused_in_words(name: str, data: bytes, tmp_path: Path) -> None:
    with pytest.raises(Unusable) as refused:
        find_format(name).parse(data, tmp_path / "x")
    assert len(str(refused.value)) < 60


@pytest.mark.parametrize("name", FORMATS)
def test_half_a_file_is_never_taken_for_a_whole_one(name: str, tmp_path: Path) -> None:
    form = find_format(name)
    whole = form.render(WHOLE)
    for length in range(len(whole) - (2 if whole.endswith(b"\n") else 1)):
        try:
            credential = form.parse(whole[:length], tmp_path / "x")
        except Unusable:
            continue
        assert name == "env", "lines have no end that could be missed"
        assert credential.access_token.reveal() == "the-access-token"


def test_device_ids_are_written_as_each_tool_does() -> None:
    for device_id in (DASHED, HEX):
        token = Token("work", "a", "Bearer", 0.0, None, device_id)
        grant = Grant(token, "kimi", None, AT)
        assert find_format("kimi-cli").beside(grant) == {PurePosixPath("device_id"): HEX.encode()}
        assert find_format("kimi-code").beside(grant) == {PurePosixPath("device_id"): DASHED.encode()}
    odd = Grant(Token("work", "a", "Bearer", 0.0, None, "odd one"), "kimi", None, AT)
    assert find_format("kimi-cli").beside(odd) == {PurePosixPath("device_id"): b"odd one"}


def test_all_empty_means_revoked(tmp_path: Path) -> None:
    empty = {"access_token": "", "refresh_token": "", "expires_at": 0, "scope": "", "token_type": "", "expires_in": 0}
    for name in ("kimi-cli", "kimi-code"):
        with pytest.raises(Revoked):
            find_format(name).parse(json.dumps(empty).encode(), tmp_path / "credentials" / "kimi-code.json")


def test_what_a_person_set_in_a_file_of_cliproxyapi_is_kept() -> None:
    form = find_format("cliproxyapi")
    mine = {"disabled": True, "priority": 3, "note": "mine", "proxy_url": "http://p", "refresh_token": "old"}
    after = json.loads(form.render(ACCESS, json.dumps(mine).encode()))
    assert after == json.loads(form.render(ACCESS)) | mine | {"refresh_token": ""}
    assert list(after) == sorted(after)
    assert form.render(ACCESS, b"{half") == form.render(ACCESS)


def test_a_value_that_shells_read_differently_is_not_written_as_env() -> None:
    odd = Grant(Token("work", "a'b $(c)", "Bearer", 0.0, None, DASHED), "kimi", None, AT)
    with pytest.raises(Unusable, match="KIMI_API_KEY"):
        find_format("env").render(odd)


def test_another_programs_env_file_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "app.env"
    path.write_text("DATABASE_URL=postgres://\nKIMI_API_KEY=sk-of-mine\n")
    assert look_at(path).verdict is Verdict.STRANGER
    assert not find_format("env").may_be_replaced(path.read_bytes(), path)


def test_where_the_tools_keep_their_files(tmp_path: Path) -> None:
    found = {name: form.places({}, tmp_path) for name, form in all_formats().items()}
    assert {name: [str(each.relative_to(tmp_path)) for each in places] for name, places in found.items()} == {
        "cliproxyapi": [".cli-proxy-api"],
        "kimi-cli": [".kimi/credentials/kimi-code.json"],
        "kimi-code": [".kimi-code/credentials/kimi-code.json"],
        "env": [],
        "json": [],
    }
    moved = {"KIMI_SHARE_DIR": "/a", "KIMI_CODE_HOME": "/b"}
    assert find_format("kimi-cli").places(moved, tmp_path) == (Path("/a/credentials/kimi-code.json"),)
    assert find_format("kimi-code").places(moved, tmp_path) == (Path("/b/credentials/kimi-code.json"),)


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        ({"type": "kimi"}, Verdict.FAILED),
        ({"type": "codex", "access_token": "a", "refresh_token": "b"}, Verdict.STRANGER),
        ({"mcpServers": {}}, Verdict.STRANGER),
        ({"access_token": "a", "refresh_token": "b", "expires_at": 1.5}, Verdict.USABLE),
        ({"access_token": "a", "refresh_token": "b", "expires_at": "soon"}, Verdict.USABLE),
        ({"access_token": "a b", "refresh_token": "b", "expires_at": 1}, Verdict.FAILED),
        ({"access_token": 1, "refresh_token": "b", "expires_at": 1}, Verdict.FAILED),
        ({"access_token": "a", "refresh_token": "ü", "expires_at": 1}, Verdict.FAILED),
    ],
)
def test_by_content(content: dict[str, object], verdict: Verdict, tmp_path: Path) -> None:
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    assert look_at(path).verdict is verdict


def test_numbers_and_moments_that_are_none(tmp_path: Path) -> None:
    numbers: tuple[object, ...] = (float("nan"), float("inf"), True, None, [], "x", "1e999")
    for number in numbers:
        data = json.dumps({"access_token": "a", "refresh_token": "b", "expires_at": number}).encode()
        assert find_format("kimi-cli").parse(data, tmp_path / "x").expires_at is None
    moments: tuple[object, ...] = ("", "yesterday", 5, None)
    for moment in moments:
        data = json.dumps({"type": "kimi", "access_token": "a", "refresh_token": "b", "expired": moment}).encode()
        assert find_format("cliproxyapi").parse(data, tmp_path / "x").expires_at is None


@pytest.mark.parametrize(
    ("wish", "name"),
    [("work", "work"), (" Night shift! ", "Night-shift"), ("..", None), ("", None), ("@home", "home"), ("ä", None)],
)
def test_account_names_are_made_of_wishes(wish: str, name: str | None) -> None:
    assert account_name(wish) == name
    assert account_name(wish, "other") == (name or "other")


@pytest.mark.parametrize("command", ["export", "run"])
def test_help_names_them_all(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in FORMATS)

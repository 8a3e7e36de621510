"""The README's pages on neighbours: their very lines, run by a shell one after the other."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.processes import until
from tests.formats.house import House, loaded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

README = Path(__file__).parents[2] / "README.md"


class Page:
    """A section of the README, for somebody whose home is the house's."""

    def __init__(self, house: House, title: str) -> None:
        page = README.read_text(encoding="utf-8").partition(f"\n### {title}\n")[2]
        page = re.split(r"^##", page, maxsplit=1, flags=re.MULTILINE)[0]
        blocks = re.findall(r"^```sh\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        self.lines = [line for block in blocks for line in block.splitlines() if line]
        self.home = house.root
        self._workers: list[subprocess.Popen[bytes]] = []
        programs = house.root.parent / "bin"
        programs.mkdir()
        for name, text in {
            "kimiflow": f'exec {sys.executable} -m kimiflow "$@"',
            "python": f'exec {sys.executable} "$@"',
            "kimi": 'cat "$KIMI_SHARE_DIR/credentials/kimi-code.json"',
        }.items():
            (programs / name).write_text(f"#!/bin/sh\n{text}\n")
            (programs / name).chmod(0o755)
        self._environment = house.cli.environment | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}

    def __call__(self, line: str) -> str:
        """What a line prints."""
        done = subprocess.run(
            ["sh", "-c", line],
            env=self._environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout

    def start(self, line: str) -> None:
        """A line that goes on."""
        assert line.startswith("kimiflow run ")
        self._workers.append(
            subprocess.Popen(
                ["sh", "-c", f"exec {line}"], env=self._environment, cwd=self.home, stderr=subprocess.DEVNULL
            )
        )

    def close(self) -> None:
        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(30) for worker in self._workers] == [0] * len(self._workers)


@pytest.fixture
def page(house: House) -> Iterator[Callable[[str], Page]]:
    pages: list[Page] = []

    def opened(title: str) -> Page:
        pages.append(Page(house, title))
        return pages[-1]

    yield opened
    for each in pages:
        each.close()


def test_with_cliproxyapi(house: House, page: Callable[[str], Page]) -> None:
    source = house.cliproxyapi("kimi-1712345678901.json", note="work")
    folder = source.parent.rename(house.root / ".cli-proxy-api")
    source = folder / source.name
    there = page("With CLIProxyAPI")
    look, take_over, keep, give_back = there.lines

    assert "would be taken in as work" in there(look)
    assert loaded(source)["refresh_token"]
    assert "taken in as work" in there(take_over)
    assert loaded(source)["refresh_token"] == ""
    there.start(keep)
    synced = folder / "kimi-work.json"
    until(synced.exists)
    assert loaded(synced)["access_token"] == house.good("token", "work").out.strip()
    there(give_back)
    assert loaded(house.root / "theirs/kimi-work.json")["refresh_token"] in house.secrets()
    until(lambda: not synced.exists())


def test_with_kimi_cli_and_kimi_code(house: House, page: Callable[[str], Page]) -> None:
    file = house.kimi_cli()
    house.write(".kimi/config.toml", "default_model = ''")
    house.kimi_code()
    there = page("With kimi-cli and kimi-code")
    look, take_over, keep, configure, use = there.lines

    assert re.findall(r"would be taken in as (\S+)", there(look)) == ["kimi-cli", "kimi-code"]
    assert "taken in as desk" in there(take_over)
    assert loaded(file)["refresh_token"] == ""
    there.start(keep)
    until((house.root / "kimi/desk/credentials/kimi-code.json").exists)
    token = house.good("token", "desk", "--json").json
    there(configure)
    assert (house.root / "kimi/desk/config.toml").exists()
    assert token["access_token"] in there(use)
    assert '"refresh_token": ""' in there(use)
    assert (house.root / "kimi/desk/device_id").read_text() == token["device_id"]


def test_with_litellm(house: House, page: Callable[[str], Page]) -> None:
    house.sign_in("work")
    house.write("app.py", "import os; print(*(f'{n}={os.environ.get(n)}' for n in sorted(os.environ)), sep='\\n')")
    there = page("With LiteLLM")
    usual, named, keep_json, keep_env, once = there.lines
    token, base = house.good("token", "work").out.strip(), "https://api.kimi.com/coding/v1"

    assert {f"KIMI_API_KEY={token}", f"OPENAI_API_KEY={token}", f"OPENAI_BASE_URL={base}"} <= {*there(usual).split()}
    assert {f"MOONSHOT_API_KEY={token}", f"MOONSHOT_API_BASE={base}"} <= {*there(named).split()}
    there.start(keep_json)
    there.start(keep_env)
    until(lambda: (house.root / "tokens/work.json").exists() and (house.root / "tokens-env/work.env").exists())
    told = loaded(house.root / "tokens/work.json")
    assert (told["access_token"], told["api_base"], "expires_at" in told) == (token, base.removesuffix("/v1"), True)
    assert there(once) == (house.root / "tokens-env/work.env").read_text()


async def test_the_hook_for_litellm_reads_the_newest_token(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM itself is far too large to be installed for this; what the hook needs of it is a class to derive from."""
    monkeypatch.setitem(sys.modules, "litellm", ModuleType("litellm"))
    monkeypatch.setitem(sys.modules, "litellm.integrations", ModuleType("integrations"))
    logger = ModuleType("custom_logger")
    monkeypatch.setattr(logger, "CustomLogger", object, raising=False)
    monkeypatch.setitem(sys.modules, "litellm.integrations.custom_logger", logger)
    [code] = re.findall(
        r"^<!-- example: litellm -->\n```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE
    )
    names: dict[str, Any] = {}
    exec(code, names)
    for token in ("one", "another"):
        house.write("tokens/work.json", json.dumps({"access_token": token}))
        data = {"model": "kimi", "api_key": "set-by-the-hook"}
        assert await names["hook"].async_pre_call_hook(None, None, data, "completion") == data | {"api_key": token}

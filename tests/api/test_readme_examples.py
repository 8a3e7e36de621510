"""The README's examples do what they say."""

from __future__ import annotations

import asyncio
import re
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

import kimiflow
import kimiflow.sync
from kimiflow import KimiFlow, PoolExhausted, State

from .conftest import settings_for

if TYPE_CHECKING:
    from kimiflow.sandbox import ThreadedSandbox

README = Path(__file__).parents[2] / "README.md"
EXAMPLE = re.compile(r"^<!-- example: (\w+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
EXAMPLES = dict(EXAMPLE.findall(README.read_text(encoding="utf-8")))


def signed_in(settings: kimiflow.Settings) -> None:
    with kimiflow.sync.KimiFlow.open(settings) as flow:
        flow.begin(["work", "home"])
        assert list(flow.follow(["work", "home"]))[-1].state is State.GRANTED


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in {"sync", "litellm"}])
def test_it_works(threaded: ThreadedSandbox, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(threaded.url, tmp_path)
    monkeypatch.setattr("kimiflow.flow.load_settings", lambda: settings)
    if name != "first":
        signed_in(settings)
    if name == "events":
        threaded.revoke(threaded.log("poll")[0].device_id)
    names: dict[str, Any] = vars(openai) | vars(kimiflow) | {"httpx": httpx, "cursor": 0, "KimiFlow": KimiFlow}
    names |= {"State": State, "PoolExhausted": PoolExhausted}
    code = f"async def example(cursor=0):\n{textwrap.indent(EXAMPLES[name], '    ')}\n    return locals()"
    exec(compile(code, f"README.md: {name}", "exec"), names)

    async def run() -> dict[str, Any]:
        if name != "events":
            left = await names["example"]()
            if isinstance(client := left.get("client"), httpx.AsyncClient):
                await client.aclose()
            return left
        async with KimiFlow.open() as other:
            refreshing = asyncio.gather(*map(other.refresh, ["work", "home"]), return_exceptions=True)
            ended = await names["example"]()
            await refreshing
            return ended

    left = asyncio.run(run())
    match name:
        case "auth":
            assert left["profile"].user_id == left["me"]["user_id"]
        case "first":
            assert left["authorization"].user_code
            assert left["tokens"].access_token == threaded.log("poll")[-1].issued_access_token
        case "openai":
            assert left["reply"].choices[0].message.content == "You said: hello"
        case "pool":
            assert left["models"]["data"]
        case "events":
            assert left["cursor"] == left["event"].cursor > 0
        case _:
            raise AssertionError(f"nobody looks at what {name} does")


def test_the_synchronous_one_works(threaded: ThreadedSandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for(threaded.url, tmp_path)
    monkeypatch.setattr("kimiflow.flow.load_settings", lambda: settings)
    names: dict[str, Any] = {"kimiflow": kimiflow, "httpx": httpx, "OpenAI": openai.OpenAI}
    exec(compile(EXAMPLES["sync"], "README.md: sync", "exec"), names)
    assert names["reply"].choices[0].message.content == "You said: hello"
    names["client"].close()
    assert not [thread for thread in threading.enumerate() if thread.name == "kimiflow-sync"]

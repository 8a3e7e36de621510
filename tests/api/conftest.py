from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow import KimiFlow, Settings, sync
from kimiflow.sandbox import API_BASE, KIMI_CLIENT_ID, Sandbox, ThreadedSandbox
from kimiflow.stores.memory import MemoryStore

from .signing import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


def settings_for(url: str, home: Path, **more: Any) -> Settings:
    """A provider that is the sandbox, for sign-ins and for the API alike."""
    provider = {
        "device_authorization_endpoint": f"{url}/api/oauth/device_authorization",
        "token_endpoint": f"{url}/api/oauth/token",
        "client_id": KIMI_CLIENT_ID,
        "api_base": f"{url}{API_BASE}",
    }
    values: dict[str, Any] = {"poll_interval_floor": 0.05, "http_timeout": 5, "provider": "sandbox"}
    return Settings(home=home, providers={"sandbox": provider}, **(values | more))


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox(interval=0.05, approve="auto", seed=1) as server:
        yield server


@pytest.fixture
async def world(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[World]:
    """A flow whose store is in memory, with the accounts ``a``, ``b`` and ``c`` signed in."""
    async with KimiFlow(settings_for(sandbox.url, tmp_path), MemoryStore()) as flow:
        world = World(flow, sandbox)
        await asyncio.gather(*(world.sign_in(name) for name in "abc"))
        yield world


@pytest.fixture
def threaded() -> Iterator[ThreadedSandbox]:
    with Sandbox.in_thread(interval=0.05, approve="auto", seed=1) as server:
        yield server


@pytest.fixture
def flow(threaded: ThreadedSandbox, tmp_path: Path) -> Iterator[sync.KimiFlow]:
    """A synchronous flow, with the accounts ``a``, ``b`` and ``c`` signed in."""
    with sync.KimiFlow.open(settings_for(threaded.url, tmp_path), store=MemoryStore()) as opened:
        opened.begin(["a", "b", "c"])
        assert [status.on_its_way for status in opened.follow(["a", "b", "c"])][-1] is False
        yield opened

"""The OpenAI SDK as an account: async and sync, whole and streamed, on its own kind of client and on httpx's."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from kimiflow import PoolExhausted

from .signing import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kimiflow import sync
    from kimiflow.sandbox import ThreadedSandbox

    from .signing import World

HELLO: Any = {"model": "kimi-for-coding", "messages": [{"role": "user", "content": "hello"}]}


def kinds() -> list[Any]:
    """httpx, and httpx2 where the SDK is built on it."""
    found: list[Any] = [httpx]
    with contextlib.suppress(ImportError):
        found.append(importlib.import_module("httpx2"))
    return found


@pytest.fixture(params=kinds(), ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def client(world: World, kind: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        api_key="unused",
        base_url=f"{world.flow.api_base('a')}/v1",
        http_client=kind.AsyncClient(auth=world.flow.auth("a"), trust_env=False),
        max_retries=0,
    ) as made:
        yield made


async def test_a_completion(client: openai.AsyncOpenAI, world: World) -> None:
    completion = await client.chat.completions.create(**HELLO)
    assert completion.choices[0].message.content == "You said: hello"
    assert completion.usage is not None
    assert world.served() == ["a"], "our token, not the SDK's key"


async def test_a_stream_is_streamed(client: openai.AsyncOpenAI, world: World) -> None:
    world.sandbox.service.api._stream_pause = 0.02
    parts = [part async for part in await client.chat.completions.create(**HELLO, stream=True)]
    assert "".join(part.choices[0].delta.content or "" for part in parts) == "You said: hello"
    stream = await client.chat.completions.create(**HELLO, stream=True)
    await anext(aiter(stream))
    assert len(world.calls()) == 1, "the first part is here while the server still sends"
    await stream.close()


async def test_models(client: openai.AsyncOpenAI) -> None:
    assert "kimi-for-coding" in [model.id async for model in client.models.list()]


async def test_a_token_that_is_refused_is_refreshed_once_for_all(client: openai.AsyncOpenAI, world: World) -> None:
    world.sandbox.expire(world.devices["a"])
    replies = await asyncio.gather(*(client.chat.completions.create(**HELLO) for _ in range(8)))
    assert {reply.choices[0].message.content for reply in replies} == {"You said: hello"}
    assert len(world.sandbox.log("refresh")) == 1
    assert sorted(status for _, status in world.calls()) == [200] * 8 + [401] * 8


async def test_the_sdk_sees_what_the_api_says(client: openai.AsyncOpenAI, world: World) -> None:
    world.fault("402:api=x1", "a")
    with pytest.raises(openai.APIStatusError, match="membership") as refused:
        await client.chat.completions.create(**HELLO)
    assert refused.value.status_code == 402
    world.limit("a", 60)
    with pytest.raises(openai.RateLimitError, match="used up"):
        await client.chat.completions.create(**HELLO)


async def test_a_pool_goes_on_with_the_next_account(world: World, kind: Any) -> None:
    world.limit("a", 60)
    async with openai.AsyncOpenAI(
        api_key="unused",
        base_url=f"{world.flow.api_base('a')}/v1",
        http_client=kind.AsyncClient(auth=world.flow.pool(["a", "b"]), trust_env=False),
        max_retries=2,
    ) as client:
        completion = await client.chat.completions.create(**HELLO)
        assert completion.choices[0].message.content == "You said: hello"
        async for part in await client.chat.completions.create(**HELLO, stream=True):
            assert part.id
        assert world.calls() == [("a", 429), ("b", 200), ("b", 200)]
        world.limit("b", 60)
        with pytest.raises(PoolExhausted, match="no account of the pool is left"):
            await client.chat.completions.create(**HELLO)
        assert len(world.calls()) == 4, "the SDK does not retry what cannot be served"


def test_without_an_event_loop(flow: sync.KimiFlow, threaded: ThreadedSandbox, kind: Any) -> None:
    devices = {flow.token(name).device_id: name for name in "ab"}
    threaded.inject("401:api=x1")
    with openai.OpenAI(
        api_key="unused",
        base_url=f"{flow.api_base('a')}/v1",
        http_client=kind.Client(auth=flow.auth("a"), trust_env=False),
        max_retries=0,
    ) as client:
        assert client.chat.completions.create(**HELLO).choices[0].message.content == "You said: hello"
        parts = list(client.chat.completions.create(**HELLO, stream=True))
        assert "".join(part.choices[0].delta.content or "" for part in parts) == "You said: hello"
    with openai.OpenAI(
        api_key="unused",
        base_url=f"{flow.api_base('a')}/v1",
        http_client=kind.Client(auth=flow.pool(["a", "b"]), trust_env=False),
        max_retries=0,
    ) as client:
        for _ in range(2):
            client.chat.completions.create(**HELLO)
    assert served(threaded, {name: device for device, name in devices.items()}) == ["a", "a", "a", "b"]

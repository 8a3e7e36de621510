"""A pool over real sockets: who serves, who is set aside, who comes back."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow import InvalidAccountName, KimiFlow, PoolExhausted, UsageError
from kimiflow.cli.failures import FAILURE, code_of

from .conftest import settings_for
from .signing import HELLO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .signing import World

CHAT = "/v1/chat/completions"


async def chat(client: httpx.AsyncClient, times: int = 1) -> list[int]:
    return [(await client.post(CHAT, json=HELLO)).status_code for _ in range(times)]


async def test_requests_go_round(world: World) -> None:
    async with world.client(world.flow.pool(["a", "b", "c"])) as client:
        assert await chat(client, 6) == [200] * 6
    assert world.served() == ["a", "b", "c"] * 2


async def test_one_quota_after_the_other(world: World) -> None:
    pool = world.flow.pool(["a", "b", "c"], strategy="least_recently_limited")
    async with world.client(pool) as client:
        await chat(client, 2)
        world.limit("a", 0.2, tell="body")
        await chat(client, 2)
        world.limit("b", 0.2, tell="body")
        await chat(client, 2)
        await asyncio.sleep(1.1)  # waits are never shorter than a second
        await chat(client, 1)
        world.limit("c", 60)
        await chat(client, 2)
    assert world.served() == ["a", "a", "b", "b", "c", "c", "c", "a", "a"]


@pytest.mark.parametrize(
    ("fault", "statuses", "reason"),
    [
        ("402:api", [402], "402, no membership: There is no membership that covers this."),
        ("access_terminated_error:api", [403], "403 access_terminated_error: This is not allowed."),
        ("401:api", [401, 401], "401 although its token was just refreshed: The access token is not known"),
        ("429/20:api", [429], "429: We're receiving too many requests at the moment."),
    ],
)
async def test_an_account_that_is_refused_is_set_aside(
    world: World, fault: str, statuses: list[int], reason: str
) -> None:
    world.fault(fault, "a")
    pool = world.flow.pool(["a", "b"])
    async with world.client(pool) as client:
        assert await chat(client, 3) == [200] * 3
    assert [status for name, status in world.calls() if name == "a"] == statuses
    assert world.served() == ["b"] * 3
    assert list(pool.set_aside) == ["a"]
    assert pool.set_aside["a"].reason.startswith(reason)
    assert len(world.sandbox.log("refresh")) == (1 if fault == "401:api" else 0)


@pytest.mark.parametrize("fault", ["400:api", "403:api", "404:api", "500:api", "503/20:api", "html/403:api"])
async def test_what_is_not_about_the_account_is_the_callers(world: World, fault: str) -> None:
    world.fault(fault, "a")
    pool = world.flow.pool(["a", "b"])
    async with world.client(pool) as client:
        assert await chat(client) != [200]
    assert not pool.set_aside
    assert len(world.calls()) == 1


@pytest.mark.parametrize(
    ("tell", "status", "least"),
    [("header", 429, 100), ("date", 429, 100), ("body", 429, 100), ("usages", 429, 100), ("usages", 403, 100)],
)
async def test_the_time_of_return_is_learned_wherever_it_is_told(
    world: World, tell: str, status: int, least: float
) -> None:
    world.limit("a", 120, tell=tell, status=status)
    pool = world.flow.pool(["a", "b"])
    async with world.client(pool) as client:
        assert await chat(client) == [200]
    left = pool.set_aside["a"].until - time.time()
    assert least < left <= 122
    asked = [entry.path for entry in world.sandbox.log("api")]
    assert asked.count("/v1/usages") == (1 if tell == "usages" else 0)


async def test_where_nobody_tells_there_is_a_default(world: World) -> None:
    world.fault("429:api", "a")
    pool = world.flow.pool(["a", "b"])
    async with world.client(pool) as client:
        assert await chat(client) == [200]
    assert 20 < pool.set_aside["a"].until - time.time() <= 30


async def test_an_account_comes_back(world: World) -> None:
    world.limit("a", 0.5)
    async with world.client(world.flow.pool(["a", "b"])) as client:
        await chat(client, 3)
        assert world.served() == ["b"] * 3
        await asyncio.sleep(1.05)
        await chat(client, 2)
    assert sorted(world.served()[3:]) == ["a", "b"]


async def test_a_request_is_tried_once_with_each(world: World) -> None:
    world.fault("402:api", "a", "b")
    async with world.client(world.flow.pool(["a", "b", "c"])) as client:
        assert await chat(client) == [200]
    assert world.calls() == [("a", 402), ("b", 402), ("c", 200)]


async def test_where_nobody_is_left_the_next_to_return_is_named(world: World) -> None:
    world.limit("a", 300)
    world.limit("b", 60)
    world.fault("402:api", "c")
    async with world.client(world.flow.pool(["a", "b", "c"])) as client:
        for _ in range(2):
            with pytest.raises(PoolExhausted) as caught:
                await chat(client)
    assert len(world.calls()) == 3, "who is set aside is not asked"
    error = caught.value
    assert error.account == "b"
    assert error.returns_at is not None
    assert 50 < error.returns_at - time.time() < 62
    assert error.hint.startswith("The next to return is b, in ")
    assert all(part in error.message for part in ("a until 2", "b until 2", "c until 2", "(402, no membership"))
    assert code_of(error) == FAILURE


async def test_who_is_not_signed_in_is_passed_over(world: World) -> None:
    pool = world.flow.pool(["nobody", "a", "b"])
    await world.flow.logout(["b"])
    async with world.client(pool) as client:
        assert await chat(client, 3) == [200] * 3
        assert world.served() == ["a"] * 3
        assert not pool.set_aside
        await world.sign_in("b")
        await chat(client, 3)
    assert set(world.served()[3:]) == {"a", "b"}


async def test_where_nobody_is_signed_in_it_says_so(world: World) -> None:
    await world.flow.logout(["a", "b"])
    async with world.client(world.flow.pool(["a", "b", "nobody"])) as client:
        with pytest.raises(PoolExhausted, match="no account of the pool can serve: ") as caught:
            await chat(client)
    assert caught.value.returns_at is None
    assert "a is signed out; b is signed out; there is no account nobody" in caught.value.message
    assert caught.value.hint == "Sign in with: kimiflow login a b nobody"


async def test_a_grant_that_died_is_passed_over(world: World) -> None:
    world.sandbox.revoke(world.devices["a"])
    async with world.client(world.flow.pool(["a", "b"])) as client:
        assert await chat(client, 2) == [200] * 2
    assert world.served() == ["b"] * 2
    assert len(world.sandbox.log("refresh")) == 1


async def test_many_at_once(world: World) -> None:
    world.limit("a", 60, tell="usages")
    async with world.client(world.flow.pool(["a", "b", "c"])) as client:
        replies = await asyncio.gather(*(client.post(CHAT, json=HELLO) for _ in range(60)))
    assert {reply.status_code for reply in replies} == {200}
    assert [status for _, status in world.calls()].count(200) == 60
    assert [entry.path for entry in world.sandbox.log("api")].count("/v1/usages") == 1, "only the first asks"


async def test_a_stream_that_succeeds_is_not_read_ahead(world: World) -> None:
    world.sandbox.service.api._stream_pause = 0.05
    world.limit("a", 60)
    body = HELLO | {"stream": True}
    async with (
        world.client(world.flow.pool(["a", "b"])) as client,
        client.stream("POST", CHAT, json=body) as response,
    ):
        assert response.status_code == 200
        assert not response.is_stream_consumed
        first = await anext(response.aiter_lines())
        assert first.startswith("data: {")
        assert world.calls() == [("a", 429)], "the server still sends the other reply"
        assert [past.status_code for past in response.history] == [429]


async def test_a_stream_that_is_refused_can_be_read_by_the_caller(world: World) -> None:
    world.fault("403:api", "a")
    async with (
        world.client(world.flow.pool(["a", "b"])) as client,
        client.stream("POST", CHAT, json=HELLO | {"stream": True}) as response,
    ):
        assert response.status_code == 403
        assert b"not allowed" in b"".join([part async for part in response.aiter_bytes()])


async def test_a_body_that_cannot_be_sent_twice_gets_the_reply_of_the_one(world: World) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield b'{"model": "m", "messages": ["x"]}'

    world.limit("a", 60)
    world.fault("401:api", "b")
    pool = world.flow.pool(["a", "b", "c"])
    async with world.client(pool) as client:
        statuses = [(await client.post(CHAT, content=body())).status_code for _ in range(3)]
    assert statuses == [429, 401, 200]
    assert list(pool.set_aside) == ["a"]


async def test_two_pools_know_nothing_of_each_other(world: World) -> None:
    world.limit("a", 60)
    first, second = world.flow.pool(["a", "b"]), world.flow.pool(["a", "b"])
    async with world.client(first) as client:
        await chat(client)
    assert (list(first.set_aside), list(second.set_aside)) == (["a"], [])


async def test_no_token_is_in_what_is_said(world: World) -> None:
    token = (await world.flow.token("a")).access_token

    def echo(request: httpx.Request) -> httpx.Response:
        return httpx.Response(429, json={"error": {"message": f"no: {request.headers['Authorization']}"}})

    pool = world.flow.pool(["a"], origins=["https://api.example"])
    async with httpx.AsyncClient(auth=pool, transport=httpx.MockTransport(echo)) as client:
        with pytest.raises(PoolExhausted, match=r"no: Bearer \[redacted\]") as caught:
            await client.get("https://api.example")
    assert token not in str(caught.value)


async def test_a_pool_is_for_one_api(world: World, tmp_path: Path) -> None:
    settings = settings_for(world.sandbox.url, tmp_path / "two")
    both = settings.providers | {"other": settings.providers["sandbox"].model_copy(update={"api_base": "http://[::1]"})}
    settings = settings.model_copy(update={"providers": both})
    async with KimiFlow.open(settings) as flow:
        for name, provider in {"a": "sandbox", "b": "other"}.items():
            await flow.login(name, provider=provider)
            await flow.wait(name)
        async with httpx.AsyncClient(
            auth=flow.pool(["a", "b"]), base_url=flow.api_base("a"), trust_env=False
        ) as client:
            assert await chat(client) == [200]
            with pytest.raises(UsageError, match="the pool spans two APIs: a belongs to http"):
                await chat(client)


def test_a_pool_that_cannot_be_meant(tmp_path: Path) -> None:
    flow = KimiFlow.open(settings_for("http://127.0.0.1:1", tmp_path))
    with pytest.raises(UsageError, match="a list of accounts, not an empty one"):
        flow.pool([])
    with pytest.raises(UsageError, match="come in a list, not as 'work'"):
        flow.pool("work")
    with pytest.raises(InvalidAccountName):
        flow.pool(["a b"])
    with pytest.raises(UsageError, match="round_robin, least_recently_limited"):
        flow.pool(["a"], strategy="random")  # type: ignore[arg-type]

"""Tokens that the API refuses whatever is done, and tokens without an end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kimiflow import RequestFailed, SignInNeeded, State, TokenRefused

if TYPE_CHECKING:
    from .signing import World


@pytest.fixture
async def endless(world: World) -> World:
    """``d`` has a token without an end, as GitHub's OAuth apps have."""
    world.sandbox.inject("missing/expires_in:poll=x1")
    world.sandbox.inject("missing/refresh_token:poll=x1")
    await world.sign_in("d")
    return world


class TestAnApiThatRefusesEveryToken:
    async def test_causes_one_refresh_and_then_a_pause(self, world: World) -> None:
        world.sandbox.inject("401:api")
        async with world.client(world.flow.auth("a")) as client:
            for _ in range(20):
                assert (await client.get("/v1/me")).status_code == 401
        assert len(world.sandbox.log("refresh")) == 1

    async def test_also_where_twenty_ask_at_once_and_again(self, world: World) -> None:
        world.sandbox.inject("401:api")
        async with world.client(world.flow.auth("a")) as client:
            for _ in range(2):
                replies = await asyncio.gather(*(client.get("/v1/me") for _ in range(20)))
                assert {reply.status_code for reply in replies} == {401}
        assert len(world.sandbox.log("refresh")) == 1

    async def test_is_said_to_who_asks_for_another_token(self, world: World) -> None:
        token = await world.flow.token("a")
        token = await world.flow.refresh("a", seen=token.access_token)
        with pytest.raises(TokenRefused, match="Another refresh would not help"):
            await world.flow.refresh("a", seen=token.access_token)
        assert await world.flow.token("a") == token
        assert await world.flow.refresh("a") != token, "a person may"


class TestATokenWithoutAnEnd:
    async def test_is_handed_out(self, endless: World) -> None:
        token = await endless.flow.token("d")
        assert token.expires_at is None
        assert token.as_json()["expires_at"] is None
        assert await endless.flow.token("d") == token

    async def test_is_kept_where_somebody_asks_for_another(self, endless: World) -> None:
        token = await endless.flow.token("d")
        with pytest.raises(SignInNeeded, match="no refresh token"):
            await endless.flow.refresh("d")
        assert await endless.flow.token("d") == token

    async def test_is_not_handed_out_for_a_while_once_the_api_refuses_it(self, endless: World) -> None:
        """And kept: what refuses it may be a gateway's page."""
        token = await endless.flow.token("d")
        for _ in range(2):
            with pytest.raises(SignInNeeded, match="the API refuses its access token"):
                await endless.flow.refresh("d", seen=token.access_token)
            with pytest.raises(SignInNeeded, match="the API refuses its access token"):
                await endless.flow.token("d")
        (status,) = await endless.flow.status(["d"])
        assert (status.state, status.next_attempt_at) == (State.GRANTED, None)
        assert endless.sandbox.log("refresh") == []


class TestARefreshThatFails:
    async def test_is_not_tried_as_often_as_somebody_asks(self, world: World) -> None:
        world.sandbox.inject("expires_in/1:poll=x1")
        world.sandbox.inject("404:refresh")
        await world.sign_in("d")
        await asyncio.sleep(1.1)
        before = len(world.sandbox.log("refresh"))
        for _ in range(4):
            with pytest.raises(RequestFailed):
                await asyncio.gather(*(world.flow.token("d") for _ in range(25)))
        assert len(world.sandbox.log("refresh")) - before <= 8
        world.sandbox.clear_faults()
        assert (await world.flow.refresh("d")).account == "d"

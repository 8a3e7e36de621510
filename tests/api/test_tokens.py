"""Tokens of an unusual life: without an end, and with a refresh token that ends before them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kimiflow import AuthorizationExpired, SignInNeeded, State

if TYPE_CHECKING:
    from .signing import World


@pytest.fixture
async def endless(world: World) -> World:
    """``d`` has a token without an end, as GitHub's OAuth apps have."""
    world.sandbox.inject("missing/expires_in:poll=x1")
    world.sandbox.inject("missing/refresh_token:poll=x1")
    await world.sign_in("d")
    return world


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

    async def test_has_ended_once_the_api_says_so(self, endless: World) -> None:
        token = await endless.flow.token("d")
        with pytest.raises(AuthorizationExpired, match="no refresh token"):
            await endless.flow.refresh("d", seen=token.access_token)
        (status,) = await endless.flow.status(["d"])
        assert (status.state, status.needs_person) == (State.EXPIRED, True)
        assert endless.sandbox.log("refresh") == []

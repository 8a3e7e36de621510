"""kimiflow against an authorization server that it did not bring along: sign-in, rotation, reuse protection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow import AccessDenied, AuthorizationExpired, KimiFlow, State, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from kimiflow import Settings

    from .process import ForeignServer


@pytest.fixture
def settings(tmp_path: Path, foreign_server: ForeignServer) -> Settings:
    home = tmp_path / "home"
    home.mkdir()
    (home / "config.toml").write_text(
        f"""
        provider = "foreign"
        [providers.foreign]
        device_authorization_endpoint = "{foreign_server.device_authorization_endpoint}"
        token_endpoint = "{foreign_server.token_endpoint}"
        client_id = "{foreign_server.client_id}"
        revocation_endpoint = "{foreign_server.revocation_endpoint}"
        api_base = "{foreign_server.url}"
        """
    )
    return load_settings(home=home, poll_interval_floor=0.2, refresh_lead=1.0)


async def test_a_person_approves_and_the_tokens_work(settings: Settings, foreign_server: ForeignServer) -> None:
    async with KimiFlow.open(settings) as flow:
        status = await flow.login("work")
        assert status.state is State.PENDING
        assert status.verification_uri_complete is not None
        await foreign_server.person.approve(status.verification_uri_complete)
        assert (await flow.wait("work", timeout=20)).state is State.GRANTED

        async with httpx.AsyncClient(auth=flow.auth("work"), base_url=flow.api_base("work")) as client:
            response = await client.get("/v1/me")
        assert response.status_code == 200


async def test_a_sign_in_outlives_the_process_that_began_it(settings: Settings, foreign_server: ForeignServer) -> None:
    async with KimiFlow.open(settings) as flow:
        first = await flow.login("work")
    async with KimiFlow.open(settings) as flow:
        again = await flow.login("work")
        assert again.user_code == first.user_code
        assert again.verification_uri_complete is not None
        await foreign_server.person.approve(again.verification_uri_complete)
        await flow.wait("work", timeout=20)


async def test_refreshing_rotates_and_never_sends_an_old_token_again(
    settings: Settings, foreign_server: ForeignServer
) -> None:
    """The server revokes the whole family at the second use of a refresh token, so that the last one works is proof."""
    async with KimiFlow.open(settings) as flow:
        status = await flow.login("work")
        assert status.verification_uri_complete is not None
        await foreign_server.person.approve(status.verification_uri_complete)
        await flow.wait("work", timeout=20)
        seen = {(await flow.token("work")).access_token}
        for _ in range(4):
            seen.add((await flow.refresh("work")).access_token)
        assert len(seen) == 5


async def test_a_grant_that_ended_elsewhere_is_expired_here(settings: Settings, foreign_server: ForeignServer) -> None:
    async with KimiFlow.open(settings) as flow:
        status = await flow.login("work")
        assert status.verification_uri_complete is not None
        await foreign_server.person.approve(status.verification_uri_complete)
        await flow.wait("work", timeout=20)
        token = await flow.token("work")
        async with httpx.AsyncClient() as client:
            await client.post(
                foreign_server.revocation_endpoint,
                data={"client_id": foreign_server.client_id, "token": token.access_token},
            )
        with pytest.raises(AuthorizationExpired, match="work"):
            await flow.refresh("work")
            await flow.refresh("work")


async def test_a_sign_out_here_is_one_there(settings: Settings, foreign_server: ForeignServer) -> None:
    async with KimiFlow.open(settings) as flow, httpx.AsyncClient(base_url=foreign_server.url) as client:
        status = await flow.login("work")
        assert status.verification_uri_complete is not None
        await foreign_server.person.approve(status.verification_uri_complete)
        await flow.wait("work", timeout=20)
        bearer = {"Authorization": f"Bearer {(await flow.token('work')).access_token}"}
        assert (await client.get("/v1/me", headers=bearer)).status_code == 200
        [departure] = await flow.sign_out(["work"])
        assert (departure.issuer, departure.reason) == (foreign_server.url, None)
        assert (await client.get("/v1/me", headers=bearer)).status_code == 401


async def test_a_person_says_no(settings: Settings, foreign_server: ForeignServer) -> None:
    async with KimiFlow.open(settings) as flow:
        status = await flow.login("work")
        assert status.verification_uri_complete is not None
        await foreign_server.person.deny(status.verification_uri_complete)
        with pytest.raises(AccessDenied, match="work"):
            await flow.wait("work", timeout=20)

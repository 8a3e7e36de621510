"""How django-oauth-toolkit's device flow behaves, asked with plain HTTP: what kimiflow meets in this folder.

Where it departs from RFC 8628 or RFC 6749, the test's docstring begins with 'Deviation'. Nothing of kimiflow
runs here; a failure means that the toolkit, or the fixture around it, has changed.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from .person import PageComplained
from .process import running_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from .process import ForeignServer

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"


class Device:
    """The least that a client of the device flow does."""

    def __init__(self, server: ForeignServer, http: httpx.AsyncClient) -> None:
        self.server = server
        self.http = http

    async def ask(self, **form: str) -> httpx.Response:
        form = {"client_id": self.server.client_id, **form}
        return await self.http.post(self.server.device_authorization_endpoint, data=form)

    async def authorization(self) -> dict[str, Any]:
        body: dict[str, Any] = (await self.ask()).raise_for_status().json()
        return body

    async def request_token(self, **form: str) -> httpx.Response:
        form = {"client_id": self.server.client_id, **form}
        return await self.http.post(self.server.token_endpoint, data=form)

    async def poll(self, authorization: dict[str, Any]) -> httpx.Response:
        device_code = authorization["device_code"]
        return await self.request_token(grant_type=DEVICE_CODE_GRANT, device_code=device_code)

    async def refresh(self, tokens: dict[str, Any]) -> httpx.Response:
        return await self.request_token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])

    async def sign_in(self) -> dict[str, Any]:
        authorization = await self.authorization()
        await self.server.person.approve(authorization["verification_uri_complete"])
        tokens: dict[str, Any] = (await self.poll(authorization)).raise_for_status().json()
        return tokens

    async def profile(self, tokens: dict[str, Any]) -> httpx.Response:
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        return await self.http.get(f"{self.server.url}/v1/me", headers=bearer)


@pytest.fixture
async def device(foreign_server: ForeignServer) -> AsyncIterator[Device]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield Device(foreign_server, http)


def answer(reply: httpx.Response) -> tuple[int, dict[str, Any]]:
    return reply.status_code, reply.json()


# Device authorization, RFC 8628 §3.1 and §3.2


async def test_device_authorization_has_every_field_as_the_rfc_types_it(
    device: Device, foreign_server: ForeignServer
) -> None:
    """Numbers are JSON numbers; the interval is the one set, 1 s; the length of life cannot be set.

    `verification_uri_complete` is there because our settings ask for it; by default it is left out.
    """
    reply = await device.ask()
    assert reply.status_code == httpx.codes.OK
    assert reply.headers["content-type"] == "application/json"
    body = reply.json()
    assert len(body.pop("device_code")) == 30
    user_code = body.pop("user_code")
    assert len(user_code) == 8
    assert body == {
        "verification_uri": f"{foreign_server.url}/o/device/",
        "verification_uri_complete": f"{foreign_server.url}/o/device/?user_code={user_code}",
        "expires_in": 1800,
        "interval": 1,
    }


async def test_device_authorization_may_be_cached(device: Device) -> None:
    """Deviation: no `Cache-Control: no-store`, which RFC 8628 §3.2 shows and RFC 6749 §5.1 asks of tokens."""
    assert "cache-control" not in (await device.ask()).headers


async def test_an_unknown_client_is_an_invalid_request(device: Device) -> None:
    """Deviation: RFC 6749 §5.2 calls it `invalid_client`, and the token endpoint does."""
    status, body = answer(await device.ask(client_id="nobody"))
    assert (status, body["error"]) == (400, "invalid_request")


async def test_an_endpoint_without_its_final_slash_is_a_redirect(device: Device, foreign_server: ForeignServer) -> None:
    """Not a deviation, but a trap: an endpoint's URL is opaque, its slash included."""
    form = {"client_id": foreign_server.client_id}
    reply = await device.http.post(foreign_server.token_endpoint.removesuffix("/"), data=form)
    assert reply.status_code == httpx.codes.MOVED_PERMANENTLY


# Polling, RFC 8628 §3.4 and §3.5


async def test_polling_too_fast_is_never_answered_with_slow_down(device: Device) -> None:
    """Deviation: there is no `slow_down` at all. A client may poll as fast as it likes."""
    authorization = await device.authorization()
    for _ in range(5):
        assert answer(await device.poll(authorization)) == (400, {"error": "authorization_pending"})


async def test_approving_with_the_typed_user_code_gives_tokens(device: Device, foreign_server: ForeignServer) -> None:
    authorization = await device.authorization()
    assert answer(await device.poll(authorization)) == (400, {"error": "authorization_pending"})

    verification_uri, user_code = authorization["verification_uri"], authorization["user_code"]
    heading = await foreign_server.person.approve(verification_uri, user_code)
    assert heading == "Device Authorized"

    reply = await device.poll(authorization)
    assert reply.status_code == httpx.codes.OK
    assert reply.headers["cache-control"] == "no-store"
    tokens = reply.json()
    assert answer(await device.profile(tokens)) == (200, {"user_id": "1", "nickname": "person"})
    assert tokens.pop("access_token") != tokens.pop("refresh_token")
    assert tokens == {"token_type": "Bearer", "expires_in": 60, "scope": "profile"}


async def test_approving_behind_the_complete_uri_needs_no_typing(device: Device) -> None:
    assert (await device.profile(await device.sign_in())).status_code == httpx.codes.OK


async def test_denying_is_access_denied_for_good(device: Device, foreign_server: ForeignServer) -> None:
    authorization = await device.authorization()
    heading = await foreign_server.person.deny(authorization["verification_uri"], authorization["user_code"])
    assert heading == "Device Denied"
    for _ in range(2):
        assert answer(await device.poll(authorization)) == (400, {"error": "access_denied"})


async def test_a_spent_device_code_gives_tokens_again(device: Device) -> None:
    """Deviation: a device code is never spent. Each poll after the approval gives a new pair of tokens."""
    authorization = await device.authorization()
    await device.server.person.approve(authorization["verification_uri_complete"])
    first, second = [(await device.poll(authorization)).raise_for_status().json() for _ in range(2)]
    assert first["refresh_token"] != second["refresh_token"]
    for tokens in (first, second):
        assert (await device.profile(tokens)).status_code == httpx.codes.OK


async def test_an_expired_device_code_stays_pending_until_somebody_types_its_user_code(
    device: Device, foreign_server: ForeignServer
) -> None:
    """Deviation: polling does not look at the time. Only the page does; then it is `expired_token`."""
    authorization = await device.authorization()
    foreign_server.let_expire(authorization["device_code"])
    assert answer(await device.poll(authorization)) == (400, {"error": "authorization_pending"})
    with pytest.raises(PageComplained, match="Expired user code"):
        await foreign_server.person.approve(authorization["verification_uri_complete"])
    assert answer(await device.poll(authorization)) == (400, {"error": "expired_token"})


async def test_an_approved_device_code_gives_tokens_after_its_expiry(
    device: Device, foreign_server: ForeignServer
) -> None:
    """Deviation: RFC 8628 §3.2 ends a device code's life with `expires_in`; here an approval outlives it."""
    authorization = await device.authorization()
    await foreign_server.person.approve(authorization["verification_uri_complete"])
    foreign_server.let_expire(authorization["device_code"])
    assert (await device.poll(authorization)).status_code == httpx.codes.OK


async def test_an_unknown_device_code_is_not_found(device: Device) -> None:
    """Deviation: HTTP 404 and an error code of its own, where RFC 6749 §5.2 has 400 `invalid_grant`."""
    unknown = {"device_code": "never-given-out"}
    assert answer(await device.poll(unknown)) == (404, {"error": "device_not_found"})


async def test_a_missing_device_code_is_a_server_error_in_html(device: Device) -> None:
    """Deviation: RFC 6749 §5.2 has 400 `invalid_request`."""
    reply = await device.request_token(grant_type=DEVICE_CODE_GRANT)
    assert reply.status_code == httpx.codes.INTERNAL_SERVER_ERROR
    assert reply.headers["content-type"] == "text/html; charset=utf-8"


async def test_the_user_code_is_taken_as_it_is_printed_and_once(device: Device, foreign_server: ForeignServer) -> None:
    """Deviation: RFC 8628 §6.1 wants punctuation and case forgiven."""
    authorization = await device.authorization()
    verification_uri, user_code = authorization["verification_uri"], authorization["user_code"]
    with pytest.raises(PageComplained, match="Incorrect user code"):
        await foreign_server.person.approve(verification_uri, f"{user_code[:4]}-{user_code[4:]}")
    await foreign_server.person.approve(verification_uri, user_code)
    with pytest.raises(PageComplained, match="User code has already been used"):
        await foreign_server.person.approve(verification_uri, user_code)


# Refreshing, RFC 6749 §6


async def test_refreshing_rotates_the_refresh_token_and_ends_the_old_access_token(device: Device) -> None:
    """Harsher than it need be: the old access token dies at the refresh, not at its own expiry."""
    old = await device.sign_in()
    new = (await device.refresh(old)).raise_for_status().json()
    assert new["refresh_token"] != old["refresh_token"]
    assert new["expires_in"] == 60
    assert (await device.profile(new)).status_code == httpx.codes.OK
    assert (await device.profile(old)).status_code == httpx.codes.UNAUTHORIZED


async def test_using_an_old_refresh_token_revokes_its_family_and_no_other(device: Device) -> None:
    """No grace: the reuse alone kills the newest refresh token and its access token as well."""
    bystander = await device.sign_in()
    old = await device.sign_in()
    new = (await device.refresh(old)).raise_for_status().json()

    assert answer(await device.refresh(old)) == (400, {"error": "invalid_grant"})
    assert (await device.profile(new)).status_code == httpx.codes.UNAUTHORIZED
    assert answer(await device.refresh(new)) == (400, {"error": "invalid_grant"})

    assert (await device.refresh(bystander)).status_code == httpx.codes.OK


async def test_a_refresh_token_revoked_elsewhere_is_an_invalid_grant(
    device: Device, foreign_server: ForeignServer
) -> None:
    """RFC 7009, for a public client: takes the access token along."""
    tokens = await device.sign_in()
    form = {"client_id": foreign_server.client_id, "token": tokens["refresh_token"]}
    reply = await device.http.post(foreign_server.revocation_endpoint, data=form)
    assert reply.status_code == httpx.codes.OK
    assert answer(await device.refresh(tokens)) == (400, {"error": "invalid_grant"})
    assert (await device.profile(tokens)).status_code == httpx.codes.UNAUTHORIZED


async def test_an_unknown_client_at_the_token_endpoint_is_an_invalid_client(device: Device) -> None:
    authorization = await device.authorization()
    await device.server.person.approve(authorization["verification_uri_complete"])
    reply = await device.request_token(
        client_id="nobody", grant_type=DEVICE_CODE_GRANT, device_code=authorization["device_code"]
    )
    assert answer(reply) == (401, {"error": "invalid_client"})


# The fixture itself


async def test_many_devices_at_once(device: Device) -> None:
    """The server takes parallel sign-ins and refreshes without an error of its own ('database is locked')."""
    signed_in = await asyncio.gather(*(device.sign_in() for _ in range(8)))
    refreshed = await asyncio.gather(*(device.refresh(tokens) for tokens in signed_in))
    assert [reply.status_code for reply in refreshed] == [httpx.codes.OK] * len(signed_in)


def test_the_server_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    """The end of a process closes its pipes, whichever way it ended."""
    with running_server(tmp_path) as server:
        assert server.process.stdin is not None
        server.process.stdin.close()
        assert server.process.wait(timeout=10) == 0

"""``httpx`` with an account behind it: bearer token, device headers, and one refresh after a 401."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow.api.origins import Origins
from kimiflow.auth import KimiAuth
from kimiflow.errors import AuthorizationExpired
from kimiflow.status import Token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class Giver:
    """Hands out ``token-1``, and the next one where somebody has seen the present one fail."""

    def __init__(self) -> None:
        self.number = 1
        self.asked = 0
        self.seen: list[str | None] = []
        self.requests_to_server = 0
        self._lock = asyncio.Lock()

    def api_base(self, name: str) -> str:
        return "https://api.example"

    async def look_up(self, name: str) -> None:
        raise AssertionError(f"the API of {name} is known")

    def _token(self, name: str) -> Token:
        return Token(name, f"token-{self.number}", "Bearer", 0.0, None, f"device-of-{name}")

    async def token(self, name: str) -> Token:
        self.asked += 1
        return self._token(name)

    async def refresh(self, name: str, *, seen: str | None = None) -> Token:
        self.seen.append(seen)
        async with self._lock:
            if seen == self._token(name).access_token:
                self.requests_to_server += 1
                await asyncio.sleep(0)
                self.number += 1
            return self._token(name)


def auth(giver: Giver, name: str = "work") -> KimiAuth:
    return KimiAuth(giver, name, Origins(giver.api_base, giver.look_up))


def api(handler: Callable[[httpx.Request], httpx.Response], giver: Giver, name: str = "work") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.MockTransport(handler), auth=auth(giver, name), base_url="https://api.example"
    )


def accepting(*tokens: str) -> Callable[[httpx.Request], httpx.Response]:
    """An API that honours these tokens and answers 401 to all others."""

    def handler(request: httpx.Request) -> httpx.Response:
        scheme, _, token = request.headers["Authorization"].partition(" ")
        assert scheme == "Bearer"
        return httpx.Response(200 if token in tokens else 401, json={"token": token})

    return handler


async def test_each_request_has_the_token_and_the_device_headers() -> None:
    seen: list[httpx.Request] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    async with api(handler, Giver()) as client:
        await client.get("/v1/me", headers={"X-Msh-Device-Id": "somebody else", "Authorization": "Basic x"})
    (request,) = seen
    assert request.headers["Authorization"] == "Bearer token-1"
    assert request.headers["X-Msh-Device-Id"] == "device-of-work"
    assert request.headers["X-Msh-Platform"] == "kimiflow"
    assert {"x-msh-version", "x-msh-device-name", "x-msh-device-model"} <= set(request.headers)


async def test_a_good_token_is_used_as_it_is() -> None:
    giver = Giver()
    async with api(accepting("token-1"), giver) as client:
        assert (await client.get("/")).status_code == 200
    assert (giver.asked, giver.seen) == (1, [])


async def test_a_401_is_answered_by_one_refresh_bound_to_the_token_that_got_it() -> None:
    giver = Giver()
    async with api(accepting("token-2"), giver) as client:
        response = await client.get("/")
    assert (response.status_code, response.json()) == (200, {"token": "token-2"})
    assert giver.seen == ["token-1"]


async def test_a_second_401_is_the_answer() -> None:
    giver = Giver()
    calls = 0

    def handler(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        return httpx.Response(401, json={"call": calls})

    async with api(handler, giver) as client:
        response = await client.get("/")
    assert (response.status_code, response.json()) == (401, {"call": 2})
    assert giver.requests_to_server == 1


@pytest.mark.parametrize("status", [400, 402, 403, 404, 429, 500])
async def test_no_other_status_is_about_the_token(status: int) -> None:
    """A 402 from the API means no membership, whatever the token."""
    giver = Giver()
    async with api(lambda _: httpx.Response(status), giver) as client:
        assert (await client.get("/")).status_code == status
    assert giver.seen == []


async def test_many_requests_that_fail_together_cost_one_refresh() -> None:
    giver = Giver()
    async with api(accepting("token-2"), giver) as client:
        responses = await asyncio.gather(*[client.get(f"/{n}") for n in range(50)])
    assert {response.status_code for response in responses} == {200}
    assert giver.seen == ["token-1"] * 50
    assert giver.requests_to_server == 1


async def test_a_body_is_sent_again_with_the_second_try() -> None:
    bodies: list[bytes] = []

    def handler(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        return httpx.Response(200 if len(bodies) == 2 else 401)

    async with api(handler, Giver()) as client:
        assert (await client.post("/", json={"a": 1})).status_code == 200
    assert bodies == [b'{"a":1}', b'{"a":1}']


async def test_a_body_that_cannot_be_sent_again_is_not_sent_by_half() -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"once"

    class Consuming(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for _ in request.stream:
                pass
            return httpx.Response(401)

    async with httpx.AsyncClient(transport=Consuming(), auth=auth(Giver())) as client:
        with pytest.raises(httpx.StreamConsumed):
            await client.post("https://api.example/", content=stream())


async def test_where_there_is_no_token_the_reason_reaches_the_caller() -> None:
    class Expired(Giver):
        async def refresh(self, name: str, *, seen: str | None = None) -> Token:
            raise AuthorizationExpired(f"the sign-in of {name} has expired", account=name)

    async with api(accepting(), Expired()) as client:
        with pytest.raises(AuthorizationExpired, match="the sign-in of work has expired"):
            await client.get("/")


async def test_accounts_do_not_mix() -> None:
    giver = Giver()
    seen: dict[str, str] = {}

    def handler(request: httpx.Request) -> httpx.Response:
        seen[request.url.path] = request.headers["X-Msh-Device-Id"]
        return httpx.Response(200)

    async with api(handler, giver, "work") as work, api(handler, giver, "home") as home:
        await asyncio.gather(work.get("/work"), home.get("/home"))
    assert seen == {"/work": "device-of-work", "/home": "device-of-home"}


def test_it_is_not_for_a_client_without_an_event_loop() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    with (
        httpx.Client(transport=transport, auth=auth(Giver())) as client,
        pytest.raises(RuntimeError, match=r"httpx\.AsyncClient"),
    ):
        client.get("https://api.example")

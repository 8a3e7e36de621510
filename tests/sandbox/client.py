"""The least that a client needs: forms by name, over an authority or over a socket."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from kimiflow.sandbox import (
    DEVICE_AUTHORIZATION_PATH,
    KIMI_CLIENT_ID,
    REVOCATION_PATH,
    TOKEN_PATH,
    Authority,
    Reply,
    Sandbox,
    Settings,
)

DEVICE_CODE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
START = 1_700_000_000.0


def poll_form(device_code: str) -> dict[str, str]:
    return {"client_id": KIMI_CLIENT_ID, "device_code": device_code, "grant_type": DEVICE_CODE_GRANT}


def refresh_form(refresh_token: str) -> dict[str, str]:
    return {"client_id": KIMI_CLIENT_ID, "refresh_token": refresh_token, "grant_type": "refresh_token"}


def revocation_form(token: str, hint: str | None = "refresh_token") -> dict[str, str]:
    form = {"client_id": KIMI_CLIENT_ID, "token": token}
    return form if hint is None else form | {"token_type_hint": hint}


class World:
    """An authority with a clock that is set by hand."""

    def __init__(self, **options: Any) -> None:
        self.now = START
        self.authority = Authority(Settings(**options), random.Random(1))

    @property
    def log(self) -> list[Any]:
        return list(self.authority.log)

    def later(self, seconds: float) -> None:
        self.now += seconds

    def start(self, device_id: str = "laptop") -> dict[str, Any]:
        reply = self.authority.device_authorization({"client_id": KIMI_CLIENT_ID}, device_id, self.now)
        assert reply.outcome == "issued"
        return reply.body

    def poll(self, device_code: str, device_id: str = "laptop") -> Reply:
        return self.authority.token(poll_form(device_code), device_id, self.now)

    def refresh(self, refresh_token: str, device_id: str = "laptop") -> Reply:
        return self.authority.token(refresh_form(refresh_token), device_id, self.now)

    def revoke(self, token: str, hint: str | None = "refresh_token", **changes: str) -> Reply:
        return self.authority.revocation(revocation_form(token, hint) | changes, "laptop", self.now)

    def sign_in(self, device_id: str = "laptop") -> dict[str, Any]:
        """The body of a token reply."""
        started = self.start(device_id)
        self.authority.approve(started["user_code"], self.now)
        reply = self.poll(started["device_code"], device_id)
        assert reply.outcome == "issued"
        return reply.body


@dataclass
class Client:
    """A client on a socket. Redirects are not followed, unless asked."""

    http: httpx.AsyncClient
    device_id: str = "laptop"

    async def _post(self, path: str, form: dict[str, str], **options: Any) -> httpx.Response:
        return await self.http.post(path, data=form, headers={"X-Msh-Device-Id": self.device_id}, **options)

    async def start(self) -> httpx.Response:
        return await self._post(DEVICE_AUTHORIZATION_PATH, {"client_id": KIMI_CLIENT_ID})

    async def poll(self, device_code: str = "none", **options: Any) -> httpx.Response:
        return await self._post(TOKEN_PATH, poll_form(device_code), **options)

    async def refresh(self, refresh_token: str = "none", **options: Any) -> httpx.Response:
        return await self._post(TOKEN_PATH, refresh_form(refresh_token), **options)

    async def revoke(self, token: str = "none", **options: Any) -> httpx.Response:
        return await self._post(REVOCATION_PATH, revocation_form(token), **options)

    async def sign_in(self) -> dict[str, Any]:
        """The body of a token reply, from a sandbox that approves by itself."""
        started = (await self.start()).raise_for_status().json()
        reply = (await self.poll(started["device_code"])).raise_for_status()
        body: dict[str, Any] = reply.json()
        return body


Connect = Callable[[Sandbox], AbstractAsyncContextManager[Client]]


async def raw(port: int, form: str, path: str = TOKEN_PATH) -> bytes:
    """All bytes that come back until the connection ends; raises what the socket raises."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = form.encode()
        writer.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\n\r\n".encode()
            + body
        )
        return await reader.read()
    finally:
        writer.close()
        with suppress(ConnectionError):  # a reset is what the reader has raised already
            await writer.wait_closed()

"""Tokens that are given back (RFC 7009): what is sent, and what is made of the answer."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

from kimiflow import wire
from kimiflow.client import Client
from kimiflow.errors import InvalidSetting
from kimiflow.events import AttemptFailed
from kimiflow.http.transports import Transports
from kimiflow.model import State
from kimiflow.provider import BUILT_IN, on_host
from kimiflow.secret import Secret

from .raw_server import RawServer, answering, http, raw_server
from .samples import IDENTITY, PROVIDER, Open, account, authorization_in, reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

REVOKING = replace(PROVIDER, revocation_endpoint="https://auth.example/api/oauth/revoke")
REFRESH = Secret("refresh+/ 1")
REQUEST = wire.revocation_request(REVOKING, REFRESH, "refresh_token")
UNSUPPORTED = http(json.dumps({"error": "unsupported_token_type"}).encode(), "400 Bad Request")


class Ticking:
    """A clock on which every look takes a second."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.monotonic()

    def monotonic(self) -> float:
        self.time += 1.0
        return self.time


class TestOnTheWire:
    def test_a_request_has_the_token_its_kind_and_the_client(self) -> None:
        assert REQUEST.url == REVOKING.revocation_endpoint
        assert parse_qsl(REQUEST.body.decode()) == [
            ("client_id", "the-client"),
            ("token_type_hint", "refresh_token"),
            ("token", "refresh+/ 1"),
        ]
        assert REQUEST.secrets == (REFRESH,)
        other = wire.revocation_request(REVOKING, Secret("access-1"), "access_token")
        assert dict(parse_qsl(other.body.decode()))["token_type_hint"] == "access_token"

    @pytest.mark.parametrize("body", [None, {}, [], b"revoked", {"status": "ok"}, {"error": "none"}, {"error": None}])
    @pytest.mark.parametrize("status", [200, 204])
    def test_a_success_is_one_whatever_else_it_says(self, body: Any, status: int) -> None:
        assert wire.parse_revocation(reply(body, status), REQUEST) is None

    @pytest.mark.parametrize(
        ("body", "status", "error"),
        [
            ({"error": "unsupported_token_type"}, 400, "unsupported_token_type"),
            ({"error": "unsupported_token_type"}, 200, "unsupported_token_type"),
            ({"error": "invalid_client"}, 200, "invalid_client"),
            ({"error": "invalid_client"}, 401, "invalid_client"),
            ({"message": "invalid_token"}, 400, "invalid_token"),
            (b"<html>", 503, "http_503"),
            (b"\n<html>", 200, "invalid_response"),
            (None, 404, "http_404"),
            ({}, 302, "http_302"),
        ],
    )
    def test_anything_else_is_a_failure(self, body: Any, status: int, error: str) -> None:
        failed = wire.parse_revocation(reply(body, status), REQUEST)
        assert isinstance(failed, AttemptFailed)
        assert failed.error == error

    @pytest.mark.parametrize("echoed", ["refresh+/ 1", "refresh%2B%2F+1"])
    def test_no_failure_shows_the_token(self, echoed: str) -> None:
        body = {"error": f"no {echoed}", "error_description": f"{echoed} is no good"}
        failed = wire.parse_revocation(reply(body, 400), REQUEST)
        assert echoed not in repr(failed)
        assert "[redacted]" in repr(failed)


def test_the_built_in_servers_have_no_such_endpoint_and_others_move_with_their_host() -> None:
    assert {each.revocation_endpoint for each in BUILT_IN.values()} == {None}
    assert on_host(BUILT_IN["kimi"], "http://127.0.0.1:1").revocation_endpoint is None
    assert on_host(REVOKING, "http://127.0.0.1:1/").revocation_endpoint == "http://127.0.0.1:1/api/oauth/revoke"


class TestTheClient:
    @asynccontextmanager
    async def at(self, url: str) -> AsyncIterator[Client]:
        provider = replace(on_host(REVOKING, url), name="kimi")
        transports = Transports()
        try:
            yield Client({"kimi": provider}, IDENTITY, timeout=30.0, transport_for=transports, clock=Ticking())
        finally:
            await transports.aclose()

    def granted(self, server: RawServer, **changes: Any) -> Open:
        return authorization_in(State.GRANTED, origin=server.url, **changes)

    async def revoked(self, *replies: bytes, timeout: float = 20.0, **changes: Any) -> tuple[Any, list[str]]:
        """What came of it, and the tokens that the server was sent."""
        async with raw_server(answering(*replies)) as server, self.at(server.url) as client:
            failed = await client.revoke(account(), self.granted(server, **changes), timeout=timeout)
            assert all(b"X-Msh-Device-Id: device-1\r\n" in request for request in server.requests)
            assert all(request.startswith(b"POST /api/oauth/revoke HTTP/1.1\r\n") for request in server.requests)
            forms = [dict(parse_qsl(request.partition(b"\r\n\r\n")[2].decode())) for request in server.requests]
            return failed, [form["token"] for form in forms]

    async def test_sends_the_refresh_token_and_then_the_access_token(self) -> None:
        assert await self.revoked(http(b""), http(b"")) == (None, ["refresh-1", "access-1"])

    async def test_takes_the_word_on_the_refresh_token(self) -> None:
        assert await self.revoked(http(b""), UNSUPPORTED) == (None, ["refresh-1", "access-1"])
        failed, sent = await self.revoked(http(b"", "503 Away"), http(b""))
        assert (failed.error, sent) == ("http_503", ["refresh-1"])

    async def test_takes_the_word_on_the_access_token_where_there_is_no_other(self) -> None:
        assert await self.revoked(http(b""), refresh_token=None) == (None, ["access-1"])
        failed, _ = await self.revoked(UNSUPPORTED, refresh_token=None)
        assert failed.error == "unsupported_token_type"
        assert await self.revoked(http(b""), access_token=None) == (None, ["refresh-1"])

    async def test_starts_nothing_once_the_time_is_up(self) -> None:
        assert await self.revoked(http(b""), http(b""), timeout=0.9) == (None, ["refresh-1"])

    async def test_sends_nothing_to_another_origin(self) -> None:
        async with raw_server(answering(http(b""))) as server, self.at(server.url) as client:
            with pytest.raises(InvalidSetting, match=f"is at {server.url}"):
                await client.revoke(account(), authorization_in(State.GRANTED, origin="https://a.example"), timeout=9.0)
            assert server.connections == 0

"""The API of the sandbox: who may use it, what it says, and how it refuses on demand."""

from __future__ import annotations

import asyncio
import json
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import httpx
import pytest

from kimiflow.sandbox import FaultError, Sandbox
from tests.sandbox.client import Client

from .signing import HELLO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Api:
    def __init__(self, sandbox: Sandbox, http: httpx.AsyncClient, token: str) -> None:
        self.sandbox = sandbox
        self.http = http
        self.token = token

    async def get(self, path: str, token: str | None = None) -> httpx.Response:
        return await self.http.get(f"/coding/v1/{path}", headers={"Authorization": f"Bearer {token or self.token}"})

    async def chat(self, **more: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", "X-Msh-Device-Id": "laptop"}
        return await self.http.post("/coding/v1/chat/completions", json=HELLO | more, headers=headers)


@pytest.fixture
async def api(sandbox: Sandbox) -> AsyncIterator[Api]:
    async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as http:
        yield Api(sandbox, http, (await Client(http).sign_in())["access_token"])


async def test_only_tokens_of_the_authority_are_let_in(api: Api) -> None:
    assert (await api.http.get("/coding/v1/me")).status_code == 401
    refused = await api.get("me", "at_unknown")
    assert (refused.status_code, refused.json()["error"]["type"]) == (401, "invalid_authentication_error")
    assert (await api.get("me")).status_code == 200
    api.sandbox.revoke("laptop")
    assert (await api.get("me")).status_code == 401


async def test_access_tokens_can_be_ended_before_their_time(api: Api, sandbox: Sandbox) -> None:
    sandbox.expire("laptop")
    assert (await api.get("me")).status_code == 401
    signed_in = sandbox.log("poll")[0]
    fresh = await Client(api.http).refresh(signed_in.issued_refresh_token or "")
    assert (await api.get("me", fresh.json()["access_token"])).status_code == 200
    with pytest.raises(LookupError):
        sandbox.expire("nobody")


async def test_an_expired_token_is_refused() -> None:
    now = 1_700_000_000.0
    async with (
        Sandbox(clock=lambda: now, approve="auto") as sandbox,
        httpx.AsyncClient(base_url=sandbox.url, trust_env=False) as http,
    ):
        api = Api(sandbox, http, (await Client(http).sign_in())["access_token"])
        assert (await api.get("models")).status_code == 200
        now += 901
        assert (await api.get("models")).status_code == 401


async def test_what_it_says_of_an_account(api: Api) -> None:
    me = (await api.get("me")).json()
    assert set(me) == {"user_id", "nickname", "email", "region", "user_level_name"}
    api.sandbox.set_profile("laptop", email=None, user_id="u-1")
    assert (await api.get("me")).json() == {
        "user_id": "u-1", **{key: me[key] for key in ("nickname", "region", "user_level_name")}
    }  # fmt: skip
    await api.chat()
    usages = (await api.get("usages")).json()
    assert usages["usage"]["used"] == "1"
    (limit,) = usages["limits"]
    assert limit["window"] == {"duration": "300", "timeUnit": "TIME_UNIT_MINUTE"}
    assert (limit["used"], limit["limit"], limit["remaining"]) == ("1", "200", "199")
    assert limit["resetTime"].endswith("000Z")
    models = (await api.get("models")).json()
    assert "kimi-for-coding" in [model["id"] for model in models["data"]]


async def test_a_completion_whole_and_streamed(api: Api) -> None:
    whole = (await api.chat()).json()
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "You said: hello"}
    streamed = await api.chat(stream=True, stream_options={"include_usage": True})
    assert streamed.headers["content-type"] == "text/event-stream"
    events = [line.removeprefix("data: ") for line in streamed.text.split("\n\n") if line]
    assert events.pop() == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert chunks.pop()["usage"]["completion_tokens"] == 3
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "You said: hello"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("body", "said"),
    [("nothing", "JSON"), ("[]", "messages"), ('{"messages": []}', "messages"), ('{"messages": [1]}', "model")],
)
async def test_what_is_no_request_for_a_completion(api: Api, body: str, said: str) -> None:
    headers = {"Authorization": f"Bearer {api.token}"}
    reply = await api.http.post("/coding/v1/chat/completions", content=body, headers=headers)
    assert reply.status_code == 400
    assert said in reply.json()["error"]["message"]


async def test_other_paths_and_methods(api: Api) -> None:
    assert (await api.get("nothing")).status_code == 404
    assert (await api.http.delete("/coding/v1/me")).status_code == 405


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        ("401:api=x1", 401, "invalid_authentication_error"),
        ("402:api=x1", 402, "payment_required_error"),
        ("403:api=x1", 403, "permission_denied_error"),
        ("access_terminated_error:api=x1", 403, "access_terminated_error"),
        ("429/20:api=x1", 429, "rate_limit_reached_error"),
        ("500=x1", 500, "server_error"),
    ],
)
async def test_it_refuses_on_demand(api: Api, fault: str, status: int, kind: str) -> None:
    api.sandbox.inject(fault)
    refused = await api.chat()
    assert (refused.status_code, refused.json()["error"]["type"]) == (status, kind)
    if status == 429:
        assert refused.headers["retry-after"] == "20"
    assert (await api.chat()).status_code == 200
    assert [(e.status, e.outcome, e.fault) for e in api.sandbox.log("api")] == [
        (status, kind, fault),
        (200, "served", None),
    ]


async def test_a_fault_of_the_api_leaves_the_authority_alone(api: Api) -> None:
    api.sandbox.inject("reset:api", device_id="laptop")
    with pytest.raises(httpx.ReadError):
        await api.chat()
    assert (await Client(api.http).start()).status_code == 200
    with pytest.raises(FaultError, match="cannot happen at 'api'"):
        api.sandbox.inject("slow_down:api")
    with pytest.raises(FaultError, match="endpoints are api"):
        api.sandbox.inject("access_terminated_error:poll")
    api.sandbox.clear_faults()
    api.sandbox.inject("late/1")
    assert (await api.chat()).status_code == 200, "what cannot happen at the API does not"


async def test_a_quota_that_is_used_up_comes_back(api: Api) -> None:
    api.sandbox.limit("laptop", 0.3)
    refused = await api.chat()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    assert (await api.get("usages")).json()["limits"][0]["remaining"] == "0"
    time.sleep(0.3)
    assert (await api.chat()).status_code == 200


async def test_how_it_tells_when_the_quota_is_back(api: Api) -> None:
    api.sandbox.limit("laptop", 60, tell="date")
    until = parsedate_to_datetime((await api.chat()).headers["retry-after"]).timestamp()
    assert 59 < until - time.time() < 62
    api.sandbox.limit("laptop", 60, tell="body")
    refused = await api.chat()
    assert "retry-after" not in refused.headers
    assert refused.json()["error"]["resetTime"].endswith("000Z")
    api.sandbox.limit("laptop", 60, tell="usages", status=403)
    refused = await api.chat()
    assert refused.status_code == 403
    assert set(refused.json()["error"]) == {"message", "type"}
    usage = (await api.get("usages")).json()["usage"]
    assert usage["used"] == usage["limit"]
    with pytest.raises(ValueError, match="403 or 429"):
        api.sandbox.limit("laptop", 1, status=500)


async def test_the_log_tells_who_asked_for_what(api: Api) -> None:
    await api.chat()
    await api.get("me", "at_unknown")
    chat, me = api.sandbox.log("api")
    assert (chat.path, chat.device_id, chat.bearer, chat.status) == ("/v1/chat/completions", "laptop", "laptop", 200)
    assert chat.access_token == api.token
    assert api.token not in repr(chat)
    assert chat.fingerprint is not None
    assert chat.fingerprint in repr(chat)
    assert (me.path, me.device_id, me.bearer, me.status) == ("/v1/me", "", None, 401)
    assert api.sandbox.counts()["api.served"] == 1


async def test_a_stream_that_is_left_halfway_was_not_delivered(api: Api) -> None:
    api.sandbox.service.api._stream_pause = 0.05
    headers = {"Authorization": f"Bearer {api.token}"}
    async with api.http.stream(
        "POST", "/coding/v1/chat/completions", json=HELLO | {"stream": True}, headers=headers
    ) as reply:
        await anext(reply.aiter_bytes())
    async with asyncio.timeout(2):
        while not api.sandbox.log("api"):
            await asyncio.sleep(0.01)
    (entry,) = api.sandbox.log("api")
    assert (entry.status, entry.delivered) == (200, False)

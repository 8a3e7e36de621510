"""Each fault as a client sees it on a real socket."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from kimiflow.sandbox import Sandbox

from .client import Connect, poll_form, raw, refresh_form

POLL = urlencode(poll_form("none"))


async def until(condition: Callable[[], object], what: str) -> None:
    for _ in range(200):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never came about: {what}")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 502, 503, 504, 520])
async def test_any_error_status(client: Connect, status: int) -> None:
    async with Sandbox(faults=[f"{status}:poll"]) as sandbox, client(sandbox) as c:
        reply = await c.poll()
        assert reply.status_code == status
        assert "retry-after" not in reply.headers
        assert (await c.refresh()).json()["error"] == "invalid_grant"
        entry = sandbox.log("poll")[0]
        assert (entry.outcome, entry.status, entry.fault) == ("not_processed", status, f"{status}:poll")


async def test_retry_after_in_seconds(client: Connect) -> None:
    async with Sandbox(faults=["429/20"]) as sandbox, client(sandbox) as c:
        reply = await c.poll()
        assert (reply.status_code, reply.headers["retry-after"]) == (429, "20")
        assert sandbox.log("poll")[0].retry_after == 20


async def test_retry_after_as_a_date_is_never_too_early(client: Connect) -> None:
    async with Sandbox(faults=["503/date+20"], clock=lambda: 1_700_000_000.25) as sandbox, client(sandbox) as c:
        reply = await c.poll()
        assert reply.status_code == 503
        assert parsedate_to_datetime(reply.headers["retry-after"]).timestamp() == 1_700_000_021


async def test_slow_down_grows_the_interval_that_is_judged_by(client: Connect) -> None:
    now = 1_700_000_000.0
    async with Sandbox(faults=["slow_down/30:poll=x1", "slow_down:poll=x1"], clock=lambda: now) as sandbox:
        async with client(sandbox) as c:
            code = (await c.start()).json()["device_code"]
            first = await c.poll(code)
            assert (first.status_code, first.json()) == (400, {"error": "slow_down", "interval": 30})
            now += 29
            assert (await c.poll(code)).json() == {"error": "slow_down"}
            now += 34
            assert (await c.poll(code)).json()["error"] == "slow_down"
        polls = sandbox.log("poll")
        assert [entry.interval for entry in polls] == [5, 30, 35]
        assert [entry.too_fast for entry in polls] == [False, True, True]


@pytest.mark.parametrize(
    ("spec", "status", "error"),
    [
        ("access_denied", 400, "access_denied"),
        ("authorization_pending/200", 200, "authorization_pending"),
        ("expired_token", 400, "expired_token"),
        ("invalid_client", 401, "invalid_client"),
        ("invalid_grant/403", 403, "invalid_grant"),
        ("temporarily_unavailable", 503, "temporarily_unavailable"),
    ],
)
async def test_any_oauth_error_with_any_status(client: Connect, spec: str, status: int, error: str) -> None:
    async with Sandbox(faults=[spec]) as sandbox, client(sandbox) as c:
        reply = await c.refresh()
        assert (reply.status_code, reply.json()["error"]) == (status, error)
        assert sandbox.log("refresh")[0].outcome == error


async def test_pending_for_ever_even_after_approval_and_expiry(client: Connect) -> None:
    now = 1_700_000_000.0
    sandbox = Sandbox(faults=["authorization_pending:poll"], approve="auto", clock=lambda: now)
    async with sandbox, client(sandbox) as c:
        code = (await c.start()).json()["device_code"]
        now += 4_000
        assert (await c.poll(code)).json()["error"] == "authorization_pending"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("message", lambda body: body["message"]),
        ("detail", lambda body: body["detail"]),
        ("nested", lambda body: body["error"]["message"]),
    ],
)
async def test_errors_under_other_keys_echo_the_secret(client: Connect, spec: str, words: Callable[[Any], str]) -> None:
    async with Sandbox(faults=[spec]) as sandbox, client(sandbox) as c:
        reply = await c.refresh("rt_secret")
        assert reply.status_code == 400
        assert "rt_secret" in words(reply.json())


@pytest.mark.parametrize("status", [200, 403, 502])
async def test_a_web_page(client: Connect, status: int) -> None:
    async with Sandbox(faults=[f"html/{status}"]) as sandbox, client(sandbox) as c:
        reply = await c.poll()
        assert reply.status_code == status
        assert reply.headers["content-type"].startswith("text/html")
        assert reply.text.startswith("<!DOCTYPE html>")


async def test_an_empty_body_and_invalid_json(client: Connect) -> None:
    async with Sandbox(faults=["empty=x1", "invalid_json=x1"]) as sandbox, client(sandbox) as c:
        empty = await c.poll()
        assert (empty.status_code, empty.content) == (200, b"")
        with pytest.raises(json.JSONDecodeError):
            (await c.poll()).json()


async def test_a_huge_body_arrives_whole(client: Connect) -> None:
    async with Sandbox(faults=["huge/3"]) as sandbox, client(sandbox) as c:
        reply = await c.poll()
        assert 3 << 20 < len(reply.content) < (3 << 20) + 100
        assert sandbox.log("poll")[0].delivered


async def test_a_client_that_leaves_in_the_middle_of_a_huge_body(client: Connect) -> None:
    async with Sandbox(faults=["huge/64"]) as sandbox, client(sandbox) as c:
        async with c.http.stream("POST", "/api/oauth/token", data=poll_form("none")) as reply:
            async for _ in reply.aiter_raw(1024):
                break
        await until(lambda: sandbox.log("poll"), "the end of the exchange")
        assert not sandbox.log("poll")[0].delivered


async def test_a_redirect_leads_where_it_is_logged(client: Connect) -> None:
    async with Sandbox(faults=["redirect/308:poll"]) as sandbox, client(sandbox) as c:
        reply = await c.poll()
        assert reply.status_code == 308
        assert sandbox.log("redirected") == []
        await c.poll("dc_secret", follow_redirects=True)
        assert [entry.credential for entry in sandbox.log("redirected")] == ["dc_secret"]
        assert "dc_secret" not in repr(sandbox.log())


async def test_a_cut_off_body_ends_before_its_length() -> None:
    async with Sandbox(faults=["cut_off"]) as sandbox:
        head, _, body = (await raw(sandbox.port, POLL)).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        assert head.startswith(b"HTTP/1.1 200")
        assert 0 < len(body) < length
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
                await http.post(f"{sandbox.url}/api/oauth/token", data=poll_form("none"))
        assert [entry.delivered for entry in sandbox.log("poll")] == [False, False]


async def test_a_reset_is_a_reset_and_not_an_end() -> None:
    async with Sandbox(faults=["reset"]) as sandbox:
        with pytest.raises(ConnectionResetError):
            await raw(sandbox.port, POLL)
        entry = sandbox.log("poll")[0]
        assert (entry.outcome, entry.status, entry.delivered) == ("not_processed", 0, False)


async def test_a_hang_lasts_as_long_as_the_client_stays(client: Connect) -> None:
    async with Sandbox(faults=["hang:poll"]) as sandbox, client(sandbox) as c:
        with pytest.raises(httpx.ReadTimeout):
            await c.poll(timeout=httpx.Timeout(5, read=0.1))
        await until(lambda: sandbox.log("poll"), "the end of the exchange")
        entry = sandbox.log("poll")[0]
        assert entry.completed - entry.at >= 0.05
        assert (entry.outcome, entry.delivered) == ("not_processed", False)


async def test_a_hang_can_end_by_itself() -> None:
    async with Sandbox(faults=["hang/0.05"]) as sandbox:
        assert await raw(sandbox.port, POLL) == b""


async def test_a_hang_does_not_keep_the_sandbox_from_stopping() -> None:
    async with Sandbox(faults=["hang"]) as sandbox:
        waiting = asyncio.create_task(raw(sandbox.port, POLL))
        await until(lambda: sandbox.authority._in_flight, "the request")
        begun = time.monotonic()
    assert time.monotonic() - begun < 2
    assert await waiting == b""
    assert [entry.delivered for entry in sandbox.log()] == [False]


async def test_a_delay_acts_late_and_not_at_all_once_the_client_has_gone(client: Connect) -> None:
    faults = ["delay/60:refresh=x1", "delay/0.1:refresh"]
    async with Sandbox(faults=faults, approve="auto") as sandbox, client(sandbox) as c:
        token = (await c.sign_in())["refresh_token"]
        with pytest.raises(httpx.ReadTimeout):
            await c.refresh(token, timeout=httpx.Timeout(5, read=0.05))
        second = await c.refresh(token)
        assert second.status_code == 200
        first, after = sandbox.log("refresh")
        assert (first.outcome, first.delivered) == ("not_processed", False)
        assert after.completed - after.at >= 0.1


async def test_a_late_reply_was_acted_on_even_if_the_client_has_gone(client: Connect) -> None:
    async with Sandbox(faults=["late/60:refresh=x1"], approve="auto") as sandbox, client(sandbox) as c:
        token = (await c.sign_in())["refresh_token"]
        with pytest.raises(httpx.ReadTimeout):
            await c.refresh(token, timeout=httpx.Timeout(5, read=0.05))
        await until(lambda: sandbox.log("refresh"), "the end of the exchange")
        assert (await c.refresh(token)).json()["error"] == "invalid_grant"
        first, second = sandbox.log("refresh")
        assert (first.outcome, first.delivered, second.reuse) == ("issued", False, True)


@pytest.mark.parametrize("way", ["close", "reset", "cut_off"])
async def test_a_lost_reply_was_acted_on(client: Connect, way: str) -> None:
    async with Sandbox(faults=[f"lost/{way}:token=x1"]) as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        # Nothing is issued here, so nothing can be lost, and the fault waits.
        assert (await c.poll(started["device_code"])).json()["error"] == "authorization_pending"
        sandbox.approve(started["user_code"])
        form = urlencode(poll_form(started["device_code"]))
        if way == "reset":
            with pytest.raises(ConnectionResetError):
                await raw(sandbox.port, form)
        else:
            received = await raw(sandbox.port, form)
            assert (b"access_token" in received) == (way == "cut_off")
            assert not received.endswith(b"}")
        lost = sandbox.log("poll")[-1]
        assert (lost.outcome, lost.delivered) == ("issued", False)
        assert lost.issued_refresh_token is not None
        assert (await c.poll(started["device_code"])).json()["error"] == "invalid_grant"
        assert [code.user_code for code in sandbox.authority.ungranted(sandbox.now())] == [started["user_code"]]


@pytest.mark.parametrize("name", ["expires_in", "interval"])
@pytest.mark.parametrize(
    ("word", "test"),
    [
        ("string", lambda number: isinstance(number, str) and float(number) > 0),
        ("float", lambda number: number % 1 == 0.5),
        ("word", lambda number: number == "soon"),
        ("nan", math.isnan),
        ("infinite", math.isinf),
        ("negative", lambda number: number < 0),
        ("zero", lambda number: number == 0),
        ("null", lambda number: number is None),
        ("enormous", lambda number: number > 1e20),
        ("17", lambda number: number == 17),
    ],
)
async def test_numbers_that_are_none(client: Connect, name: str, word: str, test: Callable[[Any], bool]) -> None:
    async with Sandbox(faults=[f"{name}/{word}"]) as sandbox, client(sandbox) as c:
        reply = await c.start()
        assert reply.status_code == 200
        assert test(reply.json()[name])


async def test_expires_in_of_tokens_can_be_wrong_too(client: Connect) -> None:
    async with Sandbox(faults=["expires_in/string:token"], approve="auto") as sandbox, client(sandbox) as c:
        issued = await c.sign_in()
        assert issued["expires_in"] == "900"
        assert (await c.refresh(issued["refresh_token"])).json()["expires_in"] == "900"


async def test_verification_url_in_place_of_verification_uri(client: Connect) -> None:
    async with Sandbox(faults=["verification_url"]) as sandbox, client(sandbox) as c:
        body = (await c.start()).json()
        assert {"verification_url", "verification_url_complete"} < set(body)
        assert not {"verification_uri", "verification_uri_complete"} & set(body)


@pytest.mark.parametrize("name", ["verification_uri_complete", "interval", "expires_in"])
async def test_a_device_authorization_without_a_field(client: Connect, name: str) -> None:
    async with Sandbox(faults=[f"missing/{name}"]) as sandbox, client(sandbox) as c:
        body = (await c.start()).json()
        assert name not in body
        assert "user_code" in body


@pytest.mark.parametrize("name", ["scope", "token_type", "expires_in"])
async def test_a_refresh_without_a_field(client: Connect, name: str) -> None:
    async with Sandbox(faults=[f"missing/{name}:refresh"], approve="auto") as sandbox, client(sandbox) as c:
        issued = await c.sign_in()
        assert name in issued
        refreshed = (await c.refresh(issued["refresh_token"])).json()
        assert name not in refreshed
        assert refreshed["refresh_token"] != issued["refresh_token"]


async def test_a_refresh_token_that_is_not_sent_is_not_rotated(client: Connect) -> None:
    async with Sandbox(faults=["missing/refresh_token:refresh=x1"], approve="auto") as sandbox, client(sandbox) as c:
        token = (await c.sign_in())["refresh_token"]
        first = await c.refresh(token)
        assert "refresh_token" not in first.json()
        second = (await c.refresh(token)).json()
        assert second["refresh_token"] != token
        assert sandbox.log("refresh")[0].fault == "missing/refresh_token:refresh=x1"


async def test_alterations_add_up(client: Connect) -> None:
    faults = ["missing/scope:refresh", "missing/token_type:refresh", "expires_in/null:refresh"]
    async with Sandbox(faults=faults, approve="auto") as sandbox, client(sandbox) as c:
        body = (await c.refresh((await c.sign_in())["refresh_token"])).json()
        assert set(body) == {"access_token", "refresh_token", "expires_in"}
        assert body["expires_in"] is None


async def test_faults_are_injected_and_cleared_from_a_test(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        sandbox.inject("503", endpoint="poll", times=3)
        assert [(await c.poll()).status_code for _ in range(4)] == [503, 503, 503, 400]
        sandbox.inject("500", device_id="another")
        assert (await c.poll()).status_code == 400
        sandbox.inject("500", device_id="laptop")
        assert (await c.poll()).status_code == 500
        sandbox.clear_faults()
        assert (await c.poll()).status_code == 400


async def test_a_fault_leaves_the_connection_fit_for_the_next_request(client: Connect) -> None:
    async with Sandbox(faults=["503=x1", "empty=x1", "huge/1=x1"]) as sandbox, client(sandbox) as c:
        ports = set()
        for _ in range(4):
            reply = await c.refresh()
            ports.add(reply.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(ports) == 1


async def test_a_credential_in_flight_twice_is_seen_on_the_wire(client: Connect) -> None:
    async with Sandbox(faults=["delay/60:refresh=x1"], approve="auto") as sandbox, client(sandbox) as c:
        token = (await c.sign_in())["refresh_token"]
        first = asyncio.create_task(c.refresh(token))
        await until(lambda: sandbox.authority._in_flight, "the first request")
        await c.refresh(token)
        first.cancel()
        await until(lambda: len(sandbox.log("refresh")) == 2, "the end of the first request")
        by_arrival = sorted(sandbox.log("refresh"), key=lambda entry: entry.arrival)
        assert [entry.concurrent for entry in by_arrival] == [False, True]
        assert urlencode(refresh_form(token)) not in repr(by_arrival)

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from typing import Any

import httpx
import pytest

import kimiflow.sandbox
from kimiflow.sandbox import DEVICE_AUTHORIZATION_PATH, KIMI_CLIENT_ID, REVOCATION_PATH, TOKEN_PATH, Sandbox, Settings
from kimiflow.sandbox.settings import Options

from .client import Connect, poll_form, refresh_form


async def test_it_answers_as_soon_as_the_body_starts(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        assert sandbox.url == f"http://127.0.0.1:{sandbox.port}"
        reply = await c.http.get("/healthz")
        assert (reply.status_code, reply.text) == (200, "ok\n")


async def test_a_whole_sign_in_and_refresh(client: Connect) -> None:
    now = 1_700_000_000.0
    async with Sandbox(token_lifetime=60, clock=lambda: now) as sandbox, client(sandbox) as c:
        started = await c.start()
        assert started.headers["content-type"] == "application/json"
        assert started.headers["cache-control"] == "no-store"
        body = started.json()
        assert body["verification_uri"] == f"{sandbox.url}/device"
        assert (await c.poll(body["device_code"])).json()["error"] == "authorization_pending"
        sandbox.approve(body["user_code"])
        now += 5
        issued = (await c.poll(body["device_code"])).json()
        assert sandbox.is_valid(issued["access_token"])
        refreshed = (await c.refresh(issued["refresh_token"])).json()
        assert sandbox.is_valid(refreshed["access_token"])
        assert sandbox.counts() == {
            "device_authorization.issued": 1,
            "poll.authorization_pending": 1,
            "approve.approved": 1,
            "poll.issued": 1,
            "refresh.issued": 1,
        }


async def test_the_clock_can_be_set(client: Connect) -> None:
    now = 1_000.0
    async with Sandbox(clock=lambda: now) as sandbox, client(sandbox) as c:
        code = (await c.start()).json()["device_code"]
        now += 1800
        assert (await c.poll(code)).json()["error"] == "expired_token"
        assert [entry.at for entry in sandbox.log()] == [1_000, 2_800]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"json": {"client_id": KIMI_CLIENT_ID}}, 400),
        (
            {"content": b"client_id=a&client_id=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}},
            400,
        ),
        ({"content": b"\xff\xfe", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
        ({"content": b"a=%ff", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 400),
        ({"data": {"client_id": ""}}, 400),
    ],
)
async def test_what_is_no_proper_form_is_an_invalid_request(
    client: Connect, options: dict[str, Any], status: int
) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        reply = await c.http.post(DEVICE_AUTHORIZATION_PATH, **options)
        assert (reply.status_code, reply.json()["error"]) == (status, "invalid_request")


async def test_the_endpoints_take_posts_only(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        for path in (TOKEN_PATH, DEVICE_AUTHORIZATION_PATH, REVOCATION_PATH):
            reply = await c.http.get(path)
            assert (reply.status_code, reply.headers["allow"]) == (405, "POST")
        assert (await c.http.post("/api/oauth/introspect")).status_code == 404


async def test_a_token_is_revoked(client: Connect) -> None:
    async with Sandbox(approve="auto") as sandbox, client(sandbox) as c:
        tokens = await c.sign_in()
        sandbox.inject("503", times=1)
        assert (await c.revoke(tokens["refresh_token"])).status_code == 503
        assert sandbox.is_valid(tokens["access_token"])
        reply = await c.revoke(tokens["refresh_token"])
        assert (reply.status_code, reply.json()) == (200, {})
        assert not sandbox.is_valid(tokens["access_token"])
        assert [entry.outcome for entry in sandbox.log("revocation")] == ["not_processed", "revoked"]


async def test_a_body_without_end_is_not_read(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        with pytest.raises(httpx.TransportError):
            await c.http.post(TOKEN_PATH, content=b"a" * (8 << 20))
        assert sandbox.log() == []


async def test_entered_again_it_is_the_same_server_after_an_outage(client: Connect) -> None:
    sandbox = Sandbox(approve="auto")
    async with sandbox, client(sandbox) as c:
        token = (await c.sign_in())["refresh_token"]
        url = sandbox.url
    async with client(sandbox) as c:
        with pytest.raises(httpx.ConnectError):
            await c.refresh(token)
    async with sandbox, client(sandbox) as c:
        assert sandbox.url == url
        assert (await c.refresh(token)).status_code == 200


async def test_it_leaves_nothing_behind(client: Connect) -> None:
    before = asyncio.all_tasks()
    async with Sandbox() as sandbox:
        idle = await asyncio.open_connection("127.0.0.1", sandbox.port)
        async with client(sandbox) as c:
            await c.start()
            await c.http.get("/")
            await sandbox.stop()
    assert await idle[0].read() == b""
    idle[1].close()
    assert asyncio.all_tasks() == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", sandbox.port)) != 0


async def test_a_port_that_is_taken_is_an_os_error() -> None:
    async with Sandbox() as sandbox:
        with pytest.raises(OSError, match="in use"):
            await Sandbox(port=sandbox.port).start()


async def test_it_cannot_be_entered_twice_at_a_time() -> None:
    async with Sandbox() as sandbox:
        with pytest.raises(RuntimeError, match="already"):
            await sandbox.start()


async def test_it_installs_no_signal_handlers() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with Sandbox():
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def test_connections_are_answered_without_nagles_delay(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        await c.start()
        assert sandbox._state is not None
        (connection,) = sandbox._state.connections
        server_side = connection.transport.get_extra_info("socket")
        assert server_side.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_in_a_thread_it_serves_clients_that_block() -> None:
    with Sandbox.in_thread(interval=0.01) as sandbox, httpx.Client(base_url=sandbox.url, trust_env=False) as http:
        started = http.post(DEVICE_AUTHORIZATION_PATH, data={"client_id": KIMI_CLIENT_ID}).json()
        assert [code.user_code for code in sandbox.pending()] == [started["user_code"]]
        sandbox.approve(started["user_code"])
        sandbox.inject("503", endpoint="poll", times=1)
        assert http.post(TOKEN_PATH, data=poll_form(started["device_code"])).status_code == 503
        issued = http.post(TOKEN_PATH, data=poll_form(started["device_code"])).json()
        assert sandbox.is_valid(issued["access_token"])
        assert http.post(TOKEN_PATH, data=refresh_form(issued["refresh_token"])).status_code == 200
    assert [entry.outcome for entry in sandbox.log("poll")] == ["not_processed", "issued"]
    assert not [thread for thread in threading.enumerate() if "sandbox" in thread.name]


def test_in_a_thread_errors_reach_the_caller() -> None:
    with Sandbox.in_thread() as sandbox:
        with pytest.raises(LookupError, match="'nobody'"):
            sandbox.revoke("nobody")
        with pytest.raises(OSError, match="in use"), Sandbox.in_thread(port=sandbox.port):
            pass
        with pytest.raises(RuntimeError, match="already"), sandbox:
            pass


def test_in_a_thread_it_can_be_entered_again() -> None:
    sandbox = Sandbox.in_thread(approve="auto")
    with sandbox:
        port = sandbox.port
    with sandbox, urllib.request.urlopen(f"{sandbox.url}/healthz", timeout=5) as reply:
        assert reply.status == 200
        assert sandbox.port == port


PROGRAM = """
import asyncio
from kimiflow.sandbox import Sandbox, serve
asyncio.run(serve(Sandbox(faults=["hang:poll"]), lambda url: print(url, flush=True)))
print("stopped", flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_says_where_it_listens_and_stops_cleanly_on_a_signal(number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as reply:
            assert reply.status == 200
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (0, "stopped\n", "")


async def test_serve_leaves_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    await asyncio.wait_for(
        kimiflow.sandbox.serve(Sandbox(), lambda url: signal.raise_signal(signal.SIGTERM)), timeout=5
    )
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_options_are_the_fields_of_settings() -> None:
    assert set(Options.__annotations__) == set(Settings.__dataclass_fields__)


def test_every_public_name_exists() -> None:
    assert sorted(kimiflow.sandbox.__all__, key=lambda name: (not name.isupper(), name[0].islower(), name)) == (
        kimiflow.sandbox.__all__
    )
    assert all(hasattr(kimiflow.sandbox, name) for name in kimiflow.sandbox.__all__)


def test_the_core_needs_neither_server_nor_framework() -> None:
    program = (
        "import sys, kimiflow.sandbox; print(sorted({'starlette', 'uvicorn', 'multipart', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

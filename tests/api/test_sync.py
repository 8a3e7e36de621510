"""The synchronous flow: the same promises, from any thread, with an end that everybody can call for."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import kimiflow
from kimiflow import AccessDenied, InvalidSetting, PoolExhausted, State, StillPending, UnknownAccount, UsageError, sync
from kimiflow.accounts import Accounts
from kimiflow.sandbox import Sandbox

from .conftest import settings_for
from .signing import HELLO, served

if TYPE_CHECKING:
    from collections.abc import Callable

    from kimiflow.sandbox import ThreadedSandbox

LEFT_TO_THE_ASYNCHRONOUS = {"moving", "syncing"}


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_it_has_the_methods_of_the_asynchronous_one() -> None:
    for theirs, ours in ((kimiflow.KimiFlow, sync.KimiFlow), (Accounts, sync.Accounts)):
        wanted = public(theirs) - LEFT_TO_THE_ASYNCHRONOUS
        assert wanted <= public(ours)
        for name in sorted(wanted):
            assert parameters(getattr(theirs, name)) == parameters(getattr(ours, name)), name


def parameters(method: Any) -> list[tuple[str, object, object]]:
    """None of a property."""
    return (
        [(p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values()] if callable(method) else []
    )


def test_accounts_are_named_and_handed_out(flow: sync.KimiFlow) -> None:
    flow.accounts.rename("a", "z")
    flow.accounts.label(["z", "b"], "Ann")
    flow.accounts.disable(["z", "b"])
    flow.accounts.enable(["b"])
    found = {status.account: (status.label, status.disabled) for status in flow.status()}
    assert found == {"z": ("Ann", True), "b": ("Ann", False), "c": (None, False)}
    with pytest.raises(UnknownAccount):
        flow.accounts.disable(["a"])


def test_a_sign_in_from_beginning_to_end(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    with sync.KimiFlow.open(settings_for(threaded.url, tmp_path)) as flow:
        assert flow.login("a").user_code
        assert flow.wait("a").state is State.GRANTED
        token = flow.token("a")
        assert threaded.is_valid(token.access_token)
        assert flow.refresh("a", seen=token.access_token).access_token != token.access_token
        assert [status.account for status in flow.status()] == ["a"]
        assert flow.history("a")[-1].event == "access_token_issued"
        assert flow.profile("a").level == "Moderato"
        assert flow.logout(["a"]) == 1
        with pytest.raises(UnknownAccount):
            flow.token("b")
    assert not [thread for thread in threading.enumerate() if thread.name == "kimiflow-sync"]


def test_errors_and_timeouts_are_those_of_the_asynchronous_one(tmp_path: Path) -> None:
    with Sandbox.in_thread(interval=0.05) as sandbox, sync.KimiFlow.open(settings_for(sandbox.url, tmp_path)) as flow:
        flow.login("a")
        with pytest.raises(StillPending):
            flow.wait("a", timeout=0.1)
        for code in sandbox.pending():
            sandbox.deny(code.user_code)
        with pytest.raises(AccessDenied):
            flow.wait("a")


def test_what_fails_on_entering_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(InvalidSetting):
        sync.KimiFlow.open(settings_for("http://127.0.0.1:1", tmp_path, database_url="nonsense"))
    (tmp_path / "file").touch()
    settings = settings_for("http://127.0.0.1:1", tmp_path, database_url=f"sqlite:///{tmp_path / 'file' / 'x.db'}")
    flow = sync.KimiFlow.open(settings)
    with pytest.raises(kimiflow.StoreUnavailable), flow:
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "kimiflow-sync"]
    with pytest.raises(UsageError):
        flow.status()


def test_many_threads_cause_one_refresh(flow: sync.KimiFlow, threaded: ThreadedSandbox) -> None:
    seen = flow.token("a").access_token
    start = threading.Barrier(40)

    def work(_: int) -> str:
        start.wait()
        return flow.refresh("a", seen=seen).access_token

    with ThreadPoolExecutor(40) as threads:
        tokens = set(threads.map(work, range(40)))
    assert len(tokens) == 1
    assert seen not in tokens
    assert len(threaded.log("refresh")) == 1


def test_clients_of_many_threads_share_a_401(flow: sync.KimiFlow, threaded: ThreadedSandbox) -> None:
    threaded.expire(flow.token("a").device_id)
    start = threading.Barrier(20)
    with httpx.Client(auth=flow.auth("a"), base_url=flow.api_base("a"), trust_env=False) as client:

        def work(_: int) -> int:
            start.wait()
            return client.post("/v1/chat/completions", json=HELLO).status_code

        with ThreadPoolExecutor(20) as threads:
            assert set(threads.map(work, range(20))) == {200}
    assert len(threaded.log("refresh")) == 1


def test_a_pool_in_many_threads(flow: sync.KimiFlow, threaded: ThreadedSandbox) -> None:
    devices = {name: flow.token(name).device_id for name in "abc"}
    threaded.limit(devices["a"], 60, tell="usages")
    pool = flow.pool(["a", "b", "c"])
    with httpx.Client(auth=pool, base_url=flow.api_base("a"), trust_env=False) as client:
        with ThreadPoolExecutor(10) as threads:
            replies = threads.map(lambda _: client.post("/v1/chat/completions", json=HELLO).status_code, range(30))
            assert set(replies) == {200}
        made_as = [name for name in served(threaded, devices) if name != "a"]
        assert 30 <= len(made_as) <= 31
        assert list(pool.set_aside) == ["a"]
        for name in "bc":
            threaded.limit(devices[name], 60)
        with pytest.raises(PoolExhausted):
            client.post("/v1/chat/completions", json=HELLO)
        with client.stream("GET", "/v1/models", auth=flow.auth("b")) as response:
            assert not response.is_stream_consumed


async def test_each_auth_is_for_its_own_kind_of_client(flow: sync.KimiFlow) -> None:
    async with httpx.AsyncClient(auth=flow.auth("a")) as client:
        with pytest.raises(RuntimeError, match=r"kimiflow\.KimiFlow, not kimiflow\.sync"):
            await client.get("http://127.0.0.1:1")


def test_follow_and_events(flow: sync.KimiFlow) -> None:
    flow.begin(["d", "e"])
    last = {status.account: status.state for status in flow.follow(["d", "e"])}
    assert last == {"d": State.GRANTED, "e": State.GRANTED}
    events = flow.events(after=0)
    seen = [next(events) for _ in range(15)]
    assert {each.account for each in seen} == set("abcde")
    for status in flow.follow(["d", "e"]):
        assert status.account == "d"
        break
    with pytest.raises(UnknownAccount):
        list(flow.follow(["nobody"]))


def test_run_until_settled_and_until_told(flow: sync.KimiFlow) -> None:
    flow.begin(["d"])
    flow.run(until_settled=True)
    assert flow.status(["d"])[0].state is State.GRANTED
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(flow.run, stop=stop)
        flow.begin(["e"])
        wait_until(lambda: flow.status(["e"])[0].state is State.GRANTED)
        stop.set()
        assert running.result(5) is None


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("what", ["wait", "events", "run"])
def test_closing_wakes_all_who_wait(tmp_path: Path, what: str) -> None:
    with Sandbox.in_thread(interval=0.05) as sandbox:
        flow = sync.KimiFlow.open(settings_for(sandbox.url, tmp_path))
        with flow, ThreadPoolExecutor(4) as threads:
            flow.login("a")
            works: dict[str, Callable[[], Any]] = {
                "wait": lambda: flow.wait("a"),
                "events": lambda: list(flow.events()),
                "run": flow.run,
            }
            waiting = [threads.submit(works[what]) for _ in range(4)]
            time.sleep(0.05)
            closing = threading.Thread(target=flow.close)
            closing.start()
            for each in waiting:
                with pytest.raises(UsageError, match="closed while it was waited for"):
                    each.result(5)
            closing.join()
        flow.close()
        with pytest.raises(UsageError, match="not open"):
            flow.status()
        with pytest.raises(UsageError, match="opened before"), flow:
            pass


def test_before_it_is_entered_and_inside_its_own_loop(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    flow = sync.KimiFlow.open(settings_for(threaded.url, tmp_path))
    with pytest.raises(UsageError, match="not open"):
        flow.token("a")
    with flow:

        async def inside() -> object:
            return flow.status()

        with pytest.raises(UsageError, match="from its own event loop"):
            flow._run(inside)
        assert asyncio.run(asyncio.to_thread(flow.status)) == []


def test_closing_in_the_middle_of_a_refresh_loses_no_token(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    settings = settings_for(threaded.url, tmp_path)
    with sync.KimiFlow.open(settings) as flow:
        flow.login("a")
        flow.wait("a")
        threaded.inject("delay/0.3:refresh=x1")
        with ThreadPoolExecutor(1) as threads:
            refreshing = threads.submit(flow.refresh, "a")
            time.sleep(0.15)
            flow.close()
            with pytest.raises(UsageError):
                refreshing.result(5)
    (entry,) = threaded.log("refresh")
    assert entry.delivered
    with sync.KimiFlow.open(settings) as flow:
        assert flow.token("a").access_token == entry.issued_access_token


def test_a_flow_that_is_dropped_lets_go(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    flow = sync.KimiFlow.open(settings_for(threaded.url, tmp_path)).__enter__()
    (thread,) = [thread for thread in threading.enumerate() if thread.name == "kimiflow-sync"]
    auth = flow.auth("a")
    del flow
    thread.join(0.2)
    assert thread.is_alive(), "the auth still needs it"
    del auth
    thread.join(5)
    assert not thread.is_alive()


PROGRAM = """
import os, sys, time
from pathlib import Path
from kimiflow import sync
from tests.api.conftest import settings_for
flow = sync.KimiFlow.open(settings_for(sys.argv[1], Path(sys.argv[2]))).__enter__()
"""


def program(body: str, url: str, home: Path) -> subprocess.Popen[str]:
    code = PROGRAM + textwrap.dedent(body)
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, url, str(home)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )


def test_a_program_that_forgets_to_close_ends(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    """With a refresh in flight, which lands first."""
    threaded.inject("delay/0.5:refresh=x1")
    body = """
    import threading
    flow.login("a"); flow.wait("a")
    threading.Thread(target=lambda: flow.refresh("a"), daemon=True).start()
    time.sleep(0.2)
    print("done", flush=True)
    """
    out, err = program(body, threaded.url, tmp_path).communicate(timeout=20)
    assert out == "done\n"
    (entry,) = threaded.log("refresh")
    assert entry.delivered
    with sync.KimiFlow.open(settings_for(threaded.url, tmp_path)) as flow:
        assert flow.token("a").access_token == entry.issued_access_token
    assert "Traceback" not in err or "UsageError" in err, "a thread that still waits is told, at most"


def test_ctrl_c_reaches_the_thread_that_waits(tmp_path: Path) -> None:
    body = """
    flow.login("a")
    print("waiting", flush=True)
    try:
        flow.wait("a")
    except KeyboardInterrupt:
        print("interrupted", flow.status()[0].state.value, flush=True)
    flow.close()
    """
    with Sandbox.in_thread(interval=0.05) as sandbox:
        process = program(body, sandbox.url, tmp_path)
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
        assert (out, err, process.returncode) == ("interrupted pending\n", "", 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork_it_says_so(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    body = """
    child = os.fork()
    if child == 0:
        try:
            flow.status()
        except Exception as error:
            print(type(error).__name__, error.message, flush=True)
        flow.close()
        del flow
        with sync.KimiFlow.open(settings_for(sys.argv[1], Path(sys.argv[2]))) as own:
            print(len(own.status()), flush=True)
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    flow.close()
    """
    process = program(body, threaded.url, tmp_path)
    out, err = process.communicate(timeout=20)
    assert out.splitlines() == [
        "UsageError this KimiFlow was opened before the process was forked, and its thread is not in this one",
        "0",
        "7",
    ], err

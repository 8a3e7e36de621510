"""A ``KimiFlow`` used in another loop, another thread or a forked process: a clear word, at once, and no harm done."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from kimiflow import KimiFlow, UsageError, sync
from kimiflow.sandbox import Sandbox
from tests.api.conftest import settings_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kimiflow.sandbox import ThreadedSandbox

_SAFETY_NET: Final = 60.0

ASKS: Final[dict[str, Callable[[KimiFlow], Any]]] = {
    "token": lambda flow: flow.token("a"),
    "token not cached": lambda flow: flow.token("b"),
    "refresh": lambda flow: flow.refresh("a"),
    "login": lambda flow: flow.login("c"),
    "begin": lambda flow: flow.begin(["c"]),
    "wait": lambda flow: flow.wait("a"),
    "follow": lambda flow: anext(flow.follow(["a"])),
    "status": lambda flow: flow.status(),
    "now": lambda flow: flow.now(),
    "workers": lambda flow: flow.workers(),
    "history": lambda flow: flow.history("a"),
    "profile": lambda flow: flow.profile("a"),
    "logout": lambda flow: flow.logout(["a"]),
    "run": lambda flow: flow.run(until_settled=True),
    "auth": lambda flow: _get(flow.auth("a")),
    "pool": lambda flow: _get(flow.pool(["a", "b"])),
    "label": lambda flow: flow.accounts.label(["a"], "x"),
    "disable": lambda flow: flow.accounts.disable(["a"]),
    "rename": lambda flow: flow.accounts.rename("a", "z"),
    "residents": lambda flow: flow.moving.residents(),
}
"""All that awaits something."""


async def _get(auth: httpx.Auth) -> httpx.Response:
    async with httpx.AsyncClient(auth=auth, trust_env=False) as client:
        return await client.get("http://127.0.0.1:1/")


async def refused(flow: KimiFlow) -> dict[str, str]:
    """What each of :data:`ASKS` says."""
    said: dict[str, str] = {}
    for name, ask in ASKS.items():
        try:
            said[name] = f"went through: {await ask(flow)!r}"
        except UsageError as error:
            assert error.hint
            said[name] = error.message
    return said


async def entered(flow: KimiFlow) -> None:
    """With ``a`` signed in and cached, and ``b`` not cached."""
    await flow.__aenter__()
    await flow.begin(["a", "b"])
    async for _ in flow.follow(["a", "b"]):
        pass
    await flow.token("a")


@pytest.fixture
def sandbox() -> Iterator[ThreadedSandbox]:
    with Sandbox.in_thread(interval=0.05, approve="auto", seed=1) as server:
        yield server


@pytest.fixture
def flow(sandbox: ThreadedSandbox, database_url: str, tmp_path: Path) -> KimiFlow:
    """Not entered."""
    return KimiFlow.open(settings_for(sandbox.url, tmp_path / "home", database_url=database_url))


def test_before_it_is_entered(flow: KimiFlow) -> None:
    assert set(asyncio.run(refused(flow)).values()) == {"this KimiFlow is not open"}
    with pytest.raises(UsageError, match="not open"):
        flow.events()


def test_after_it_was_left(flow: KimiFlow) -> None:
    async def main() -> None:
        await entered(flow)
        feed, auth = flow.events(after=0), flow.auth("a")
        await flow.__aexit__(None, None, None)
        assert set((await refused(flow)).values()) == {"this KimiFlow is closed"}
        with pytest.raises(UsageError, match="closed"):
            flow.events()
        with pytest.raises(UsageError, match="closed"):
            await _get(auth)
        assert [each async for each in feed] == [], "what was begun ends with its flow"
        with pytest.raises(UsageError, match="only once"):
            await flow.__aenter__()
        await flow.__aexit__(None, None, None)

    asyncio.run(main())


def test_in_a_second_loop(flow: KimiFlow) -> None:
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    first.run_until_complete(entered(flow))
    feed = flow.events()
    assert set(second.run_until_complete(refused(flow)).values()) == {
        "this KimiFlow belongs to another event loop, which it was entered in"
    }
    for step in (lambda: anext(feed), flow.__aenter__, lambda: flow.__aexit__(None, None, None)):
        with pytest.raises(UsageError):
            second.run_until_complete(step())  # type: ignore[arg-type]
    assert first.run_until_complete(flow.token("a")), "nobody has closed it"
    first.run_until_complete(flow.__aexit__(None, None, None))
    first.close()
    second.close()


def test_in_another_thread_while_its_own_loop_runs(flow: KimiFlow) -> None:
    async def main() -> None:
        await entered(flow)
        assert set((await asyncio.to_thread(lambda: asyncio.run(refused(flow)))).values()) == {
            "this KimiFlow belongs to another event loop, which it was entered in"
        }
        assert await flow.token("a")
        await flow.__aexit__(None, None, None)

    asyncio.run(main())


def test_a_loop_that_goes_on_in_another_thread_takes_it_along(flow: KimiFlow) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(entered(flow))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    for _ in range(2):
        assert asyncio.run_coroutine_threadsafe(flow.token("a"), loop).result()
    with pytest.raises(UsageError, match="another event loop"):
        asyncio.run(flow.token("a"))
    asyncio.run_coroutine_threadsafe(flow.__aexit__(None, None, None), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


FORKED: Final = "this KimiFlow was opened before the process was forked, and cannot be used in this one"

_PROGRAM: Final = """
import asyncio, gc, json, multiprocessing, os, sys
from pathlib import Path
from kimiflow import KimiFlow
from tests.api.conftest import settings_for
from tests.processes.test_elsewhere import entered, refused

settings = settings_for(sys.argv[1], Path(sys.argv[2]), database_url=sys.argv[3])
flow = KimiFlow.open(settings)

def tell(said):
    print(json.dumps(said), flush=True)

async def as_before():
    await flow.token("b")
    await flow.refresh("a")
    await flow.__aexit__(None, None, None)

async def in_child():
    said = set((await refused(flow)).values())
    await flow.__aexit__(None, None, None)
    async with KimiFlow.open(settings) as own:  # of the child's own
        await own.token("a")
    return said

def child():
    global flow
    said = asyncio.run(in_child())
    for call in (flow.awaited, flow.give_up, flow.events):
        try:
            call()
        except Exception as error:
            said.add(error.message)
    del flow
    gc.collect()
    tell(sorted(said))
"""

_FORKS: Final = {
    "between two runs of a loop": """
loop = asyncio.new_event_loop()
loop.run_until_complete(entered(flow))
pid = os.fork()
if pid == 0:
    child()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
loop.run_until_complete(as_before())
loop.close()
""",
    "inside a running loop": """
async def main():
    await entered(flow)
    pid = os.fork()
    if pid == 0:
        try:
            await flow.token("a")
        except Exception as error:
            assert "forked" in error.message, error
        child()
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    await as_before()

asyncio.run(main())
""",
    "by multiprocessing": """
async def main():
    await entered(flow)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    assert process.exitcode == 0, process.exitcode
    await as_before()

asyncio.run(main())
""",
    "and the child runs the loop on": """
loop = asyncio.new_event_loop()
loop.run_until_complete(entered(flow))
pid = os.fork()
if pid == 0:
    tell(sorted(set(loop.run_until_complete(refused(flow)).values())))
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
loop.run_until_complete(as_before())
loop.close()
""",
    "and the child ends in good order": """
loop = asyncio.new_event_loop()
loop.run_until_complete(entered(flow))
pid = os.fork()
if pid == 0:
    child()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
loop.run_until_complete(as_before())
loop.close()
""",
}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("how", _FORKS)
def test_in_a_forked_process(how: str, sandbox: ThreadedSandbox, database_url: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _PROGRAM + _FORKS[how], sandbox.url, str(tmp_path / "home"), database_url]
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=_SAFETY_NET,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert (ended.returncode, ended.stdout) == (0, f'["{FORKED}"]\n'), ended.stderr
    assert [entry.delivered for entry in sandbox.log("refresh")] == [True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_what_was_not_open_when_the_process_was_forked_can_be_opened_in_the_child(
    sandbox: ThreadedSandbox, tmp_path: Path
) -> None:
    body = """
import asyncio, os, sys
from pathlib import Path
from kimiflow import KimiFlow, sync
from tests.api.conftest import settings_for

settings = settings_for(sys.argv[1], Path(sys.argv[2]))
flow, other = KimiFlow.open(settings), sync.KimiFlow.open(settings)

async def look():
    async with flow:
        return await flow.status()

pid = os.fork()
if pid == 0:
    with other:
        print(asyncio.run(look()), other.status(), flush=True)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
"""
    ended = subprocess.run(
        [sys.executable, "-c", body, sandbox.url, str(tmp_path / "home")],
        capture_output=True,
        text=True,
        timeout=_SAFETY_NET,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )
    assert (ended.returncode, ended.stdout) == (0, "[] []\n"), ended.stderr


def test_the_synchronous_one_that_was_closed_cannot_be_opened(sandbox: ThreadedSandbox, tmp_path: Path) -> None:
    other = sync.KimiFlow.open(settings_for(sandbox.url, tmp_path))
    other.close()
    with pytest.raises(UsageError, match="closed"), other:
        pass
    for call in (other.events, lambda: other.follow(["a"]), other.status):
        with pytest.raises(UsageError, match="not open"):
            call()

"""The loads: what each row of the table measures."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from kimiflow.model import State
from kimiflow.scheduler import Scheduler

from .ours import KEY, drive_until, filled, rig

if TYPE_CHECKING:
    from pathlib import Path

    from .place import Place

__all__ = [
    "imports_of",
    "memory_of",
    "polls",
    "refreshes",
    "restart",
    "steady",
    "token_in_process",
    "whole_processes",
    "worker_processes",
]


async def polls(place: Place, url: str, count: int, *, tls: bool = False, concurrency: int = 256) -> float:
    """Seconds for ``count`` polls that are all due, each committed."""
    async with rig(place, url, tls=tls, concurrency=concurrency) as made:
        now = time.time()
        await filled(made.store, count, state=State.PENDING, due=lambda i: now - 10.0 + i * 1e-6)
        before = place.counters()["polls"]
        seconds = await drive_until(made, count)
        after = place.counters()["polls"]
        assert after - before >= count, "a poll was counted that the server did not see"
        return seconds


async def refreshes(place: Place, url: str, count: int) -> float:
    """Seconds for ``count`` refreshes: ``refreshing`` committed, the request, the tokens committed."""
    async with rig(place, url) as made:
        now = time.time()
        await filled(made.store, count, state=State.GRANTED, due=lambda i: now - 10.0 + i * 1e-6)
        place.reset()
        seconds = await drive_until(made, 2 * count)
        seen = place.counters()
        assert seen["refreshes"] >= count
        assert seen["out_of_turn"] == 0, "a refresh token was used twice"
        return seconds


async def steady(place: Place, url: str, flows: int, seconds: float, interval: float = 5.0) -> dict[str, Any]:
    """``flows`` pending at ``interval``: what share of the due polls was made, how late, at what cost."""
    late: list[float] = []
    right = Scheduler._request

    async def request(self: Scheduler, work: Any) -> Any:
        due = work.claim.authorization.next_attempt_at
        late.append(self._clock.now() - due)
        return await right(self, work)

    statements = 0
    async with rig(place, url) as made:
        start = time.time() + 1.0
        await filled(made.store, flows, state=State.PENDING, due=lambda i: start + 3.0 + interval * i / flows)
        backend = getattr(made.store, "_backend", None)
        if backend is not None:
            import sqlalchemy as sa

            def count(*_: Any) -> None:
                nonlocal statements
                statements += 1

            for engine in {backend.writer, backend.reader}:
                sa.event.listen(engine.sync_engine, "before_cursor_execute", count)
        wal = _wal_bytes(url)
        with patch.object(Scheduler, "_request", request):
            scheduler = made.scheduler()
            task = asyncio.create_task(scheduler.run())
            await asyncio.sleep(max(0.0, start + 3.0 + interval - time.time()))  # one whole interval to settle in
            late.clear()
            statements, cpu, began = 0, time.process_time(), time.time()
            await asyncio.sleep(seconds)
            cpu, took, made_polls = time.process_time() - cpu, time.time() - began, len(late)
            lateness = sorted(late)
            scheduler.stop()
            await task
        # Each flow's own pace is the interval, the jitter that is added on purpose (0.125 s on average), and the reply.
        due = flows * took / (interval + 0.125)
        return {
            "achieved": min(1.0, made_polls / due),
            "p50_ms": 1000 * statistics.median(lateness),
            "p99_ms": 1000 * lateness[int(len(lateness) * 0.99)],
            "cpu_us": 1e6 * cpu / made_polls,
            "statements": statements / made_polls,
            "wal_bytes": max(0, _wal_bytes(url) - wal) / made_polls,
            "lateness_ms": [1000 * x for x in random.sample(lateness, min(5_000, len(lateness)))],
        }


def _wal_bytes(url: str) -> int:
    """Bytes written ahead: the database file and its log, as far as a file system can tell."""
    if not url.startswith("sqlite"):
        return 0
    path = url.removeprefix("sqlite:///")
    return sum(os.path.getsize(p) for p in (path, f"{path}-wal") if os.path.exists(p))


_CHILD = """
import asyncio, logging, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.bench.ours import rig
from tests.bench.place import Place
import ssl
async def main():
    place = Place({http!r}, {http!r}, ssl.create_default_context(), Path("."))
    async with rig(place, {url!r}) as made:
        {body}
asyncio.run(main())
"""


def _child(place: Place, url: str, body: str) -> list[str]:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    body = "\n        ".join(body.strip().splitlines())
    return [sys.executable, "-c", _CHILD.format(root=root, http=place.http, url=url, body=body)]


async def restart(place: Place, url: str, pending: int, granted: int) -> dict[str, float]:
    """Seconds from ``kill -9`` until the first and until the last overdue poll has gone out again."""
    async with rig(place, url) as made:
        now = time.time()
        await filled(made.store, pending, state=State.PENDING, due=lambda i: now + 1.0 + i * 1e-6)
        await filled(made.store, granted, state=State.GRANTED, due=lambda _: now + 86_400.0, first=pending)
    body = "\n".join(
        [
            "done = [0]",
            "def step(_):",
            "    done[0] += 1",
            f"    if done[0] in (1, {pending}): print(time.time(), flush=True)",
            "await made.scheduler(step).run()",
        ]
    )
    command = _child(place, url, body)
    first = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    first.send_signal(signal.SIGKILL)
    killed = time.time()
    first.wait()
    first.stdout.close()
    place.reset(codes=True)
    second = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert second.stdout is not None
    began = float(second.stdout.readline())
    # What the dead worker held comes up when its lease is over; what it did not hold is polled at once.
    most = last = 0.0
    while not last:
        await asyncio.sleep(0.02)
        different = place.counters()["different"]
        most = most or (time.time() - killed if different >= pending - 756 else 0.0)
        last = time.time() - killed if different >= pending else 0.0
    second.terminate()
    second.wait()
    second.stdout.close()
    return {"first_s": began - killed, "last_that_was_free_s": most, "last_s": last}


def worker_processes(place: Place, url: str, count: int, workers: int) -> float:
    """Polls per second of so many worker processes on one store."""

    async def fill() -> None:
        async with rig(place, url) as made:
            now = time.time()
            await filled(made.store, count, state=State.PENDING, due=lambda i: now + 8.0 + i * 1e-6)

    asyncio.run(fill())
    body = "\n".join(["print('ready', flush=True)", "await made.scheduler().run()"])
    place.reset()
    processes = [subprocess.Popen(_child(place, url, body), stdout=subprocess.PIPE) for _ in range(workers)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    while (first := place.counters()["polls"]) == 0:
        time.sleep(0.002)
    began = time.perf_counter()
    while (last := place.counters()["polls"]) < count:
        time.sleep(0.005)
    seconds = time.perf_counter() - began
    for process in processes:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    return (last - first) / seconds


def memory_of(place: Place, folder: Path, accounts: int) -> float:
    """Resident MiB of a worker process that has driven 2,000 polls out of so many accounts."""
    url = f"sqlite:///{folder}/memory-{accounts}.db"
    driven = min(accounts, 2_000)

    async def fill() -> None:
        async with rig(place, url) as made:
            now = time.time()
            await filled(made.store, driven, state=State.PENDING, due=lambda i: now + i * 1e-6)
            await filled(made.store, accounts - driven, state=State.GRANTED, due=lambda _: now + 86_400.0, first=driven)

    asyncio.run(fill())
    body = "\n".join(
        [
            "from tests.bench.ours import drive_until",
            f"await drive_until(made, {driven})",
            f"await drive_until(made, {driven})",
            "import pathlib",
            "print([l.split()[1] for l in open('/proc/self/status') if l.startswith('VmRSS')][0])",
        ]
    )
    out = subprocess.run(_child(place, url, body), check=True, capture_output=True, text=True).stdout
    return int(out.split()[-1]) / 1024


async def token_in_process(folder: Path, rounds: int = 5_000) -> float:
    """Microseconds for ``flow.token()`` when the token is fresh."""
    from base64 import b64encode

    from kimiflow import KimiFlow, load_settings

    settings = load_settings(home=folder / "token-home", key=b64encode(KEY).decode())
    async with KimiFlow.open(settings) as flow:
        now = time.time()
        await filled(flow._store, 1_000, state=State.GRANTED, due=lambda _: now + 86_400.0)
        await flow.token("account-7")
        started = time.perf_counter()
        for _ in range(rounds):
            await flow.token("account-7")
        return 1e6 * (time.perf_counter() - started) / rounds


def whole_processes(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Wall milliseconds of whole processes, taken in turns; ``token-home`` was filled by :func:`token_in_process`."""
    from base64 import b64encode

    environment = os.environ | {
        "KIMIFLOW_HOME": str(folder / "token-home"),
        "KIMIFLOW_KEY": b64encode(KEY).decode(),
    }
    kimiflow = os.path.join(os.path.dirname(sys.executable), "kimiflow")
    commands = {
        "import sqlalchemy, httpx": [sys.executable, "-c", "import sqlalchemy, httpx"],
        "kimiflow token NAME": [kimiflow, "token", "account-7"],
        "kimiflow status NAME --json": [kimiflow, "status", "account-7", "--json"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds + 1):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True, env=environment)
            found[name].append(1000 * (time.perf_counter() - started))
    return {name: times[1:] for name, times in found.items()}


def imports_of(folder: Path) -> dict[str, int]:
    """How many modules a whole process imports."""
    from base64 import b64encode

    environment = os.environ | {
        "KIMIFLOW_HOME": str(folder / "token-home"),
        "KIMIFLOW_KEY": b64encode(KEY).decode(),
    }
    code = (
        "import sys\nfrom kimiflow.__main__ import main\ntry: main()\nexcept SystemExit: pass\nprint(len(sys.modules))"
    )
    found = {}
    commands = {"kimiflow token NAME": ["token", "account-7"], "kimiflow status": ["status", "account-7", "--json"]}
    for name, words in commands.items():
        command = [sys.executable, "-c", code, *words]
        out = subprocess.run(command, check=True, capture_output=True, env=environment, text=True).stdout
        found[name] = int(out.split()[-1])
    return found

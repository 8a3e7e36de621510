"""``python -m tests.soak --minutes 10``: many accounts with short-lived tokens, kept alive under faults and kills.

Real workers against a server in a process of its own. Now and then a worker is killed, the server is away for some
seconds, or a reply is lost; the first worker is left alone, so that its memory and file handles can be compared. A
grant whose reply was lost (or arrived at a worker that was killed before it could commit) is gone, as no client can
help; its person signs in again, and it is counted. Anything else that ends a token is a failure.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kimiflow.flow import KimiFlow
from kimiflow.model import RESTS
from kimiflow.sandbox import Sandbox

from .processes.judge import killed_around
from .processes.scene import KEY, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable
    from multiprocessing.connection import Connection

    from kimiflow.sandbox import LogEntry

LIFETIME = 30.0
COMMIT_WITHIN = 5.0
"""Seconds after a reply in which a killed worker may be excused for not having committed it: commits queue for a
database that all share, the more so on a busy machine. How long it took at most is told."""
FAULTS = (
    "503:token=0.01",
    "429/2:token=0.005",
    "html/403:refresh=0.005",
    "empty:token=0.005",
    "invalid_json:token=0.005",
    "cut_off:token=0.005",
    "reset:token=0.01",
    "hang/1:token=0.005",
    "hang:token=0.001",
    "delay/0.2:token=0.1",
    "late/0.3:token=0.02",
    "missing/scope:token=0.05",
    "expires_in/string:token=0.05",
    "lost:refresh=0.0005",
)


@dataclass
class _Grant:
    """What the server knows of an account's present grant."""

    expires_at: float
    issue: LogEntry
    retired: deque[str] = field(default_factory=lambda: deque(maxlen=8))


class Judge:
    """Reads the server's log as it comes, and keeps little of it."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.killed_at: list[float] = []
        self._grants: dict[str, _Grant] = {}
        self._lost: list[tuple[LogEntry, LogEntry]] = []
        self.by_kills = 0
        self.longest_wait = 0.0

    def read(self, entries: Iterable[LogEntry]) -> None:
        for entry in entries:
            self.counts[f"{entry.kind} {entry.outcome}"] += 1
            for fault in (entry.fault or "").split():
                self.counts["faults"] += 1
                self.counts[f"fault {fault.partition('=')[0]}"] += 1
            if entry.too_fast:
                self.wrong.append(f"polled too fast: {entry}")
            if entry.concurrent and entry.kind == "refresh":
                self.wrong.append(f"in flight twice: {entry}")
            if entry.kind == "redirected" and entry.credential is not None:
                self.wrong.append(f"a secret followed a redirect: {entry}")
            self._follow(entry)

    def _follow(self, entry: LogEntry) -> None:
        grant = self._grants.get(entry.device_id)
        if entry.kind == "refresh" and grant is not None:
            if entry.refresh_token in grant.retired:
                self.wrong.append(f"sent after its successor was used: {entry}")
            if entry.refresh_token == grant.issue.issued_refresh_token and grant.issue.refresh_token is not None:
                grant.retired.append(grant.issue.refresh_token)
            if entry.outcome == "invalid_grant":
                self._lost.append((grant.issue, entry))
                del self._grants[entry.device_id]
                return
        if entry.kind == "poll" and entry.outcome == "invalid_grant" and grant is not None:
            self._lost.append((grant.issue, entry))
            del self._grants[entry.device_id]
            return
        if entry.issued_refresh_token is not None:
            if grant is not None and entry.kind == "refresh" and entry.at > grant.expires_at:
                self.wrong.append(f"refreshed {entry.at - grant.expires_at:.1f} s after it had expired: {entry}")
            retired = grant.retired if grant is not None and entry.kind == "refresh" else deque[str](maxlen=8)
            self._grants[entry.device_id] = _Grant(entry.at + LIFETIME, entry, retired)

    def end(self, now: float) -> dict[str, float]:
        """Looks at what is left; returns what is known of the grants that a lost reply has ended."""
        for device, grant in self._grants.items():
            if now > grant.expires_at and grant.issue.delivered and not self._killed_at(grant.issue):
                self.wrong.append(f"expired {now - grant.expires_at:.1f} s ago and was not refreshed: {device}")
        for issue, refusal in self._lost:
            if not issue.delivered:
                continue
            if self._killed_at(issue):
                self.by_kills += 1
            else:
                self.wrong.append(f"a grant was lost: {refusal} after {issue}")
        return {"all": len(self._lost), "kills": self.by_kills, "wait": self.longest_wait}

    def _killed_at(self, issue: LogEntry) -> bool:
        waits = killed_around(issue, self.killed_at, COMMIT_WITHIN)
        self.longest_wait = max([self.longest_wait, *waits[:1]])
        return bool(waits)


def _serve(parent: Connection, seed: int) -> None:
    """The server's process: answers requests, reads its own log, and does as it is told."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    judge = Judge()
    with Sandbox.in_thread(
        seed=seed, interval=1.0, token_lifetime=LIFETIME, code_lifetime=120.0, approve="auto", forget_after=300.0
    ) as sandbox:
        log = sandbox.authority.log

        def drained() -> list[LogEntry]:
            entries = list(log)
            log._entries.clear()
            return entries

        parent.send(sandbox.url)
        while True:
            told: tuple[str, Any] | None = parent.recv() if parent.poll(0.5) else None
            judge.read(sandbox.run(drained))
            match told:
                case ("inject", fault):
                    sandbox.inject(fault)
                case ("clear", _):
                    sandbox.clear_faults()
                case ("killed", at):
                    judge.killed_at.append(at)
                case ("counts", _):
                    parent.send((judge.counts, list(judge.wrong)))
                case ("end", _):
                    lost = judge.end(sandbox.now())
                    parent.send((judge.counts, judge.wrong, lost))
                    return


class Soak:
    """One run; see the module."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.rng = random.Random(options.seed)
        self.names = [f"account-{n}" for n in range(options.accounts)]
        self.kills = self.outages = self.signed_in_again = 0
        self.workers: list[Worker] = []
        self._started = 0
        self.database = options.database or f"sqlite:///{folder / 'kimiflow.db'}"
        context = multiprocessing.get_context("spawn")
        self.server, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, options.seed), daemon=True)

    def _worker(self) -> Worker:
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.upper().startswith("KIMI") and not key.lower().endswith("_proxy")
        }
        environment |= {
            "KIMIFLOW_HOME": str(self.folder / "home"),
            "KIMIFLOW_DATABASE_URL": self.database,
            "KIMIFLOW_KEY": KEY,
            "KIMIFLOW_OAUTH_HOST": self.url,
            "KIMIFLOW_POLL_INTERVAL_FLOOR": "1",
            "KIMIFLOW_HTTP_TIMEOUT": "3",
            "KIMIFLOW_LOG_LEVEL": "warning",
            "KIMIFLOW_LOG_FORMAT": "json",
        }
        self._started += 1
        log = self.folder / f"worker-{self._started}.log"
        return Worker(["tests.processes.worker", "--lease", "4.5"], environment, log)

    async def run(self) -> int:
        from kimiflow.settings import load_settings

        options = self.options
        (self.folder / "home").mkdir(mode=0o700)
        self._process.start()
        self.url: str = await asyncio.to_thread(self.server.recv)
        settings = load_settings(
            home=str(self.folder / "home"), database_url=self.database, key=KEY, oauth_host=self.url
        )
        try:
            async with KimiFlow.open(settings) as flow:
                return await self._run(flow, options.minutes * 60.0)
        finally:
            for worker in self.workers:
                if worker.running:
                    worker.kill()
            self._process.terminate()
            await asyncio.to_thread(self._process.join)

    async def _run(self, flow: KimiFlow, seconds: float) -> int:
        began = time.monotonic()
        await flow.begin(self.names)
        self.workers = [self._worker() for _ in range(self.options.workers)]
        while True:
            await asyncio.sleep(1.0)
            granted = sum(
                status.state is not None and status.state.value == "granted" for status in await flow.status()
            )
            self._say(began, f"{granted} of {len(self.names)} signed in")
            if granted == len(self.names):
                break
            assert time.monotonic() - began < 300, "they do not get signed in"
        await asyncio.sleep(LIFETIME)  # by then every account has been refreshed, and caches are warm
        before = _resources(self.workers[0])
        began = time.monotonic()
        self.server.send(("clear", None))
        for fault in FAULTS:
            self.server.send(("inject", fault))
        next_kill, next_outage, next_word = began + 5.0, began + 20.0, began
        while time.monotonic() - began < seconds:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            if now > next_kill and len(self.workers) > 1:
                self._kill_one()
                next_kill = now + self.rng.uniform(3.0, 15.0)
            if now > next_outage:
                await self._outage()
                next_outage = time.monotonic() + self.rng.uniform(25.0, 50.0)
            await self._sign_in_again(flow)
            if now > next_word:
                self.server.send(("counts", None))
                counts, wrong = await asyncio.to_thread(self.server.recv)
                self._say(
                    began,
                    f"{counts['refresh issued']} refreshes, {counts['faults']} faults, {self.kills} kills, "
                    f"{self.signed_in_again} signed in again, {len(wrong)} wrong",
                )
                next_word = now + 10.0
        self.server.send(("clear", None))
        await asyncio.sleep(LIFETIME / 2)
        await self._sign_in_again(flow)
        after = _resources(self.workers[0])
        # Judged before the workers end: nothing may have expired by now.
        self.server.send(("end", None))
        counts, wrong, lost = await asyncio.to_thread(self.server.recv)
        for worker in self.workers:
            code = await worker.stop()
            if code:
                wrong.append(f"a worker ended with {code}: {worker.log[-500:]}")
        wrong += [
            f"a defect: {path.read_text()[-800:]}"
            for path in self.folder.glob("worker-*.log")
            if "Traceback" in path.read_text()
        ]
        self._report(counts, wrong, lost, before, after)
        return 1 if wrong else 0

    def _kill_one(self) -> None:
        chosen = self.rng.randrange(1, len(self.workers))
        at = time.time()
        self.workers[chosen].kill()
        self.server.send(("killed", at))
        self.workers[chosen] = self._worker()
        self.kills += 1

    async def _outage(self) -> None:
        self.server.send(("clear", None))
        self.server.send(("inject", "reset"))
        await asyncio.sleep(self.rng.uniform(1.0, 4.0))
        self.server.send(("clear", None))
        for fault in FAULTS:
            self.server.send(("inject", fault))
        self.outages += 1

    async def _sign_in_again(self, flow: KimiFlow) -> None:
        resting = [status.account for status in await flow.status() if status.state in RESTS]
        if resting:
            await flow.begin(resting)
            self.signed_in_again += len(resting)

    def _say(self, began: float, what: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s: {what}", file=sys.stderr, flush=True)

    def _report(
        self,
        counts: Counter[str],
        wrong: list[str],
        lost: dict[str, float],
        before: tuple[float, int],
        after: tuple[float, int],
    ) -> None:
        survived = ", ".join(
            f"{count} {name[6:]}" for name, count in sorted(counts.items()) if name.startswith("fault ")
        )
        commits = [each for path in self.folder.glob("worker-*.log") for each in slow_commits(path.read_text())]
        expired = sum("expired" in each for each in wrong)
        print(f"accounts:                     {len(self.names)}, tokens of {LIFETIME:g} s, {len(self.workers)} workers")
        print(f"refreshes:                    {counts['refresh issued']}")
        print(f"faults survived:              {counts['faults']} ({survived})")
        print(f"server away:                  {self.outages} times; workers killed: {self.kills}")
        print(f"tokens expired unrefreshed:   {expired}, beside the grants that a lost reply ended")
        print(f"grants ended by a lost reply: {lost['all']:g}; all signed in again ({self.signed_in_again})")
        print(f"  of these by a kill:         {lost['kills']:g}, at most {lost['wait']:.2f} s after the reply")
        print(f"commits of over 0.5 s:        {len(commits)}, the longest {max(commits, default=0.0):.2f} s")
        print(f"memory of the first worker:   {before[0]:.1f} MiB at the start, {after[0]:.1f} MiB at the end")
        print(f"file handles of it:           {before[1]} at the start, {after[1]} at the end")
        print(f"broken promises:              {len(wrong)}")
        for each in wrong[:10]:
            print(f"  {each}")


def slow_commits(log: str) -> list[float]:
    """The seconds of those that a worker found remarkable."""
    return [json.loads(line)["seconds"] for line in log.splitlines() if '"slow_commit"' in line]


def _resources(worker: Worker) -> tuple[float, int]:
    """Resident memory in MiB and open file handles, where the system tells; zeros where it does not."""
    with suppress(OSError):
        home = Path(f"/proc/{worker.process.pid}")
        pages = int((home / "statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20), len(list((home / "fd").iterdir()))
    return 0.0, 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long there are faults")
    parser.add_argument("--accounts", type=int, default=1_000)
    parser.add_argument("--workers", type=int, default=2, help="the first one is never killed")
    parser.add_argument("--database", help="an empty database; an SQLite file of its own by default")
    parser.add_argument("--seed", type=int, default=0, help="of the faults, as far as time allows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kimiflow-soak-") as folder:
        return asyncio.run(Soak(options, Path(folder)).run())


if __name__ == "__main__":
    sys.exit(main())

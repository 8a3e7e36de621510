"""``kimiflow demo``: the newcomer's tour. Five sign-ins, and a worker that is killed in the middle of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from kimiflow.cli.demo_check import Finding, findings
from kimiflow.cli.demo_screen import Screen
from kimiflow.cli.demo_stage import set_up
from kimiflow.cli.failures import FAILURE
from kimiflow.cli.running import unless_stopped
from kimiflow.model import ON_ITS_WAY, State

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kimiflow.cli.demo_stage import Stage
    from kimiflow.status import Status

__all__ = ["demo"]

ACCOUNTS = ("early", "late", "slowed", "denied", "forgotten")

_FORGOTTEN_AFTER = 18
"""Seconds that the code lives that nobody approves."""

_PATIENCE = 60.0
"""Seconds that any one scene may take; on a busy machine everything starts late."""

_BREATH = 2.5
"""Seconds in which somebody can read what has just happened."""


def demo() -> int:
    """Runs the command; returns the exit code."""
    return asyncio.run(unless_stopped(_demo))


async def _demo() -> int:
    async with set_up() as stage:
        screen = Screen()
        tour = _Tour(stage, screen)
        with screen.open():
            try:
                await tour.play()
            except TimeoutError:
                screen.tell(f"This took longer than {_PATIENCE:g} s, so the tour ends here. The worker's last words:")
                screen.tell(stage.worker_log() or "(none)")
                return FAILURE
        results = await findings(stage, tour.first_codes)
        return _verdict(screen, results, stage)


def _verdict(screen: Screen, results: list[Finding], stage: Stage) -> int:
    screen.tell("")
    screen.tell("What the store and the server say now:")
    for finding in results:
        screen.tell(f"  {'yes' if finding.holds else 'NO '}  {finding.claim}", "green" if finding.holds else "bold red")
        if not finding.holds:
            screen.tell(f"       {finding.instead}", "red")
    screen.tell("")
    if not all(finding.holds for finding in results):
        screen.tell("Not everything held. The worker's last words:")
        screen.tell(stage.worker_log() or "(none)")
        return FAILURE
    screen.tell("Nothing was lost. Now with an account of your own: kimiflow login NAME")
    return 0


class _Tour:
    """The story, scene by scene."""

    def __init__(self, stage: Stage, screen: Screen) -> None:
        self._stage = stage
        self._screen = screen
        self.first_codes: dict[str, str] = {}
        """What each account was shown first, before anything went wrong."""

    async def play(self) -> None:
        await self._codes()
        await self._one_is_granted()
        await self._the_worker_dies()
        await self._another_takes_over()

    async def _codes(self) -> None:
        tell, stage = self._screen.tell, self._stage
        tell(f"1. A sandbox server plays Kimi, at {stage.sandbox.url}. All files are in a temporary folder.")
        await stage.flow.begin(ACCOUNTS)
        devices = await stage.device_ids()
        stage.sandbox.inject("slow_down:poll=x1", device_id=devices["slowed"])
        stage.sandbox.inject(f"expires_in/{_FORGOTTEN_AFTER}:device", device_id=devices["forgotten"])
        process = stage.start_worker()
        tell(f"2. Five accounts begin to sign in. A worker (kimiflow run, process {process}) asks for their codes.")
        seen = await self._until(lambda view: all(s.user_code for s in view.values()))
        self.first_codes = {name: s.user_code or "" for name, s in seen.items()}

    async def _one_is_granted(self) -> None:
        stage, codes = self._stage, self.first_codes
        await self._breathe()
        stage.sandbox.approve(codes["early"])
        self._screen.tell("3. Somebody approves early. The server tells slowed to poll less often.")
        await self._until(lambda view: view["early"].state is State.GRANTED and (view["slowed"].interval or 0.0) > 5.0)
        await self._breathe()

    async def _the_worker_dies(self) -> None:
        stage, codes, tell = self._stage, self.first_codes, self._screen.tell
        process = stage.workers[-1].pid
        await stage.kill_worker()
        tell(f"4. kill -9 {process}: the worker is gone, with four sign-ins on their way.", "bold")
        stage.sandbox.approve(codes["late"])
        stage.sandbox.approve(codes["slowed"])
        stage.sandbox.deny(codes["denied"])
        tell("   Meanwhile late and slowed are approved, and denied is denied. Nobody is there to notice.")
        await self._breathe()

    async def _another_takes_over(self) -> None:
        stage, tell = self._stage, self._screen.tell
        process = stage.start_worker()
        tell(f"5. A new worker (process {process}) finds everything in the store, and goes on with the same codes.")
        await self._until(lambda view: view["late"].state not in ON_ITS_WAY and view["denied"].state is State.DENIED)
        tell("6. It keeps the token of early fresh, waits as long as slowed was told to, and lets forgotten run out.")
        await self._until(lambda view: not any(s.on_its_way for s in view.values()))
        async with asyncio.timeout(_PATIENCE):
            await stage.wait_for_worker()

    async def _until(self, happened: Callable[[Mapping[str, Status]], bool]) -> Mapping[str, Status]:
        """Shows the accounts until it has happened.

        :raises TimeoutError: where that takes too long.
        """
        async with asyncio.timeout(_PATIENCE):
            while True:
                view = {s.account: s for s in await self._stage.flow.status()}
                self._screen.show([view[name] for name in ACCOUNTS])
                if happened(view):
                    return view
                await asyncio.sleep(0.2)

    async def _breathe(self) -> None:
        end = asyncio.get_running_loop().time() + _BREATH
        await self._until(lambda _view: asyncio.get_running_loop().time() >= end)

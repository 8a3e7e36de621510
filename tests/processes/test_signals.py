"""A hundred signals, at any moment of real commands for twelve accounts, and a server that forgives nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from kimiflow.model import State

from .scene import KEY, REPOSITORY, Scene, until

if TYPE_CHECKING:
    from .conftest import Staged

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAMES = [f"account-{number}" for number in range(12)]


async def one_command(scene: Scene, rng: random.Random) -> tuple[int, int, str]:
    """Its exit code, the signal that it was sent, and what it said."""
    environment = {key: value for key, value in os.environ.items() if not key.upper().startswith("KIMI")}
    environment |= {
        "KIMIFLOW_HOME": str(scene.folder / "home"),
        "KIMIFLOW_DATABASE_URL": scene.database_url,
        "KIMIFLOW_KEY": KEY,
        "KIMIFLOW_OAUTH_HOST": scene.oauth_host,
    }
    command = rng.choice((("refresh", "--all"), ("refresh", *rng.sample(NAMES, 6)), ("run",)))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kimiflow",
        *command,
        cwd=REPOSITORY,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said = asyncio.ensure_future(process.stderr.read())
    before = len(scene.sandbox.log("refresh"))
    await until(
        lambda: scene.at_the_server > 0 or len(scene.sandbox.log("refresh")) > before or process.returncode is not None,
        "something is asked of the server",
    )
    await asyncio.sleep(rng.random() * 0.4)
    number = rng.choice(SIGNALS)
    if process.returncode is None:
        process.send_signal(number)
    return await process.wait(), number, (await said).decode()


@pytest.mark.timeout(600)
async def test_no_token_is_lost_or_used_twice(staged: Staged, database_url: str) -> None:
    rng = random.Random(1)
    # Short-lived tokens, so that a worker always has something to do.
    async with staged(database_url, token_lifetime=4.0) as scene:
        await scene.begin(*NAMES)
        worker = scene.worker()
        for name in NAMES:
            scene.sandbox.set_policy(await scene.device(name), "auto")
        await scene.until_state(State.GRANTED, *NAMES)
        assert await worker.stop() == 0
        scene.sandbox.inject("late/0.3:refresh")

        for _ in range(50):  # on each of the two databases
            code, number, said = await one_command(scene, rng)
            # Where the command is done already it is no more than an ending process.
            assert code in {0, 128 + number, -number}, (code, number, said)
            assert "Traceback" not in said, said
        scene.sandbox.clear_faults()
        assert not [entry for entry in scene.sandbox.log("refresh") if entry.reuse]
        verdict = await scene.verdict()
        assert sorted(verdict.kept) == sorted(NAMES)

"""``kimiflow token`` and ``kimiflow refresh``."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from kimiflow.cli import failures, words
from kimiflow.cli.names import expanded
from kimiflow.cli.running import run
from kimiflow.cli.talk import result, result_json, say
from kimiflow.errors import KimiFlowError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow

__all__ = ["refresh", "token"]


def token(name: str, *, as_json: bool) -> int:
    """Runs ``kimiflow token``; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        fresh = await flow.token(name)
        if as_json:
            result_json(fresh.as_json())
        else:
            result(fresh.access_token)
        return 0

    return run(body)


def refresh(patterns: Sequence[str]) -> int:
    """Runs ``kimiflow refresh``, for all that hold tokens where no names are given; returns the exit code."""

    async def body(flow: KimiFlow) -> int:
        return await _refresh(flow, await expanded(flow, patterns))

    return run(body)


async def _refresh(flow: KimiFlow, names: Sequence[str]) -> int:
    if not names:
        found = await flow.status()
        holding = [status for status in found if status.holds_tokens]
        names = [status.account for status in holding if status.token_expires_at is not None]
        if holding and not names:
            say("Nothing to refresh: the tokens there are have no end.")
            return 0
        if not names:
            say("No account holds tokens. Sign one in with: kimiflow login NAME")
            return 0
    return await _refresh_each(flow, names)


async def _refresh_each(flow: KimiFlow, names: Sequence[str]) -> int:
    slots = asyncio.Semaphore(flow.settings.concurrency)  # what waits for longer than a request runs out of time

    async def one(name: str) -> int:
        try:
            async with slots:
                fresh = await flow.refresh(name)
        except KimiFlowError as error:
            return failures.report(error)
        result(f"{name}: refreshed; {words.life_of(fresh.expires_at, time.time())}")
        return 0

    return failures.worst(await asyncio.gather(*(one(name) for name in dict.fromkeys(names))))

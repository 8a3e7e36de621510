"""A reply that can be saved nowhere is the one thing that an end has to complain about."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kimiflow.errors import NotSaved, StoreUnavailable
from kimiflow.flow import KimiFlow
from kimiflow.sandbox.server import Sandbox
from kimiflow.scheduling.limits import Limits
from kimiflow.scheduling.spill import kept_aside
from kimiflow.settings import load_settings
from kimiflow.stores.memory import MemoryStore


class Away(MemoryStore):
    """Takes no more commits once it is told to be away."""

    away = False

    async def commit(self, steps: Any) -> Any:
        if self.away and any(step.brings_tokens for step in steps):
            raise StoreUnavailable("the store is away")
        return await super().commit(steps)


async def refresh_while_the_store_is_away(home: Path, *, disk_full: bool) -> None:
    """Leaves the context in the middle of it."""
    async with Sandbox(seed=1, interval=0.1, approve="auto") as sandbox:
        settings = load_settings(home=str(home), oauth_host=sandbox.url, poll_interval_floor=0.1)
        store = Away()
        limits = Limits(request_timeout=5.0, patience=0.2, lease=30.0)
        async with KimiFlow(settings, store, limits=limits) as flow:
            await flow.login("work")
            await flow.wait("work")
            store.away = True
            if disk_full:
                flow._engine._spill._path = home / ("x" * 300)  # which no file system takes
            refreshing = asyncio.create_task(flow.refresh("work"))
            while not [entry for entry in sandbox.log("refresh") if entry.delivered]:
                await asyncio.sleep(0.01)
            refreshing.cancel()


async def test_it_is_kept_in_a_file_where_the_store_is_away(tmp_path: Path) -> None:
    await refresh_while_the_store_is_away(tmp_path, disk_full=False)
    assert len(kept_aside(tmp_path)) == 1


async def test_where_there_is_no_room_for_a_file_the_end_says_whose_it_was(tmp_path: Path) -> None:
    with pytest.raises(NotSaved, match=r"neither in the database nor in .*: work") as caught:
        await refresh_while_the_store_is_away(tmp_path, disk_full=True)
    assert caught.value.account == "work"
    assert "kimiflow login NAME" in caught.value.hint

"""A store that is away: results wait beside it, and outlive the process."""

from __future__ import annotations

import asyncio
import json
import stat
from typing import TYPE_CHECKING

import pytest

from kimiflow import KimiFlow, State, load_settings
from kimiflow.errors import StoreUnavailable
from kimiflow.sandbox import Sandbox
from kimiflow.stores.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from kimiflow import Settings
    from kimiflow.stores.base import Outcome, Step


class StoreThatGoesAway(MemoryStore):
    """Loses its connection when told to."""

    away = False

    async def commit(self, steps: Sequence[Step]) -> list[Outcome]:
        if self.away:
            raise StoreUnavailable("the database is away")
        return await super().commit(steps)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, poll_interval_floor=0.05, http_timeout=1.0)


def files(settings: Settings) -> list[Path]:
    return list(settings.home.glob("unsaved-*"))


async def until(condition: object, what: str) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.02)


async def test_tokens_that_arrive_while_the_store_is_away_are_kept_sealed_and_committed_when_it_is_back(
    settings: Settings,
) -> None:
    async with Sandbox(interval=0.05, approve=0.3) as sandbox:
        settings = settings.model_copy(update={"oauth_host": sandbox.url})
        store = StoreThatGoesAway()
        async with KimiFlow.open(settings, store=store) as flow:
            await flow.login("work")
            waiting = asyncio.create_task(flow.wait("work"))
            store.away = True
            await until(lambda: files(settings), "a file")
            (file,) = files(settings)
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            for entry in sandbox.log("poll"):
                assert (entry.issued_access_token or "at_") not in file.read_text()
            store.away = False
            assert (await waiting).state is State.GRANTED
            await until(lambda: not files(settings), "no file")


async def test_a_process_that_ends_before_the_store_is_back_leaves_them_to_the_next_one(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Sandbox(interval=0.05, approve="auto") as sandbox:
        settings = settings.model_copy(update={"oauth_host": sandbox.url})
        store = StoreThatGoesAway()
        async with KimiFlow.open(settings, store=store) as flow:
            await flow.login("work")
            store.away = True
            driving = asyncio.create_task(flow.wait("work"))
            await until(lambda: any("access_token_issued" in f.read_text() for f in files(settings)), "tokens")
            driving.cancel()
            # What a worker waits for a store that is away is settled; this process has no such patience.
            scheduler = flow._engine._scheduler
            assert scheduler is not None
            object.__setattr__(scheduler, "_limits", scheduler._limits.__class__(patience=0.1))
        (file,) = files(settings)

        # The next process has another number; this one would leave its own file alone.
        file.rename(file.with_name("unsaved-999999999-0.json"))
        store.away = False
        async with KimiFlow.open(settings, store=store) as flow:
            (status,) = await flow.status()
            assert status.state is State.GRANTED
            assert not files(settings)
            assert (await flow.token("work")).access_token == sandbox.log("poll")[-1].issued_access_token


async def test_a_file_that_cannot_be_read_is_left_and_harms_nothing(settings: Settings) -> None:
    broken = settings.home / "unsaved-999999999-1.json"
    broken.write_text(json.dumps([{"half": "a step"}]))
    async with KimiFlow.open(settings, store=MemoryStore()) as flow:
        assert await flow.status() == []
    assert broken.exists()


async def test_a_store_that_goes_away_while_it_is_entered_is_let_go_of(settings: Settings) -> None:
    class Store(MemoryStore):
        opened = 0

        async def open(self) -> None:
            self.opened += 1

        async def close(self) -> None:
            self.opened -= 1

        async def now(self, local: float) -> float:
            raise StoreUnavailable("the database is away")

    store = Store()
    with pytest.raises(StoreUnavailable):
        async with KimiFlow.open(settings, store=store):
            pass
    assert store.opened == 0

"""``flow.events()``: everything that happens to all accounts, once, in order."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow import AccountTransition, KimiFlow, State, StoreUnavailable
from kimiflow.stores.horizon import Horizon
from kimiflow.stores.memory import MemoryStore

from .conftest import settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from kimiflow.feed import Feed
    from kimiflow.sandbox import Sandbox

    from .signing import World

NEW = ["login_requested", "device_code_issued", "access_token_issued"]


async def take(feed: Feed, count: int) -> list[AccountTransition]:
    async with asyncio.timeout(5):
        return [await anext(feed) for _ in range(count)]


async def nothing(feed: Feed) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(feed), 0.05)


async def test_from_now_on(world: World) -> None:
    feed = world.flow.events()
    await nothing(feed)
    await world.sign_in("d")
    seen = await take(feed, 3)
    assert [(each.account, each.transition.event) for each in seen] == [("d", event) for event in NEW]
    assert seen[-1].transition.to_state is State.GRANTED
    assert [each.transition for each in seen] == await world.flow.history("d")
    await world.flow.logout(["a"])
    (last,) = await take(feed, 1)
    assert (last.account, last.transition.event, last.transition.to_state) == ("a", "signed_out", None)
    await nothing(feed)


async def test_from_the_beginning_and_from_a_cursor(world: World) -> None:
    feed = world.flow.events(after=0)
    everything = await take(feed, 9)
    assert {each.account for each in everything} == {"a", "b", "c"}
    cursors = [each.cursor for each in everything]
    assert cursors == sorted(set(cursors))
    for name in "abc":
        assert [each.transition for each in everything if each.account == name] == await world.flow.history(name)
    again = world.flow.events(after=cursors[3])
    assert await take(again, 5) == everything[4:]
    assert again.cursor == feed.cursor == cursors[-1]


async def test_another_process_and_a_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    """A second flow on the same file stands for another process: it shares nothing else."""
    settings = settings_for(sandbox.url, tmp_path)
    async with KimiFlow.open(settings) as other:
        async with KimiFlow.open(settings) as flow:
            feed = flow.events(after=0)
            await other.login("a")
            await other.wait("a")
            assert [each.transition.event for each in await take(feed, 3)] == NEW
            cursor = feed.cursor
        await other.refresh("a")
        await other.login("b")
        async with KimiFlow.open(settings) as flow:
            seen = await take(flow.events(after=cursor), 4)
    assert [each.transition.event for each in seen[:2]] == ["refresh_due", "access_token_issued"]
    assert [each.account for each in seen] == ["a", "a", "b", "b"]


async def test_a_cancelled_wait_takes_nothing_away(world: World) -> None:
    feed = world.flow.events(after=0)
    everything: list[AccountTransition] = []
    waits = 0
    async with asyncio.TaskGroup() as group:
        group.create_task(world.sign_in("d"))
        while len(everything) < 12:
            waits += 1
            try:
                everything.append(await asyncio.wait_for(anext(feed), 0.002))
            except TimeoutError:
                continue
    assert waits > 12
    assert everything == await take(world.flow.events(after=0), 12)


async def test_a_slow_reader_misses_nothing_and_costs_nothing(world: World) -> None:
    feed = world.flow.events(after=0)
    seen = await take(feed, 1)
    await asyncio.gather(*(world.sign_in(f"n{i}") for i in range(100)))
    assert len(feed._page) < 9, "nothing is gathered for who does not ask"
    seen += await take(feed, 9 + 300 - 1)
    assert len({each.cursor for each in seen}) == 309
    assert [each.transition.event for each in seen if each.account == "n42"] == NEW


async def test_many_readers_see_the_same(world: World) -> None:
    feeds = [world.flow.events(after=0) for _ in range(20)]
    reading = asyncio.gather(*(take(feed, 12) for feed in feeds))
    await world.sign_in("d")
    first, *others = await reading
    assert all(other == first for other in others)


async def test_it_ends_with_its_flow(sandbox: Sandbox, tmp_path: Path) -> None:
    async with KimiFlow(settings_for(sandbox.url, tmp_path), MemoryStore()) as flow:
        feed = flow.events()
        waiting = asyncio.create_task(_all(feed))
        await asyncio.sleep(0.02)
    assert await asyncio.wait_for(waiting, 0.5) == []
    with pytest.raises(StopAsyncIteration):
        await anext(feed)


async def _all(feed: Feed) -> list[Any]:
    return [each async for each in feed]


async def test_a_store_that_is_away_is_reported_and_then_read_on(world: World) -> None:
    feed = world.flow.events(after=0)
    await take(feed, 4)
    feed._page.clear()
    feed._read = feed.cursor
    store = world.flow._engine.store
    reading = store.transitions_after

    async def away(*_: Any) -> list[AccountTransition]:
        raise StoreUnavailable("away")

    store.transitions_after = away  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable):
        await anext(feed)
    store.transitions_after = reading  # type: ignore[method-assign]
    assert len(await take(feed, 5)) == 5


def test_the_horizon_waits_for_whoever_had_begun() -> None:
    horizon = Horizon()
    assert horizon.look(6, 100, 103) == -1, "100 may hold an id below 6"
    assert horizon.look(8, 101, 105) == -1, "so may 101 and 102"
    assert horizon.look(9, 103, 106) == 6
    assert horizon.look(9, 105, 107) == 6, "9 was seen when 106 was the next to begin"
    assert horizon.look(9, 106, 107) == 9
    assert horizon.look(12, 107, 107) == 12, "nobody is at it"
    assert horizon.look(12, 100, 108) == 12

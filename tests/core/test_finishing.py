"""Work that saves something ends, whoever is cancelled meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from kimiflow.finishing import begin, finish, outlast


async def test_finish_returns_what_the_work_returns() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await finish(work()) == 7


async def test_a_caller_who_is_cancelled_again_and_again_is_held_up_until_the_end() -> None:
    may_end, ended = asyncio.Event(), []

    async def work() -> None:
        await may_end.wait()
        ended.append(True)

    caller = asyncio.create_task(finish(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        caller.cancel()
    await asyncio.sleep(0)
    assert not caller.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended


async def test_what_goes_wrong_is_raised_though_the_caller_was_cancelled() -> None:
    may_end = asyncio.Event()

    async def work() -> None:
        await may_end.wait()
        raise ZeroDivisionError

    caller = asyncio.create_task(finish(work()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(ZeroDivisionError):
        await caller


async def test_a_task_that_is_cancelled_at_once_begins_all_the_same() -> None:
    """One of asyncio's own would not run a single line, its ``finally`` included."""
    lines = []

    async def work() -> None:
        lines.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            lines.append("ended")

    task = begin(work(), "work")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lines == ["begun", "ended"]


async def test_to_outlast_tells_who_was_cancelled_meanwhile() -> None:
    may_end = asyncio.Event()
    told: list[object] = []

    async def caller() -> None:
        told.append(await outlast(asyncio.create_task(may_end.wait()), None))

    waiting = asyncio.create_task(caller())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0)
    may_end.set()
    await waiting
    assert isinstance(told[0], asyncio.CancelledError)
    assert await outlast() is None

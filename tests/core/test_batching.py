"""Many callers who ask at once share one call, and each has an answer that is no older than the question."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from kimiflow.batching import Batched
from kimiflow.finishing import begin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Shop:
    """Doubles numbers, when it may."""

    def __init__(self) -> None:
        self.calls: list[Sequence[int]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.broken = False

    async def __call__(self, numbers: Sequence[int]) -> Mapping[int, int]:
        self.calls.append(numbers)
        await self.may_answer.wait()
        if self.broken:
            raise ZeroDivisionError
        return {number: 2 * number for number in numbers if number}


async def test_those_who_ask_in_one_turn_share_a_call() -> None:
    shop = Shop()
    double = Batched(shop, begin)
    assert await asyncio.gather(*(double(n) for n in (3, 1, 2, 3, 0))) == [6, 2, 4, 6, None]
    assert shop.calls == [[3, 1, 2, 0]]


async def test_who_asks_while_a_call_is_under_way_has_the_next() -> None:
    shop = Shop()
    shop.may_answer.clear()
    double = Batched(shop, begin)
    first = asyncio.create_task(double(1))
    await asyncio.sleep(0.01)
    late = [asyncio.create_task(double(n)) for n in (1, 2)]
    await asyncio.sleep(0.01)
    shop.may_answer.set()
    assert await asyncio.gather(first, *late) == [2, 2, 4]
    assert shop.calls == [[1], [1, 2]]


async def test_one_who_is_cancelled_takes_nothing_from_the_others() -> None:
    shop = Shop()
    shop.may_answer.clear()
    double = Batched(shop, begin)
    one, other = asyncio.create_task(double(1)), asyncio.create_task(double(1))
    await asyncio.sleep(0.01)
    one.cancel()
    shop.may_answer.set()
    assert await other == 2
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_what_a_call_raises_all_of_its_callers_hear_and_nobody_else() -> None:
    shop = Shop()
    shop.broken = True
    double = Batched(shop, begin)
    told = await asyncio.gather(double(1), double(2), return_exceptions=True)
    assert [type(each) for each in told] == [ZeroDivisionError] * 2
    shop.broken = False
    assert await double(1) == 2

"""The event loops on which kimiflow may find itself: asyncio's own, and uvloop where it is installed."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pytest

__all__ = ["loops_for"]


def loops_for(item: pytest.Item, *modules: str) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Each of them for the tests of ``modules``, asyncio's for all others: what pytest-asyncio's hook is to return."""
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if item.path.stem in modules and importlib.util.find_spec("uvloop"):
        loops["uvloop"] = importlib.import_module("uvloop").new_event_loop
    return loops

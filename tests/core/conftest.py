"""What is about the network is tested on each event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.loops import loops_for

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    import pytest


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return loops_for(item, "test_client", "test_http1")

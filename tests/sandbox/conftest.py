from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from .client import Client, Connect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kimiflow.sandbox import Sandbox


@pytest.fixture
def client() -> Connect:
    @asynccontextmanager
    async def connect(sandbox: Sandbox) -> AsyncIterator[Client]:
        async with httpx.AsyncClient(base_url=sandbox.url, trust_env=False, timeout=5) as http:
            yield Client(http)

    return connect

"""One foreign server for the whole run: device codes and token families do not get in each other's way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from .process import ForeignServer, running_server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def foreign_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForeignServer]:
    """django-oauth-toolkit, listening on loopback in a process of its own."""
    with running_server(tmp_path_factory.mktemp("foreign")) as server:
        yield server

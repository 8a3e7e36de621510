from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from kimiflow.sandbox import Sandbox
from tests.postgres import Postgres, postgres, postgres_to_kill

from .scene import Scene

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Staged = Callable[..., AbstractAsyncContextManager[Scene]]

__all__ = ["postgres", "postgres_to_kill"]


@pytest.fixture(autouse=True)
def _nothing_of_the_person_who_runs_this(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if (name.upper().startswith("KIMI") and "TEST" not in name) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kimiflow.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.fresh()


@pytest.fixture
def staged(tmp_path: Path) -> Staged:
    """Makes a scene: a database's URL, and how the server is."""

    @asynccontextmanager
    async def stage(database_url: str, **options: object) -> AsyncIterator[Scene]:
        (tmp_path / "home").mkdir(mode=0o700, exist_ok=True)
        async with Sandbox(seed=1, **{"interval": 0.3, **options}) as sandbox:  # type: ignore[arg-type]
            scene = Scene(tmp_path, sandbox, database_url)
            try:
                yield scene
            finally:
                scene.end()

    return stage

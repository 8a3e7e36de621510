"""A fresh database for each measurement."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from tests.stores.servers import running_postgresql

if TYPE_CHECKING:
    from .place import Place

__all__ = ["Databases"]


class Databases:
    """Makes databases in the place's folder, and on a PostgreSQL of its own that starts when it is first needed."""

    def __init__(self, place: Place) -> None:
        self.folder = place.folder
        self._place = place
        self._numbers = itertools.count()
        self._stack = ExitStack()
        self._server: object = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def new(self, kind: str) -> str:
        """The URL of an empty one: ``SQLite``, ``PostgreSQL`` or ``memory``."""
        number = next(self._numbers)
        if kind == "memory":
            return "memory://"
        if kind == "SQLite":
            return f"sqlite:///{self.folder}/bench-{number}.db"
        if self._server is None:
            with self._place.server_core():
                self._server = self._stack.enter_context(running_postgresql(durable=True))
        url: str = self._server.new_database(f"bench_{number}")  # type: ignore[attr-defined]
        return url

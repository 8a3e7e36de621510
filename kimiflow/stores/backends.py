"""Which backend a database URL means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from kimiflow.errors import InvalidSetting
from kimiflow.stores.sqlite import SqliteBackend

if TYPE_CHECKING:
    from kimiflow.stores.backend import Backend

__all__ = ["BUSY_TIMEOUT", "backend_for"]

BUSY_TIMEOUT: Final = 10.0
"""Seconds to wait for another process that writes."""


def backend_for(url: str, *, busy_timeout: float = BUSY_TIMEOUT) -> Backend:
    """The backend for ``url``; nothing is connected yet.

    :raises InvalidSetting: where the URL cannot be meant. The message does not hold it: it may carry a password.
    """
    if url.partition(":")[0].partition("+")[0].strip().lower() in {"postgresql", "postgres"}:
        # Its driver is an extra: whoever has no server does not load it.
        from kimiflow.stores.postgresql import PostgresqlBackend  # noqa: PLC0415

        return PostgresqlBackend(url.strip(), busy_timeout=busy_timeout)
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        raise InvalidSetting(
            "KIMIFLOW_DATABASE_URL is no database URL",
            hint="It looks like sqlite:////absolute/path.db or postgresql://user:password@host/database",
        ) from None
    return SqliteBackend(parsed, busy_timeout=busy_timeout)

"""What went wrong in a database, in words for a person, and without a secret.

A driver's message may quote the row that it refused; only its first line, which names the fault, is passed on,
and the driver's own exception is not chained.
"""

from __future__ import annotations

import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sqlalchemy import exc

from kimiflow.descriptors import none_left, used_up
from kimiflow.errors import StoreError, StoreUnavailable
from kimiflow.http.network import in_words

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TablesChanged", "broke", "trouble"]

_TRY_AGAIN: Final = "Nothing was lost; what was not written is tried again."

_UNAVAILABLE: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_BUSY: ("is locked by another program", "Close what holds it open for writing. " + _TRY_AGAIN),
    sqlite3.SQLITE_LOCKED: ("is locked by another program", "Close what holds it open for writing. " + _TRY_AGAIN),
    sqlite3.SQLITE_FULL: ("cannot grow: the disk is full", "Free some space. " + _TRY_AGAIN),
    sqlite3.SQLITE_IOERR: ("cannot be read or written: the disk reports an error", "Look at the disk. " + _TRY_AGAIN),
    sqlite3.SQLITE_READONLY: ("may only be read", "Give this user the right to write the file and its folder."),
    sqlite3.SQLITE_CANTOPEN: ("cannot be opened", "Look at KIMIFLOW_DATABASE_URL and at the folder's permissions."),
    sqlite3.SQLITE_PERM: ("may not be opened by this user", "Look at the permissions of the file and its folder."),
}

_BROKEN: Final[dict[int, tuple[str, str]]] = {
    sqlite3.SQLITE_NOTADB: ("is no SQLite database", "Look at KIMIFLOW_DATABASE_URL; nothing was changed."),
    sqlite3.SQLITE_CORRUPT: ("is damaged", "Restore it from a backup, or move it away and sign in again."),
}

_SQLSTATES: Final[dict[str, tuple[str, str]]] = {
    "08": ("cannot be reached: the connection broke", _TRY_AGAIN),
    "25006": ("may only be read: it is a standby", "Point KIMIFLOW_DATABASE_URL at the primary server. " + _TRY_AGAIN),
    "28": ("refuses this user", "Look at user and password in KIMIFLOW_DATABASE_URL."),
    "3D": ("does not exist", "Make it with createdb, or look at KIMIFLOW_DATABASE_URL."),
    "40": ("gave way to another transaction", _TRY_AGAIN),
    "42501": ("does not let this user do that", "Give the user the right to create and write its tables."),
    "53": ("is out of connections, memory or disk", _TRY_AGAIN),
    "55P03": ("is locked by another transaction", _TRY_AGAIN),
    "57": ("is shutting down or starting", _TRY_AGAIN),
    "58": ("cannot be read or written: the server reports a fault of its machine", _TRY_AGAIN),
}
"""PostgreSQL's codes, or the classes of them, that a later attempt may not meet (appendix A of its manual)."""


def broke(error: BaseException) -> bool:
    """Whether the connection is of no use any more, although its driver does not say so.

    A statement that had no answer in time may have one later; and where the server's farewell arrives before the
    end of the connection does, asyncpg is confused about what it was doing.
    """
    return isinstance(error, TimeoutError) or type(error).__name__ == "InternalClientError"


class TablesChanged(StoreUnavailable):
    """Somebody altered a table, and a statement was prepared for what it was before. Nothing was done by it."""


_OUTDATED: Final = frozenset({"InvalidCachedStatementError", "OutdatedSchemaCacheError"})
"""What asyncpg and SQLAlchemy's dialect for it raise then; they forget what they had prepared."""


@contextmanager
def trouble(where: str) -> Iterator[None]:
    """Turns what SQLAlchemy and the drivers raise into :class:`StoreError`; ``where`` names the database.

    :raises StoreUnavailable: where trying again may help.
    :raises StoreError: where it will not.
    """
    try:
        yield
    except exc.TimeoutError:
        raise StoreUnavailable(f"{where} is busy: no connection became free in time", hint=_TRY_AGAIN) from None
    except exc.DBAPIError as error:
        raise _translated(error.orig or error, where, lost=error.connection_invalidated) from None
    except (sqlite3.Error, OSError) as error:
        raise _translated(error, where) from None
    except exc.SQLAlchemyError as error:
        raise StoreError(f"{where}: {type(error).__name__}: {_first_line(error)}") from None
    except Exception as error:
        if broke(error):
            raise StoreUnavailable(f"{where} cannot be reached: the connection broke", hint=_TRY_AGAIN) from None
        # A driver's own exception, from before there was a connection.
        if not hasattr(error, "sqlstate"):
            raise
        raise _translated(error, where) from None


def _translated(error: BaseException, where: str, *, lost: bool = False) -> StoreError:
    if type(error).__name__ in _OUTDATED:
        return TablesChanged(f"{where} had its tables changed", hint=_TRY_AGAIN)
    code = getattr(error, "sqlite_errorcode", None)
    # The low byte is the kind; the rest tells kinds of it apart that mean the same to a person.
    kind = None if code is None else code & 0xFF
    if code == sqlite3.SQLITE_IOERR_SHMSIZE:
        kind = sqlite3.SQLITE_FULL  # the file that all processes share cannot grow
    if said := none_left() if kind == sqlite3.SQLITE_CANTOPEN else used_up(getattr(error, "errno", None)):
        return StoreUnavailable(f"{where} cannot be opened: {said}", hint=_TRY_AGAIN)
    if kind in _UNAVAILABLE:
        what, hint = _UNAVAILABLE[kind]
        # SQLite's own name tells a full disk from a broken one where the words do not: SQLITE_IOERR_FSYNC.
        exact = f" ({getattr(error, 'sqlite_errorname', '')})" if code != kind else ""
        return StoreUnavailable(f"{where} {what}{exact}", hint=hint)
    if kind in _BROKEN:
        what, hint = _BROKEN[kind]
        return StoreError(f"{where} {what}", hint=hint)
    sqlstate = getattr(error, "sqlstate", None) or ""
    for told in (sqlstate, sqlstate[:2]):
        if told in _SQLSTATES:
            what, hint = _SQLSTATES[told]
            return StoreUnavailable(f"{where} {what}", hint=hint)
    if lost or isinstance(error, OSError) or (kind is None and isinstance(error, sqlite3.OperationalError)):
        reason = in_words(error) if isinstance(error, OSError) else _first_line(error)
        return StoreUnavailable(f"{where} cannot be reached: {reason}", hint=_TRY_AGAIN)
    return StoreError(f"{where} refused a statement: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0] or type(error).__name__

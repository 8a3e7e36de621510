"""Statements in the driver's own words, for what is done for every poll.

A statement of SQLAlchemy is compiled once, not looked up at each call; rows come as the driver gives them. One for many
rows finds them in a table named ``given``, so that the database goes through them by itself, in the order they came.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Bulk", "Transaction", "Words", "given"]

_GIVEN: Final = "given"


def given(**types: sa.types.TypeEngine[Any]) -> sa.TableClause:
    """The table of the rows that a :class:`Bulk` statement is given; its columns in this order."""
    return sa.table(_GIVEN, *(sa.column(name, kind) for name, kind in types.items()))


@dataclass(frozen=True, slots=True)
class Words:
    """One statement, and the names of its parameters in their order."""

    text: str
    names: tuple[str, ...]
    constants: Mapping[str, Any]
    """Values that stand in the statement itself."""

    @classmethod
    def of(cls, statement: sa.ClauseElement, dialect: sa.Dialect) -> Words:
        """``statement`` compiled."""
        compiled: Any = statement.compile(dialect=dialect)
        names = tuple(compiled.positiontup or ())
        return cls(str(compiled), names, {name: compiled.params[name] for name in names})

    def parameters(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """``values`` in the driver's order; those that the statement does not ask for are left out."""
        return tuple([values[name] if name in values else self.constants[name] for name in self.names])


@dataclass(frozen=True, slots=True)
class Bulk:
    """One statement for any number of rows, each a tuple in the order of ``columns``."""

    text: str
    """Lacks the table of the rows: :meth:`on` puts it in front."""
    columns: tuple[str, ...]
    types: tuple[str, ...]
    """The database's names of the columns' types."""

    @classmethod
    def of(cls, statement: sa.ClauseElement, rows: sa.TableClause, dialect: sa.Dialect) -> Bulk:
        """``statement`` compiled; all that it is told stands in ``rows``."""
        columns = tuple(rows.c)
        kinds = tuple(column.type.compile(dialect=dialect) for column in columns)
        return cls(str(statement.compile(dialect=dialect)), tuple(column.name for column in columns), kinds)

    def on(self, source: str) -> str:
        """The whole statement; ``source`` is a query that finds the rows."""
        listed = ", ".join(f'"{name}"' for name in self.columns)
        return f"WITH {_GIVEN}({listed}) AS ({source}) {self.text}"


class Transaction(ABC):
    """What a function that waits for nothing but the database may do in one transaction."""

    @abstractmethod
    def run(self, words: Words, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """Runs one statement; returns the rows that it found."""

    @abstractmethod
    def write(self, bulk: Bulk, rows: Sequence[tuple[Any, ...]]) -> int:
        """Runs one statement for all of ``rows``, of which there may be none; returns how many it wrote."""

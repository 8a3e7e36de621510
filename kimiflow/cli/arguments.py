"""Arguments that several commands share. Names of accounts complete themselves in a shell."""

from __future__ import annotations

from typing import Annotated

import typer

from kimiflow.cli.completing import account_names
from kimiflow.cli.names import is_pattern
from kimiflow.model import valid_account_name

__all__ = ["Json", "Name", "NewNames", "Pattern", "Patterns", "SomePatterns"]


def _names(names: list[str] | None) -> list[str]:
    return [valid_account_name(name) for name in names or []]


def _patterns(names: list[str] | None) -> list[str]:
    return [name if is_pattern(name) else valid_account_name(name) for name in names or []]


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The account's name.",
        show_default=False,
        callback=valid_account_name,
        autocompletion=account_names,
    ),
]
Pattern = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="The account's name, or a glob such as 'team-*'.",
        show_default=False,
        callback=lambda name: name if is_pattern(name) else valid_account_name(name),
        autocompletion=account_names,
    ),
]
NewNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME", help="Account names.", show_default=False, callback=_names, autocompletion=account_names
    ),
]
Patterns = Annotated[
    list[str],
    typer.Argument(
        metavar="NAME",
        help="Account names, or globs such as 'team-*'.",
        show_default=False,
        callback=_patterns,
        autocompletion=account_names,
    ),
]
SomePatterns = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="NAME",
        help="Account names, or globs such as 'team-*'; without any, all accounts.",
        show_default=False,
        callback=_patterns,
        autocompletion=account_names,
    ),
]
Json = Annotated[bool, typer.Option("--json", metavar="", help="Print JSON.")]

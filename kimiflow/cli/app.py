"""The Typer application: the commands put together, and what stands before them."""

from __future__ import annotations

from typing import Annotated

import typer

from kimiflow.cli import commands, neighbours, tools, upkeep
from kimiflow.cli.teaching import examples

__all__ = ["build"]

_EPILOG = examples(
    "kimiflow demo                    the tour: 30 s, no account needed",
    "kimiflow login work personal     sign two accounts in",
    "kimiflow run                     keep them signed in",
    "kimiflow token work              print a fresh access token",
    heading="Begin with",
) + (
    "\n\n[bold]Exit codes[/bold]\n"
    "0 done, 1 failure, 2 usage or a bad setting, 3 a person is needed, 4 still pending, 5 server unreachable"
)


def build() -> typer.Typer:
    """The application, with every command."""
    app = typer.Typer(
        name="kimiflow",
        invoke_without_command=True,
        rich_markup_mode="rich",
        # Errors are reported in one place, and a traceback with local variables would show tokens.
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=_EPILOG,
    )
    app.callback()(_begin)
    commands.register(app)
    upkeep.register(app)
    neighbours.register(app)
    tools.register(app)
    return app


def _begin(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", metavar="", help="Show the version.", is_eager=True)] = False,  # noqa: FBT002
) -> int:
    """Sign many Kimi accounts in, keep them signed in, and lose none of it to a restart."""
    if version:
        from kimiflow import __version__

        typer.echo(f"kimiflow {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
    return 0

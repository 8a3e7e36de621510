"""What can be typed for the tools next door: taking accounts in, handing tokens out, running a tool as an account.

As in ``commands``, here are the words only.
"""

# Typer reads the annotations at run time, and a flag is a parameter that is true or false.
# ruff: noqa: FBT002, TC001, TC003

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kimiflow.cli.arguments import Json, Name, Patterns
from kimiflow.cli.completing import format_names
from kimiflow.cli.teaching import add
from kimiflow.model import valid_account_name

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    add(
        app,
        import_,
        "kimiflow import --dry-run                       look where the tools keep their files",
        "kimiflow import --take-over",
        "kimiflow import ~/.cli-proxy-api",
        "kimiflow import ~/.kimi --name work --take-over",
        name="import",
    )
    add(
        app,
        export,
        "kimiflow export work --format env",
        "kimiflow export work --format cliproxyapi --output ~/.cli-proxy-api/",
        "kimiflow export work --format kimi-cli --output ~/.kimi/ --with-refresh-token",
    )
    add(
        app,
        exec_,
        "kimiflow exec work -- python app.py",
        "kimiflow exec work -- sh -c 'curl -H \"Authorization: Bearer $KIMI_API_KEY\" $OPENAI_BASE_URL/models'",
        "kimiflow exec work --env MY_TOKEN=token --env MY_URL=base -- ./my-tool",
        name="exec",
    )


def import_(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Files, or folders that hold them; without any, where CLIProxyAPI, kimi-cli and kimi-code keep them.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What to call the account, where it is one.",
            callback=lambda name: None if name is None else valid_account_name(name),
        ),
    ] = None,
    provider: Annotated[
        str | None, typer.Option(metavar="P", help="Whose accounts they are: kimi, kimi-global, or one of config.toml.")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Reach the server through this proxy. With a password: env:VARIABLE."),
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server that issued them, where that is another than the provider's usual one.",
            show_default=False,
        ),
    ] = None,
    take_over: Annotated[
        bool,
        typer.Option(
            "--take-over",
            metavar="",
            help="Blank the refresh token in each file that was taken in, so that its tool leaves it alone.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", metavar="", help="Only say what would be done.")] = False,
    as_json: Json = False,
) -> int:
    """Take accounts in that other tools have signed in, and refresh each of them once.

    A refresh token has one owner: from then on it is kimiflow, and the tool it came from must no longer refresh it.
    With --take-over the tool is kept from trying; a backup of each file stays beside it.
    """
    from kimiflow.cli.importing import Wish
    from kimiflow.cli.importing import import_ as work

    return work(Wish(paths or [], name, provider, proxy, origin, take_over=take_over, dry_run=dry_run, as_json=as_json))


def export(
    names: Patterns,
    form: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="F",
            help="cliproxyapi, kimi-cli, kimi-code, env or json.",
            autocompletion=format_names,
        ),
    ] = "json",
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="A file, or a folder, which may end in /; without it, stdout.", show_default=False
        ),
    ] = None,
    with_refresh_token: Annotated[
        bool,
        typer.Option(
            "--with-refresh-token", metavar="", help="Hand it over: the tool refreshes it, and kimiflow no longer does."
        ),
    ] = False,
    to_stdout: Annotated[
        bool,
        typer.Option(
            "--print-refresh-token", metavar="", help="Print it on stdout, where nobody can tell whether it arrived."
        ),
    ] = False,
) -> int:
    """Give a fresh access token to another tool, in the words of that tool.

    It ends with the access token, in a quarter of an hour; for a tool that goes on for longer: kimiflow run --sync.
    """
    from kimiflow.cli.exporting import Wish
    from kimiflow.cli.exporting import export as work

    return work(Wish(names, form, output, hand_over=with_refresh_token, to_stdout=to_stdout))


def exec_(
    name: Name,
    command: Annotated[
        list[str], typer.Argument(metavar="-- CMD", help="The command and its arguments.", show_default=False)
    ],
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=WHAT",
            help="Set this variable instead of the usual ones, to: token; base, the base URL of the OpenAI-style API; "
            "or api, the one above it. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Run a command as an account: KIMI_API_KEY, OPENAI_API_KEY and OPENAI_BASE_URL are set for it.

    The token is fresh, and lives for as long as an access token does. The command takes this process's place, so its
    signals and its exit code are its own.
    """
    from kimiflow.cli.exec import exec_ as work

    return work(name, command, env or [])

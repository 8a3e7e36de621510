"""What can be typed every day: signing in, keeping signed in, looking, leaving.

Here are the words of the command line and its help only. A command's work is imported when it runs.
"""

# Typer reads the annotations at run time, and a flag is a parameter that is true or false.
# ruff: noqa: FBT002, TC001

from __future__ import annotations

from typing import Annotated

import typer

from kimiflow.cli.arguments import Json, Name, NewNames, Patterns, SomePatterns
from kimiflow.cli.completing import states
from kimiflow.cli.selection import Sort
from kimiflow.cli.teaching import add

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``, in the order in which they are needed."""
    add(
        app,
        login,
        "kimiflow login work",
        "kimiflow login work personal --no-browser",
        "kimiflow login work --force       sign in anew; the old token works until then",
        "kimiflow login work --no-wait --json",
        "kimiflow login --from team.txt    on each line: name [provider] [proxy]",
        "kimiflow login work --renew 3     another code when one runs out, up to three times",
    )
    add(
        app,
        run,
        "kimiflow run",
        "kimiflow run --until-settled",
        "kimiflow run --sync cliproxyapi:~/.cli-proxy-api",
        "KIMIFLOW_LOG_FORMAT=json kimiflow run",
    )
    add(
        app,
        status,
        "kimiflow status",
        "kimiflow status work --json",
        "kimiflow status --watch",
        "kimiflow status --profile",
        "kimiflow status --workers",
        "kimiflow status 'team-*' --state denied,expired",
        "kimiflow status --sort expires",
    )
    add(
        app,
        token,
        "kimiflow token work",
        'curl -H "Authorization: Bearer $(kimiflow token work)" https://api.kimi.com/coding/v1/me',
    )
    add(app, refresh, "kimiflow refresh work", "kimiflow refresh 'team-*'", "kimiflow refresh --all")
    add(app, logout, "kimiflow logout work", "kimiflow logout work personal --forget", "kimiflow logout 'old-*'")
    add(app, history, "kimiflow history work", "kimiflow history work --json")


def login(
    names: NewNames = None,
    provider: Annotated[
        str | None, typer.Option(metavar="P", help="Whose account it is: kimi, kimi-global, or one of config.toml.")
    ] = None,
    proxy: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="From now on, reach the server through this proxy. With a password: env:VARIABLE."
        ),
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", metavar="", help="Open no browser.")] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", metavar="", help="Return once every code has been shown.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", metavar="", help="Sign in anew, though it is signed in.")] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Stop waiting after so many seconds; nothing is lost.")
    ] = None,
    from_file: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help=r"Sign in all accounts of a list: name \[provider] \[proxy] on each line; - is stdin.",
            show_default=False,
        ),
    ] = None,
    renew: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Ask for another code when one runs out unapproved, up to so many times for each account.",
            show_default=False,
        ),
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", metavar="", help="Print one JSON object a line whenever a sign-in changes state.")
    ] = False,
) -> int:
    """Sign accounts in: show link, code and QR code, and wait for the approval.

    A sign-in that is still pending is picked up, with the same code. Ctrl-C leaves it pending. Where one line of a
    list is wrong, none is begun.
    """
    from kimiflow.cli.login import Wish
    from kimiflow.cli.login import login as work

    return work(
        Wish(
            names or [],
            provider=provider,
            proxy=proxy,
            browser=not no_browser,
            wait=not no_wait,
            force=force,
            timeout=timeout,
            from_file=from_file,
            renew=renew,
            as_json=as_json,
        )
    )


def run(
    until_settled: Annotated[
        bool, typer.Option("--until-settled", metavar="", help="End once no sign-in is on its way.")
    ] = False,
    sync: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FORMAT:DIR",
            help="Keep a folder of another tool in step: a file with an access token for each account, "
            "never a refresh token. FORMAT is cliproxyapi, kimi-cli, kimi-code, env or json. Repeatable.",
            show_default=False,
        ),
    ] = None,
) -> int:
    """Drive every account until stopped: poll what is pending, refresh what runs out.

    Any number of workers may run at once, on one store. Ctrl-C and SIGTERM let requests in flight land.
    """
    from kimiflow.cli.run import work

    return work(until_settled=until_settled, sync=sync or [])


def status(
    names: SomePatterns = None,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", metavar="", help="Show it anew whenever it changes, until Ctrl-C.")
    ] = False,
    profile: Annotated[
        bool, typer.Option("--profile", metavar="", help="Ask the API who each is, and what is left of the quota.")
    ] = False,
    workers: Annotated[
        bool, typer.Option("--workers", metavar="", help="Show who works, on which host, and who holds what.")
    ] = False,
    state: Annotated[
        str | None,
        typer.Option(
            metavar="STATE",
            help="Only those in this state, or in these: granted,pending,signed_out…",
            show_default=False,
            autocompletion=states,
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those with this label, or glob.", show_default=False)
    ] = None,
    sort: Annotated[Sort, typer.Option(metavar="BY", help="name, state, expires or updated.")] = Sort.name,
    long: Annotated[bool, typer.Option("--long", metavar="", help="With --json: label and disabled as well.")] = False,
) -> int:
    """Show every account: its state, what it holds, its next step, its last error."""
    from kimiflow.cli.selection import Selection, parse_states
    from kimiflow.cli.status import status as work

    selection = Selection(parse_states(state), label, sort)
    return work(names or [], selection, as_json=as_json, watch=watch, profile=profile, workers=workers, long=long)


def token(name: Name, as_json: Json = False) -> int:
    """Print a fresh access token and nothing else; it is refreshed first where that is due."""
    from kimiflow.cli.token import token as work

    return work(name, as_json=as_json)


def refresh(
    names: SomePatterns = None,
    every: Annotated[bool, typer.Option("--all", metavar="", help="All accounts that hold tokens.")] = False,
) -> int:
    """Refresh tokens now."""
    if bool(names) == every:
        from kimiflow.errors import UsageError

        raise UsageError(
            "--all leaves no room for account names" if every else "which accounts?",
            hint="It is either: kimiflow refresh NAME..., or: kimiflow refresh --all",
        )
    from kimiflow.cli.token import refresh as work

    return work(names or [])


def logout(
    names: Patterns,
    forget: Annotated[
        bool, typer.Option("--forget", metavar="", help="Delete name, provider, device id and history as well.")
    ] = False,
    no_revoke: Annotated[
        bool,
        typer.Option("--no-revoke", metavar="", help="Do not tell the server, for somebody else who has the tokens."),
    ] = False,
) -> int:
    """Delete the tokens of accounts, and abandon their sign-ins.

    Name, provider, device id and history stay, for the next sign-in, unless --forget.

    Where the provider has a revocation_endpoint, its server is told to take the tokens back. The accounts are signed
    out whether it can be reached or not.
    """
    from kimiflow.cli.logout import logout as work

    return work(names, forget=forget, revoke=not no_revoke)


def history(
    name: Name,
    as_json: Json = False,
    unfolded: Annotated[
        bool, typer.Option("--all", metavar="", help="Do not fold rows that repeat themselves.")
    ] = False,
) -> int:
    """Show every transition of an account: when, from, to, why."""
    from kimiflow.cli.history import history as work

    return work(name, as_json=as_json, unfolded=unfolded)

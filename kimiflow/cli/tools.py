"""What can be typed now and then: the machine's picture, the database's schema, a server to play with, the tour.

As in ``commands``, here are the words only.
"""

# ruff: noqa: FBT002

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from kimiflow.cli.teaching import add, examples

__all__ = ["register"]


class Format(Enum):
    """How the machine is drawn."""

    mermaid = "mermaid"
    dot = "dot"


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    add(app, machine, "kimiflow machine", "kimiflow machine --format dot | dot -Tsvg > machine.svg")
    db = typer.Typer(
        help="Look after the schema of the database.",
        rich_markup_mode="rich",
        no_args_is_help=True,
        epilog=examples("kimiflow db check", "kimiflow db upgrade"),
    )
    add(db, db_upgrade, "kimiflow db upgrade", name="upgrade")
    add(db, db_current, "kimiflow db current", name="current")
    add(db, db_check, "kimiflow db check", name="check")
    app.add_typer(db, name="db")
    add(
        app,
        sandbox,
        "kimiflow sandbox",
        "kimiflow sandbox --port 8700 --approve 10",
        "kimiflow sandbox --approve auto --fault 503:poll=0.2 --fault reset=0.05",
        "kimiflow sandbox --list-faults",
    )
    add(app, demo, "kimiflow demo")


def machine(
    form: Annotated[Format, typer.Option("--format", help="For Markdown, or for Graphviz.")] = Format.mermaid,
) -> int:
    """Print the state machine of a sign-in, drawn from the table that runs."""
    from kimiflow.cli.talk import result
    from kimiflow.machine import to_dot, to_mermaid

    result(to_dot() if form is Format.dot else to_mermaid())
    return 0


def db_upgrade() -> int:
    """Bring the database's schema up to date; make the database where there is none.

    Other commands do it by themselves before they need it.
    """
    from kimiflow.cli.db import upgrade

    return upgrade()


def db_current() -> int:
    """Print the revision of the database's schema."""
    from kimiflow.cli.db import current

    return current()


def db_check() -> int:
    """Compare the database with what this program expects; exit with 1 where they differ."""
    from kimiflow.cli.db import check

    return check()


def sandbox(
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 8700,
    approve: Annotated[
        str, typer.Option(metavar="WHO", help="manual (on its page), auto, deny, or after how many seconds.")
    ] = "manual",
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="SPEC", help="What goes wrong, such as 503:poll=0.2; see --list-faults. Repeatable."),
    ] = None,
    interval: Annotated[float, typer.Option(metavar="S", help="Seconds between two polls.")] = 5.0,
    code_lifetime: Annotated[float, typer.Option(metavar="S", help="Life of a device code.")] = 1800.0,
    token_lifetime: Annotated[float, typer.Option(metavar="S", help="Life of an access token.")] = 900.0,
    list_faults: Annotated[
        bool, typer.Option("--list-faults", metavar="", help="Say what can go wrong, and exit.")
    ] = False,
) -> int:
    """Run a Kimi-compatible authorization server on this machine, to try things out.

    It speaks the device flow, rotates refresh tokens, notices reuse, and has a page to approve or deny. What it
    issues is worth nothing elsewhere, and is gone when it stops.
    """
    from kimiflow.cli import sandbox as work

    if list_faults:
        return work.list_faults()
    return work.serve(
        port=port,
        approve=approve,
        faults=fault or [],
        interval=interval,
        code_lifetime=code_lifetime,
        token_lifetime=token_lifetime,
    )


def demo() -> int:
    """Take the tour: half a minute, no account, no network, no questions.

    Five accounts sign in at a sandbox on this machine, one of them slowed down, one denied, one left to expire.
    The worker is killed half way and started again, and the store is read afterwards: was anything lost?
    """
    from kimiflow.cli.demo import demo as work

    return work()

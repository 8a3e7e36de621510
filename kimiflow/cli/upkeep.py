"""What can be typed to look after many accounts, and after kimiflow itself.

As in ``commands``, here are the words only.
"""

# Typer reads the annotations at run time, and a flag is a parameter that is true or false.
# ruff: noqa: FBT002, TC001

from __future__ import annotations

from typing import Annotated

import typer

from kimiflow.cli.arguments import Json, Name, Pattern, Patterns
from kimiflow.cli.teaching import add, examples
from kimiflow.model import valid_account_name

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Adds the commands to ``app``."""
    add(app, disable, "kimiflow disable work", "kimiflow disable 'team-*'")
    add(app, enable, "kimiflow enable work", "kimiflow enable 'team-*'")
    add(app, rename, "kimiflow rename work office")
    add(
        app,
        label,
        "kimiflow label work 'Ann, until March'",
        "kimiflow label 'team-*' shared",
        "kimiflow label work                    takes its label away",
    )
    add(app, set_, "kimiflow set work --origin https://auth.example", name="set")
    key = typer.Typer(
        help="Look after the key that the secrets are sealed with.",
        rich_markup_mode="rich",
        no_args_is_help=True,
        epilog=examples("kimiflow key check", "kimiflow key rotate", "kimiflow key new"),
    )
    add(key, key_check, "kimiflow key check", "kimiflow key check --json", name="check")
    add(
        key,
        key_rotate,
        "kimiflow key rotate",
        "kimiflow key rotate --prepare       where several machines use one database",
        name="rotate",
    )
    add(key, key_new, "kimiflow key new", "kimiflow key new --yes", name="new")
    app.add_typer(key, name="key")
    add(app, doctor, "kimiflow doctor", "kimiflow doctor --json")


def disable(names: Patterns) -> int:
    """Keep accounts fresh, but have no pool hand them out.

    kimiflow token, exec and export, which name an account, still serve it.
    """
    from kimiflow.cli.accounts import set_disabled

    return set_disabled(names, disabled=True)


def enable(names: Patterns) -> int:
    """Have pools hand accounts out again."""
    from kimiflow.cli.accounts import set_disabled

    return set_disabled(names, disabled=False)


def rename(
    old: Name,
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The new name.", show_default=False, callback=valid_account_name)
    ],
) -> int:
    """Give an account another name; tokens, device id and history stay.

    Programs that ask for the old name are told that there is no such account.
    """
    from kimiflow.cli.accounts import rename as work

    return work(old, new)


def label(
    name: Pattern,
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to note; nothing takes it away.", show_default=False)
    ] = None,
) -> int:
    """Note something about an account, for kimiflow status to show; without a text, take the note away."""
    from kimiflow.cli.accounts import label as work

    return work([name], text)


def set_(
    names: Patterns,
    origin: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where the server is now that has signed them in: scheme, host and port.",
            show_default=False,
        ),
    ],
) -> int:
    """Say that the authorization server of accounts has moved.

    Their codes and refresh tokens go to the server that issued them and nowhere else, whatever the settings say. Where
    that server itself has another address now, say so here, and only then.
    """
    from kimiflow.cli.accounts import set_origin

    return set_origin(names, origin)


def key_check(as_json: Json = False) -> int:
    """Say which key seals, where it is from, and how many secrets each key opens; exit with 1 where any does not open."""
    from kimiflow.cli.keys import check

    return check(as_json=as_json)


def key_rotate(
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", metavar="", help="Only add the next key to the key file: it opens, and does not seal."
        ),
    ] = False,
    everywhere: Annotated[
        bool,
        typer.Option("--everywhere", metavar="", help="Every machine that uses the database has this key file by now."),
    ] = False,
) -> int:
    """Make a new key, seal everything with it, and drop the old one, while workers run.

    Whatever stops it, type it again: it goes on where it was. Workers on this machine notice by themselves. Where
    other machines use the same database, they need the key file before anything is sealed with a new key: see
    --prepare.
    """
    from kimiflow.cli.keys import rotate

    return rotate(prepare=prepare, everywhere=everywhere)


def key_new(
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="Give up what no key opens.")] = False,
) -> int:
    """Go on with a new key after the old one was lost.

    Without --yes it only says what is lost: the tokens and pending sign-ins that no key at hand opens. With it, these
    accounts have to sign in again; they keep name, provider, device id and history. All others are left alone.
    """
    from kimiflow.cli.keys import new

    return new(sure=yes)


def doctor(as_json: Json = False) -> int:
    """Look for what is wrong around kimiflow, and say what to do; exit with 1 where anything is.

    It looks at settings, files, the key, the database and its schema, workers, proxies, servers and clocks. It changes
    nothing, and sends no secret.
    """
    from kimiflow.cli.doctor import doctor as work

    return work(as_json=as_json)

"""``kimiflow login --from FILE``: names, each with its provider and proxy, one a line.

``name [provider] [proxy]``, with blanks or commas in between. A ``-`` leaves the provider to ``--provider``, and so does
what is missing. ``#`` begins a comment, and a first line with the names of the columns is passed over.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kimiflow.errors import UsageError
from kimiflow.files import read_named
from kimiflow.http.proxies import checked_proxy
from kimiflow.model import valid_account_name
from kimiflow.provider import find_provider

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kimiflow.provider import Provider
    from kimiflow.status import Status

__all__ = ["Entry", "check_known", "parse", "read", "with_defaults"]

_COLUMNS = ["name", "provider", "proxy"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One account that is to be signed in."""

    where: str
    name: str
    provider: str | None = None
    proxy: str | None = None


def read(path: str, providers: Mapping[str, Provider]) -> list[Entry]:
    """The list in a file; ``-`` is stdin.

    :raises UsageError: where it cannot be read, or naming the first line that is wrong.
    """
    try:
        text = sys.stdin.read() if path == "-" else read_named(Path(path).expanduser()).decode("utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not text in UTF-8") from None
    return parse(text, "stdin" if path == "-" else path, providers)


def parse(text: str, origin: str, providers: Mapping[str, Provider]) -> list[Entry]:
    """The list that ``text`` holds.

    :raises UsageError: naming the first line that is wrong, and what is wrong with it.
    """
    entries: dict[str, Entry] = {}
    seen_any = False
    for number, line in enumerate(text.splitlines(), 1):
        fields = _fields(line)
        if not fields:
            continue
        first, seen_any = not seen_any, True
        if first and len(fields) > 1 and [field.lower() for field in fields] == _COLUMNS[: len(fields)]:
            continue
        entry = _entry(fields, f"{origin}, line {number}", providers)
        if entry.name in entries:
            raise UsageError(f"{entry.where}: {entry.name} stands on {entries[entry.name].where.rpartition(', ')[2]}")
        entries[entry.name] = entry
    if not entries:
        raise UsageError(f"{origin} names no account", hint="One a line: name [provider] [proxy]")
    return list(entries.values())


def _fields(line: str) -> list[str]:
    line = re.sub(r"(^|\s)#.*", "", line).strip()
    return [field.strip() for field in line.split(",")] if "," in line else line.split()


def _entry(fields: Sequence[str], where: str, providers: Mapping[str, Provider]) -> Entry:
    if len(fields) > len(_COLUMNS):
        raise UsageError(f"{where}: {fields[3]!r} is one field too many", hint="A line is: name [provider] [proxy]")
    name, provider, proxy = [None if field in {"", "-"} else field for field in [*fields, "", ""][:3]]
    try:
        entry = Entry(where, valid_account_name(name or fields[0]), provider, proxy)
        if provider is not None:
            find_provider(providers, provider)
        if proxy is not None:
            checked_proxy("the proxy", proxy, may_hold_password=False)
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", hint=error.hint) from None
    return entry


def with_defaults(entries: Iterable[Entry], provider: str | None, proxy: str | None) -> list[Entry]:
    """The entries, with what they leave out."""
    return [replace(each, provider=each.provider or provider, proxy=each.proxy or proxy) for each in entries]


def check_known(entries: Iterable[Entry], found: Iterable[Status]) -> None:
    """Whether each account that exists may be signed in like this.

    :raises UsageError: naming the first that has another provider, which it keeps for life.
    """
    known = {status.account: status.provider for status in found}
    for entry in entries:
        has = known.get(entry.name)
        if has is not None and entry.provider is not None and entry.provider != has:
            raise UsageError(
                f"{entry.where}: {entry.name} belongs to the provider {has}, not to {entry.provider}",
                hint=f"Choose another name, or forget it first: kimiflow logout --forget {entry.name}",
            )

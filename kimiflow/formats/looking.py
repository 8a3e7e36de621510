"""Finding credentials in files and folders, and telling what is the matter with those that are of no use."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from kimiflow.formats import all_formats
from kimiflow.formats.base import AccessOnly, Credential, Format, Revoked, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

__all__ = ["Found", "Verdict", "look_at", "look_into", "usual_places"]

_LARGEST: Final = 1 << 20

_IN_A_FOLDER: Final = ("*.json", "*.env", "credentials/kimi-code.json", "*/credentials/kimi-code.json")
"""Backups, drafts and logs have other names, so they are never taken for credentials."""


class Verdict(Enum):
    """What a file is good for."""

    USABLE = "usable"
    NOTHING_TO_TAKE = "nothing_to_take"
    """An access token only, which somebody else keeps fresh."""
    REVOKED = "revoked"
    FAILED = "failed"
    STRANGER = "stranger"
    """Something else altogether."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file, and what is in it. ``problem`` says in half a sentence why there is no credential."""

    path: Path
    verdict: Verdict
    format: Format | None = None
    credential: Credential | None = None
    problem: str = ""


def usual_places(environment: Mapping[str, str], home: Path) -> list[Path]:
    """Where the tools keep their files, as far as there is anything."""
    return [place for each in all_formats().values() for place in each.places(environment, home) if place.exists()]


def look_into(paths: Iterable[Path]) -> Iterator[Found]:
    """Every file among ``paths`` and in the folders among them, each once.

    A file that was named is expected to be a credential; one that lies in a folder may be anything.
    """
    seen: set[str] = set()
    for path in paths:
        if path.is_dir():
            inside = sorted({file for pattern in _IN_A_FOLDER for file in path.glob(pattern) if file.is_file()})
            founds = [look_at(file) for file in inside]
        else:
            found = look_at(path)
            if found.verdict is Verdict.STRANGER:
                found = Found(path, Verdict.FAILED, problem="it is no credential of a tool that kimiflow knows")
            founds = [found]
        for found in founds:
            real = os.path.realpath(found.path)
            if real not in seen:
                seen.add(real)
                yield found


def look_at(path: Path) -> Found:
    """One file."""
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except OSError as error:
        return Found(path, Verdict.FAILED, problem=f"it cannot be read: {error.strerror}")
    if len(data) > _LARGEST:
        return Found(path, Verdict.STRANGER, problem="it is too large")
    problem = None
    for each in all_formats().values():
        if (path.suffix == ".env") is not (each.name == "env"):
            continue
        try:
            if not each.recognises(each.fields(data), path):
                continue
        except Unusable as error:
            problem = problem or str(error)
            continue
        try:
            return Found(path, Verdict.USABLE, each, each.parse(data, path))
        except AccessOnly as error:
            return Found(path, Verdict.NOTHING_TO_TAKE, each, problem=str(error))
        except Revoked as error:
            return Found(path, Verdict.REVOKED, each, problem=str(error))
        except Unusable as error:
            return Found(path, Verdict.FAILED, each, problem=str(error))
    if problem is not None:
        return Found(path, Verdict.FAILED, problem=problem)
    return Found(path, Verdict.STRANGER)

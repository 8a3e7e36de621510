"""Finding credentials in files and folders, and telling what is the matter with those that are of no use."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from kimiflow.files import is_stream, read_named, read_regular
from kimiflow.formats import all_formats
from kimiflow.formats.base import AccessOnly, Credential, Format, Revoked, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["Found", "Verdict", "look_at", "look_into", "usual_places"]

_PIPED: Final = Path("/dev/stdin")
"""Where content comes from that came through a pipe, whatever the shell calls that."""

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
    place: tuple[Path, PurePosixPath] | None = None
    """Where it may be changed: a folder, and the file below it, with links resolved. ``None`` where it is no file."""


def usual_places(environment: Mapping[str, str], home: Path) -> list[Path]:
    """Where the tools keep their files, as far as there is anything."""
    return [place for each in all_formats().values() for place in each.places(environment, home) if place.exists()]


def look_into(paths: Iterable[Path]) -> Iterator[Found]:
    """Every file among ``paths`` and in the folders among them, each once.

    A file that was named is expected to be a credential, and may be a link to one; one that lies in a folder may be
    anything, but a link that leads out of that folder is not followed.
    """
    seen: set[str] = set()
    for path in paths:
        if path.is_dir():
            inside = sorted({file for pattern in _IN_A_FOLDER for file in path.glob(pattern) if file.is_file()})
            founds = [_in_a_folder(file, path) for file in inside]
        else:
            founds = [_named(path)]
        for found in founds:
            real = os.path.realpath(found.path)
            if real not in seen:
                seen.add(real)
                yield found


def _named(path: Path) -> Found:
    found = look_at(path)
    if found.verdict is Verdict.STRANGER:
        return Found(path, Verdict.FAILED, problem="it is no credential of a tool that kimiflow knows")
    if is_stream(path):
        return found
    real = Path(os.path.realpath(path))
    return replace(found, place=(real.parent, PurePosixPath(real.name)))


def _in_a_folder(path: Path, folder: Path) -> Found:
    real, root = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    found = look_at(path, stream=False)
    if real.is_relative_to(root):
        return replace(found, place=(root, PurePosixPath(*real.relative_to(root).parts)))
    if found.verdict is Verdict.STRANGER:
        return found
    return Found(
        path, Verdict.FAILED, problem=f"it is a link that leads out of its folder; name the file itself: {real}"
    )


def look_at(path: Path, *, stream: bool = True) -> Found:
    """One file; with ``stream`` also what a shell opened, read to its end."""
    try:
        data = read_named(path) if stream else read_regular(path)
    except OSError as error:
        if error.errno == errno.EFBIG:
            return Found(path, Verdict.STRANGER, problem="it is too large")
        return Found(path, Verdict.FAILED, problem=f"it cannot be read: {error.strerror}")
    return replace(_credential_in(data, _PIPED if stream and is_stream(path) else path), path=path)


def _credential_in(data: bytes, path: Path) -> Found:
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

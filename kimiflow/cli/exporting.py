"""``kimiflow export``: a token in the words of another tool."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from kimiflow.cli import failures
from kimiflow.cli.names import expanded, is_pattern
from kimiflow.cli.running import run
from kimiflow.cli.talk import is_terminal, result, say, shown
from kimiflow.errors import KimiFlowError, UsageError
from kimiflow.files import Folder, Irregular
from kimiflow.formats import find_format
from kimiflow.formats.base import Unusable
from kimiflow.neighbours.aside import Aside

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from kimiflow.flow import KimiFlow
    from kimiflow.formats.base import Format, Grant

__all__ = ["Wish", "export"]

_STDOUT: Final = frozenset({"-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"})
"""Names of what is open already, and no file that could be replaced."""

_PATIENCE: Final = 5.0
"""Seconds that a lock on the folder is waited for."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was typed."""

    names: Sequence[str]
    format: str
    output: str | None
    hand_over: bool
    to_stdout: bool


def export(wish: Wish) -> int:
    """Runs the command; returns the exit code."""
    form = find_format(wish.format)
    output = None if wish.output in _STDOUT else wish.output
    several = len(set(wish.names)) > 1 or any(map(is_pattern, wish.names))
    if wish.to_stdout and (not wish.hand_over or output is not None):
        raise UsageError("--print-refresh-token goes with --with-refresh-token, and not with --output")
    if output is None and several:
        raise UsageError("several accounts need a folder", hint="Name it with: --output DIR/")
    if wish.hand_over and output is None and not wish.to_stdout:
        raise UsageError(
            "a refresh token is not printed: if it is lost on its way, the sign-in is",
            hint="Name a file or folder with --output PATH, or insist with --print-refresh-token",
        )

    async def body(flow: KimiFlow) -> int:
        codes = []
        for name in await expanded(flow, wish.names):
            place = _Stdout(form) if output is None else _Files.at(output, form, name, several=several)
            codes.append(await _reported(flow, name, place, hand_over=wish.hand_over))
        return failures.worst(codes)

    return run(body)


async def _reported(flow: KimiFlow, name: str, place: _Stdout | _Files, *, hand_over: bool) -> int:
    try:
        place.check()
        token = await flow.token(name)
        if hand_over:
            await flow.moving.hand_over(name, place, destination=place.destination)
        else:
            # A lock, or a disk, may have to be waited for; a signal must not.
            await Aside(place.destination).run(partial(place.write, await flow.moving.grant(token)))
    except asyncio.CancelledError:
        if hand_over:
            # What had begun was carried through, one way or the other.
            say(f"Stopped. Whether {name} was handed over is told by: kimiflow history {name}")
        raise
    except KimiFlowError as error:
        return failures.report(error)
    except (OSError, Unusable) as error:
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        return failures.report(KimiFlowError(f"{name} was not exported: {reason}", account=name))
    if hand_over:
        say(f"{name}: handed over to {place.destination}; kimiflow does not refresh it any more")
    elif isinstance(place, _Files):
        result(f"{name}: written to {place.destination}")
    return 0


class _Stdout:
    """Whoever reads stdout."""

    destination = "stdout"

    def __init__(self, form: Format) -> None:
        self._form = form

    def check(self) -> None:
        """Nothing is in the way."""

    def write(self, grant: Grant) -> None:
        data = self._form.render(grant)
        if is_terminal(sys.stdout) and not data.endswith(b"\n"):
            data += b"\n"
        sys.stdout.buffer.write(data)
        sys.stdout.flush()

    def withdraw(self) -> None:
        say("What was printed is no longer good: do not use it.")


class _Files:
    """A file, and what its tool wants beside it where it was given a folder.

    The file or the folder that a person named may be a link, and is followed as a shell would. What is below that
    folder has names that kimiflow chose, and there none is.

    :param root: the folder.
    :param file: the file below it.
    :param beside: the folder below it for what the tool wants besides; ``None`` where the file is all that was asked for.
    """

    def __init__(self, form: Format, root: Path, file: PurePosixPath, beside: PurePosixPath | None) -> None:
        self._form = form
        self._root = root
        self._file = file
        self._beside = beside
        self._written: bytes | None = None

    @classmethod
    def at(cls, output: str, form: Format, name: str, *, several: bool) -> Self:
        """``output`` is a folder where it is one, ends like one, or has to hold more than a file."""
        path = Path(output).expanduser().absolute()
        is_folder = output.endswith(("/", os.sep)) or path.is_dir() or several
        if not is_folder and not (form.one_credential and path.suffix != ".json"):
            real = Path(os.path.realpath(path))
            return cls(form, real.parent, PurePosixPath(real.name), None)
        below = PurePosixPath(name) if form.one_credential and several else PurePosixPath()
        return cls(form, path, below / form.file_in(name), below)

    @property
    def _path(self) -> Path:
        return self._root / self._file

    @property
    def destination(self) -> str:
        """Where it goes, for people."""
        return shown(self._path)

    def check(self) -> None:
        """:raises UsageError: where something is in the way that would be lost."""
        with suppress(FileNotFoundError), self._folder() as folder:
            self._look(folder)

    def _folder(self, *, make: bool = False) -> Folder:
        with Folder.open(self._root, make=make) as root:
            return root.below(self._file.parent.parts, make=make)

    def _look(self, folder: Folder) -> bytes | None:
        """What is there now."""
        try:
            data = folder.read(self._file.name)
        except Irregular as error:
            raise UsageError(
                f"{shown(error.filename)}: {error.strerror}",
                hint="Name another file; or print it, for whatever reads it: kimiflow export NAME --output -",
            ) from None
        if data is not None and not self._form.may_be_replaced(data, self._path):
            raise UsageError(
                f"{self._path} holds a refresh token, or something else, that would be lost",
                hint=f"Take it in first: kimiflow import {self._path}, or move it away.",
            )
        return data

    def write(self, grant: Grant) -> None:
        # A worker may keep this folder in step: what it has just looked at must not change before it writes.
        with self._folder(make=True) as folder, folder.alone(time.monotonic() + _PATIENCE):
            before = self._look(folder)
            if self._beside is not None:
                self._write_beside(self._beside, grant)
            self._written = self._form.render(grant, before)
            folder.write(self._file.name, self._written)

    def _write_beside(self, below: PurePosixPath, grant: Grant) -> None:
        with Folder.open(self._root) as root:
            for name, data in self._form.beside(grant).items():
                with root.below((*below.parts, *name.parent.parts), make=True) as folder:
                    folder.write(name.name, data)

    def withdraw(self) -> None:
        with suppress(FileNotFoundError), self._folder() as folder:
            if self._written is not None and folder.read(self._file.name) == self._written:
                folder.remove(self._file.name)

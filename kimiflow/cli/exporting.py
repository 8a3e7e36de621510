"""``kimiflow export``: a token in the words of another tool."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kimiflow.cli import failures
from kimiflow.cli.names import expanded, is_pattern
from kimiflow.cli.running import run
from kimiflow.cli.talk import is_terminal, result, say, shown
from kimiflow.errors import KimiFlowError, UsageError
from kimiflow.files import alone_in, make_private_folder, remove_file, write_file
from kimiflow.formats import find_format
from kimiflow.formats.base import Unusable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from kimiflow.flow import KimiFlow
    from kimiflow.formats.base import Format, Grant

__all__ = ["Wish", "export"]


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
    several = len(set(wish.names)) > 1 or any(map(is_pattern, wish.names))
    if wish.to_stdout and (not wish.hand_over or wish.output is not None):
        raise UsageError("--print-refresh-token goes with --with-refresh-token, and not with --output")
    if wish.output is None and several:
        raise UsageError("several accounts need a folder", hint="Name it with: --output DIR/")
    if wish.hand_over and wish.output is None and not wish.to_stdout:
        raise UsageError(
            "a refresh token is not printed: if it is lost on its way, the sign-in is",
            hint="Name a file or folder with --output PATH, or insist with --print-refresh-token",
        )

    async def body(flow: KimiFlow) -> int:
        codes = []
        for name in await expanded(flow, wish.names):
            place = _Stdout(form) if wish.output is None else _Files.at(wish.output, form, name, several=several)
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
            place.write(await flow.moving.grant(token))
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
    """A file, and what its tool wants beside it where it was given a folder."""

    def __init__(self, form: Format, file: Path, folder: Path | None) -> None:
        self._form = form
        self._file = file
        self._folder = folder
        self._written: bytes | None = None
        self.destination = shown(file)

    @classmethod
    def at(cls, output: str, form: Format, name: str, *, several: bool) -> Self:
        """``output`` is a folder where it is one, ends like one, or has to hold more than a file."""
        path = Path(output).expanduser().absolute()
        is_folder = output.endswith(("/", os.sep)) or path.is_dir() or several
        if not is_folder and not (form.one_credential and path.suffix != ".json"):
            return cls(form, path, None)
        root = path / name if form.one_credential and several else path
        return cls(form, root / form.file_in(name), root)

    def check(self) -> None:
        """:raises UsageError: where something is in the way that would be lost."""
        try:
            data = self._file.read_bytes()
        except FileNotFoundError:
            return
        if not self._form.may_be_replaced(data, self._file):
            raise UsageError(
                f"{self._file} holds a refresh token, or something else, that would be lost",
                hint=f"Take it in first: kimiflow import {self._file}, or move it away.",
            )

    def write(self, grant: Grant) -> None:
        make_private_folder(self._file.parent)
        # A worker may keep this folder in step: what it has just looked at must not change before it writes.
        with alone_in(self._file.parent):
            self.check()
            self._write(grant)

    def _write(self, grant: Grant) -> None:
        if self._folder is not None:
            for name, data in self._form.beside(grant).items():
                write_file(self._folder / name, data)
        before = self._file.read_bytes() if self._file.exists() else None
        self._written = self._form.render(grant, before)
        write_file(self._file, self._written)

    def withdraw(self) -> None:
        if self._written is not None and self._file.exists() and self._file.read_bytes() == self._written:
            remove_file(self._file)

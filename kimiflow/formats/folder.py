"""A folder that is kept like the store: a file for each grant, and none for those that are gone.

What kimiflow wrote stands in a list beside it (``.kimiflow-sync``), which is written *before* a file is, so that a kill
leaves no file that nobody answers for. Only what is on the list is ever removed, and even that only while it holds no
refresh token: somebody who signed in there with the tool itself has made the file his own. What is not on the list
is replaced only where it is an access token in the same format, such as a file that an import has blanked.

One worker keeps a folder at a time (``.kimiflow-sync.lock``, which the system takes back from whoever dies); others
stand by.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

from kimiflow.errors import KimiFlowError, UsageError
from kimiflow.files import DRAFT, alone_in, make_private_folder, remove_file, try_lock, write_file
from kimiflow.formats.base import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kimiflow.formats.base import Format, Grant

__all__ = ["KeptFolder", "Report", "Wanted"]

_LIST: Final = ".kimiflow-sync"
_LOCK: Final = ".kimiflow-sync.lock"

_DRAFT_IS_OLD: Final = 60.0
"""Seconds, by the clock of files; a write takes far less."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A grant that has to be in the folder. Equal versions mean the same token."""

    stem: str
    version: object
    access_token: Callable[[], str]
    """In clear; asked for only where a file may be out of date."""
    grant: Callable[[], Grant]


@dataclass(slots=True)
class Report:
    """What was done, and what could not be."""

    written: int = 0
    removed: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    """File, and the reason in half a sentence."""


class KeptFolder:
    """One folder, in one format. All methods block.

    :param owner: which store it is kept for; two cannot share a folder, since each would clear the other's files away.
    """

    def __init__(self, form: Format, path: Path, owner: str) -> None:
        self.form = form
        self.path = path
        self._owner = owner
        self._lock: int | None = None
        self._listed: set[PurePosixPath] = set()
        self._versions: dict[str, tuple[PurePosixPath, object]] = {}

    def take(self) -> bool:
        """Makes the folder where it is missing, and becomes its keeper; ``False`` where another worker is.

        :raises UsageError: where it cannot be used.
        """
        if self._lock is not None:
            return True
        try:
            make_private_folder(self.path)
            lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        except OSError as error:
            raise UsageError(f"the folder {self.path} cannot be kept in sync: {error.strerror}") from None
        if not try_lock(lock):
            os.close(lock)
            return False
        try:
            self._listed = self._read_list()
            self._clear_drafts()
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        return True

    def _clear_drafts(self) -> None:
        """Removes what was left by processes that were killed; a young one may be somebody's who is at it."""
        where = ("", "*/", "*/credentials/") if self.form.one_credential else ("",)
        for draft in (each for place in where for each in self.path.glob(f"{place}{DRAFT[0]}*{DRAFT[1]}")):
            with suppress(FileNotFoundError):
                if time.time() - draft.stat().st_mtime > _DRAFT_IS_OLD:
                    draft.unlink()

    def let_go(self) -> None:
        """Stops being its keeper; the files stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
            self._versions.clear()

    def bring_up_to_date(self, wanted: Mapping[str, Wanted]) -> Report:
        """Writes what is new, and removes what is gone. ``wanted`` has the account ids as keys.

        :raises OSError: where not even the list can be written; then nothing else was.
        """
        report = Report()
        files = {key: self._file_of(each.stem) for key, each in wanted.items()}
        self._versions = {key: version for key, version in self._versions.items() if key in wanted}
        due = {
            key: file
            for key, file in files.items()
            if self._versions.get(key) != (file, wanted[key].version) or not (self.path / file).exists()
        }
        first = {file: key for key, file in reversed(files.items())}
        for key, file in list(due.items()):
            problem = (
                "two accounts have this file; rename one of them" if first[file] != key else self._in_the_way(file)
            )
            if problem:
                report.problems.append((str(self.path / file), problem))
                del due[key]
        self._list(self._listed.union(*(self._belonging(wanted[key].stem) for key in due)))
        for key, file in due.items():
            try:
                self._bring(wanted[key], file, report)
            except (OSError, Unusable, KimiFlowError) as error:
                reason = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)
                report.problems.append((str(self.path / file), reason or str(error)))
            else:
                self._versions[key] = (file, wanted[key].version)
        self._remove(self._listed.difference(*(self._belonging(each.stem) for each in wanted.values())), report)
        return report

    def _in_the_way(self, file: PurePosixPath) -> str:
        """Why somebody else's file keeps this one from being written; empty where nothing would be lost."""
        data = None if file in self._listed else _read(self.path / file)
        if data is None or self.form.may_be_replaced(data, self.path / file):
            return ""
        return "kimiflow did not write it, so it is left alone"

    def _file_of(self, stem: str) -> PurePosixPath:
        file = self.form.file_in(stem)
        return PurePosixPath(stem) / file if self.form.one_credential else file

    def _belonging(self, stem: str) -> set[PurePosixPath]:
        root = PurePosixPath(stem) if self.form.one_credential else PurePosixPath()
        return {self._file_of(stem), *(root / each for each in self.form.files_beside)}

    def _bring(self, wanted: Wanted, file: PurePosixPath, report: Report) -> None:
        path = self.path / file
        make_private_folder(path.parent)
        # Between the look at what is there and its replacement, a grant might be handed over to this very file.
        with alone_in(path.parent):
            before = _read(path)
            if before is not None:
                if self._holds_refresh_token(before):
                    raise Unusable("somebody signed in there, so it is left alone")
                if wanted.access_token().encode() in before:
                    return
            grant = wanted.grant()
            root = self.path / wanted.stem if self.form.one_credential else self.path
            for name, data in self.form.beside(grant).items():
                if _read(root / name) != data:
                    write_file(root / name, data)
            write_file(path, self.form.render(grant, before))
        report.written += 1

    def _remove(self, gone: set[PurePosixPath], report: Report) -> None:
        """The deepest first: a device id stays where the credential below it does."""
        left: set[str] = set()
        for file in sorted(gone, key=lambda each: -len(each.parts)):
            path = self.path / file
            if not path.parent.is_dir() or file.parts[0] in left:
                continue
            with alone_in(path.parent):
                data = _read(path)
                if data is None:
                    continue
                if file.name not in {each.name for each in self.form.files_beside} and self._holds_refresh_token(data):
                    left.add(file.parts[0])
                    report.problems.append((str(path), "somebody signed in there, so it is left alone"))
                    continue
                remove_file(path)
            report.removed += 1
            for folder in list(path.relative_to(self.path).parents)[:-1]:
                with suppress(OSError):  # what else lies in it is not ours
                    (self.path / folder).rmdir()
        self._list(self._listed - gone)

    def _holds_refresh_token(self, data: bytes) -> bool:
        try:
            return bool(self.form.refresh_token_in(data))
        except Unusable:
            return False

    def _list(self, files: set[PurePosixPath]) -> None:
        if files != self._listed:
            content = {"format": self.form.name, "owner": self._owner, "files": sorted(map(str, files))}
            write_file(self.path / _LIST, json.dumps(content, indent=1).encode())
            self._listed = files

    def _read_list(self) -> set[PurePosixPath]:
        data = _read(self.path / _LIST)
        if data is None:
            return set()
        try:
            content = json.loads(data)
            form, owner = content["format"], content["owner"]
            files = {PurePosixPath(each) for each in content["files"]}
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{self.path / _LIST}, the list of the files that kimiflow wrote there, is damaged",
                hint="Remove it together with those files.",
            ) from None
        if (form, owner) != (self.form.name, self._owner):
            raise UsageError(
                f"the folder {self.path} is kept in sync, as {form}, for the kimiflow in {owner}",
                hint=f"Choose another folder; or, where that one is no more, remove what it wrote, and {_LIST}.",
            )
        # A list that somebody else wrote must not lead out of the folder.
        return {each for each in files if not each.is_absolute() and ".." not in each.parts}


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None

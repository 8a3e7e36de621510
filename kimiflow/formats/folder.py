"""A folder that is kept like the store: a file for each grant, and none for those that are gone.

What kimiflow wrote stands in a list beside it (``.kimiflow-sync``), which is written *before* a file is, so that a kill
leaves no file that nobody answers for. Only what is on the list is ever removed, and even that only while it holds no
refresh token: somebody who signed in there with the tool itself has made the file his own. What is not on the list
is replaced only where it is an access token in the same format, such as a file that an import has blanked.

The folder is held open, and no link in it is followed: neither the list, which anybody may have written who may write
there, nor a link in the place of a file leads out of it. The folder itself may be named by a link.

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
from kimiflow.files import DRAFT, Folder, is_plain, try_lock
from kimiflow.formats.base import Unusable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kimiflow.formats.base import Format, Grant

__all__ = ["KeptFolder", "Report", "Wanted"]

_LIST: Final = ".kimiflow-sync"
_LOCK: Final = ".kimiflow-sync.lock"

_MOST_OF_A_LIST: Final = 1 << 26
"""Bytes; a hundred thousand accounts take a tenth of it."""

_PATIENCE: Final = 1.0
"""Seconds for which one round waits for the locks of others, all in all. The next round comes soon."""

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
        self._root: Folder | None = None
        self._lock: int | None = None
        self._listed: set[PurePosixPath] = set()
        self._versions: dict[str, tuple[PurePosixPath, object]] = {}

    def take(self) -> bool:
        """Makes the folder where it is missing, and becomes its keeper; ``False`` where another worker is.

        :raises UsageError: where it cannot be used.
        """
        if self._root is not None:
            if self._root.is_still_there():
                return True
            self.let_go()  # it was removed, or another one was put in its place
        try:
            root = Folder.open(self.path, make=True)
        except OSError as error:
            raise self._unusable(error) from None
        try:
            lock = root.open_file(_LOCK, os.O_CREAT | os.O_RDWR)
        except OSError as error:
            root.close()
            raise self._unusable(error) from None
        try:
            if is_free := try_lock(lock):
                self._listed = self._read_list(root)
                self._clear_drafts(root)
                self._root, self._lock = root, lock
        finally:
            if self._root is not root:
                os.close(lock)
                root.close()
        return is_free

    def _unusable(self, error: OSError) -> UsageError:
        where = "" if error.filename in {None, str(self.path)} else f"{error.filename}: "
        return UsageError(f"the folder {self.path} cannot be kept in sync: {where}{error.strerror}")

    def _clear_drafts(self, root: Folder) -> None:
        """Removes what was left by processes that were killed; a young one may be somebody's who is at it."""
        for place in {PurePosixPath(), *(above for file in self._listed for above in file.parents)}:
            with suppress(OSError), root.below(place.parts) as folder:
                for name in folder.names():
                    if name.startswith(DRAFT[0]) and name.endswith(DRAFT[1]):
                        with suppress(OSError):
                            if folder.age(name) > _DRAFT_IS_OLD:
                                folder.remove(name)

    def let_go(self) -> None:
        """Stops being its keeper; the files stay."""
        root, lock, self._root, self._lock = self._root, self._lock, None, None
        if lock is not None:
            os.close(lock)
        if root is not None:
            root.close()
        self._versions.clear()

    def bring_up_to_date(self, wanted: Mapping[str, Wanted]) -> Report:
        """Writes what is new, and removes what is gone; for its keeper. ``wanted`` has the account ids as keys.

        :raises OSError: where not even the list can be written; then nothing else was.
        """
        root = self._root
        assert root is not None  # noqa: S101 - it was taken
        report, until = Report(), time.monotonic() + _PATIENCE
        files = {key: self._file_of(each.stem) for key, each in wanted.items()}
        self._versions = {key: version for key, version in self._versions.items() if key in wanted}
        due = {
            key: file
            for key, file in files.items()
            if self._versions.get(key) != (file, wanted[key].version) or not root.exists(file)
        }
        first = {file: key for key, file in reversed(files.items())}
        for key, file in list(due.items()):
            problem = (
                "two accounts have this file; rename one of them"
                if first[file] != key
                else self._in_the_way(root, file)
            )
            if problem:
                report.problems.append((str(self.path / file), problem))
                del due[key]
        self._list(root, self._listed.union(*(self._belonging(wanted[key].stem) for key in due)))
        for key, file in due.items():
            try:
                self._bring(root, wanted[key], file, until, report)
            except (OSError, Unusable, KimiFlowError) as error:
                report.problems.append((str(self.path / file), _reason(error)))
            else:
                self._versions[key] = (file, wanted[key].version)
        gone = self._listed.difference(*(self._belonging(each.stem) for each in wanted.values()))
        self._list(root, self._listed - self._remove(root, gone, until, report))
        return report

    def _in_the_way(self, root: Folder, file: PurePosixPath) -> str:
        """Why somebody else's file keeps this one from being written; empty where nothing would be lost."""
        if file in self._listed:
            return ""
        try:
            with root.below(file.parent.parts) as folder:
                data = folder.read(file.name)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return _reason(error)
        if data is None or self.form.may_be_replaced(data, self.path / file):
            return ""
        return "kimiflow did not write it, so it is left alone"

    def _file_of(self, stem: str) -> PurePosixPath:
        file = self.form.file_in(stem)
        return PurePosixPath(stem) / file if self.form.one_credential else file

    def _belonging(self, stem: str) -> set[PurePosixPath]:
        root = PurePosixPath(stem) if self.form.one_credential else PurePosixPath()
        return {self._file_of(stem), *(root / each for each in self.form.files_beside)}

    def _bring(self, root: Folder, wanted: Wanted, file: PurePosixPath, until: float, report: Report) -> None:
        # Between the look at what is there and its replacement, a grant might be handed over to this very file.
        with root.below(file.parent.parts, make=True) as folder, folder.alone(until):
            before = folder.read(file.name)
            if before is not None:
                if self._holds_refresh_token(before):
                    raise Unusable("somebody signed in there, so it is left alone")
                if wanted.access_token().encode() in before:
                    return
            grant = wanted.grant()
            above = (wanted.stem,) if self.form.one_credential else ()
            for name, data in self.form.beside(grant).items():
                with root.below((*above, *name.parent.parts), make=True) as beside:
                    if beside.read(name.name) != data:
                        beside.write(name.name, data)
            folder.write(file.name, self.form.render(grant, before))
        report.written += 1

    def _remove(self, root: Folder, gone: set[PurePosixPath], until: float, report: Report) -> set[PurePosixPath]:
        """Returns those that need no further look. The deepest first: a device id stays where the credential does."""
        left: set[str] = set()
        again: set[PurePosixPath] = set()
        for file in sorted(gone, key=lambda each: -len(each.parts)):
            if file.parts[0] in left:
                continue
            try:
                with root.below(file.parent.parts) as folder, folder.alone(until):
                    data = folder.read(file.name)
                    if data is None:
                        continue
                    beside = file.name in {each.name for each in self.form.files_beside}
                    if not beside and self._holds_refresh_token(data):
                        left.add(file.parts[0])
                        report.problems.append((str(self.path / file), "somebody signed in there, so it is left alone"))
                        continue
                    folder.remove(file.name)
            except FileNotFoundError:
                continue
            except OSError as error:
                again.add(file)
                report.problems.append((str(self.path / file), _reason(error)))
                continue
            report.removed += 1
            for above in list(file.parents)[:-1]:
                with suppress(OSError), root.below(above.parent.parts) as folder:  # what else lies in it is not ours
                    folder.remove_folder(above.name)
        return gone - again

    def _holds_refresh_token(self, data: bytes) -> bool:
        try:
            return bool(self.form.refresh_token_in(data))
        except Unusable:
            return False

    def _list(self, root: Folder, files: set[PurePosixPath]) -> None:
        if files != self._listed:
            content = {"format": self.form.name, "owner": self._owner, "files": sorted(map(str, files))}
            root.write(_LIST, json.dumps(content, indent=1).encode())
            self._listed = files

    def _read_list(self, root: Folder) -> set[PurePosixPath]:
        try:
            data = root.read(_LIST, _MOST_OF_A_LIST)
        except OSError as error:
            raise self._unusable(error) from None
        if data is None:
            return set()
        try:
            content = json.loads(data)
            form, owner = content["format"], content["owner"]
            files = {PurePosixPath(each) for each in content["files"]}
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError(
                f"{self.path / _LIST}, the list of the files that kimiflow wrote there, is damaged",
                hint="Remove it together with those files.",
            ) from None
        if (form, owner) != (self.form.name, self._owner):
            raise UsageError(
                f"the folder {self.path} is kept in sync, as {form}, for the kimiflow in {owner}",
                hint=f"Choose another folder; or, where that one is no more, remove what it wrote, and {_LIST}.",
            )
        # A list that somebody else wrote must not lead out of the folder, nor have its keeper's own files removed.
        own = {PurePosixPath(_LIST), PurePosixPath(_LOCK)}
        return {each for each in files if each.parts and all(map(is_plain, each.parts))} - own


def _reason(error: Exception) -> str:
    said = error.strerror if isinstance(error, OSError) else getattr(error, "message", None)
    return said or str(error)

"""Files that hold secrets: written whole or not at all, for their owner alone; and read without waiting for anything.

A name may stand for anything: a named pipe, which has whoever opens it wait for somebody at the other end, a link that
leads elsewhere, a device. So nothing here opens what is no regular file, and below a :class:`Folder` nothing follows a
link: whoever may write there decides about that folder, and about no other.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import PurePosixPath
    from typing import Self

__all__ = [
    "DRAFT",
    "MOST",
    "Folder",
    "Irregular",
    "is_plain",
    "is_stream",
    "lock_file",
    "make_private_folder",
    "open_regular",
    "read_named",
    "read_regular",
    "remove_file",
    "sync_folder",
    "try_lock",
    "write_file",
]

DRAFT: Final = (".kimiflow-", ".tmp")
"""How the name of a draft begins and ends: no tool that looks for its own files takes it for one."""

MOST: Final = 1 << 20
"""Bytes of a file that is read where nothing else is said: credentials, keys and settings are far smaller."""

_OWNER_ONLY: Final = 0o600

_LOOK_AGAIN: Final = 0.02
"""Seconds between two looks at a lock that somebody else has."""

# Not every system has all of these.
_AT_ONCE: Final = sum(getattr(os, flag, 0) for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"))
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: Final = getattr(os, "O_DIRECTORY", 0)
_HELD_OPEN: Final = {os.open, os.stat, os.mkdir, os.rename, os.unlink, os.rmdir, os.link} <= os.supports_dir_fd
"""Whether files can be named by an open folder and a name in it. Windows knows paths only."""

_KINDS: Final = (
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
)

_STREAM: Final = re.compile(r"-|/dev/stdin|/dev/fd/[0-9]+|/proc/self/fd/[0-9]+")


class Irregular(OSError):
    """Something else is there than what was looked for; it was neither read nor changed."""

    def __init__(self, mode: int, path: object, wanted: str = "a regular file") -> None:
        kind = next((kind for is_one, kind in _KINDS if is_one(mode)), "a device")
        super().__init__(errno.EINVAL, f"it is {kind}, not {wanted}; move it away", str(path))


# Reading


def open_regular(
    path: str | os.PathLike[str], flags: int = os.O_RDONLY, *, follow: bool = True, within: int | None = None
) -> int:
    """A descriptor of ``path``, which is a regular file; opening it waits for nobody.

    :param follow: whether it may be a link to one.
    :param within: a descriptor of the folder that ``path`` is in.
    :raises Irregular: where it is something else.
    :raises OSError: where it cannot be opened.
    """
    if not (follow or _NO_LINK):
        _no_link(path)
    try:
        # What cannot be read or written without somebody at the other end opens all the same, or fails at once.
        descriptor = os.open(path, flags | _AT_ONCE | (0 if follow else _NO_LINK), _OWNER_ONLY, dir_fd=within)
    except OSError as error:
        raise _explained(error, path, within, follow=follow) from None
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Irregular(mode, path)
    return descriptor


def read_regular(path: Path, most: int = MOST, *, follow: bool = True) -> bytes:
    """What is in a regular file.

    :raises Irregular: where it is something else, which might have the reader wait for ever.
    :raises OSError: where it cannot be read, or holds more than ``most`` bytes.
    """
    return _content(open_regular(path, follow=follow), most, path)


def is_stream(path: Path) -> bool:
    """Whether ``path`` is a person's word for something that is open already: ``-``, or what ``<(command)`` becomes."""
    return _STREAM.fullmatch(str(path)) is not None


def read_named(path: Path, most: int = MOST) -> bytes:
    """What is in a file that a person named; a stream is read to its end, however long that takes, as was asked for.

    :raises OSError: as :func:`read_regular` does.
    """
    if not is_stream(path):
        return read_regular(path, most)
    return _content(os.dup(0) if str(path) == "-" else os.open(path, os.O_RDONLY), most, path)


def _content(descriptor: int, most: int, path: object) -> bytes:
    """All that there is to read, after which the descriptor is closed."""
    data = bytearray()
    try:
        while len(data) <= most and (piece := os.read(descriptor, 1 << 16)):
            data += piece
    finally:
        os.close(descriptor)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most} bytes", str(path))
    return bytes(data)


def _explained(
    error: OSError, path: str | os.PathLike[str], within: int | None, *, follow: bool, wanted: str = "a regular file"
) -> OSError:
    """Why it could not be opened: what is there says more than the system's word for that."""
    try:
        mode = os.stat(path, dir_fd=within, follow_symlinks=follow).st_mode
    except (OSError, ValueError):
        return error
    as_wanted = stat.S_ISDIR(mode) if wanted == "a folder" else stat.S_ISREG(mode)
    return error if as_wanted else Irregular(mode, path, wanted)


def _no_link(path: str | os.PathLike[str], wanted: str = "a regular file") -> None:
    """For systems that cannot be told to follow none."""
    with suppress(FileNotFoundError):
        if stat.S_ISLNK(mode := os.lstat(path).st_mode):
            raise Irregular(mode, path, wanted)


# Folders


def is_plain(name: str) -> bool:
    """Whether ``name`` names something in a folder, and nothing below or above it."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(name) and PurePath(name).name == name and name != ".." and "\0" not in name


class Folder:
    """A folder that is held open. What is reached through it lies in it, whatever becomes of its name meanwhile.

    The folder itself may be named by a link; below it none is followed. Names are plain: one component each.
    """

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        """What it was called when it was opened; for people."""
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: Path, *, make: bool = False) -> Self:
        """The folder at ``path``; with ``make`` it is made where it is missing, mode 0700.

        :raises OSError: where it cannot be opened, or is none.
        """
        if make:
            make_private_folder(path)
        if not _HELD_OPEN:
            return cls(path, None)
        try:
            return cls(path, os.open(path, os.O_RDONLY | _FOLDER | _AT_ONCE))
        except OSError as error:
            raise _explained(error, path, None, follow=True, wanted="a folder") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def below(self, parts: Iterable[str], *, make: bool = False) -> Folder:
        """The folder at ``parts`` below this one, or this one once more where there are none.

        :raises Irregular: where one of them is a link, or no folder.
        :raises OSError: where it is missing, and not to be made.
        """
        folder = self.into(None)
        for part in parts:
            with folder:
                folder = folder.into(part, make=make)
        return folder

    def into(self, name: str | None, *, make: bool = False) -> Folder:
        """One step of :meth:`below`; without a name, this folder once more."""
        if name is not None and not is_plain(name):
            raise OSError(errno.EINVAL, "it leads out of the folder", str(self.path / name))
        path, name = (self.path, ".") if name is None else (self.path / name, name)
        with self._named(name):
            if make:
                with suppress(FileExistsError):
                    os.mkdir(self._at(name), 0o700, dir_fd=self._descriptor)
                    self.sync()
            if self._descriptor is None:
                if path != self.path:
                    _no_link(path, "a folder")
                return Folder(path, None)
            flags = os.O_RDONLY | _FOLDER | _NO_LINK | _AT_ONCE
            try:
                return Folder(path, os.open(name, flags, dir_fd=self._descriptor))
            except OSError as error:
                raise _explained(error, name, self._descriptor, follow=False, wanted="a folder") from None

    def is_still_there(self) -> bool:
        """Whether its name still leads to it."""
        if self._descriptor is None:
            return self.path.is_dir()
        try:
            return os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except OSError:
            return False

    @contextmanager
    def alone(self, until: float) -> Iterator[None]:
        """Has every other block like this one, in whatever process, wait: for who looks at a file, then replaces it.

        The lock is on the folder itself, so nothing is left in it. Where the system has none to offer, nobody waits.

        :param until: the monotonic time after which nobody is waited for.
        :raises TimeoutError: where somebody else has it even then.
        """
        if sys.platform == "win32" or self._descriptor is None:
            yield
            return
        import fcntl  # noqa: PLC0415 - not everywhere

        while True:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= until:
                    why = f"another program has locked the folder {self.path}; stop that program, or try again"
                    raise TimeoutError(errno.ETIMEDOUT, why, str(self.path)) from None
                time.sleep(_LOOK_AGAIN)
                continue
            except OSError:  # some network file systems
                pass
            break
        try:
            yield
        finally:
            with suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def names(self) -> list[str]:
        """What is in it."""
        return os.listdir(self.path if self._descriptor is None else self._descriptor)  # noqa: PTH208 - no path

    def exists(self, file: PurePosixPath) -> bool:
        """Whether there is anything at all by that name, which may lie further below."""
        try:
            os.stat(self._at(str(file)), dir_fd=self._descriptor, follow_symlinks=False)
        except (OSError, ValueError):
            return False
        return True

    def age(self, name: str) -> float:
        """Seconds since it was last written, by the clock of files."""
        with self._named(name):
            return time.time() - os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False).st_mtime

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> int:
        """As :func:`open_regular` does."""
        with self._named(name):
            return open_regular(self._at(name), flags, follow=False, within=self._descriptor)

    def read(self, name: str, most: int = MOST) -> bytes | None:
        """What is in a regular file; ``None`` where there is none.

        :raises Irregular: where it is something else.
        :raises OSError: where it cannot be read, or holds more than ``most`` bytes.
        """
        try:
            return _content(self.open_file(name), most, self.path / name)
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Replaces what is there by a file with ``data``, mode 0600; durable when this returns.

        Whoever reads it, and whatever stops this half-way, finds the old content or the new one.

        :raises OSError: where it cannot be written; then the old file is untouched.
        """
        draft, held = self._draft(data), self._descriptor
        try:
            with self._named(name):
                os.replace(self._at(draft), self._at(name), src_dir_fd=held, dst_dir_fd=held)
        except BaseException:
            self._unlink(draft)
            raise
        self.sync()

    def write_beside(self, name: str, suffix: str, data: bytes) -> str:
        """Writes ``data`` to a new file named after ``name``, mode 0600, and returns its name; never replaces one.

        :raises OSError: where it cannot be written.
        """
        draft, held = self._draft(data), self._descriptor
        try:
            number = 1
            while True:
                beside = f"{name}{suffix}{'' if number == 1 else f'-{number}'}"
                try:
                    try:
                        # Unlike a rename, a link never replaces what is there.
                        os.link(self._at(draft), self._at(beside), src_dir_fd=held, dst_dir_fd=held)
                    except FileExistsError:
                        raise
                    except OSError:
                        # No links here. Then there is a moment in which the file is there in part.
                        self._write_new(beside, data)
                except FileExistsError:
                    number += 1
                else:
                    break
        finally:
            self._unlink(draft)
        self.sync()
        return beside

    def remove(self, name: str) -> None:
        """Removes a file, or a link and not what it leads to, where there is one; durable when this returns."""
        with self._named(name):
            self._unlink(name)
        self.sync()

    def remove_folder(self, name: str) -> None:
        """Removes a folder that is empty."""
        with self._named(name):
            os.rmdir(self._at(name), dir_fd=self._descriptor)

    def sync(self) -> None:
        """Makes new, changed and removed names in it survive a power cut."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def _draft(self, data: bytes) -> str:
        name = f"{DRAFT[0]}{secrets.token_hex(8)}{DRAFT[1]}"
        self._write_new(name, data)
        return name

    def _write_new(self, name: str, data: bytes) -> None:
        with self._named(name):
            descriptor = self.open_file(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                self._unlink(name)
                raise

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._descriptor)

    def _at(self, name: str) -> str:
        """How to name it to the system, beside the descriptor where there is one."""
        return name if self._descriptor is not None else str(self.path / name)

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """An error names the whole path: a person has to find it."""
        try:
            yield
        except OSError as error:
            if not os.path.isabs(error.filename or ""):  # noqa: PTH117 - may be bytes
                error.filename = str(self.path / name)
            raise


# Paths that a person named


def write_file(path: Path, data: bytes) -> None:
    """As :meth:`Folder.write` does; a link is followed, so that what it points to is replaced.

    :raises OSError: where it cannot be written; then the old file is untouched.
    """
    path = Path(os.path.realpath(path))
    with Folder.open(path.parent) as folder:
        folder.write(path.name, data)


def remove_file(path: Path) -> None:
    """Removes ``path`` where it is there; durable when this returns."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        sync_folder(path.parent)


def make_private_folder(path: Path) -> None:
    """Makes ``path`` and what is missing above it, mode 0700; leaves alone what is there.

    :raises OSError: where it cannot be made, or is no folder.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
        sync_folder(each.parent)
    if not path.is_dir():
        raise NotADirectoryError(20, "is not a folder", str(path))


def sync_folder(path: Path) -> None:
    """Makes new, changed and removed names in ``path`` survive a power cut."""
    if os.name == "nt":
        return
    with Folder.open(path) as folder:
        folder.sync()


@contextmanager
def lock_file(path: Path) -> Iterator[bool]:
    """Whether ``path`` was free, and is this process's while the block runs; the system takes it back from the dead.

    :raises OSError: where it cannot be opened; made it is where it is missing, and left there.
    """
    descriptor = open_regular(path, os.O_CREAT | os.O_RDWR, follow=False)
    try:
        yield try_lock(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Whether a file was free, and is this process's now, until the descriptor is closed."""
    try:
        if sys.platform == "win32":
            import msvcrt  # noqa: PLC0415 - of one system each

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl  # noqa: PLC0415

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

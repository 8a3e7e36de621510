"""Where the vault's keys come from: ``KIMIFLOW_KEY``, or a file that is made on first use.

The file may change while processes use it (``kimiflow key rotate``). A vault looks at it again before it seals, and
when it meets a key that it does not know; see :class:`KeyFile`.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from kimiflow.errors import InvalidSetting, KeyMissing, WrongKey
from kimiflow.files import Irregular, lock_file, open_regular, sync_folder, write_file
from kimiflow.keys.keyring import REPLACED, Keyring, new_key, parse_keys
from kimiflow.logs import get_logger
from kimiflow.vault import Vault, key_id_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from kimiflow.model import Sealed
    from kimiflow.settings import Settings

__all__ = ["KeyFile", "load_vault", "make_folder", "present_keys"]

_WAY_BACK: Final = (
    "Restore the key from a backup. Where it is lost: kimiflow key new, then kimiflow login --force NAME; "
    "names and device ids are kept."
)

_HALF_WRITTEN: Final = 0.2
"""Seconds in which whoever makes the file, where it cannot be made in one go, has written the key into it."""


def load_vault(settings: Settings, sample: Sealed | None) -> Vault:
    """The vault, with the keys from the environment or the key file; the file is made where it is missing.

    :param sample: some value that the store already holds sealed, ``None`` where it holds none.
    :raises InvalidSetting: where a key is not 32 bytes of base64.
    :raises KeyMissing: where there is no key, but the store holds secrets that only the old one opens.
    :raises WrongKey: where the store's secrets were sealed with another key.
    """
    origin, ring, file = _present(settings)
    if ring is None:
        if sample is not None:
            raise KeyMissing(
                f"{origin} is missing, and the store holds secrets sealed with key {key_id_of(sample)}",
                hint=_WAY_BACK,
            )
        assert file is not None  # noqa: S101 - what the environment holds is not missing
        ring = file.make()
    vault = Vault(*ring.opening, reread=None if file is None else file.news)
    if sample is not None and key_id_of(sample) not in vault.key_ids:
        raise WrongKey(
            f"the store holds secrets sealed with key {key_id_of(sample)}, but {origin} is key "
            f"{', '.join(vault.key_ids)}; nothing was changed",
            hint=_WAY_BACK,
        )
    return vault


def present_keys(settings: Settings) -> tuple[str, Keyring | None]:
    """What to call the place where the keys are, and the keys; ``None`` where there are none yet. Makes nothing.

    :raises InvalidSetting: where there is something else than keys.
    """
    origin, ring, _ = _present(settings)
    return origin, ring


def _present(settings: Settings) -> tuple[str, Keyring | None, KeyFile | None]:
    if settings.key is not None:
        return "KIMIFLOW_KEY", parse_keys("KIMIFLOW_KEY", settings.key.get_secret_value()), None
    file = KeyFile(settings.key_path)
    return file.origin, file.read(), file


class KeyFile:
    """The key file. Each object remembers what it has seen of it, for :meth:`news`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.origin = f"the key file {path}"
        self._seen: tuple[int, int, int] | None = None
        self._refused: Keyring | None = None
        """What stands there now, where it does not go on from the key in force."""

    def read(self) -> Keyring | None:
        """The keys; ``None`` where there is no file.

        :raises InvalidSetting: where it cannot be read, or holds something else.
        """
        deadline = time.monotonic() + _HALF_WRITTEN
        while True:
            try:
                with os.fdopen(open_regular(self.path), encoding="ascii") as file:
                    self._seen = _signature(os.fstat(file.fileno()))
                    text = file.read()
            except FileNotFoundError:
                self._seen = None
                return None
            except Irregular as error:
                raise InvalidSetting(
                    f"{self.origin} cannot be read: {error.strerror}",
                    hint="Put the key there as a file, name another place with KIMIFLOW_KEY_FILE, or give the key in "
                    "KIMIFLOW_KEY.",
                ) from None
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidSetting(f"{self.origin} cannot be read: {error}") from None
            if text or time.monotonic() > deadline:
                return parse_keys(self.origin, text)
            time.sleep(_HALF_WRITTEN / 10)

    def news(self, in_force: str, met: str | None = None) -> Sequence[bytes]:
        """The keys where the file is not the one that was last read, else none. Costs a look at the folder.

        A file that is gone, spoilt, or of another home changes nothing for who has its keys already; it is logged, once.

        :param in_force: the id of the key that seals now. What is sealed with one that does not follow it, nobody may
            ever open.
        :param met: the id of the key that a stored secret is sealed with, which is not known yet.
        """
        try:
            signature = _signature(self.path.stat())
        except OSError:
            signature = None
        if signature == self._seen:
            # Refused, it is taken all the same once something in the store turns out to be sealed with it.
            refused = self._refused
            return refused.opening if refused is not None and met in refused.key_ids else ()
        self._refused = None
        try:
            ring = self.read()
            reason = "it is gone"
        except InvalidSetting as error:
            ring, reason = None, error.message
        self._seen = signature
        if ring is not None and not ring.follows(in_force) and met not in ring.key_ids:
            self._refused = ring
            reason = (
                f"it holds key {', '.join(ring.key_ids)}, and not {in_force}, which is in force"
                f" (where it is to take its place, say so in the file: {REPLACED} {in_force})"
            )
            ring = None
        if ring is None:
            get_logger().error(
                "key_file_lost", file=str(self.path), reason=f"{reason}; going on with the key in memory"
            )
            return ()
        return ring.opening

    def make(self, replaced: Sequence[str] = ()) -> Keyring:
        """Writes a new key, whole or not at all; where another process was faster, its key is taken.

        :param replaced: ids of the keys that were lost, for processes that still have them in memory.
        :raises InvalidSetting: where it cannot be written.
        """
        make_folder(self.path.parent)
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}.{new_key().hex()[:8]}")
        text = Keyring((new_key(),), replaced=tuple(replaced)).text()
        with self._trouble("made"):
            try:
                _write_new(draft, text)
                try:
                    # Unlike a rename, a link never replaces a key that is already in use.
                    os.link(draft, self.path)
                except FileExistsError:
                    pass
                except OSError:
                    # No links here. Then there is a moment in which the file is empty, for which readers wait.
                    with suppress(FileExistsError):
                        _write_new(self.path, text)
                sync_folder(self.path.parent)
            finally:
                draft.unlink(missing_ok=True)
        found = self.read()
        if found is None:
            raise InvalidSetting(f"{self.origin} was taken away as soon as it was made")
        return found

    def replace(self, ring: Keyring) -> None:
        """Writes other keys, durably: whoever reads the file finds the old ones or the new ones.

        :raises InvalidSetting: where it cannot be written; then the old file is untouched.
        """
        with self._trouble("written"):
            write_file(self.path, ring.text().encode())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps others from changing the file; readers need not care. A process that dies lets go of it.

        :raises InvalidSetting: where somebody else is changing it.
        """
        make_folder(self.path.parent)
        with ExitStack() as stack:
            with self._trouble("locked"):
                free = stack.enter_context(lock_file(self.path.with_name(f".{self.path.name}.lock")))
            if not free:
                raise InvalidSetting(
                    f"{self.origin} is being changed by another process", hint="Wait for it, then try again."
                )
            yield

    @contextmanager
    def _trouble(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InvalidSetting(
                f"{self.origin} cannot be {done}: {error.strerror}",
                hint="Choose another place with KIMIFLOW_KEY_FILE, or give the key in KIMIFLOW_KEY.",
            ) from None


def make_folder(path: Path) -> None:
    """Makes ``path`` and the folders above it, private to the user.

    :raises InvalidSetting: where it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSetting(
            f"the folder {path} cannot be made: {error.strerror}",
            hint="Choose another with KIMIFLOW_HOME.",
        ) from None


def _signature(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_mtime_ns, found.st_size


def _write_new(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())

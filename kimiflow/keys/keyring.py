"""Keys as text: what stands in the key file, and in ``KIMIFLOW_KEY``.

One key, as base64, or several, one a line in the file and between commas in the environment. The first one seals, all
of them open. ``next:`` before a key says that it opens already, and will seal once the keys are rotated: so it can be
given to every machine before anything is sealed with it. Lines that begin with ``#`` are for people, but for one: after
``# replaced:`` stand the ids of the keys that these have taken the place of. By that a process that still seals with one
of them knows that the file goes on from there, and is not another home's.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from dataclasses import dataclass, field
from itertools import chain

from kimiflow.errors import InvalidSetting
from kimiflow.vault import KEY_BYTES, key_id_of_key

__all__ = ["REPLACED", "Keyring", "decode_key", "new_key", "parse_keys"]

_NEXT = "next:"
REPLACED = "# replaced:"
_MOST_REPLACED = 20


@dataclass(frozen=True, slots=True)
class Keyring:
    """Keys, in the order in which they are written down."""

    keys: tuple[bytes, ...] = field(repr=False)
    """The first one seals."""
    upcoming: tuple[bytes, ...] = field(default=(), repr=False)
    """They open, and seal nothing yet."""
    replaced: tuple[str, ...] = ()
    """Ids of keys that were in force before, the latest last."""

    def follows(self, key_id: str) -> bool:
        """Whether who has that key in force may take these instead."""
        return key_id in self.key_ids or key_id in self.replaced

    @property
    def opening(self) -> tuple[bytes, ...]:
        """All of them; the first one seals."""
        return (*self.keys, *self.upcoming)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids of :attr:`opening`."""
        return tuple(map(key_id_of_key, self.opening))

    def text(self) -> str:
        """What to write into the key file."""
        lines = [_encoded(key) for key in self.keys] + [_NEXT + _encoded(key) for key in self.upcoming]
        if self.replaced:
            lines.append(f"{REPLACED} {' '.join(self.replaced[-_MOST_REPLACED:])}")
        return "".join(f"{line}\n" for line in lines)


def new_key() -> bytes:
    """A key that nobody had before."""
    return secrets.token_bytes(KEY_BYTES)


def parse_keys(origin: str, text: str) -> Keyring:
    """The keys that ``text`` holds, at least one of them to seal with.

    :raises InvalidSetting: naming ``origin``, never the value.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    before = [line.removeprefix(REPLACED).split() for line in text.splitlines() if line.startswith(REPLACED)]
    words = [word.strip() for word in re.split(r"[,\n]", "\n".join(lines)) if word.strip()]
    keys = [word for word in words if not word.startswith(_NEXT)]
    if not keys:
        # Nothing, or nothing to seal with: told in the words for a key that is none.
        decode_key(origin, "")
    name = "the key {} of {}".format if len(words) > 1 else lambda _number, origin: origin
    decoded = {word: decode_key(name(number, origin), word.removeprefix(_NEXT)) for number, word in enumerate(words, 1)}
    sealing = tuple(dict.fromkeys(decoded[word] for word in keys))
    upcoming = tuple(dict.fromkeys(decoded[word] for word in words if word.startswith(_NEXT)))
    return Keyring(sealing, tuple(key for key in upcoming if key not in sealing), tuple(chain.from_iterable(before)))


def decode_key(origin: str, text: str) -> bytes:
    """The key's bytes.

    :raises InvalidSetting: naming ``origin``, never the value.
    """
    try:
        key = b64decode(text.strip().replace("-", "+").replace("_", "/"), validate=True)
    except (Base64Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise InvalidSetting(
            f"{origin} is not a key; allowed is {KEY_BYTES} bytes as base64",
            hint=f"Make one with: openssl rand -base64 {KEY_BYTES}",
        )
    return key


def _encoded(key: bytes) -> str:
    return b64encode(key).decode()

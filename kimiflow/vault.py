"""Secrets at rest: sealed before they reach any store.

A sealed value is ``keyid.data``: the first eight hex digits of the key's SHA-256, a dot, and base64url of a random
96-bit nonce and the AES-256-GCM ciphertext. The row's id and the column's name are the associated data, so that a
value moved to another row, or another column, does not open.

A vault may be told where its keys come from. Then it looks there again before it seals, and whenever it meets a key
that it does not know: so the keys can be changed while it is in use. It forgets none that it had.

Each seal draws its nonce at random; NIST SP 800-38D allows 2**32 of them under one key, which at a refresh every ten
minutes are 1,000 accounts for eighty years.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kimiflow.errors import WrongKey
from kimiflow.model import Sealed
from kimiflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kimiflow.model import Authorization

__all__ = ["KEY_BYTES", "Vault", "key_id_of", "key_id_of_key"]

KEY_BYTES = 32

_NONCE_BYTES = 12
_KEY_ID = re.compile("[0-9a-f]{8}")


def key_id_of(sealed: Sealed) -> str:
    """Which key opens ``sealed``; ``unknown`` where it is no sealed value, which is then not to be shown."""
    key_id = sealed.partition(".")[0]
    return key_id if _KEY_ID.fullmatch(key_id) else "unknown"


def key_id_of_key(key: bytes) -> str:
    """The name of a key, which tells nothing about it."""
    return hashlib.sha256(key).hexdigest()[:8]


class Vault:
    """Seals with the first key; opens with any of them. Any thread may use it.

    :param keys: one or more keys of 32 bytes.
    :param reread: asked before each seal, and where a key is not known, with the ids of the key in force and of that one:
        the keys anew where they have changed since it was last asked, else none.
    """

    def __init__(
        self,
        *keys: bytes,
        random_bytes: Callable[[int], bytes] = os.urandom,
        reread: Callable[[str, str | None], Sequence[bytes]] | None = None,
    ) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            msg = f"a key has {KEY_BYTES} bytes"
            raise ValueError(msg)
        self._random_bytes = random_bytes
        self._reread = reread
        self._rereading = threading.Lock()
        self._ciphers: dict[str, AESGCM] = {}
        self._learn(keys)

    def _learn(self, keys: Sequence[bytes]) -> None:
        # Replaced in one go, never changed: another thread may be looking at it.
        self._ciphers = {key_id_of_key(key): AESGCM(key) for key in keys} | {
            key_id: cipher for key_id, cipher in self._ciphers.items() if key_id not in set(map(key_id_of_key, keys))
        }
        self._sealing = next(iter(self._ciphers.items()))

    def _look_again(self, met: str | None = None) -> None:
        if self._reread is not None:
            with self._rereading:
                if keys := self._reread(self.key_id, met):
                    self._learn(keys)

    @property
    def key_id(self) -> str:
        """The id of the key that seals."""
        return self._sealing[0]

    def __repr__(self) -> str:
        return f"Vault(key_id={self.key_id!r})"

    @property
    def key_ids(self) -> Sequence[str]:
        """The ids of the keys that open; the first one seals."""
        return tuple(self._ciphers)

    def seal(self, secret: Secret, row_id: str, column: str) -> Sealed:
        """``secret``, readable only with the key and only at that row and column."""
        self._look_again()
        return self._seal(secret, row_id, column)

    def _seal(self, secret: Secret, row_id: str, column: str) -> Sealed:
        key_id, cipher = self._sealing
        nonce = self._random_bytes(_NONCE_BYTES)
        data = cipher.encrypt(nonce, secret.reveal().encode(), f"{row_id}/{column}".encode())
        return Sealed(f"{key_id}.{urlsafe_b64encode(nonce + data).decode()}")

    def open(self, sealed: Sealed, row_id: str, column: str) -> Secret:
        """What was sealed.

        :raises WrongKey: where the key is another one, or the value was changed or moved.
        """
        key_id, _, text = sealed.partition(".")
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            self._look_again(key_id)
            cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise WrongKey(
                f"a secret is sealed with key {key_id_of(sealed)!r}, but the key at hand is {self.key_id!r}",
                hint="Nothing was changed. Give the right key in KIMIFLOW_KEY or KIMIFLOW_KEY_FILE: kimiflow key check",
            )
        try:
            raw = urlsafe_b64decode(text)
            clear = cipher.decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], f"{row_id}/{column}".encode()).decode()
        except (InvalidTag, Base64Error, ValueError):
            raise WrongKey(
                f"a secret sealed with key {key_id!r} does not open: it was changed or moved to another row",
                hint="Restore the database from a backup, or sign in again: kimiflow login --force NAME",
            ) from None
        return Secret(clear)

    def open_authorization(self, sealed: Authorization[Sealed]) -> Authorization[Secret]:
        """All secrets of one authorization.

        :raises WrongKey: as :meth:`open`.
        """
        row = sealed.id
        code, access, refresh = sealed.device_code, sealed.access_token, sealed.refresh_token
        return sealed.with_secrets(
            None if code is None else self.open(code, row, "device_code"),
            None if access is None else self.open(access, row, "access_token"),
            None if refresh is None else self.open(refresh, row, "refresh_token"),
        )

    def seal_authorization(
        self,
        authorization: Authorization[Secret],
        *,
        opened: Authorization[Secret] | None = None,
        sealed: Authorization[Sealed] | None = None,
    ) -> Authorization[Sealed]:
        """All secrets of one authorization, sealed.

        Where ``authorization`` came from ``opened``, which came from ``sealed``, a secret that did not change keeps its
        sealed form, so that a poll costs no encryption; unless that form is of another key than the one that seals now.
        """
        self._look_again()
        row, after = authorization.id, authorization
        if opened is None or sealed is None:
            return after.with_secrets(
                self._sealed(after.device_code, None, None, row, "device_code"),
                self._sealed(after.access_token, None, None, row, "access_token"),
                self._sealed(after.refresh_token, None, None, row, "refresh_token"),
            )
        return after.with_secrets(
            self._sealed(after.device_code, opened.device_code, sealed.device_code, row, "device_code"),
            self._sealed(after.access_token, opened.access_token, sealed.access_token, row, "access_token"),
            self._sealed(after.refresh_token, opened.refresh_token, sealed.refresh_token, row, "refresh_token"),
        )

    def _sealed(
        self, secret: Secret | None, before: Secret | None, sealed: Sealed | None, row_id: str, column: str
    ) -> Sealed | None:
        if secret is None:
            return None
        if secret is before and sealed is not None and sealed.startswith(self._sealing[0]):
            return sealed
        return self._seal(secret, row_id, column)

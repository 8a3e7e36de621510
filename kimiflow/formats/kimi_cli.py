"""kimi-cli: one credential, in the folder that ``KIMI_SHARE_DIR`` names, or in ``~/.kimi``."""

from __future__ import annotations

import uuid
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kimiflow.files import read_regular
from kimiflow.formats.base import Credential, Format, Grant, Revoked, account_name, as_json, number, text, token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["FORMAT", "OneCredential", "as_uuid"]

CREDENTIAL = PurePosixPath("credentials/kimi-code.json")
DEVICE_ID = PurePosixPath("device_id")

_KEYS = frozenset({"access_token", "refresh_token", "expires_at"})
_MOST_OF_A_DEVICE_ID = 256


class OneCredential(Format):
    """What kimi-cli and kimi-code have in common: the same keys, in the same place below a folder of their own."""

    one_credential = True
    files_beside = (DEVICE_ID,)
    variable: str
    """The environment variable that names the folder."""
    folder: str
    """The folder in the home, where no variable names another."""

    def places(self, environment: Mapping[str, str], home: Path) -> Sequence[Path]:
        named = environment.get(self.variable)
        return ((Path(named).expanduser() if named else home / self.folder) / CREDENTIAL,)

    def recognises(self, content: Mapping[str, Any], path: Path) -> bool:
        named = path.parts[-2:] == CREDENTIAL.parts
        return "type" not in content and "account" not in content and (named or content.keys() >= _KEYS)

    def parse(self, data: bytes, path: Path) -> Credential:
        content = self.fields(data)
        if content.keys() >= _KEYS and not any(content.values()):
            raise Revoked("its tool says that the grant was revoked")
        return Credential(
            refresh_token=token(content, "refresh_token"),
            access_token=token(content, "access_token"),
            name=self._name_of(path),
            expires_at=number(content, "expires_at"),
            token_type=text(content, "token_type"),
            scope=text(content, "scope"),
            device_id=_device_id_beside(path),
        )

    def file_in(self, stem: str) -> PurePosixPath:
        del stem
        return CREDENTIAL

    def _name_of(self, path: Path) -> str:
        """The folder's name, where it is not the tool's own; or the tool's."""
        own = path.parts[-2:] == CREDENTIAL.parts
        folder = path.absolute().parents[1].name if own else path.stem
        return (None if folder == self.folder else account_name(folder)) or self.name


class KimiCli(OneCredential):
    """Floats, one line, no line break at the end."""

    name = "kimi-cli"
    tool = "kimi-cli"
    variable = "KIMI_SHARE_DIR"
    folder = ".kimi"

    def recognises(self, content: Mapping[str, Any], path: Path) -> bool:
        return super().recognises(content, path) and isinstance(content.get("expires_at"), float)

    def render(self, grant: Grant, before: bytes | None = None) -> bytes:
        del before
        content = {
            "access_token": grant.token.access_token,
            "refresh_token": grant.refresh,
            "expires_at": float(grant.expires_at),
            "scope": grant.token.scope or "",
            "token_type": grant.token.token_type,
            "expires_in": max(0.0, grant.expires_at - grant.at),
        }
        return as_json(content)

    def beside(self, grant: Grant) -> Mapping[PurePosixPath, bytes]:
        made = as_uuid(grant.token.device_id)
        return {DEVICE_ID: (grant.token.device_id if made is None else made.hex).encode()}


def as_uuid(device_id: str) -> uuid.UUID | None:
    """A device id as what it nearly always is; ``None`` where it is something else."""
    try:
        return uuid.UUID(device_id)
    except ValueError:
        return None


def _device_id_beside(path: Path) -> str | None:
    try:
        beside = path.absolute().parents[1] / DEVICE_ID
        found = read_regular(beside, _MOST_OF_A_DEVICE_ID).decode("ascii").strip()
    except (OSError, ValueError, IndexError):
        return None
    return found if found and found.isprintable() else None


FORMAT = KimiCli()

"""What a format is: how one neighbouring tool writes a grant down, and where it looks for it.

Formats read and make bytes. The only files that they look at by themselves are those that belong to a credential,
such as the device id beside it.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final

from kimiflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path, PurePosixPath

    from kimiflow.status import Token

__all__ = [
    "AccessOnly",
    "Credential",
    "Format",
    "Grant",
    "Revoked",
    "Unusable",
    "account_name",
    "as_json",
    "json_object",
    "number",
    "text",
    "token",
]

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._@+-]+")


class Unusable(ValueError):
    """No grant can be taken out of this content; the text says why, in half a sentence, and holds no secret."""


class AccessOnly(Unusable):
    """There is an access token only: somebody else keeps it fresh, and there is nothing to take over."""


class Revoked(Unusable):
    """The tool itself says that the grant is gone."""


@dataclass(frozen=True, slots=True)
class Credential:
    """A grant as a tool wrote it down. ``expires_at`` in Unix seconds; ``None`` for what the tool does not say.

    ``proxy`` may carry a password. ``name`` is what the account could be called.
    """

    access_token: Secret
    refresh_token: Secret
    name: str
    expires_at: float | None = None
    token_type: str | None = None
    scope: str | None = None
    device_id: str | None = None
    provider: str | None = None
    proxy: str | None = field(default=None, repr=False)
    disabled: bool = False


_NO_END: Final = 253_402_300_799.0
"""The last second of the year 9999."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What is written down. ``at`` is the time of writing in Unix seconds.

    ``refresh_token`` is there only where the tool becomes the owner of the grant.
    """

    token: Token
    provider: str
    api_base: str | None
    at: float
    refresh_token: Secret | None = None

    @property
    def expires_at(self) -> float:
        """When the access token ends; for one without an end, a time that tools have no trouble to compare with."""
        return _NO_END if self.token.expires_at is None else self.token.expires_at

    @property
    def refresh(self) -> str:
        """The refresh token in clear, or nothing, which makes a tool leave refreshing alone."""
        return "" if self.refresh_token is None else self.refresh_token.reveal()


class Format(ABC):
    """One way to write a grant down; an instance is a module's ``FORMAT``."""

    name: ClassVar[str]
    """What is typed: ``--format NAME``."""
    tool: ClassVar[str]
    """What people call the tool."""
    one_credential: ClassVar[bool] = False
    """The tool has room for one account in its folder, so that several need a folder each."""
    files_beside: ClassVar[tuple[PurePosixPath, ...]] = ()
    """The names of :meth:`beside`."""

    def places(self, environment: Mapping[str, str], home: Path) -> Sequence[Path]:
        """The files and folders where the tool keeps credentials."""
        del environment, home
        return ()

    @abstractmethod
    def recognises(self, content: Mapping[str, Any], path: Path) -> bool:
        """Whether ``content`` (the fields of a file) is this tool's; need not be usable."""

    @abstractmethod
    def parse(self, data: bytes, path: Path) -> Credential:
        """The grant in a file.

        :raises Unusable: where there is none.
        """

    @abstractmethod
    def render(self, grant: Grant, before: bytes | None = None) -> bytes:
        """The file's content. ``before`` is what it replaces; what a person may have set in it is kept."""

    @abstractmethod
    def file_in(self, stem: str) -> PurePosixPath:
        """Where the tool looks for the file, below its folder. ``stem`` is the account's name, or made of it."""

    def beside(self, grant: Grant) -> Mapping[PurePosixPath, bytes]:
        """Files that the tool wants besides, below its folder."""
        del grant
        return {}

    def fields(self, data: bytes) -> dict[str, Any]:
        """What is in a file, by name.

        :raises Unusable: where it cannot be read at all.
        """
        return json_object(data)

    def blanked(self, data: bytes) -> bytes:
        """``data`` with an empty refresh token, and everything else as it was.

        :raises Unusable: where it cannot be read.
        """
        return as_json({**self.fields(data), "refresh_token": ""})

    def refresh_token_in(self, data: bytes) -> str:
        """The refresh token in a file of this format, empty where there is none.

        :raises Unusable: where it cannot be read.
        """
        found = self.fields(data).get("refresh_token")
        return found if isinstance(found, str) else ""

    def may_be_replaced(self, data: bytes, path: Path) -> bool:
        """Whether nothing is lost when ``data`` is replaced: it is an access token in this format, and no more."""
        try:
            if self.recognises(self.fields(data), path):
                self.parse(data, path)
        except (AccessOnly, Revoked):
            return True
        except Unusable:
            pass
        return False


def json_object(data: bytes) -> dict[str, Any]:
    """A file's JSON object.

    :raises Unusable: where it is none.
    """
    if not data.strip():
        raise Unusable("it is empty")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise Unusable("it is not JSON, or only a part of it") from None
    if not isinstance(found, dict):
        raise Unusable("it is JSON, but not an object")
    return found


def as_json(content: Mapping[str, Any], *, indent: int | None = None, sort_keys: bool = False) -> bytes:
    """``content`` as JSON in UTF-8, readable; what UTF-8 has no bytes for (half of a surrogate pair) stays escaped."""
    try:
        return json.dumps(content, ensure_ascii=False, indent=indent, sort_keys=sort_keys).encode()
    except UnicodeEncodeError:
        return json.dumps(content, indent=indent, sort_keys=sort_keys).encode()


def text(content: Mapping[str, Any], key: str) -> str | None:
    """A field's text, stripped; ``None`` where it is empty, missing or no text."""
    value = content.get(key)
    return (value.strip() or None) if isinstance(value, str) else None


def number(content: Mapping[str, Any], key: str) -> float | None:
    """A field's number, also from text; ``None`` where it is missing, no number, or not finite."""
    value = content.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def token(content: Mapping[str, Any], key: str) -> Secret:
    """A field's token.

    :raises AccessOnly: where it is an empty ``refresh_token``.
    :raises Unusable: where it is missing, or is nothing that can be sent in a header.
    """
    value = content.get(key)
    if value is None:
        raise Unusable(f"it has no {key}")
    if not isinstance(value, str):
        raise Unusable(f"its {key} is not text")
    value = value.strip()
    if not value and key == "refresh_token":
        raise AccessOnly("it holds no refresh token: somebody else keeps it fresh")
    if not value:
        raise Unusable(f"its {key} is empty")
    if not (value.isascii() and value.isprintable()) or " " in value:
        raise Unusable(f"its {key} is damaged")
    return Secret(value)


def account_name(*wishes: str | None) -> str | None:
    """An account name made of the first wish that has a letter or digit in it."""
    for wish in wishes:
        made = _NOT_IN_A_NAME.sub("-", (wish or "").strip())
        made = made.lstrip("._@+-")[:64].rstrip("-")
        if made:
            return made
    return None

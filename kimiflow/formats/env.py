"""Environment variables: a file for ``set -a; . FILE``, for ``docker --env-file`` and for systemd."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from kimiflow.formats.base import Credential, Format, Grant, Unusable, account_name, number, text, token

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FORMAT"]

_ACCESS, _REFRESH = "KIMI_API_KEY", "KIMI_REFRESH_TOKEN"
_EXPIRES, _DEVICE, _PROVIDER = "KIMI_TOKEN_EXPIRES_AT", "KIMI_DEVICE_ID", "KIMI_PROVIDER"
_KEY, _BASE = "OPENAI_API_KEY", "OPENAI_BASE_URL"
_OURS = frozenset({_ACCESS, _REFRESH, _EXPIRES, _DEVICE, _PROVIDER, _KEY, _BASE})

_PLAIN = re.compile(r"[A-Za-z0-9._~:/?@%+=,-]*")
"""What means the same to a shell, to docker and to systemd without any quotes; no two agree about those."""

_LINE = re.compile(r"(?:export\s+)?(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)")


class Env(Format):
    """The names that ``kimiflow exec`` sets; with a refresh token also what it takes to come back."""

    name = "env"
    tool = "whatever reads the environment"

    def recognises(self, content: Mapping[str, Any], path: Path) -> bool:
        del path
        # Another program's variables beside them make it another program's file.
        return _ACCESS in content and content.keys() <= _OURS

    def parse(self, data: bytes, path: Path) -> Credential:
        content = self.fields(data)
        named = {"access_token": content.get(_ACCESS), "refresh_token": content.get(_REFRESH, "")}
        return Credential(
            refresh_token=token(named, "refresh_token"),
            access_token=token(named, "access_token"),
            name=account_name(path.stem) or "kimi",
            expires_at=number(content, _EXPIRES),
            device_id=text(content, _DEVICE),
            provider=text(content, _PROVIDER),
        )

    def render(self, grant: Grant, before: bytes | None = None) -> bytes:
        del before
        content = {_ACCESS: grant.token.access_token, _KEY: grant.token.access_token}
        if grant.api_base is not None:
            content[_BASE] = f"{grant.api_base}/v1"
        if grant.refresh_token is not None:
            content |= {
                _REFRESH: grant.refresh,
                _EXPIRES: str(int(grant.expires_at)),
                _DEVICE: grant.token.device_id,
                _PROVIDER: grant.provider,
            }
        for name, value in content.items():
            if _PLAIN.fullmatch(value) is None:
                raise Unusable(f"the value of {name} has characters that shells and docker read differently")
        return "".join(f"{name}={value}\n" for name, value in content.items()).encode()

    def file_in(self, stem: str) -> PurePosixPath:
        return PurePosixPath(f"{stem}.env")

    def fields(self, data: bytes) -> dict[str, Any]:
        try:
            lines = data.decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise Unusable("it is not text") from None
        found: dict[str, Any] = {}
        for line in (each.strip() for each in lines):
            if not line or line.startswith("#"):
                continue
            match = _LINE.fullmatch(line)
            if match is None:
                raise Unusable("it has lines that are not NAME=VALUE")
            found[match["name"]] = _unquoted(match["value"].strip())
        if not found:
            raise Unusable("it is empty")
        return found

    def blanked(self, data: bytes) -> bytes:
        lines = data.decode("utf-8").splitlines(keepends=True)
        return "".join(line for line in lines if _REFRESH not in line.partition("=")[0]).encode()

    def refresh_token_in(self, data: bytes) -> str:
        return str(self.fields(data).get(_REFRESH, ""))


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
        return value[1:-1]
    return value


FORMAT = Env()

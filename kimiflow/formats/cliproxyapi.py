"""CLIProxyAPI: one JSON file for each account in ``~/.cli-proxy-api``, which it watches."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from kimiflow.formats.base import Credential, Format, Grant, Unusable, account_name, as_json, text, token

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["FORMAT"]

_OURS = frozenset({"access_token", "device_id", "expired", "refresh_token", "scope", "timestamp", "token_type", "type"})

_OWN_NAME = re.compile(r"kimi-[0-9]+")
"""What CLIProxyAPI itself calls a file: the time, in milliseconds."""

_NO_PROXY = frozenset({"direct", "none"})


class CliProxyApi(Format):
    """Keys sorted, two blanks of indent. An empty ``refresh_token`` makes it leave refreshing alone."""

    name = "cliproxyapi"
    tool = "CLIProxyAPI"

    def places(self, environment: Mapping[str, str], home: Path) -> Sequence[Path]:
        del environment
        return (home / ".cli-proxy-api",)

    def recognises(self, content: Mapping[str, Any], path: Path) -> bool:
        del path
        return content.get("type") == "kimi"

    def parse(self, data: bytes, path: Path) -> Credential:
        content = self.fields(data)
        proxy = text(content, "proxy_url")
        return Credential(
            refresh_token=token(content, "refresh_token"),
            access_token=token(content, "access_token"),
            name=account_name(text(content, "note"), text(content, "prefix"), _without_kimi(path.stem)) or "kimi",
            expires_at=_moment(text(content, "expired")),
            token_type=text(content, "token_type"),
            scope=text(content, "scope"),
            device_id=text(content, "device_id"),
            proxy=None if proxy is None or proxy.lower() in _NO_PROXY else proxy,
            disabled=content.get("disabled") is True,
        )

    def render(self, grant: Grant, before: bytes | None = None) -> bytes:
        content = {"disabled": False, **self._set_by_a_person(before)}
        content |= {
            "access_token": grant.token.access_token,
            "device_id": grant.token.device_id,
            "expired": datetime.fromtimestamp(int(grant.expires_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "refresh_token": grant.refresh,
            "scope": grant.token.scope or "",
            "timestamp": int(grant.at * 1000),
            "token_type": grant.token.token_type,
            "type": "kimi",
        }
        return _written(content)

    def file_in(self, stem: str) -> PurePosixPath:
        # An account that was taken in under the name of its file comes back to that file.
        return PurePosixPath(f"{stem}.json" if _OWN_NAME.fullmatch(stem) else f"kimi-{stem}.json")

    def blanked(self, data: bytes) -> bytes:
        return _written({**self.fields(data), "refresh_token": ""})

    def _set_by_a_person(self, before: bytes | None) -> dict[str, Any]:
        """``disabled``, ``priority``, ``prefix`` and their like live in the same file."""
        try:
            content = {} if before is None else self.fields(before)
        except Unusable:
            return {}
        return {key: value for key, value in content.items() if key not in _OURS}


def _written(content: Mapping[str, Any]) -> bytes:
    return as_json(content, indent=2, sort_keys=True) + b"\n"


def _without_kimi(stem: str) -> str:
    """``kimi-work`` was written for an account ``work``; ``kimi-1712345678901`` is a time, and better left as it is."""
    return stem if _OWN_NAME.fullmatch(stem) else stem.removeprefix("kimi-")


def _moment(written: str | None) -> float | None:
    """RFC 3339 as Unix seconds."""
    if written is None:
        return None
    try:
        found = datetime.fromisoformat(written)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


FORMAT = CliProxyApi()

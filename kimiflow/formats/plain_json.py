"""kimiflow's own: everything that there is to know, for programs."""

from __future__ import annotations

from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from kimiflow.formats.base import Credential, Format, Grant, account_name, as_json, text, token
from kimiflow.status import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["FORMAT"]


class PlainJson(Format):
    """The fields of ``kimiflow token --json``, with provider and API base; two blanks of indent."""

    name = "json"
    tool = "whatever reads JSON"

    def recognises(self, content: Mapping[str, Any], path: Path) -> bool:
        del path
        return content.keys() >= {"account", "provider", "access_token"}

    def parse(self, data: bytes, path: Path) -> Credential:
        content = self.fields(data)
        # Left out where it was not handed over, which is as good as empty.
        content.setdefault("refresh_token", "")
        return Credential(
            refresh_token=token(content, "refresh_token"),
            access_token=token(content, "access_token"),
            name=account_name(text(content, "account"), path.stem) or "kimi",
            expires_at=_moment(text(content, "expires_at")),
            token_type=text(content, "token_type"),
            scope=text(content, "scope"),
            device_id=text(content, "device_id"),
            provider=text(content, "provider"),
        )

    def render(self, grant: Grant, before: bytes | None = None) -> bytes:
        del before
        content = {
            "account": grant.token.account,
            "provider": grant.provider,
            "api_base": grant.api_base,
            "access_token": grant.token.access_token,
            "token_type": grant.token.token_type,
            "expires_at": rfc3339(grant.token.expires_at),
            "scope": grant.token.scope,
            "device_id": grant.token.device_id,
        }
        if grant.refresh_token is not None:
            content["refresh_token"] = grant.refresh
        return as_json(content, indent=2) + b"\n"

    def file_in(self, stem: str) -> PurePosixPath:
        return PurePosixPath(f"{stem}.json")

    def blanked(self, data: bytes) -> bytes:
        content = {**self.fields(data), "refresh_token": ""}
        return as_json(content, indent=2) + b"\n"


def _moment(written: str | None) -> float | None:
    try:
        return None if written is None else datetime.fromisoformat(written).timestamp()
    except (ValueError, OverflowError):
        return None


FORMAT = PlainJson()

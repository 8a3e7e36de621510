"""kimi-code: like kimi-cli, with a folder and a hand of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimiflow.formats.base import as_json
from kimiflow.formats.kimi_cli import DEVICE_ID, OneCredential, as_uuid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import PurePosixPath

    from kimiflow.formats.base import Grant

__all__ = ["FORMAT"]


class KimiCode(OneCredential):
    """Integers, two blanks of indent. Where every value is empty, the grant was revoked."""

    name = "kimi-code"
    tool = "kimi-code"
    variable = "KIMI_CODE_HOME"
    folder = ".kimi-code"

    def render(self, grant: Grant, before: bytes | None = None) -> bytes:
        del before
        content = {
            "access_token": grant.token.access_token,
            "refresh_token": grant.refresh,
            "expires_at": int(grant.expires_at),
            "scope": grant.token.scope or "",
            "token_type": grant.token.token_type,
            "expires_in": max(0, int(grant.expires_at - grant.at)),
        }
        return as_json(content, indent=2)

    def beside(self, grant: Grant) -> Mapping[PurePosixPath, bytes]:
        made = as_uuid(grant.token.device_id)
        return {DEVICE_ID: (grant.token.device_id if made is None else str(made)).encode()}

    def blanked(self, data: bytes) -> bytes:
        return as_json({**self.fields(data), "refresh_token": ""}, indent=2)


FORMAT = KimiCode()

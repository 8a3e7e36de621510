"""``kimiflow token NAME`` at the speed of a look-up.

Scripts call it before each request, and nearly always the stored token is fresh: then all there is to do is to read one
row and open one secret. This does just that, with the standard library and the vault. Whatever is not just so, a
refresh that is due, settings in a file, another database, an error of any kind, it leaves to the long way, which knows
what to do and what to say.
"""

from __future__ import annotations

import math
import os
import re
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from kimiflow.boottime import this_boot
from kimiflow.stores.revision import HEAD

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["fresh_token"]

_HOST: Final = r"(https://[a-z0-9.-]+|http://(127\.0\.0\.1|localhost))(:([1-5]?[0-9]{1,4}|6[0-4][0-9]{3}))?/?"
_UNDERSTOOD: Final = {
    "KIMIFLOW_HOME": r".*",
    "KIMIFLOW_KEY": r".*",
    "KIMIFLOW_KEY_FILE": r".*",
    "KIMIFLOW_LOG_LEVEL": r"debug|info|warning|error",
    "KIMIFLOW_LOG_FORMAT": r"console|json",
    "KIMIFLOW_OAUTH_HOST": _HOST,
    "KIMI_CODE_OAUTH_HOST": _HOST,
    "KIMI_OAUTH_HOST": _HOST,
    "KIMIFLOW_API_BASE": _HOST + r"[a-z0-9._~/-]*",
}
"""Settings that are either obeyed here or do not matter here, with values that are surely allowed; whatever else there
is, is left to the long way to check."""

_QUERY: Final = """
    SELECT z.id, z.access_token, z.next_attempt_at, z.token_expires_at, z.updated_at,
           (SELECT value FROM marks WHERE name = 'clock')
      FROM authorizations z JOIN accounts a ON a.id = z.account_id
     WHERE a.name = ? AND z.state = 'granted' AND z.access_token IS NOT NULL
       AND (SELECT group_concat(version_num) FROM alembic_version) = ?
"""


def fresh_token(name: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """The access token of ``name``, where it is fresh and can be had the short way; else ``None``."""
    if not all(_understood(key, value) for key, value in environment.items() if key.startswith("KIMI") and value):
        return None
    home = _home(environment)
    database = home / "kimiflow.db"
    if (home / "config.toml").exists() or not database.exists():
        return None
    row = _row(database, name)
    if row is None:
        return None
    row_id, sealed, due, expires, updated, mark = row
    boot = this_boot()
    now = time.time() if boot is None or mark is None else boot.time(mark)
    if now is None:
        return None
    # A row from the future means that the clock was put back, and nothing can be said about what is fresh.
    ends = min((at for at in (due, expires) if at is not None), default=math.inf)  # some tokens have no end
    if not updated <= now + 1.0 < ends:
        return None
    return _opened(environment, home, row_id, sealed)


def _understood(key: str, value: str) -> bool:
    if not key.startswith("KIMIFLOW_") and key not in _UNDERSTOOD:
        return True  # some other program's
    return re.fullmatch(_UNDERSTOOD.get(key, "(?!)"), value, re.DOTALL) is not None


def _home(environment: Mapping[str, str]) -> Path:
    given = environment.get("KIMIFLOW_HOME")
    if given:
        return Path(given).expanduser().absolute()
    import platformdirs

    return platformdirs.user_data_path("kimiflow", appauthor=False)


def _row(database: Path, name: str) -> tuple[str, str, float | None, float | None, float, str | None] | None:
    try:
        connection = sqlite3.connect(database, timeout=0.2, isolation_level=None)
        try:
            connection.execute("PRAGMA query_only = ON")
            rows = connection.execute(_QUERY, (name, HEAD)).fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        return None  # the long way says what is wrong with it
    return rows[0] if len(rows) == 1 else None


def _opened(environment: Mapping[str, str], home: Path, row_id: str, sealed: str) -> str | None:
    from kimiflow.errors import KimiFlowError
    from kimiflow.files import read_regular
    from kimiflow.keys.keyring import parse_keys
    from kimiflow.model import Sealed
    from kimiflow.vault import Vault

    text = environment.get("KIMIFLOW_KEY")
    try:
        if not text:
            path = Path(environment.get("KIMIFLOW_KEY_FILE") or home / "key").expanduser()
            text = read_regular(path).decode("ascii")
        return Vault(*parse_keys("the key", text).opening).open(Sealed(sealed), row_id, "access_token").reveal()
    except (KimiFlowError, OSError, ValueError):
        return None  # likewise

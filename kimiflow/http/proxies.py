"""URLs of proxies: which may be used, and where their passwords come from."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from kimiflow.errors import InvalidSetting

__all__ = ["checked_proxy", "resolved_proxy"]

_PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")


def checked_proxy(key: str, value: str, *, may_hold_password: bool) -> str:
    """``value``, where it is the URL of a proxy, or ``env:NAME`` for one that the environment holds.

    A password is refused where the value would end up in a shell's history, a process list or, in clear, in the store.

    :raises InvalidSetting: naming ``key``; the value only where it holds no password.
    """
    if value.startswith("env:") and value[4:].isidentifier():
        return value
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.password is not None and not may_hold_password:
        raise InvalidSetting(
            f"{key} carries a password, which a process list and a shell's history would show",
            hint="Put the URL into an environment variable, say WORK_PROXY, and give env:WORK_PROXY here.",
        )
    if parts.scheme not in _PROXY_SCHEMES or not parts.hostname:
        shown = "not a URL that can be used" if "@" in value else repr(value)
        raise InvalidSetting(
            f"{key} is {shown}; allowed is {', '.join(f'{s}://HOST:PORT' for s in _PROXY_SCHEMES)} or env:NAME"
        )
    return value


def resolved_proxy(value: str) -> str:
    """The URL of a proxy, looked up in the environment where it says so.

    :raises InvalidSetting: where the environment variable is missing or is no URL of a proxy.
    """
    if not value.startswith("env:"):
        return value
    name = value[4:]
    url = os.environ.get(name)
    if not url:
        raise InvalidSetting(f"the proxy is to be taken from {name}, but the environment has no {name}")
    return checked_proxy(name, url, may_hold_password=True)

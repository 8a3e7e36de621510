"""Authorization servers as data: endpoints, client id, scope, API base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kimiflow.errors import InvalidSetting, UnknownProvider

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["BUILT_IN", "Provider", "checked_url", "find_provider", "is_loopback", "on_host"]

KIMI_CLIENT_ID = "17e5f671-d194-4dfb-9706-5516cb48c098"


@dataclass(frozen=True, slots=True)
class Provider:
    """One authorization server and the API behind it. URLs are absolute; ``scope`` may be ``None``."""

    name: str
    device_authorization_endpoint: str
    token_endpoint: str
    client_id: str
    scope: str | None = None
    api_base: str | None = None


def _kimi(name: str, top_level_domain: str) -> Provider:
    host = f"https://auth.kimi.{top_level_domain}"
    return Provider(
        name=name,
        device_authorization_endpoint=f"{host}/api/oauth/device_authorization",
        token_endpoint=f"{host}/api/oauth/token",
        client_id=KIMI_CLIENT_ID,
        api_base=f"https://api.kimi.{top_level_domain}/coding",
    )


BUILT_IN = {"kimi": _kimi("kimi", "com"), "kimi-global": _kimi("kimi-global", "ai")}


def is_loopback(host: str | None) -> bool:
    """Whether ``host`` (a name or an address, no port) never leaves this machine."""
    if host is None:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def checked_url(key: str, value: str) -> str:
    """``value``, where it is a URL that a secret may be sent to.

    :raises InvalidSetting: naming ``key``, where it is no absolute URL, carries a password, or is plain http to a host
        other than loopback.
    """
    try:
        parts = urlsplit(value)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    if parts.scheme not in {"http", "https"} or not host:
        shown = "not a URL that can be used" if "@" in value else repr(value)
        raise InvalidSetting(f"{key} is {shown}; allowed is an absolute https:// URL")
    if parts.username is not None or parts.password is not None:
        raise InvalidSetting(f"{key} carries a user name or password; allowed is a URL without")
    if parts.scheme == "http" and not is_loopback(host):
        raise InvalidSetting(
            f"{key} is {value!r}; plain http is refused except on loopback",
            hint="Use an https:// URL.",
        )
    return value


def on_host(provider: Provider, host_url: str) -> Provider:
    """``provider`` with its authorization server moved to ``host_url``, paths kept."""

    def moved(endpoint: str) -> str:
        return host_url.rstrip("/") + urlsplit(endpoint).path

    return replace(
        provider,
        device_authorization_endpoint=moved(provider.device_authorization_endpoint),
        token_endpoint=moved(provider.token_endpoint),
    )


def find_provider(providers: Mapping[str, Provider], name: str, *, account: str | None = None) -> Provider:
    """The provider called ``name``.

    :raises UnknownProvider: naming it, and those there are.
    """
    try:
        return providers[name]
    except KeyError:
        whose = f" of account {account}" if account else ""
        raise UnknownProvider(
            f"the provider {name!r}{whose} is not known; there are: {', '.join(sorted(providers))}",
            hint=f"Others are set up in config.toml, under [providers.{name}].",
            account=account,
        ) from None

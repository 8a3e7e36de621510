"""Authorization servers as data: endpoints, client id, scope, API base."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kimiflow.errors import InvalidSetting, UnknownProvider, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "BUILT_IN",
    "Provider",
    "check_origin",
    "check_revocation",
    "checked_url",
    "find_provider",
    "is_loopback",
    "issuer_of",
    "on_host",
    "origin_of",
]

KIMI_CLIENT_ID = "17e5f671-d194-4dfb-9706-5516cb48c098"

_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}


@dataclass(frozen=True, slots=True)
class Provider:
    """One authorization server and the API behind it. URLs are absolute; ``scope`` may be ``None``.

    ``revocation_endpoint`` (RFC 7009) is where a sign-out is told; ``None`` where the server has none, as Kimi's.
    ``usual_origin`` is that of the token endpoint as it is built in or stands in config.toml, where a setting that is
    not there for good has moved it; ``placed_by`` is the setting that says where it is now, if any does.
    """

    name: str
    device_authorization_endpoint: str
    token_endpoint: str
    client_id: str
    scope: str | None = None
    api_base: str | None = None
    revocation_endpoint: str | None = None
    usual_origin: str | None = None
    placed_by: str | None = None

    @property
    def origin(self) -> str:
        """The origin of the token endpoint; see :func:`origin_of`."""
        return origin_of(self.token_endpoint)


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


@lru_cache(maxsize=256)
def origin_of(url: str) -> str:
    """Scheme, host and port of an absolute URL (RFC 6454 §4), so written that equal origins are equal strings.

    ``scheme://host[:port]``: lower case, a host in its ASCII form and without the dot at its end, an IPv6 address
    compressed and in brackets, no port where it is the scheme's default. User, path and query play no part.

    :raises UsageError: where ``url`` has no scheme or host, or none that can be used.
    """
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme, parts.port
        host = _normal_host(parts.hostname or "")
    except ValueError:
        scheme, host, port = "", "", None
    if not scheme or not host:
        shown = "a URL" if "@" in url else repr(url)
        raise UsageError(f"{shown} has no origin; an absolute URL is needed", hint='Such as "https://api.example".')
    suffix = "" if port in {None, _DEFAULT_PORTS.get(scheme)} else f":{port}"
    return f"{scheme}://{host}{suffix}"


def _normal_host(host: str) -> str:
    """The one spelling of a host; empty where there is none. ``ValueError`` where it cannot be spelled in ASCII."""
    if not host.isascii():
        # Only where it is needed: httpx takes long to load. It has the last word on what a name is in ASCII, because it
        # is what sends the requests; the codec of the standard library has another (older) rule.
        import httpx  # noqa: PLC0415

        try:
            host = httpx.URL(scheme="https", host=host).raw_host.decode("ascii")
        except httpx.InvalidURL as error:
            raise ValueError(host) from error
    host = host.removesuffix(".")
    try:
        address = ip_address(host)
    except ValueError:
        return host
    return f"[{address}]" if address.version == 6 else str(address)


def issuer_of(provider: Provider, noted: str | None) -> str:
    """The origin that issued secrets of ``provider``: the one that was noted with them, or where it usually is.

    :raises UsageError: where what was noted is no URL.
    """
    return origin_of(noted) if noted else provider.usual_origin or provider.origin


def check_origin(provider: Provider, issuer: str, account: str) -> None:
    """Sees to it that secrets which ``issuer`` has issued go nowhere else.

    :raises InvalidSetting: naming both hosts, what has moved the provider, and what to do.
    """
    asked = provider.origin
    if issuer == asked:
        return
    by = provider.placed_by
    now = f"{by} says {asked}" if by else f"its provider {provider.name} is at {asked}"
    if by is not None and not by.endswith("OAUTH_HOST"):
        mend = f"Correct {by}"
    elif by is not None and provider.usual_origin == issuer:
        mend = f"Unset {by}"
    else:
        mend = f"Set {by or 'KIMIFLOW_OAUTH_HOST'}={issuer} again"
    raise InvalidSetting(
        f"{account} was signed in at {issuer}, but {now}; its secrets were not sent there",
        hint=f"{mend}; where the server itself has moved: kimiflow set {account} --origin {asked}",
        account=account,
    )


def check_revocation(provider: Provider, issuer: str, account: str) -> None:
    """Sees to it that the end of tokens which ``issuer`` has issued is told there and nowhere else.

    For a provider that has a revocation endpoint.

    :raises InvalidSetting: saying where that is instead.
    """
    assert provider.revocation_endpoint is not None  # noqa: S101 - the caller has seen to it
    told = origin_of(provider.revocation_endpoint)
    if told != issuer:
        raise InvalidSetting(
            f"the revocation_endpoint of {provider.name} is at {told}",
            hint=f"The tokens of {account} come from {issuer}, and go nowhere else.",
            account=account,
        )


def on_host(provider: Provider, host_url: str) -> Provider:
    """``provider`` with its authorization server moved to ``host_url``, paths kept."""

    def moved(endpoint: str) -> str:
        return host_url.rstrip("/") + urlsplit(endpoint).path

    return replace(
        provider,
        device_authorization_endpoint=moved(provider.device_authorization_endpoint),
        token_endpoint=moved(provider.token_endpoint),
        revocation_endpoint=provider.revocation_endpoint and moved(provider.revocation_endpoint),
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

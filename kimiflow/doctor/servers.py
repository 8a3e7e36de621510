"""The servers of the accounts: the way to them, whether they answer, and what time it is there.

They are asked for ``/`` by a plain GET: without tokens, client ids or device headers.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import httpx

from kimiflow._version import __version__
from kimiflow.doctor.findings import Finding
from kimiflow.errors import KimiFlowError
from kimiflow.http.network import in_words
from kimiflow.http.transports import Transports
from kimiflow.model import Account

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kimiflow.provider import Provider
    from kimiflow.settings import Settings

__all__ = ["examine_servers"]

_PATIENCE: Final = 10.0
_OFF: Final = 30.0
"""Seconds that are more than a header without fractions, read after a slow answer, can be wrong."""


@dataclass(frozen=True, slots=True)
class _Way:
    """A server, and the proxy through which accounts reach it; one of them stands for all."""

    origin: str
    account: Account
    ahead: float | None = None
    """By how many seconds its clock is ahead of ours."""
    finding: Finding | None = None


async def examine_servers(settings: Settings, accounts: Sequence[Account]) -> list[Finding]:
    """Providers, proxies, servers and clocks; those of a new account where there is none yet."""
    providers = settings.all_providers()
    asked = list(accounts) or [Account("", "new accounts", settings.provider, "", None, 0.0)]
    unknown = sorted({each.provider for each in asked} - providers.keys())
    findings = [_unknown(name, asked) for name in unknown]
    transports = Transports(proxy=settings.proxy.get_secret_value() if settings.proxy else None, connections=16)
    try:
        ways = _ways(providers, asked)
        proxies = [_proxy(transports, way) for way in ways]
        findings += _told_once(finding for _, finding in proxies if finding is not None)
        usable = [(way, proxy) for way, (proxy, finding) in zip(ways, proxies, strict=True) if finding is None]
        patience = min(_PATIENCE, settings.http_timeout)
        looked = await asyncio.gather(*(_look(transports, way, proxy, patience) for way, proxy in usable))
    finally:
        await transports.aclose()
    if usable and not any(finding is not None for _, finding in proxies):
        through = sorted({_without_password(proxy) for _, proxy in usable if proxy})
        findings.append(Finding("proxy", ok=True, what=", ".join(through) or "none"))
    findings += [way.finding for way in looked if way.finding is not None]
    return [*findings, *_clocks(looked)]


def _unknown(provider: str, accounts: Iterable[Account]) -> Finding:
    names = sorted(each.name for each in accounts if each.provider == provider)
    return Finding(
        "provider",
        ok=False,
        what=f"the provider {provider} of {', '.join(names[:10])} is not known",
        todo=f"Add it in config.toml, under [providers.{provider}].",
    )


def _ways(providers: dict[str, Provider], accounts: Iterable[Account]) -> list[_Way]:
    found: dict[tuple[str, str | None], _Way] = {}
    for account in accounts:
        provider = providers.get(account.provider)
        if provider is None:
            continue
        for url in (provider.device_authorization_endpoint, provider.token_endpoint, provider.api_base):
            if url is not None:
                parts = urlsplit(url)
                origin = f"{parts.scheme}://{parts.netloc}"
                found.setdefault((origin, account.proxy), _Way(origin, account))
    return list(found.values())


def _proxy(transports: Transports, way: _Way) -> tuple[str | None, Finding | None]:
    try:
        return transports.proxy_for(way.account, way.origin), None
    except KimiFlowError as error:
        what = f"{way.account.name}: {error.message}"
        return None, Finding("proxy", ok=False, what=what, todo=error.hint or "Set it, or give another proxy.")


def _told_once(findings: Iterable[Finding]) -> list[Finding]:
    return list(dict.fromkeys(findings))


async def _look(transports: Transports, way: _Way, proxy: str | None, patience: float) -> _Way:
    through = f" through {_without_password(proxy)}" if proxy else ""
    request = httpx.Request("GET", f"{way.origin}/", headers={"User-Agent": f"kimiflow/{__version__}"})
    request.extensions["timeout"] = dict.fromkeys(("connect", "read", "write", "pool"), patience)
    wall, started = time.time(), time.monotonic()
    try:
        async with asyncio.timeout(patience):
            response = await transports(way.account, way.origin).handle_async_request(request)
            await response.aclose()
    except TimeoutError:
        return _silent(way, through, f"no answer within {patience:g} s")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, KimiFlowError) as error:
        return _silent(way, through, in_words(error))
    took = time.monotonic() - started
    secure = ", and its certificate holds" if way.origin.startswith("https:") else ""
    finding = Finding("server", ok=True, what=f"{way.origin} answers{through} in {took * 1000:.0f} ms{secure}")
    return _Way(way.origin, way.account, _ahead(response.headers.get("Date"), wall + took / 2), finding)


def _silent(way: _Way, through: str, reason: str) -> _Way:
    finding = Finding(
        "server",
        ok=False,
        what=f"{way.origin} cannot be reached{through}: {reason}",
        todo="Look at the network, the name server and the proxy; sign-ins and tokens wait, and nothing is lost.",
    )
    return _Way(way.origin, way.account, None, finding)


def _ahead(date: str | None, now: float) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() + 0.5 - now
    except ValueError:
        return None


def _clocks(ways: Iterable[_Way]) -> list[Finding]:
    known = {way.origin: way.ahead for way in ways if way.ahead is not None}
    if not known:
        return []
    off = {origin: ahead for origin, ahead in known.items() if abs(ahead) > _OFF}
    if not off:
        return [Finding("time", ok=True, what="this machine's clock is that of the servers")]
    told = ", ".join(f"{abs(by):.0f} s {'behind' if by > 0 else 'ahead of'} {origin}" for origin, by in off.items())
    return [
        Finding(
            "time",
            ok=False,
            what=f"this machine's clock is {told}",
            todo="Set it, and have it synchronised (NTP): certificates and shown times depend on it.",
        )
    ]


def _without_password(proxy: str) -> str:
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

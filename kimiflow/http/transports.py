"""HTTP transports, one for each way out: direct, or through a proxy. All accounts of a host share its connections."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from kimiflow.errors import InvalidSetting
from kimiflow.http.http1 import Http1Transport
from kimiflow.http.proxies import checked_proxy, resolved_proxy
from kimiflow.provider import is_loopback
from kimiflow.wire import MAX_BODY

if TYPE_CHECKING:
    import ssl

    from kimiflow.model import Account

__all__ = ["Transports"]


class Transports:
    """Makes a transport for each proxy when it is first needed, and keeps it.

    An account's own proxy comes first, then ``proxy`` for all, then the usual environment variables
    (``HTTPS_PROXY``, ``ALL_PROXY``, ``NO_PROXY``…).

    :param connections: most connections at a time for each way out.
    """

    def __init__(self, *, proxy: str | None = None, connections: int = 256) -> None:
        self._proxy = proxy
        self._connections = connections
        self._by_proxy: dict[str | None, httpx.AsyncBaseTransport] = {}
        self._environment: dict[str, str] = getproxies()
        self._tls: ssl.SSLContext | None = None

    def __call__(self, account: Account, url: str) -> httpx.AsyncBaseTransport:
        """The transport for a request of ``account`` to ``url``.

        :raises InvalidSetting: where the proxy cannot be used.
        """
        proxy = self.proxy_for(account, url)
        transport = self._by_proxy.get(proxy)
        if transport is None:
            transport = self._by_proxy[proxy] = self._make(proxy)
        return transport

    async def aclose(self) -> None:
        """Closes every connection."""
        transports, self._by_proxy = list(self._by_proxy.values()), {}
        for transport in transports:
            await transport.aclose()

    def proxy_for(self, account: Account, url: str) -> str | None:
        """The proxy through which a request of ``account`` to ``url`` goes, which may hold a password.

        :raises InvalidSetting: where it cannot be used.
        """
        chosen = account.proxy or self._proxy
        if chosen is not None:
            return resolved_proxy(chosen)
        if not self._environment:
            return None
        parts = urlsplit(url)
        # What is plain http, on loopback, would leave the machine in clear; nobody who set a proxy meant that.
        if is_loopback(parts.hostname) or not parts.hostname:
            return None
        if proxy_bypass(parts.hostname) or proxy_bypass(parts.netloc):
            return None
        variable = parts.scheme if self._environment.get(parts.scheme) else "all"
        found = self._environment.get(variable)
        if not found:
            return None
        found = found if "://" in found else f"http://{found}"
        return checked_proxy(f"{variable.upper()}_PROXY", found, may_hold_password=True)

    def _make(self, proxy: str | None) -> httpx.AsyncBaseTransport:
        if self._tls is None:
            # Costs some 27 ms, so it is made once, when the first connection needs it.
            self._tls = httpx.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        if proxy is None:
            return Http1Transport(self._tls, max_body=MAX_BODY)
        limits = httpx.Limits(
            max_connections=self._connections,
            max_keepalive_connections=self._connections,
            keepalive_expiry=30.0,
        )
        try:
            return httpx.AsyncHTTPTransport(verify=self._tls, limits=limits, proxy=proxy, trust_env=False)
        except ImportError:
            raise InvalidSetting(
                "a SOCKS proxy needs a package that is not installed",
                hint="pip install 'kimiflow[socks]'",
            ) from None

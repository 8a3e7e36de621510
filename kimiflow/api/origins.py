"""Where an account's token and device id may go: to its API, to whom the caller names, and nowhere by a redirect."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from kimiflow import identity
from kimiflow.authflow import ask
from kimiflow.errors import ForeignOrigin, UsageError
from kimiflow.provider import is_loopback, origin_of
from kimiflow.wire import identity_headers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Generator

    import httpx

    from kimiflow.authflow import Await
    from kimiflow.status import Token

__all__ = ["Origins", "bore"]

_DEVICE: Final = b"x-msh-"
"""What the names of all device headers begin with."""

_ORIGIN: Final = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+])(:\d+)?")


class Origins:
    """The rule for one ``httpx.Auth``: secrets go to the origin of an account's API, and to those that are ``named``.

    :param api_base: the API of an account; ``None`` where it has none, or has not been met yet.
    :param look_up: meets an account, as it is now; raises where it cannot serve.
    :raises UsageError: where one of ``named`` is no origin, or is one of plain http elsewhere than on loopback.
    """

    def __init__(
        self,
        api_base: Callable[[str], str | None],
        look_up: Callable[[str], Coroutine[Any, Any, object]],
        named: Collection[str] = (),
    ) -> None:
        self._api_base = api_base
        self._look_up = look_up
        self._named = _checked(named)
        self._admitted: set[tuple[bytes, bytes, int | None, str | None]] = set()
        """Scheme, host and port of what was found good, and the API of the account that it was found good for."""

    def admit(self, request: httpx.Request, account: str) -> Generator[Await, Any, None]:
        """Lets a request pass that goes where the account's secrets may go. Comes before a token is taken.

        :raises ForeignOrigin: where it goes elsewhere; and whatever the look-up raises.
        """
        if not self._admits(request.url, account):
            # It may not have been met yet, or be another one that has this name by now.
            yield from ask(self._look_up, account)
            self._check(request.url, account)

    def signed(self, request: httpx.Request, token: Token) -> httpx.Request:
        """``request`` with an account's token and device headers in place of whatever the client put there.

        :raises ForeignOrigin: where the account that the token turns out to be of has its API elsewhere.
        """
        self._check(request.url, token.account)
        headers = request.headers
        headers["Authorization"] = f"Bearer {token.access_token}"
        for header, value in identity_headers(identity.local(), token.device_id):
            headers[header] = value
        _check_tie(type(headers))
        _tie(headers)
        return request

    def _admits(self, url: httpx.URL, account: str) -> bool:
        base = self._api_base(account)
        place = (url.raw_scheme, url.raw_host, url.port, base)
        if place in self._admitted:
            return True
        origin = _origin(url)
        if _may_be_overheard(origin) or origin not in self._allowed(base):
            return False
        self._admitted.add(place)
        return True

    def _check(self, url: httpx.URL, account: str) -> None:
        if self._admits(url, account):
            return
        asked, allowed = _origin(url), self._allowed(self._api_base(account))
        if _may_be_overheard(asked):
            hint = "Plain http is refused except on loopback. Use an https:// URL."
        else:
            hint = f"Where that origin is to have them, say so where the auth is made: origins=[{asked!r}]"
        only = f"go to {' and '.join(allowed)} only" if allowed else "go nowhere, as its provider has no api_base"
        raise ForeignOrigin(
            f"a request as {account} was not sent to {asked}; token and device id {only}", hint=hint, account=account
        )

    def _allowed(self, base: str | None) -> tuple[str, ...]:
        return self._named if base is None else tuple(dict.fromkeys((origin_of(base), *self._named)))


def bore(response: httpx.Response, token: Token) -> bool:
    """Whether a response is to a request that bore the token.

    One from behind a redirect to another origin is not, and says nothing about the token or the account.
    """
    authorization: str | None = response.request.headers.get("Authorization")
    return authorization == f"Bearer {token.access_token}"


def _origin(url: httpx.URL) -> str:
    # From the parts that httpx itself will connect to; without user, path and query, which may be secret.
    return origin_of(f"{url.scheme}://{url.netloc.decode('ascii')}")


def _may_be_overheard(origin: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme != "https" and not is_loopback(parts.hostname)


def _checked(named: Collection[str]) -> tuple[str, ...]:
    if isinstance(named, str | bytes) or not isinstance(named, Iterable):
        raise UsageError("origins is a list of URLs, not one", hint='As in: origins=["https://gateway.example"]')
    return tuple(dict.fromkeys(map(_checked_origin, named)))


def _checked_origin(url: object) -> str:
    if not isinstance(url, str):
        raise UsageError(f"origins has {url!r}, which is no URL; allowed is https://host or https://host:port")
    origin, parts = origin_of(url), urlsplit(url)
    if parts.path not in {"", "/"} or parts.query or parts.fragment or "@" in parts.netloc:
        raise UsageError(f"origins has a URL with more than an origin: of {origin}", hint=f"Allowed is: {origin}")
    if not _ORIGIN.fullmatch(origin):
        raise UsageError(f"origins has {origin!r}; allowed is https://host or https://host:port")
    if _may_be_overheard(origin):
        raise UsageError(
            f"origins has {origin!r}; plain http is refused except on loopback", hint="Use an https:// URL."
        )
    return origin


# httpx follows redirects below an auth flow, which learns of it afterwards. Each next request gets a copy of the headers,
# without Authorization where the origin is another. (It keeps that where only http became https, which here is loopback.)
# Of device headers httpx knows nothing, so they are tied to Authorization, and leave with it.


class _Tied(bytes):
    """The key of a header that is taken out where ``Authorization`` is.

    To find what it takes out httpx lower-cases the keys once more, which it does not to find what is asked for.
    """

    __slots__ = ()

    def lower(self) -> bytes:
        return _OwnOrAuthorization(self)


class _OwnOrAuthorization(bytes):
    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other == b"authorization" or super().__eq__(other)

    __hash__ = bytes.__hash__


def _tie(headers: httpx.Headers) -> None:
    entries = headers._list  # noqa: SLF001 - only what is in there outlives the copy; see _check_tie
    for index, (name, key, value) in enumerate(entries):
        if key.startswith(_DEVICE):
            entries[index] = (name, _Tied(key), value)


@lru_cache(maxsize=8)
def _check_tie(kind: type[httpx.Headers]) -> None:
    """Sees to it, once for httpx and once for httpx2, that the release which is installed copies headers as is thought.

    :raises RuntimeError: where a redirect would take the device headers along.
    """
    headers = kind({"Authorization": "Bearer", "X-Msh-Device-Id": "device", "Accept": "*/*"})
    _tie(headers)
    whole, copy = kind(headers), kind(headers)
    copy.pop("Authorization", None)
    if (list(whole), list(copy)) != (["authorization", "x-msh-device-id", "accept"], ["accept"]):
        msg = f"{kind.__module__} handles headers in a way that is not known: redirects could not be kept safe"
        raise RuntimeError(msg)

"""``httpx.Auth`` for an account: a bearer token, the device headers, and one forced refresh after a 401."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import httpx

from kimiflow.api.origins import bore
from kimiflow.authflow import AuthFlow, ask
from kimiflow.errors import TokenRefused

if TYPE_CHECKING:
    from kimiflow.api.origins import Origins
    from kimiflow.authflow import Steps
    from kimiflow.status import Token

__all__ = ["KimiAuth", "TokenGiver"]


class TokenGiver(Protocol):
    """Where tokens come from; ``KimiFlow`` is one."""

    async def token(self, name: str) -> Token:
        """A fresh token."""

    async def refresh(self, name: str, *, seen: str | None = None) -> Token:
        """A token other than ``seen``."""


class KimiAuth(AuthFlow):
    """Authenticates each request of an httpx client as one account. Made by ``flow.auth(name)``.

    A 401 is answered by one refresh, bound to the token that got it: of many requests that fail together the first
    refreshes, and the others find the new token. Then the request is made once more, and what comes back is the answer.
    Where the API refuses the new token too, its 401s cause no other refresh for a minute.
    A body that is a stream was used up by the first try; httpx then raises, rather than send half of it.

    Requests go to the account's API, and to the origins that were named, or not at all. A redirect to another origin is
    followed without token and device headers, and a 401 from there is just the answer.
    """

    def __init__(self, tokens: TokenGiver, name: str, origins: Origins) -> None:
        self._tokens = tokens
        self._name = name
        self._origins = origins

    def steps(self, request: httpx.Request) -> Steps:
        """A request with the token, and where that is refused, one with the next token.

        :raises ForeignOrigin: where it goes elsewhere than to the account's API and the origins that were named.
        """
        origins = self._origins
        yield from origins.admit(request, self._name)
        token = yield from ask(self._tokens.token, self._name)
        response = yield origins.signed(request, token)
        if response.status_code == httpx.codes.UNAUTHORIZED and bore(response, token):
            try:
                token = yield from ask(self._tokens.refresh, self._name, seen=token.access_token)
            except TokenRefused:
                return  # the 401 is the answer, as it was a moment ago
            yield origins.signed(request, token)

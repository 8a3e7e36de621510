"""What kimiflow itself asks of the API behind an account: the profile, the quota. A shell around ``profile``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from kimiflow import identity
from kimiflow.api.profile import profile_of, quota_of
from kimiflow.api.tolerant import first, json_object, words
from kimiflow.errors import InvalidSetting, KimiFlowError, RequestFailed, ServerUnreachable, SignInNeeded
from kimiflow.http.network import in_words
from kimiflow.outcome import no_grant, renamed
from kimiflow.provider import find_provider
from kimiflow.redaction import redacted, struck_out
from kimiflow.secret import Secret
from kimiflow.wire import identity_headers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kimiflow.api.profile import Profile
    from kimiflow.engine import Engine
    from kimiflow.model import Account
    from kimiflow.status import Token
    from kimiflow.stores.base import Snapshot
    from kimiflow.tokens import TokenSource

__all__ = ["AccountApi", "api_base_of", "why_not_lent"]

_LONGEST_REPLY = 64 * 1024
"""Bytes; a profile and a quota take two thousand. Each word is held against the account's secrets."""

_PATIENCE_FOR_USAGES = 3.0
"""Seconds that a request, which waits to be made as another account, is held up to learn about the first."""


def why_not_lent(snapshot: Snapshot) -> KimiFlowError | None:
    """Why no pool may serve requests as this account; ``None`` where it may."""
    if snapshot.account.disabled:
        name = snapshot.account.name
        return SignInNeeded(f"{name} is disabled", hint=f"Hand it out again with: kimiflow enable {name}", account=name)
    return no_grant(snapshot) if snapshot.grant is None else None


class AccountApi:
    """Asks the API as one account or another, and lends tokens to pools."""

    def __init__(self, engine: Engine, tokens: TokenSource, met: dict[str, Account]) -> None:
        self._engine = engine
        self._tokens = tokens
        self._met = met
        """The accounts that have been met, by name, each as it was last seen."""

    # For pools: see :class:`kimiflow.pool.Lender`

    def now(self) -> float:
        """Unix seconds by the store."""
        return self._engine.clock.now()

    async def token(self, name: str) -> Token:
        """A fresh token of an account that may be handed out.

        :raises SignInNeeded: and the others, as for :meth:`KimiFlow.token`.
        """
        return await self._tokens.fresh(await self.look_up(name), None)

    async def refresh(self, name: str, *, seen: str | None = None) -> Token:
        """A token other than ``seen``; see :meth:`KimiFlow.refresh`."""
        snapshot = await self._engine.snapshot(name)
        self._met[name] = snapshot.account  # which may be another one by now
        return await self._tokens.refreshed(snapshot, seen, None)

    def api_base(self, name: str) -> str | None:
        """The API that the account's tokens are for; ``None`` where it has none, or has not been met yet."""
        account = self._met.get(name)
        provider = None if account is None else self._engine.providers.get(account.provider)
        return None if provider is None else provider.api_base

    async def look_up(self, name: str) -> Snapshot:
        """An account that may be handed out, as it is now.

        :raises SignInNeeded: where it may not.
        :raises UnknownProvider: where its provider is set up no more.
        """
        snapshot = await self._engine.snapshot(name)
        if (reason := why_not_lent(snapshot)) is not None:
            raise reason
        find_provider(self._engine.providers, snapshot.account.provider, account=name)
        self._met[name] = snapshot.account
        return snapshot

    async def returns_at(self, name: str) -> float | None:
        """When the last of the quotas that are used up is back; ``None`` where the usages do not say."""
        snapshot = await self._engine.snapshot(name)
        try:
            async with asyncio.timeout(_PATIENCE_FOR_USAGES):
                usages = await self._get(snapshot, "/v1/usages")
        except TimeoutError:
            return None
        return max((w.resets_at for w in quota_of(usages) if w.exhausted and w.resets_at), default=None)

    # The profile

    async def profile(self, snapshot: Snapshot) -> Profile:
        """See :meth:`KimiFlow.profile`."""
        name = snapshot.account.name
        await self._tokens.fresh(snapshot, None)  # of the two requests neither is to be the first to refresh
        replies = await asyncio.gather(
            self._get(snapshot, "/v1/me"), self._get(snapshot, "/v1/usages"), return_exceptions=True
        )
        problems: list[KimiFlowError] = []
        for reply in replies:
            if isinstance(reply, KimiFlowError):
                problems.append(reply)
            elif isinstance(reply, BaseException):
                raise reply
        if len(problems) == len(replies):
            raise problems[0]
        me, usages = ({} if isinstance(reply, BaseException) else reply for reply in replies)
        return profile_of(name, me, usages, [problem.message for problem in problems])

    async def _get(self, snapshot: Snapshot, path: str) -> Mapping[str, Any]:
        """The JSON object at ``path``; a token that is refused is refreshed once.

        :raises RequestFailed: where the API answers with anything else.
        :raises ServerUnreachable: where it does not answer.
        """
        account = snapshot.account
        url = api_base_of(self._engine, account) + path
        token = await self._tokens.fresh(snapshot, None)
        known = await self._secrets_of(snapshot)
        response = await self._exchange(account, url, token, known)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            now = await self._engine.snapshot(account.name)
            if now.account.id != account.id:
                raise renamed(account.name)
            token = await self._tokens.refreshed(now, token.access_token, None)
            known += await self._secrets_of(now)
            response = await self._exchange(account, url, token, known)
        known.append(Secret(token.access_token))
        body = response.content
        found = struck_out(json_object(body), known) if len(body) <= _LONGEST_REPLY else {}
        if response.status_code == httpx.codes.OK and found:
            return found
        raise _of_no_use(account, path, response.status_code, found, known)

    async def _secrets_of(self, snapshot: Snapshot) -> list[Secret]:
        """What is not to be shown, whoever says it."""
        if snapshot.grant is None:
            return []
        opened = (await self._engine.vault()).open_authorization(snapshot.grant)
        return [secret for secret in (opened.access_token, opened.refresh_token) if secret is not None]

    async def _exchange(self, account: Account, url: str, token: Token, known: Sequence[Secret]) -> httpx.Response:
        timeout = self._engine.settings.http_timeout
        device = identity_headers(identity.local(), account.device_id)
        (_, platform), (_, version), *_ = device
        request = httpx.Request(
            "GET",
            url,
            headers=[
                ("Accept", "application/json"),
                ("Accept-Encoding", "identity"),
                ("Authorization", f"Bearer {token.access_token}"),
                ("User-Agent", f"{platform}/{version}"),
                *device,
            ],
            extensions={"timeout": dict.fromkeys(("connect", "read", "write", "pool"), timeout)},
        )
        try:
            async with asyncio.timeout(timeout):
                response = await self._engine.transport_for(account, url).handle_async_request(request)
                try:
                    await response.aread()
                finally:
                    await response.aclose()
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = f"no complete reply within {timeout:g} s" if isinstance(error, TimeoutError) else in_words(error)
            reason = redacted(reason, known)
            raise ServerUnreachable(
                f"the API of {account.name} could not be reached ({reason})",
                hint="The sign-in is not touched by this. Try again later.",
                account=account.name,
            ) from None
        return response


def api_base_of(engine: Engine, account: Account) -> str:
    """The base URL of the API that an account's tokens are for.

    :raises InvalidSetting: where its provider has none.
    """
    provider = find_provider(engine.providers, account.provider, account=account.name)
    if provider.api_base is None:
        raise InvalidSetting(
            f"the provider {provider.name!r} of account {account.name} has no api_base",
            hint=f"Add it in config.toml, under [providers.{provider.name}].",
            account=account.name,
        )
    return provider.api_base


def _of_no_use(
    account: Account, path: str, status: int, body: Mapping[str, Any], known: Sequence[Secret]
) -> RequestFailed:
    error = body.get("error")
    said = words(first(error, "message", "type") if isinstance(error, dict) else first(body, "message", "detail"))
    meaning = " (no membership)" if status == httpx.codes.PAYMENT_REQUIRED else ""
    said = f": {redacted(said, known)}" if said else ""
    return RequestFailed(
        f"the API answered {status}{meaning} to {path} of {account.name}{said}",
        hint="The sign-in is not touched by this.",
        account=account.name,
    )

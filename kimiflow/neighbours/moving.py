"""Grants that move in from another tool. A refresh token has one owner, before and after.

The grant is committed to the store, due for a refresh, *before* anything is sent: from then on a kill loses nothing,
since whoever drives the store goes on with it. The refresh shows whether the tokens are good, and rotates them away
from the other tool. Only after that one was committed may the other tool's file be blanked.

An authorization that moved in has an id made of its refresh token. So the database itself refuses to take the same
token in twice, even from two processes at once, and a file whose token was spent here long ago is recognised instead
of sent again, which might end the grant. It is recognised for as long as the authorization is there.
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kimiflow import advance
from kimiflow.errors import UsageError
from kimiflow.http.proxies import checked_proxy
from kimiflow.model import Account, TokenSet, valid_account_name
from kimiflow.neighbours.handover import Handover, grant_of
from kimiflow.provider import find_provider, issuer_of
from kimiflow.redaction import clear_of
from kimiflow.stores.base import Beginning, Snapshot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kimiflow.engine import Engine
    from kimiflow.formats.base import Credential, Grant
    from kimiflow.neighbours.handover import Place
    from kimiflow.secret import Secret
    from kimiflow.status import Token

__all__ = ["Moving", "Residents", "authorization_id_of"]

_NAMESPACE: Final = uuid.UUID("6f1c1f0e-6a55-5a0c-9d6e-3d1f2b0f8c11")

_LONGEST_LIFE: Final = 86_400.0
"""Seconds that a file is believed about the life of its access token; a refresh tells better, at once."""


def authorization_id_of(refresh_token: Secret) -> str:
    """The id of the authorization that a refresh token becomes; says nothing about the token."""
    return str(uuid.uuid5(_NAMESPACE, hashlib.sha256(refresh_token.reveal().encode()).hexdigest()))


@dataclass(frozen=True, slots=True)
class Residents:
    """Who is here already: what names and grants that move in have to get along with."""

    by_name: dict[str, Snapshot]
    holders: dict[str, str]
    """Names of accounts by the ids of their authorizations."""
    digests: dict[str, str]
    """Names of accounts by the digests of the refresh tokens that they hold now."""
    issuers: frozenset[str | None]
    """The origins that went into these."""

    @classmethod
    def of(cls, snapshots: Iterable[Snapshot]) -> Residents:
        """From the store's snapshots."""
        by_name = {each.account.name: each for each in snapshots}
        rows = [(row, name) for name, each in by_name.items() for row in each.authorizations]
        digests = {row.refresh_token_digest: name for row, name in rows if row.refresh_token_digest is not None}
        issuers = frozenset(row.origin for row, _ in rows)
        return cls(by_name, {row.id: name for row, name in rows}, digests, issuers)

    def holder(self, refresh_token: Secret) -> str | None:
        """The account that has this very token, or took it in once."""
        for issuer in self.issuers:
            if (holder := self.digests.get(refresh_token.digest(issuer))) is not None:
                return holder
        return self.holders.get(authorization_id_of(refresh_token))

    def free_name(self, credential: Credential, provider: str, taken: set[str]) -> str:
        """The credential's name, with a number where it is somebody else's.

        An account that is signed out, and that has the same device, is the one that the grant comes back to.
        """
        number = 1
        while True:
            name = credential.name if number == 1 else f"{credential.name[:58]}-{number}"
            if name not in taken and self.fits(name, credential, provider) is None:
                return name
            number += 1

    def fits(self, name: str, credential: Credential, provider: str) -> str | None:
        """Why the account ``name`` has no room for this grant; ``None`` where it has."""
        there = self.by_name.get(name)
        if there is None:
            return None
        if there.grant is not None:
            return f"{name} is signed in already"
        if there.on_its_way is not None:
            return f"{name} has a sign-in on its way"
        if there.account.provider != provider:
            return f"{name} belongs to the provider {there.account.provider}"
        if not same_device(there.account.device_id, device_id_of(credential)):
            return f"{name} has another device id, which it keeps for life"
        return None


def device_id_of(credential: Credential) -> str:
    """The credential's device id, or one made of its grant, so that asking twice gives the same."""
    return credential.device_id or str(uuid.uuid5(_NAMESPACE, authorization_id_of(credential.refresh_token)))


def same_device(one: str, other: str) -> bool:
    """Whether two device ids are the same; tools write the same UUID with dashes or without."""
    return one.replace("-", "").lower() == other.replace("-", "").lower()


class Moving:
    """Moves grants in and out of an engine's store."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def residents(self) -> Residents:
        """Everybody who is in the store now."""
        return Residents.of(await self._engine.store.snapshots())

    async def adopt(
        self,
        name: str,
        credential: Credential,
        *,
        provider: str,
        proxy: str | None = None,
        origin: str | None = None,
        source: str | None = None,
    ) -> None:
        """Commits a grant that was made elsewhere, as ``name``, due for a refresh; sends nothing.

        :param origin: the server that issued it, by its URL; the refresh token goes there alone. Where it is not
            given, where the provider usually is, whatever the environment says.
        :param source: where it came from, for the history.
        :raises UsageError: where the account has no room for it, or somebody here has it already.
        :raises InvalidAccountName: and the other errors of a value that is not allowed; then nothing was written.
        """
        engine, store = self._engine, self._engine.store
        valid_account_name(name)
        issuer = issuer_of(find_provider(engine.providers, provider), origin)
        if proxy is not None:
            checked_proxy("the proxy", proxy, may_hold_password=False)
        vault = await engine.vault()
        await engine.clock.synchronise()
        now = engine.clock.now()
        wanted = Account(
            id=str(uuid.uuid4()),
            name=name,
            provider=provider,
            device_id=device_id_of(credential),
            proxy=proxy,
            created_at=now,
        )
        [account] = await store.add_accounts([wanted])
        if account.provider != provider or not same_device(account.device_id, wanted.device_id):
            raise _no_room(Residents.of(await store.snapshots([name])).fits(name, credential, provider), name)
        if proxy is not None and account.proxy != proxy:
            await store.set_proxy(account.id, proxy)
        secrets = (credential.access_token, credential.refresh_token)
        tokens = TokenSet(
            access_token=credential.access_token,
            refresh_token=credential.refresh_token,
            token_type=clear_of(secrets, credential.token_type),
            scope=clear_of(secrets, credential.scope),
            expires_in=min(max(0.0, (credential.expires_at or now) - now), _LONGEST_LIFE),
        )
        row_id = authorization_id_of(credential.refresh_token)
        authorization, history = advance.adopt(row_id, account.id, tokens, now, origin=issuer, detail=source)
        [begun] = await store.begin([Beginning(vault.seal_authorization(authorization), history)])
        if not begun:
            residents = await self.residents()
            holder = residents.holder(credential.refresh_token)
            if holder == name and residents.by_name[name].grant is not None:
                return  # an earlier call wrote it, whose answer was lost; or somebody was faster
            reason = f"{holder} has this grant already" if holder else residents.fits(name, credential, provider)
            raise _no_room(reason, name)
        engine.stirred()

    async def grant(self, token: Token) -> Grant:
        """What there is to write down for a token of an account here; without its refresh token."""
        snapshot = await self._engine.snapshot(token.account)
        return grant_of(self._engine, snapshot.account, token)

    async def hand_over(self, name: str, place: Place, *, destination: str) -> None:
        """Gives a grant away: written to ``place``, and then gone from the store.

        The token should be fresh, since a row that is due is refreshed by whoever is first. Not cut short by a
        cancellation.

        :param destination: for the history, and for who has to find out what happened.
        :raises UnknownAccount: where there is no such account.
        :raises RequestFailed: where a refresh is in flight or in doubt; nothing was done.
        :raises KimiFlowError: where the account holds no grant.
        """
        await Handover(self._engine, name, place, destination).carry_out()


def _no_room(reason: str | None, name: str) -> UsageError:
    return UsageError(
        reason or f"{name} has no room for this grant",
        hint=f"Choose another name with --name, or sign it out first: kimiflow logout {name}",
        account=name,
    )

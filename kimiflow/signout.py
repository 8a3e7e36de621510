"""Accounts that are signed out: here, then at the server that issued their tokens, where it can be told (RFC 7009).

The secrets are gone from the store before anything is sent, so the sign-out hangs on no server, and whoever drives the
store sends nothing with them any more. A refresh that is in flight then lands on nothing. What the server says to the
revocation is only told to the person: there is nothing left here that could be tried again.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kimiflow.errors import KimiFlowError, UsageError, VaultError
from kimiflow.neighbours.handover import HANDING_OVER
from kimiflow.provider import issuer_of
from kimiflow.stores.base import SHARED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.client import Client
    from kimiflow.engine import Engine
    from kimiflow.model import Account, Authorization, Sealed
    from kimiflow.stores.base import Snapshot
    from kimiflow.vault import Vault

__all__ = ["Departure", "SignOut"]

_PATIENCE: Final = 5.0
"""Seconds for all servers together: the person has been obeyed already, and waits only to be told."""


@dataclass(frozen=True, slots=True)
class Departure:
    """An account that was signed out, and how many authorizations it had.

    ``issuer`` is the server that was to be told, by its origin, and ``reason`` is why it could not be: an error code,
    or words. Both are ``None`` where there was nothing to tell, or nobody who listens.
    """

    account: str
    authorizations: int
    issuer: str | None = None
    reason: str | None = None


class SignOut:
    """Signs accounts of an engine's store out.

    :param revoke: whether the servers are told.
    """

    def __init__(self, engine: Engine, *, revoke: bool) -> None:
        self._engine = engine
        self._revoke = revoke
        self._room = asyncio.Semaphore(engine.settings.concurrency)
        self._client: Client | None = None
        self._vault: Vault | None = None
        self._locked: str | None = None
        """Why there is no vault."""

    async def carry_out(self, snapshots: Sequence[Snapshot], *, forget: bool) -> list[Departure]:
        """One for each account, in the same order."""
        engine = self._engine
        if any(self._to_revoke(s.account, s.authorizations) for s in snapshots):
            # Before the secrets are gone: a key that is missing is made anew where no secret needs it.
            await self._unlock()
        rows = await engine.store.sign_out([s.account.id for s in snapshots], engine.clock.now(), forget=forget)
        engine.stirred()
        gone: defaultdict[str, list[Authorization[Sealed]]] = defaultdict(list)
        for row in rows:
            gone[row.account_id].append(row)
        deadline = engine.clock.monotonic() + min(_PATIENCE, engine.settings.http_timeout)
        departures = [self._tell(s.account, gone[s.account.id], deadline) for s in snapshots]
        return await asyncio.gather(*departures)

    def _to_revoke(self, account: Account, rows: Sequence[Authorization[Sealed]]) -> Sequence[Authorization[Sealed]]:
        """Those whose tokens are to be taken back."""
        provider = self._engine.providers.get(account.provider)
        if not self._revoke or provider is None or provider.revocation_endpoint is None:
            return ()
        return [row for row in rows if (row.refresh_token or row.access_token) and not _lives_on(row)]

    async def _unlock(self) -> None:
        try:
            self._vault = await self._engine.vault()
        except (VaultError, UsageError) as error:
            self._locked = error.message

    async def _tell(self, account: Account, rows: Sequence[Authorization[Sealed]], deadline: float) -> Departure:
        issuer, reason = None, None
        for row in self._to_revoke(account, rows):
            issuer = row.origin or issuer_of(self._engine.providers[account.provider], None)
            async with self._room:
                failed = await self._revoked(account, row, deadline)
            if failed is None:
                self._engine.log.info("revoked", account=account.name, issuer=issuer)
            else:
                self._engine.log.warning("revocation_failed", account=account.name, issuer=issuer, reason=failed)
            reason = reason or failed
        return Departure(account.name, len(rows), issuer, reason)

    async def _revoked(self, account: Account, row: Authorization[Sealed], deadline: float) -> str | None:
        """Why the server could not be told."""
        engine = self._engine
        if self._locked is not None:
            return self._locked
        left = deadline - engine.clock.monotonic()
        if left <= 0:
            return "timeout"
        try:
            opened = (self._vault or await engine.vault()).open_authorization(row)
            self._client = self._client or engine.make_client()
            failed = await self._client.revoke(account, opened, timeout=left)
        except KimiFlowError as error:
            return error.message
        # The code alone: what else the server says is prose, and about tokens.
        return None if failed is None else failed.error


def _lives_on(row: Authorization[Sealed]) -> bool:
    """Whether the grant is somebody else's as well: handed over to a file, or another account's, who has its one token."""
    return row.error == HANDING_OVER or (row.error == SHARED and row.refresh_token is None)

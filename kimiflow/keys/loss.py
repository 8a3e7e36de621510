"""Which secrets open, and going on where some never will.

What was sealed with a key that is gone is gone. :meth:`Keys.start_anew` says so in the store: the authorizations that
it belonged to come to rest as expired, with the reason, and their accounts keep names, device ids and history.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from kimiflow.errors import UsageError, WrongKey
from kimiflow.keys.loading import KeyFile, present_keys
from kimiflow.model import State, Transition
from kimiflow.stores.base import Amendment
from kimiflow.vault import Vault, key_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from kimiflow.keys.keyring import Keyring
    from kimiflow.model import Authorization, Sealed
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Store
    from kimiflow.storetime import StoreClock

__all__ = ["KEY_LOST", "KeyReport", "Keys", "pages", "patience", "sealed_in"]

KEY_LOST: Final = "key_lost"
"""The error, and the history's word, of an authorization whose secrets nobody can open any more."""

_AT_ONCE: Final = 200
_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True)
class KeyReport:
    """The keys at hand, and what is sealed with which."""

    origin: str
    key_ids: tuple[str, ...]
    """Those that are in use; the first one seals."""
    upcoming: tuple[str, ...]
    sealed: dict[str, int]
    """Sealed values by the id of their key."""
    unopened: dict[str, str]
    """Accounts that have a secret which does not open, with the reason."""


class Keys:
    """The keys of an open store, and what they open.

    :param tell: told what is being done, one line at a time.
    """

    def __init__(
        self, settings: Settings, store: Store, clock: StoreClock, tell: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._tell = tell

    async def check(self) -> KeyReport:
        """Opens every secret there is. Changes nothing."""
        origin, ring = present_keys(self._settings)
        unopened: dict[str, str] = {}
        for row, reason in [found async for found in self._unopened(ring)]:
            unopened.setdefault(row.account_id, reason)
        names = {s.account.id: s.account.name for s in await self._store.snapshots()} if unopened else {}
        return KeyReport(
            origin,
            () if ring is None else ring.key_ids[: len(ring.keys)],
            () if ring is None else ring.key_ids[len(ring.keys) :],
            await self._store.sealed_with(),
            dict(sorted((names[id_], reason) for id_, reason in unopened.items() if id_ in names)),
        )

    async def lost(self) -> list[str]:
        """The accounts that need to sign in again because nobody can open their secrets."""
        return list((await self.check()).unopened)

    async def start_anew(self) -> tuple[str, int, int]:
        """Gives up what does not open, and makes a key where there is none.

        Returns the id of the key that seals from now on, how many authorizations were given up, and how many were not
        because a worker holds them.

        :raises UsageError: where nothing is lost.
        """
        _, ring = present_keys(self._settings)
        if ring is not None and not await self.lost():
            raise UsageError(
                "nothing is lost: every secret opens with the key at hand",
                hint="Where you want another key: kimiflow key rotate",
            )
        if ring is None:
            file = KeyFile(self._settings.key_path)
            with file.locked():
                ring = file.make(tuple(await self._store.sealed_with()))
        give_up_at = self._clock.monotonic() + patience(self._settings)
        count, told = 0, False
        while True:
            endings = [_ending(row, reason, await self._now()) async for row, reason in self._unopened(ring)]
            written = await self._store.amend(endings, await self._now())
            count += sum(written)
            left = len(written) - sum(written)
            if not left or self._clock.monotonic() > give_up_at:
                return ring.key_ids[0], count, left
            if not told:
                told = True
                self._tell(f"Waiting for whoever holds {left} accounts.")
            await asyncio.sleep(_PAUSE)

    async def _unopened(self, ring: Keyring | None) -> AsyncIterator[tuple[Authorization[Sealed], str]]:
        # A file is looked at again where a key is not known: somebody may be rotating just now.
        reread = None if self._settings.key is not None else KeyFile(self._settings.key_path).news
        vault = None if ring is None else Vault(*ring.opening, reread=reread)
        async for rows in pages(self._store, ""):
            for row in rows:
                if vault is None:
                    lost = ", ".join(sorted({key_id_of(value) for value in sealed_in(row)}))
                    yield row, f"the key {lost} is missing"
                    continue
                try:
                    vault.open_authorization(row)
                except WrongKey as error:
                    yield row, error.message

    async def _now(self) -> float:
        await self._clock.synchronise()
        return self._clock.now()


async def pages(store: Store, key_id: str) -> AsyncIterator[list[Authorization[Sealed]]]:
    """All rows that hold a secret which is sealed otherwise than with that key, some at a time."""
    after = ""
    while rows := await store.sealed_otherwise(key_id, _AT_ONCE, after):
        after = rows[-1].id
        yield rows


def patience(settings: Settings) -> float:
    """Seconds that are longer than any lease on a request: what is held for longer is not waited for."""
    return settings.http_timeout * 1.5 + 20.0


def sealed_in(row: Authorization[Sealed]) -> list[Sealed]:
    """Its sealed secrets."""
    return [value for value in (row.device_code, row.access_token, row.refresh_token) if value is not None]


def _ending(row: Authorization[Sealed], reason: str, now: float) -> Amendment:
    bare: Authorization[Sealed] = row.with_secrets(None, None, None)
    after = bare._replace(
        state=State.EXPIRED,
        updated_at=now,
        next_attempt_at=None,
        not_before=None,
        attempts=0,
        error=KEY_LOST,
        error_description=reason,
    )
    return Amendment(row, after, Transition(now, row.state, State.EXPIRED, KEY_LOST, reason))

"""Changing the key while workers run.

1. The key file gets the new key before the old one, in one write. Everybody looks at the file before sealing, and when
   meeting a key that they do not know: so from here on the new key seals, and both open, also in processes that run.
2. Rows that nobody holds are sealed anew, each only if it is still what was looked at. Those that are held are sealed
   anew by their worker's commit, or by a later pass.
3. Who took a claim before the first step may still commit what was sealed with the old key. So these claims are waited
   for, until they are given back or their leases are over.
4. Once no value, stored or kept aside in a file, is sealed with the old key, it is taken out of the key file.

Whatever stops this, the key file says how far it came: two keys, and the first one seals. Doing it again goes on from
there. What other machines have as their key file is not ours to change: see :meth:`Rekeying.prepare`.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from kimiflow.errors import KeyMissing, UsageError, WrongKey
from kimiflow.keys.keyring import Keyring, new_key
from kimiflow.keys.loading import KeyFile, present_keys
from kimiflow.keys.loss import pages, patience, sealed_in
from kimiflow.scheduling.chores import STALE_AFTER
from kimiflow.scheduling.spill import kept_aside
from kimiflow.stores.base import Amendment
from kimiflow.vault import Vault, key_id_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from kimiflow.model import Authorization, Sealed
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Store
    from kimiflow.storetime import StoreClock

__all__ = ["Rekeying", "Rotated"]

_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True)
class Rotated:
    """What a change of the key came to."""

    key_id: str
    resealed: int
    """Rows that were sealed anew."""
    dropped: tuple[str, ...]
    """Keys that nothing is sealed with any more; from a file they were taken out."""
    kept: str
    """Why the old keys are still there; empty where they are not."""


class Rekeying:
    """Looks after the keys of an open store.

    :param tell: told what is being done, one line at a time.
    """

    def __init__(
        self, settings: Settings, store: Store, clock: StoreClock, tell: Callable[[str], None] = lambda _line: None
    ) -> None:
        self._settings = settings
        self._store = store
        self._clock = clock
        self._tell = tell
        self._file = None if settings.key is not None else KeyFile(settings.key_path)

    async def elsewhere(self) -> list[str]:
        """Other machines whose workers use the store, as far as it knows of them."""
        now = await self._now()
        hosts = {report.host for report in await self._store.workers() if report.seen_at > now - STALE_AFTER}
        hosts |= {each.owner.rsplit(":", 2)[0] for each in await self._store.holdings() if each.until > now}
        return sorted(hosts - {socket.gethostname()})

    # Changing the key

    def prepare(self) -> str:
        """Adds a key to the file that opens, but does not seal yet, unless there is one; returns its id.

        For stores that are used from several machines: once each has that file, the key may be rotated.
        """
        file = self._own_file()
        with file.locked():
            ring = self._present(file)
            if not ring.upcoming:
                ring = replace(ring, upcoming=(new_key(),))
                file.replace(ring)
        return ring.key_ids[len(ring.keys)]

    async def rotate(self, *, everywhere: bool = False) -> Rotated:
        """Makes a new key the one that seals, seals everything anew, and drops the old one. May be called again.

        Where the environment holds the keys, everything is sealed with the first of them, and nothing else.

        :param everywhere: every machine has the key file as it is here.
        :raises UsageError: where other machines would be left without the new key.
        """
        if self._file is None:
            _, ring = present_keys(self._settings)
            assert ring is not None  # noqa: S101 - the environment has it
            return await self._change_over(ring)
        with self._file.locked():
            ring = self._present(self._file)
            others = [] if everywhere else await self.elsewhere()
            if ring.upcoming:
                ring = replace(ring, keys=(ring.upcoming[0], *ring.keys), upcoming=ring.upcoming[1:])
                self._file.replace(ring)
            elif len(ring.keys) == 1:
                if others:
                    raise _not_alone(others, self._file)
                ring = replace(ring, keys=(new_key(), *ring.keys))
                self._file.replace(ring)
            else:
                self._tell(f"Going on with the change to key {ring.key_ids[0]}.")
            rotated = await self._change_over(ring)
            if rotated.kept:
                return rotated
            if others:
                why = f"{', '.join(others)} may still seal with the old one: copy {self._file.path} there"
                return replace(rotated, dropped=(), kept=f"{why}, then: kimiflow key rotate --everywhere")
            self._file.replace(replace(ring, keys=ring.keys[:1], replaced=(*ring.replaced, *rotated.dropped)))
            if await self._left(rotated.dropped):
                # Somebody who stood still all the while has just committed.
                self._file.replace(ring)
                return replace(rotated, dropped=(), kept="something was sealed with the old one just now; try again")
        return rotated

    async def _change_over(self, ring: Keyring) -> Rotated:
        """Seals everything with the first key, and waits for who may still seal with another."""
        vault = Vault(*ring.opening)
        old = ring.key_ids[1 : len(ring.keys)]
        held_before = await self._held()
        give_up_at = self._clock.monotonic() + patience(self._settings)
        count, told = 0, False
        while True:
            done, waits, unopened = await self._reseal(vault, old)
            count += done
            held = held_before & await self._held() if old else set()
            if not waits and not held:
                break
            if self._clock.monotonic() > give_up_at:
                return Rotated(vault.key_id, count, (), "a worker holds some accounts for long; try again later")
            if not told:
                told = True
                self._tell(f"Waiting for {len(held) or waits} requests in flight.")
            await asyncio.sleep(_PAUSE)
        if unopened:
            return Rotated(
                vault.key_id, count, (), f"not all opens that is sealed with it ({unopened}); see: kimiflow key check"
            )
        if old and kept_aside(self._settings.home, old):
            return Rotated(vault.key_id, count, (), "a worker keeps aside what the store has not got; try again later")
        if await self._left(old):
            return Rotated(vault.key_id, count, (), "something was sealed with it just now; try again")
        return Rotated(vault.key_id, count, old, "")

    async def _reseal(self, vault: Vault, old: Collection[str]) -> tuple[int, int, int]:
        """One pass: how many rows were sealed anew, how many were not to be had, how many do not open."""
        done = waits = unopened = 0
        async for rows in pages(self._store, vault.key_id):
            amendments = []
            for row in rows:
                after = _sealed_anew(vault, row)
                unopened += any(key_id_of(value) in old for value in sealed_in(after))
                if after != row:
                    amendments.append(Amendment(row, after))
            written = await self._store.amend(amendments, await self._now())
            done += sum(written)
            waits += len(written) - sum(written)
        return done, waits, unopened

    async def _held(self) -> set[tuple[str, int]]:
        now = await self._now()
        return {(each.authorization_id, each.generation) for each in await self._store.holdings() if each.until > now}

    async def _left(self, key_ids: Sequence[str]) -> int:
        return sum(count for key_id, count in (await self._store.sealed_with()).items() if key_id in key_ids)

    async def _now(self) -> float:
        await self._clock.synchronise()
        return self._clock.now()

    def _own_file(self) -> KeyFile:
        if self._file is None:
            raise UsageError(
                "the key is in KIMIFLOW_KEY, which kimiflow cannot change", hint="See: kimiflow key rotate"
            )
        return self._file

    def _present(self, file: KeyFile) -> Keyring:
        ring = file.read()
        if ring is None:
            raise KeyMissing(
                f"{file.origin} is missing, so there is nothing to change",
                hint="It is made when it is first needed. Where it was lost: kimiflow key new",
            )
        return ring


def _sealed_anew(vault: Vault, row: Authorization[Sealed]) -> Authorization[Sealed]:
    """The row with each secret that opens sealed with the first key."""

    def again(value: Sealed | None, column: str) -> Sealed | None:
        if value is None or key_id_of(value) == vault.key_id:
            return value
        try:
            return vault.seal(vault.open(value, row.id, column), row.id, column)
        except WrongKey:
            return value

    return row.with_secrets(
        again(row.device_code, "device_code"),
        again(row.access_token, "access_token"),
        again(row.refresh_token, "refresh_token"),
    )


def _not_alone(others: Sequence[str], file: KeyFile) -> UsageError:
    return UsageError(
        f"workers on other machines ({', '.join(others)}) would not have the new key",
        hint=f"1. kimiflow key rotate --prepare   2. copy {file.path} to each of them   3. kimiflow key rotate, "
        "and copy the file once more   4. kimiflow key rotate --everywhere",
    )

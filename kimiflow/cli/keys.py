"""``kimiflow key``: the keys that the secrets are sealed with."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from kimiflow.cli.failures import FAILURE
from kimiflow.cli.running import settled_settings
from kimiflow.cli.talk import result, result_json, say
from kimiflow.clock import SystemClock
from kimiflow.keys.loading import make_folder
from kimiflow.keys.loss import Keys
from kimiflow.keys.rotation import Rekeying
from kimiflow.logs import get_logger
from kimiflow.scheduling.spill import recover
from kimiflow.stores.registry import open_store
from kimiflow.storetime import StoreClock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kimiflow.keys.loss import KeyReport
    from kimiflow.keys.rotation import Rotated
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Store

__all__ = ["check", "new", "rotate"]

_SHOWN = 20
"""Accounts that are listed one by one."""


def rotate(*, prepare: bool, everywhere: bool) -> int:
    """Runs ``kimiflow key rotate``; returns the exit code."""
    settings = settled_settings()

    async def body(store: Store, clock: StoreClock) -> int:
        rekeying = Rekeying(settings, store, clock, say)
        if prepare:
            result(f"Key {rekeying.prepare()} opens from now on, and seals nothing yet.")
            say(f"Copy {settings.key_path} to every machine that uses this database, then: kimiflow key rotate")
            return 0
        await recover(settings.home, store, get_logger())
        rotated = await rekeying.rotate(everywhere=everywhere)
        return _told_of_environment(rotated) if settings.key is not None else _told(rotated)

    return _run(settings, body)


def _told(rotated: Rotated) -> int:
    result(f"Everything is sealed with key {rotated.key_id} now; {_rows(rotated.resealed)} sealed anew.")
    if rotated.kept:
        say(f"The old key stays in the key file: {rotated.kept}.")
        return FAILURE
    say(
        f"The old key {', '.join(rotated.dropped)} was dropped. Backups of the database from before need it, "
        "so keep a copy for as long as you keep those."
    )
    return 0


def _told_of_environment(rotated: Rotated) -> int:
    if rotated.kept:
        say(f"The old key is still needed: {rotated.kept}.")
        return FAILURE
    result(f"Everything is sealed with key {rotated.key_id}; {_rows(rotated.resealed)} sealed anew.")
    if rotated.dropped:
        say(
            f"Key {', '.join(rotated.dropped)} is needed no more. Leave only the first key in KIMIFLOW_KEY, everywhere."
        )
        return 0
    say(
        "The key is in KIMIFLOW_KEY, which kimiflow cannot change. To rotate it:\n"
        "  1. Make another: openssl rand -base64 32\n"
        "  2. KIMIFLOW_KEY=PRESENT,next:NEW wherever kimiflow runs, and restart it: both open, the present one seals.\n"
        "  3. KIMIFLOW_KEY=NEW,PRESENT likewise: the new one seals.\n"
        "  4. kimiflow key rotate: everything is sealed with the new one.\n"
        "  5. KIMIFLOW_KEY=NEW likewise."
    )
    return FAILURE


def check(*, as_json: bool) -> int:
    """Runs ``kimiflow key check``; returns the exit code."""
    settings = settled_settings()

    async def body(store: Store, clock: StoreClock) -> int:
        report = await Keys(settings, store, clock).check()
        if as_json:
            result_json(_as_json(report))
        else:
            _show(report)
        return FAILURE if report.unopened else 0

    return _run(settings, body)


def _as_json(report: KeyReport) -> dict[str, Any]:
    return {
        "source": report.origin,
        "key": report.key_ids[0] if report.key_ids else None,
        "also_open": list(report.key_ids[1:]),
        "next": list(report.upcoming),
        "sealed": report.sealed,
        "unopened": report.unopened,
    }


def _show(report: KeyReport) -> None:
    if report.key_ids:
        result(f"key {report.key_ids[0]}, from {report.origin}")
    elif report.sealed:
        result(f"{report.origin} is missing")
    else:
        result(f"{report.origin} is not there yet; it is made when it is first needed")
    for key_id in report.key_ids[1:]:
        result(f"key {key_id} opens as well; a change of the key is under way, finish it with: kimiflow key rotate")
    for key_id in report.upcoming:
        result(f"key {key_id} opens as well, and seals after: kimiflow key rotate")
    known = {*report.key_ids, *report.upcoming}
    for key_id, count in sorted(report.sealed.items()):
        missing = "" if key_id in known else "; no key at hand opens them"
        result(f"{count} {'secret' if count == 1 else 'secrets'} sealed with {key_id}{missing}")
    if report.unopened:
        _tell_of_loss(list(report.unopened.items()))


def _tell_of_loss(unopened: list[tuple[str, str]]) -> None:
    say(f"The secrets of {_accounts(len(unopened))} cannot be opened:")
    for name, reason in unopened[:_SHOWN]:
        say(f"  {name}: {reason}")
    if len(unopened) > _SHOWN:
        say(f"  and {len(unopened) - _SHOWN} more")
    say("Restore the key from a backup, as a further line of the key file. Where it is lost for good: kimiflow key new")


def new(*, sure: bool) -> int:
    """Runs ``kimiflow key new``; returns the exit code."""
    settings = settled_settings()

    async def body(store: Store, clock: StoreClock) -> int:
        keys = Keys(settings, store, clock, say)
        report = await keys.check()
        if report.unopened and not sure:
            _tell_of_loss(list(report.unopened.items()))
            say(
                "What is lost are their tokens and pending sign-ins. Names, providers, device ids and history stay, "
                "and no other account is touched.\n"
                "A worker that still runs may have the key in its memory: then stop nothing, and look for a backup first.\n"
                "To give the secrets up, and go on with a new key: kimiflow key new --yes"
            )
            return FAILURE
        key_id, given_up, left = await keys.start_anew()
        result(f"Key {key_id} seals from now on; {_accounts(len(report.unopened))} must sign in again.")
        if report.unopened:
            names = " ".join(list(report.unopened)[:_SHOWN])
            say(f"Sign in again with: kimiflow login --force {names}{' …' if len(report.unopened) > _SHOWN else ''}")
        if left:
            say(f"{left} of {given_up + left} sign-ins are held by a worker. Do it again when that one is stopped.")
            return FAILURE
        return 0

    return _run(settings, body)


def _run(settings: Settings, body: Callable[[Store, StoreClock], Awaitable[int]]) -> int:
    """With an open store, but without what needs a key that opens."""

    async def main() -> int:
        make_folder(settings.home)
        store = open_store(settings.store_url)
        await store.open()
        try:
            return await body(store, StoreClock(SystemClock(), store))
        finally:
            await store.close()

    return asyncio.run(main())


def _rows(count: int) -> str:
    return f"{count} {'row' if count == 1 else 'rows'}"


def _accounts(count: int) -> str:
    return f"{count} {'account' if count == 1 else 'accounts'}"

"""The database, its schema, the key to what is in it, its clock, and those who work on it."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from kimiflow.boottime import MARK, this_boot
from kimiflow.clock import SystemClock
from kimiflow.doctor.findings import Finding
from kimiflow.errors import InvalidSetting, KimiFlowError, StoreUnavailable
from kimiflow.keys.loading import present_keys
from kimiflow.keys.loss import Keys
from kimiflow.provider import check_origin, issuer_of
from kimiflow.scheduling.chores import STALE_AFTER
from kimiflow.stores.location import sqlite_path
from kimiflow.stores.registry import open_store
from kimiflow.storetime import StoreClock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.model import Account
    from kimiflow.settings import Settings
    from kimiflow.stores.base import Snapshot, Store

__all__ = ["examine_storage"]

_OFF: Final = 5.0
"""Seconds between two clocks that are worth a word."""

_OVERDUE: Final = 120.0
_SEE_TO_IT: Final = "See to the database, and that KIMIFLOW_DATABASE_URL names the right one."
_SQL: Final = frozenset({"sqlite", "postgresql", "postgres"})


async def examine_storage(settings: Settings) -> tuple[list[Finding], list[Account]]:
    """What there is to say, and the accounts that were found."""
    try:
        findings, usable = await _schema(settings.store_url)
    except KimiFlowError as error:
        return [_no_database(error), *_key_alone(settings)], []
    if not usable:
        return [*findings, *_key_alone(settings)], []
    store = open_store(settings.store_url)
    try:
        await store.open()
        try:
            snapshots = await store.snapshots()
            now = await _now(settings.store_url, store)
            findings += [await _key(settings, store), _clock(now), await _workers(store, snapshots, now)]
            findings += _origins(settings, snapshots)
        finally:
            await store.close()
    except KimiFlowError as error:
        return [*findings, _no_database(error)], []
    return findings, [snapshot.account for snapshot in snapshots]


async def _schema(url: str) -> tuple[list[Finding], bool]:
    """Whether the database may be opened without being changed."""
    if url.partition(":")[0].partition("+")[0].strip().lower() not in _SQL:
        return [Finding("database", ok=True, what="a store that has no schema of kimiflow's")], True
    from kimiflow.stores import migrate  # noqa: PLC0415 - heavy
    from kimiflow.stores.migrate import Standing  # noqa: PLC0415

    report = await migrate.check(url)
    reached = Finding("database", ok=True, what="it can be reached")
    match report.standing:
        case Standing.EMPTY:
            what = "there are no tables yet; the first command that needs them makes them"
            return [Finding("database", ok=True, what=what)], False
        case Standing.OLDER:
            what = f"its schema is {report.revision}, and this program's is {report.head}"
            return [reached, Finding("schema", ok=False, what=what, todo="kimiflow db upgrade")], False
        case Standing.NEWER:
            what = f"its schema is {report.revision}, which this program ({report.head}) does not know"
            return [reached, Finding("schema", ok=False, what=what, todo="pip install --upgrade kimiflow")], False
    if report.differences:
        what = f"its schema is {report.revision}, but not as this program declares it: {'; '.join(report.differences)}"
        todo = "Somebody has changed the tables. Put them back, or restore a backup; see: kimiflow db check"
        return [reached, Finding("schema", ok=False, what=what, todo=todo)], True
    return [reached, Finding("schema", ok=True, what=f"{report.revision}, up to date")], True


def _no_database(error: KimiFlowError) -> Finding:
    enough = error.hint and not isinstance(error, StoreUnavailable)
    return Finding.of("database", error, "" if enough else _SEE_TO_IT)


def _key_alone(settings: Settings) -> list[Finding]:
    """The key, where nothing can be said about what it opens."""
    try:
        origin, ring = present_keys(settings)
    except InvalidSetting as error:
        return [Finding.of("key", error, "Put the right key there, from a backup.")]
    if ring is None:
        return [Finding("key", ok=True, what=f"{origin} is not there yet; it is made when it is first needed")]
    return [Finding("key", ok=True, what=f"{ring.key_ids[0]}, from {origin}")]


async def _key(settings: Settings, store: Store) -> Finding:
    try:
        report = await Keys(settings, store, StoreClock(SystemClock(), store)).check()
    except InvalidSetting as error:
        return Finding.of("key", error, "Put the right key there, from a backup.")
    if report.unopened:
        count = len(report.unopened)
        what = f"it does not open the secrets of {count} {'account' if count == 1 else 'accounts'}: "
        todo = "Restore the key from a backup; see: kimiflow key check. Where it is lost: kimiflow key new"
        return Finding("key", ok=False, what=what + ", ".join(list(report.unopened)[:10]), todo=todo)
    if not report.key_ids:
        return _key_alone(settings)[0]
    if len(report.key_ids) > 1 and settings.key is None:
        what = f"it is being changed to {report.key_ids[0]}, and that was not finished"
        return Finding("key", ok=False, what=what, todo="kimiflow key rotate")
    count = sum(report.sealed.values())
    return Finding("key", ok=True, what=f"{report.key_ids[0]}, from {report.origin}, opens all of {count} secrets")


def _origins(settings: Settings, snapshots: Sequence[Snapshot]) -> list[Finding]:
    """Whether accounts are to be refreshed elsewhere than where they were signed in; nothing to say where none are."""
    providers = settings.all_providers()
    findings: dict[tuple[str, str], Finding] = {}
    for each in snapshots:
        provider, shown = providers.get(each.account.provider), each.shown
        if provider is None or shown is None or shown.refresh_token is None:
            continue
        issuer = issuer_of(provider, shown.origin)
        try:
            check_origin(provider, issuer, each.account.name)
        except InvalidSetting as error:
            # One for all that have the same trouble: what is to be mended is the same.
            findings.setdefault((issuer, provider.origin), Finding.of("origin", error, ""))
    return list(findings.values())


async def _now(url: str, store: Store) -> float:
    """The store's time; looked up, where to ask for it could write it down."""
    path = sqlite_path(url)
    if path is None:
        return await store.now(time.time())
    boot = this_boot()
    if boot is not None:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as connection:
            row = connection.execute("SELECT value FROM marks WHERE name = ?", (MARK,)).fetchone()
        if row is not None and (agreed := boot.time(row[0])) is not None:
            return agreed
    return time.time()


def _clock(now: float) -> Finding:
    off = now - time.time()
    if abs(off) <= _OFF:
        return Finding("clock", ok=True, what="this machine's and the database's agree")
    return Finding(
        "clock",
        ok=False,
        what=f"the database's time is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} this machine's",
        todo="Nothing is lost by it, but times are shown wrong. Have both synchronise theirs (NTP); on one machine, "
        "the clock was set after it started: restart the machine, or live with it.",
    )


async def _workers(store: Store, snapshots: Sequence[Snapshot], now: float) -> Finding:
    reports = await store.workers()
    stale = [report for report in reports if report.seen_at < now - STALE_AFTER]
    alive = len(reports) - len(stale)
    overdue = [
        each.account.name
        for each in snapshots
        if each.shown is not None and (each.shown.next_attempt_at or now) < now - _OVERDUE
    ]
    if overdue and not alive:
        return Finding(
            "workers",
            ok=False,
            what=f"nobody drives the accounts; overdue: {', '.join(overdue[:10])}{' …' if len(overdue) > 10 else ''}",
            todo="kimiflow run",
        )
    if stale:
        listed = ", ".join(f"{each.name} ({(now - each.seen_at) / 60:.0f} min ago)" for each in stale)
        return Finding(
            "workers",
            ok=False,
            what=f"some went silent without a word: {listed}",
            todo="See why they died. What they held is taken over; they are forgotten after a day.",
        )
    return Finding("workers", ok=True, what=f"{alive} at work" if alive else "none at work, and nothing is overdue")

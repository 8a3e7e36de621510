"""``kimiflow status --workers``: who works on the store, from which host, and who holds what."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from kimiflow.cli import tables, words
from kimiflow.cli.talk import is_terminal, result, result_json, say
from kimiflow.scheduling.chores import STALE_AFTER
from kimiflow.status import rfc3339

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.flow import KimiFlow
    from kimiflow.status import Status
    from kimiflow.stores.base import WorkerReport

__all__ = ["show_workers"]

_HEADINGS = ("NAME", "HOST", "SINCE", "IN FLIGHT", "LAST SEEN")


async def show_workers(flow: KimiFlow, names: Sequence[str] | None, *, as_json: bool) -> int:
    """Prints them, and the accounts with who holds each; returns the exit code."""
    found = await flow.status(names)
    reports = await flow.workers()
    now = await flow.now()
    if as_json:
        result_json([_as_json(report, found, now) for report in reports])
        return 0
    if reports:
        rows = [_HEADINGS, *(_row(report, now) for report in reports)]
        if is_terminal(sys.stdout):
            tables.console_on(sys.stdout).print(tables.workers_table(rows))
        else:
            result("\n".join(tables.plain_columns(rows)))
    else:
        say("No worker has reported itself. Start one with: kimiflow run")
    if found:
        result("")
        tables.show_status(found, now, workers=True)
    return 0


def _row(report: WorkerReport, now: float) -> tuple[str, ...]:
    silent = now - report.seen_at
    seen = f"{words.duration(silent)} ago"
    return (
        report.name,
        report.host,
        words.clock_time(report.since),
        str(report.in_flight),
        f"{seen}; seems to be gone" if silent > STALE_AFTER else seen,
    )


def _as_json(report: WorkerReport, found: Sequence[Status], now: float) -> dict[str, Any]:
    """``holds`` are the accounts that it has a lease on."""
    leases = [(each.account, each.lease) for each in found if each.lease is not None]
    return {
        "name": report.name,
        "host": report.host,
        "since": rfc3339(report.since),
        "in_flight": report.in_flight,
        "last_seen": rfc3339(report.seen_at),
        "stale": now - report.seen_at > STALE_AFTER,
        "holds": [account for account, lease in leases if lease.owner == report.name and lease.until > now],
    }

"""What workers say of themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from kimiflow.stores.base import WorkerReport

from .making import NOW, claim_one, issue, pending

if TYPE_CHECKING:
    from kimiflow.stores.base import Store

REPORT = WorkerReport("host-1:17:ab", "host-1", NOW, 3, NOW + 0.5)


class WorkerContract:
    """``report_worker``, ``workers`` and ``forget_worker``."""

    async def test_there_are_none_at_first(self, store: Store) -> None:
        assert await store.workers() == []

    async def test_reports_are_sorted_by_name(self, store: Store, peer: Store) -> None:
        reports = [
            replace(REPORT, name=name, in_flight=n) for n, name in enumerate(["b:1", "B:1", "a:10", "a:9", "a.b"])
        ]
        for n, report in enumerate(reports):
            await (store, peer)[n % 2].report_worker(report)
        assert await store.workers() == sorted(reports, key=lambda report: report.name)
        assert await peer.workers() == await store.workers()

    async def test_a_report_takes_the_place_of_the_one_before(self, store: Store, peer: Store) -> None:
        await store.report_worker(REPORT)
        later = replace(REPORT, in_flight=0, seen_at=NOW + 10)
        await peer.report_worker(later)
        assert await store.workers() == [later]
        await store.report_worker(later)
        assert await store.workers() == [later]

    async def test_a_worker_that_is_forgotten(self, store: Store) -> None:
        await store.report_worker(REPORT)
        await store.report_worker(replace(REPORT, name="other"))
        await store.forget_worker(REPORT.name)
        await store.forget_worker("nobody")
        assert [report.name for report in await store.workers()] == ["other"]

    async def test_reports_change_no_lease(self, store: Store) -> None:
        await issue(store, pending())
        claim = await claim_one(store, REPORT.name)
        await store.report_worker(REPORT)
        await store.forget_worker(REPORT.name)
        (snapshot,) = await store.snapshots()
        lease = snapshot.lease_of(claim.authorization)
        assert lease is not None
        assert lease.owner == REPORT.name

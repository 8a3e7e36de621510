"""The loop that drives every authorization that is due: claim, call, advance, commit.

It holds nothing per account. What is due is claimed from the store in batches, each claim becomes one task that makes
one request, and what comes of it goes back to the store in grouped commits. So its memory grows with the requests in
flight, and a restart has nothing to rebuild.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kimiflow.advance import INTERRUPTED, OUT_OF_TIME, advance, is_overdue, local_event
from kimiflow.errors import KimiFlowError, StoreUnavailable, VaultError
from kimiflow.events import AttemptFailed, RefreshDue
from kimiflow.model import HOLDS_TOKENS, State
from kimiflow.scheduling.committer import Committer
from kimiflow.scheduling.hosts import Hosts
from kimiflow.scheduling.lanes import Lanes
from kimiflow.stores.base import Outcome, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from kimiflow.client import Client
    from kimiflow.events import Event
    from kimiflow.model import Authorization, Transition
    from kimiflow.pacing import Pacing
    from kimiflow.provider import Provider
    from kimiflow.scheduling.limits import Limits
    from kimiflow.secret import Secret
    from kimiflow.stores.base import Claim, Store
    from kimiflow.storetime import StoreClock
    from kimiflow.vault import Vault

__all__ = ["Scheduler"]


@dataclass(slots=True)
class _Work:
    """A claim on its way through one round."""

    claim: Claim
    opened: Authorization[Secret]
    current: Authorization[Secret]
    lease_ends: float
    """By this process's monotonic clock, measured from before the claim was asked for."""
    history: tuple[Transition, ...] = ()
    wants_request: bool = True
    probe: bool = False


class Scheduler:
    """Drives the authorizations of a store until told to stop.

    :param owner: names this worker in leases; no two workers may share one.
    :param only: account ids that it is limited to, read anew at each round; ``None`` for all.
    :param draw: a random number in [0, 1) for jitter.
    :param on_step: called after each commit with the account id, in the loop's thread.
    :param keep: keeps steps aside while the store is away; see :class:`~kimiflow.scheduling.committer.Committer`.
    """

    def __init__(
        self,
        store: Store,
        vault: Vault,
        client: Client,
        providers: Mapping[str, Provider],
        *,
        owner: str,
        clock: StoreClock,
        draw: Callable[[], float],
        pacing: Pacing,
        limits: Limits,
        log: FilteringBoundLogger,
        only: Collection[str] | None = None,
        on_step: Callable[[str], None] = lambda _: None,
        keep: Callable[[Sequence[Step]], None] = lambda _: None,
    ) -> None:
        if limits.lease <= limits.request_timeout + limits.margin:
            msg = "the lease must outlive a request and the margin"
            raise ValueError(msg)
        self._store = store
        self._vault = vault
        self._client = client
        self._owner = owner
        self._clock = clock
        self._draw = draw
        self._pacing = pacing
        self._limits = limits
        self._log = log
        self._only = only
        self._on_step = on_step
        self._debug = logging.getLogger("kimiflow").isEnabledFor(logging.DEBUG)
        self._committer = Committer(store, log, keep=keep)
        self._hosts = Hosts(providers, limits)
        self._others_again_at = 0.0
        """While a host is busy, when to look whether there is something to do for others, in monotonic seconds."""
        self._lanes: Lanes[_Work] = Lanes(
            self._drive, self._failed, total=limits.concurrency, per_host=self._hosts.lanes_of_each
        )
        self._in_grace: set[asyncio.Task[None]] = set()
        self._open = 0
        self._all_done = asyncio.Event()
        self._all_done.set()
        self._stop = asyncio.Event()
        self._wake = asyncio.Event()
        self._look = False
        """Something happened that makes it worth looking at what is due before ``_planned``."""
        self._planned = 0.0
        """When to look next, by the wall clock."""
        self._full = False
        self._until_settled = False

    @property
    def owner(self) -> str:
        """This worker's name in leases."""
        return self._owner

    @property
    def in_flight(self) -> int:
        """Claims that are being worked on, up to the commit of what comes of them."""
        return self._open

    def wake(self) -> None:
        """Look again at what is due, now."""
        self._look = True
        self._wake.set()

    def stop(self) -> None:
        """Take nothing new. What is in flight lands and is committed before :meth:`run` returns."""
        self._stop.set()
        self.wake()

    async def run(self, *, until_settled: bool = False) -> None:
        """Drives whatever is due until :meth:`stop`.

        With ``until_settled`` it returns by itself once no sign-in is on its way (requested, pending, slow_down).
        """
        self._until_settled = until_settled
        pause = 0.1
        try:
            while not self._stop.is_set():
                self._look = False
                try:
                    if until_settled and not self._open and await self._all_settled():
                        break
                    self._planned = await self._round()
                    pause = 0.1
                except StoreUnavailable as error:
                    self._log.warning("store_unavailable", retry_in=pause, reason=error.message)
                    self._planned = self._clock.now() + pause
                    pause = min(pause * 2, 5.0)
                await self._sleep()
        finally:
            await self._land()

    async def _land(self) -> None:
        """Requests in flight land, and their results are committed: a lost reply would be a lost token.

        Only a store that stays away is not waited for: its steps were kept aside, for the next process to commit.
        """
        while self._open:
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._all_done.wait()
            if self._committer.away_for() > self._limits.patience and not self._lanes.tasks:
                left = self._committer.give_up()
                self._log.error("stopped_without_the_store", steps=len(left))
                return

    async def _sleep(self) -> None:
        """Until it is time to look, or something makes it worth looking sooner."""
        while not self._look:
            delay = self._planned - self._clock.now()
            if delay <= 0:
                return
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(delay, self._limits.idle)):
                    await self._wake.wait()

    def _expect(self, due: float | None) -> None:
        """A row that was just committed comes up at ``due``; sleep no longer than that."""
        if due is not None and due < self._planned:
            self._planned = due
            self._wake.set()

    async def _all_settled(self) -> bool:
        return await self._store.count_on_their_way(only=self._only) == 0

    async def _round(self) -> float:
        """Claims what is due and sets it going. Returns when, by the wall clock, to look again."""
        limits = self._limits
        await self._clock.synchronise()
        started = self._clock.now()
        if self._only is not None and not self._only:
            return started + limits.idle
        room = limits.open_claims - self._open
        self._full = room < limits.batch // 2 + 1
        if self._full:
            return started + limits.idle  # the next claim that is done with wakes the loop
        hosts = self._hosts
        for host in hosts.to_probe(self._clock.monotonic()):
            probe = await self._claim(1, providers=hosts.providers_on(host), probe=True)
            if probe:
                hosts.probing(host, probe[0].lease_ends)
                self._prepare(probe)
        blocked = hosts.blocked()
        until_glance = self._others_again_at - self._clock.monotonic()
        if hosts.any_busy and until_glance > 0:
            return started + max(until_glance, limits.gather)
        limit = min(room, limits.batch, hosts.room())
        taken = await self._claim(limit, skip=blocked)
        self._prepare(taken)
        if hosts.any_busy and not taken:
            self._others_again_at = self._clock.monotonic() + limits.glance
        if len(taken) == limit:
            return started
        due = await self._store.next_due(only=self._only, skip_providers=hosts.blocked())
        now, monotonic = self._clock.now(), self._clock.monotonic()
        retries = [now + look - monotonic for look in hosts.next_looks()]
        soonest = min([now + limits.idle, *retries] if due is None else [now + limits.idle, due, *retries])
        # Rows that fall due within a moment of each other share one claim, and so one transaction.
        return max(soonest, started + limits.gather)

    async def _claim(
        self,
        limit: int,
        *,
        skip: Collection[str] = (),
        providers: Collection[str] | None = None,
        probe: bool = False,
    ) -> list[_Work]:
        limits = self._limits
        lease_ends = self._clock.monotonic() + limits.lease
        claims = await self._store.claim_due(
            self._owner,
            self._clock.now(),
            limits.lease,
            limit,
            only=self._only,
            providers=providers,
            skip_providers=skip,
        )
        works = []
        for claim in claims:
            try:
                opened = self._vault.open_authorization(claim.authorization)
            except VaultError as error:
                # Nothing is changed: the row comes up again when its lease is over, perhaps with the right key.
                self._log.error("secret_not_opened", account=claim.account.name, reason=error.message)
                continue
            works.append(_Work(claim, opened, opened, lease_ends, probe=probe))
        return works

    def _prepare(self, works: Sequence[_Work]) -> None:
        """Does what needs no server, commits what must be committed before a request, and sends the rest off."""
        if not works:
            return
        self._open += len(works)
        self._hosts.claimed(map(self._host_name, works))
        self._all_done.clear()
        now = self._clock.now()
        in_doubt = []
        for work in works:
            if work.claim.interrupted and work.current.state is State.REFRESHING:
                in_doubt.append(work)
            else:
                self._set_going(work, now)
        if in_doubt:
            # Where the tokens come in meanwhile, the claim does not stand any more, and so no request is made.
            self._task_for(self._after_grace(in_doubt))

    def _set_going(self, work: _Work, now: float) -> None:
        self._take_local_steps(work, now)
        if work.history:
            self._hand_in(work)
        else:
            self._lanes.put(self._host_name(work), work)

    async def _after_grace(self, works: Sequence[_Work]) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.grace):
                await self._stop.wait()
        now = self._clock.now()
        for work in works:
            if self._stop.is_set():
                # Left as it is until its lease is over: to give it back would hide that it is in doubt.
                self._done_with(work)
            else:
                self._set_going(work, now)

    def _task_for(self, waiting: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(waiting, name="kimiflow-grace")
        self._in_grace.add(task)
        task.add_done_callback(self._in_grace.discard)

    def _host_name(self, work: _Work) -> str:
        return self._hosts.of(work.claim.account.provider)

    def _hand_in(self, work: _Work) -> None:
        sealed = self._vault.seal_authorization(work.current, opened=work.opened, sealed=work.claim.authorization)
        step = Step(work.claim, sealed, work.history, keep_lease=work.wants_request)
        self._committer.hand_in(step, partial(self._committed, work))

    def _committed(self, work: _Work, outcome: Outcome) -> None:
        if outcome in {Outcome.COMMITTED, Outcome.MERGED}:
            self._report(work)
        self._on_step(work.claim.account.id)
        if outcome is Outcome.COMMITTED and work.wants_request:
            work.history = ()
            self._lanes.put(self._host_name(work), work)
        else:
            self._done_with(work)

    def _done_with(self, work: _Work) -> None:
        host = self._host_name(work)
        if work.probe:
            self._hosts.probed(host)
        has_room_again = self._hosts.done(host)
        self._open -= 1
        if not self._open:
            self._all_done.set()
        if self._full or has_room_again or (self._until_settled and not self._open):
            self.wake()
        else:
            self._expect(work.current.next_attempt_at)

    def _failed(self, work: _Work, error: Exception) -> None:
        """A defect: the row is left as it is, and comes up again when its lease is over."""
        self._log.error("request_failed", account=work.claim.account.name, exc_info=error)
        self._done_with(work)

    def _take_local_steps(self, work: _Work, now: float) -> None:
        if work.claim.interrupted and work.current.state is not State.GRANTED:
            what = "a worker stopped between a request and its commit; the request may have reached the server"
            self._apply(work, AttemptFailed(INTERRUPTED, what), now)
            # A poll may have just been made: it waits its interval. A refresh is tried once more, now.
            work.wants_request = work.current.state in {State.REQUESTED, State.REFRESHING}
        while work.wants_request:
            event = local_event(work.current, now)
            if event is None:
                return
            self._apply(work, event, now)
            if not isinstance(event, RefreshDue):
                work.wants_request = False

    def _apply(self, work: _Work, event: Event, now: float) -> None:
        work.current, transition = advance(work.current, event, now, pacing=self._pacing, spread=self._draw())
        work.history = (*work.history, transition)

    async def _drive(self, work: _Work) -> None:
        """One request, and the commit of what comes of it."""
        host, work.history = self._host_name(work), ()
        is_open = self._hosts.is_open(host)
        if host and not ((is_open or work.probe) and self._lease_suffices(work)):
            # The claim is given back unchanged: the host is silent, or too little of the lease is left. Only a flow
            # that is out of time ends here, because it would be given back again and again.
            work.wants_request = False
            if not is_open and is_overdue(work.current, now := self._clock.now()):
                self._apply(work, OUT_OF_TIME, now)
            self._hand_in(work)
            return
        event = await self._request(work)
        work.wants_request = False
        self._note_health(host, event)
        self._apply(work, event, self._clock.now())
        self._hand_in(work)

    def _lease_suffices(self, work: _Work) -> bool:
        left = work.lease_ends - self._clock.monotonic()
        return left >= self._limits.request_timeout + self._limits.margin and not self._stop.is_set()

    def _note_health(self, host: str, event: Event) -> None:
        if isinstance(event, AttemptFailed) and not event.reached:
            if self._hosts.silent(host, self._clock.monotonic(), self._draw()):
                self._log.warning("host_unreachable", host=host, reason=event.description)
        elif self._hosts.answered(host):
            self._log.info("host_reachable", host=host)
            self.wake()

    async def _request(self, work: _Work) -> Event:
        account, current = work.claim.account, work.current
        try:
            if current.state is State.REQUESTED:
                return await self._client.request_device_authorization(account)
            if current.state in HOLDS_TOKENS:
                assert current.refresh_token is not None  # noqa: S101 - local_event has seen to it
                return await self._client.refresh(account, current.refresh_token)
            assert current.device_code is not None  # noqa: S101 - a pending row has one
            return await self._client.poll(account, current.device_code)
        except KimiFlowError as error:
            # The account's own settings: its provider is gone, or its proxy cannot be used.
            return AttemptFailed("misconfigured", "; ".join(filter(None, (error.message, error.hint))))

    def _report(self, work: _Work) -> None:
        for step in work.history:
            if step.from_state is step.to_state:
                if not self._debug:
                    continue
                log = self._log.debug
            else:
                log = self._log.info
            state = None if step.to_state is None else step.to_state.value
            log(step.event, account=work.claim.account.name, state=state, detail=step.detail)

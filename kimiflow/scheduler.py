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
from typing import TYPE_CHECKING, Final

from kimiflow.advance import INTERRUPTED, OUT_OF_TIME, advance, is_overdue, local_event, needs_person
from kimiflow.errors import KimiFlowError, StoreReplaced, StoreUnavailable, VaultError
from kimiflow.events import AttemptFailed, RefreshDue
from kimiflow.finishing import begin
from kimiflow.model import HOLDS_TOKENS, State
from kimiflow.provider import issuer_of
from kimiflow.scheduling.committer import Committer
from kimiflow.scheduling.hosts import Hosts
from kimiflow.scheduling.lanes import Lanes
from kimiflow.stores.base import Outcome, Step
from kimiflow.wire import MISCONFIGURED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from kimiflow.client import Client
    from kimiflow.events import Event
    from kimiflow.model import Account, Authorization, Transition
    from kimiflow.pacing import Pacing
    from kimiflow.provider import Provider
    from kimiflow.scheduling.limits import Limits
    from kimiflow.secret import Secret
    from kimiflow.stores.base import Claim, Store
    from kimiflow.storetime import StoreClock
    from kimiflow.vault import Vault

__all__ = ["Scheduler"]

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
"""Seconds between looks for a store that is away, from the first to all after some."""
_NO_ROOM: Final = "there is no room to keep replies that could not be committed: disk or open files are used up"
_TOO_MANY_SURPRISES: Final = 3
_AFTER_A_SURPRISE: Final = 1.0


@dataclass(slots=True, eq=False)
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
    asked: bool = False
    """Its request has left, and what comes of it is not handed in yet."""


class Scheduler:
    """Drives the authorizations of a store until told to stop.

    :param owner: names this worker in leases; no two workers may share one.
    :param scope: which accounts are to be driven, by their ids, asked anew at each round; ``None`` for all. What is
        under way for one that has left the scope is given back, unless its request has left: then it lands.
    :param draw: a random number in [0, 1) for jitter.
    :param on_step: called after each commit with the account id, in the loop's thread.
    :param room: for how many steps there is room to be kept aside, told how many may come to need it and how many ever
        will. Nothing is claimed that there is none for.
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
        scope: Callable[[], Collection[str] | None] = lambda: None,
        on_step: Callable[[str], None] = lambda _: None,
        keep: Callable[[Sequence[Step]], bool] = lambda _: True,
        room: Callable[[int, int], int] = lambda _, most: most,
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
        self._scope = scope
        self._on_step = on_step
        self._debug = logging.getLogger("kimiflow").isEnabledFor(logging.DEBUG)
        self._committer = Committer(store, log, keep=keep)
        self._room_aside = room
        self._providers = providers
        self._hosts = Hosts(providers, limits)
        self._others_again_at = 0.0
        """While a host is busy, when to look whether there is something to do for others, in monotonic seconds."""
        self._lanes: Lanes[_Work] = Lanes(
            self._drive, self._failed, total=limits.concurrency, per_host=self._hosts.lanes_of_each
        )
        self._in_grace: set[asyncio.Task[None]] = set()
        self._open: set[_Work] = set()
        self._landed = asyncio.Event()
        """Set at each claim that is done with."""
        self._leaving = asyncio.Event()
        """Set, and replaced, when accounts have left the scope, so that nothing of theirs waits any longer."""
        self._patience = limits.patience
        """Seconds that a store which is away is waited for at the end."""
        self._stopped = False
        self._wake = asyncio.Event()
        self._look = False
        """Something happened that makes it worth looking at what is due before ``_planned``."""
        self._planned = 0.0
        """When to look next, by the wall clock."""
        self._full = False

    @property
    def owner(self) -> str:
        """This worker's name in leases."""
        return self._owner

    @property
    def in_flight(self) -> int:
        """Claims that are being worked on, up to the commit of what comes of them."""
        return len(self._open)

    def awaited(self) -> list[str]:
        """Accounts whose request is with the server: its reply may hold the only copy of a token. Sorted by name."""
        return sorted({w.claim.account.name for w in self._open if w.asked and w.current.state is not State.REQUESTED})

    def not_saved(self) -> list[str]:
        """Accounts of which something arrived that is neither in the store nor kept aside. For when it has ended."""
        return sorted({step.claim.account.name for step in self._committer.not_saved()})

    def wake(self) -> None:
        """Look again at what is due, now."""
        self._look = True
        self._wake.set()

    def stop(self) -> None:
        """Take nothing new. What is in flight lands and is committed before :meth:`run` returns."""
        self._stopped = True
        self.wake()

    def give_up(self) -> list[str]:
        """For a process that ends here and now: keeps aside what has arrived; returns :meth:`awaited`."""
        self._stopped = True
        self._committer.give_up()
        return self.awaited()

    async def run(self) -> None:
        """Drives whatever is due until :meth:`stop`. To be cancelled stops it as well, and lets land what is in flight.

        What nobody has thought of costs one round; it is raised where it ends several in a row.

        :raises StoreReplaced: where what is open is not what others find at the same place; nothing is claimed there.
        """
        pause, surprises = _FIRST_PAUSE, 0
        try:
            while not self._stopped:
                self._look = False
                try:
                    self._planned = await self._round()
                    pause, surprises = _FIRST_PAUSE, 0
                except StoreReplaced as error:
                    self._log.error("store_replaced", reason=error.message)
                    self._patience = 0.0  # it does not come back
                    raise
                except StoreUnavailable as error:
                    self._log.warning("store_unavailable", retry_in=pause, reason=error.message)
                    self._planned = self._clock.now() + pause
                    pause = min(pause * 2, _LONGEST_PAUSE)
                except (Exception, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                        raise
                    surprises += 1
                    self._log.error("round_failed", in_a_row=surprises, exc_info=error)
                    if surprises == _TOO_MANY_SURPRISES:
                        if isinstance(error, asyncio.CancelledError):
                            # As it is, it would look as if somebody had asked for the end.
                            msg = "what the store was asked was cancelled, and by nobody here"
                            raise RuntimeError(msg) from error
                        raise
                    self._planned = self._clock.now() + _AFTER_A_SURPRISE
                await self._sleep()
        finally:
            self._stopped = True
            await self._land()

    async def landed(self) -> None:
        """Waits until nothing is under way for accounts outside of the scope, or at all once it was stopped.

        Only a store that stays away is not waited for: what has arrived is kept aside, for the next process to commit.
        """
        leaving, self._leaving = self._leaving, asyncio.Event()
        leaving.set()
        while any(not self._is_wanted(work) for work in self._open):
            if self._committer.away_for() > self._patience and not self._lanes.tasks:
                return
            self._landed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await self._landed.wait()

    async def _land(self) -> None:
        """Requests in flight land, and their results are committed: a lost reply would be a lost token."""
        while True:
            try:
                await self.landed()
                break
            except asyncio.CancelledError:
                continue
        if self._open:
            left = self._committer.give_up()
            self._log.error("stopped_without_the_store", steps=len(left))
            self._open.clear()
            self._landed.set()

    def _is_wanted(self, work: _Work) -> bool:
        scope = self._scope()
        return not self._stopped and (scope is None or work.claim.account.id in scope)

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

    async def _round(self) -> float:
        """Claims what is due and sets it going. Returns when, by the wall clock, to look again."""
        limits, scope = self._limits, self._scope()
        if scope is not None and not scope:
            return self._clock.now() + limits.idle
        await self._clock.synchronise()
        started = self._clock.now()
        aside = self._room_aside(len(self._open), limits.open_claims)
        if not aside:
            raise StoreUnavailable(_NO_ROOM)
        room = aside - len(self._open)
        self._full = room < min(limits.batch, aside) // 2 + 1
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
        due = await self._store.next_due(only=self._scope(), skip_providers=hosts.blocked())
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
            only=self._scope(),
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
            works.append(_Work(claim, opened, self._with_origin(claim.account, opened), lease_ends, probe=probe))
        return works

    def _with_origin(self, account: Account, opened: Authorization[Secret]) -> Authorization[Secret]:
        """Has a row of an older kimiflow note from now on who issued its secrets."""
        if opened.origin is None and opened.state is not State.REQUESTED and account.provider in self._providers:
            return opened._replace(origin=issuer_of(self._providers[account.provider], None))
        return opened

    def _prepare(self, works: Sequence[_Work]) -> None:
        """Does what needs no server, commits what must be committed before a request, and sends the rest off."""
        if not works:
            return
        self._open.update(works)
        self._hosts.claimed(map(self._host_name, works))
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
        ends = asyncio.get_running_loop().time() + self._limits.grace
        while works:
            try:
                async with asyncio.timeout_at(ends):
                    await self._leaving.wait()
            except TimeoutError:
                now = self._clock.now()
                for work in works:
                    self._set_going(work, now)
                return
            except asyncio.CancelledError:
                self._stopped = True
            for work in works:
                if not self._is_wanted(work):
                    # Left as it is until its lease is over: to give it back would hide that it is in doubt.
                    self._done_with(work)
            works = [work for work in works if work in self._open]

    def _task_for(self, waiting: Coroutine[None, None, None]) -> None:
        task = begin(waiting, "kimiflow-grace")
        self._in_grace.add(task)
        task.add_done_callback(self._in_grace.discard)

    def _host_name(self, work: _Work) -> str:
        return self._hosts.of(work.claim.account.provider)

    def _hand_in(self, work: _Work) -> None:
        sealed = self._vault.seal_authorization(work.current, opened=work.opened, sealed=work.claim.authorization)
        step = Step(work.claim, sealed, work.history, keep_lease=work.wants_request)
        self._committer.hand_in(step, partial(self._committed, work))

    def _committed(self, work: _Work, outcome: Outcome) -> None:
        if outcome.is_written:
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
        self._open.discard(work)
        self._landed.set()
        if self._full or has_room_again:
            self.wake()
        else:
            self._expect(work.current.next_attempt_at)

    def _failed(self, work: _Work, error: BaseException) -> None:
        """A defect, or cancelled: the row is left as it is, and comes up again when its lease is over."""
        if isinstance(error, asyncio.CancelledError):
            self._log.warning("request_cancelled", account=work.claim.account.name)
        else:
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
        work.asked = True
        try:
            event = await self._request(work)
        finally:
            work.asked = work.wants_request = False
        self._note_health(host, event)
        self._apply(work, event, self._clock.now())
        self._hand_in(work)

    def _lease_suffices(self, work: _Work) -> bool:
        left = work.lease_ends - self._clock.monotonic()
        return left >= self._limits.request_timeout + self._limits.margin and self._is_wanted(work)

    def _note_health(self, host: str, event: Event) -> None:
        if isinstance(event, AttemptFailed) and event.reached is None:
            return
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
                return await self._client.refresh(account, current)
            return await self._client.poll(account, current)
        except KimiFlowError as error:
            # The account's own settings: its provider is gone, or is elsewhere now, or its proxy cannot be used.
            return AttemptFailed(MISCONFIGURED, "; ".join(filter(None, (error.message, error.hint))), reached=None)

    def _report(self, work: _Work) -> None:
        before = work.claim.authorization
        if needs_person(work.current, work.current.updated_at) and not needs_person(before, before.updated_at):
            self._log.warning(
                "person_needed",
                account=work.claim.account.name,
                state=work.current.state.value,
                reason=work.history[-1].detail,
            )
        for step in work.history:
            if step.from_state is step.to_state:
                if not self._debug:
                    continue
                log = self._log.debug
            else:
                log = self._log.info
            state = None if step.to_state is None else step.to_state.value
            log(step.event, account=work.claim.account.name, state=state, detail=step.detail)


def _is_cancelled() -> bool:
    """Whether somebody has asked the task at hand to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

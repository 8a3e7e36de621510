"""``KimiFlow``: what applications import, and what the command line is made of."""

from __future__ import annotations

import asyncio
import random
import uuid
from functools import cached_property
from typing import TYPE_CHECKING

from kimiflow import advance
from kimiflow.accounts import Accounts
from kimiflow.clock import SystemClock
from kimiflow.engine import Engine, unknown
from kimiflow.errors import StillPending, UnknownAccount, UsageError
from kimiflow.events import LoginRequested
from kimiflow.feed import Feed
from kimiflow.finishing import finish
from kimiflow.http.proxies import checked_proxy
from kimiflow.keys.loading import make_folder
from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, Account, State, account_names, valid_account_name
from kimiflow.neighbours.moving import Moving
from kimiflow.outcome import failed_attempt, left_pending, settled_badly, signed_out
from kimiflow.parameters import cursor, flag, seconds, shown, text
from kimiflow.provider import find_provider
from kimiflow.settings import Settings, load_settings
from kimiflow.signout import SignOut
from kimiflow.status import Status, Token, status_of
from kimiflow.stores.base import Beginning, Snapshot
from kimiflow.stores.registry import open_store
from kimiflow.tokens import TokenSource

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    import httpx

    from kimiflow.api.client import AccountApi
    from kimiflow.api.profile import Profile
    from kimiflow.auth import KimiAuth
    from kimiflow.clock import Clock
    from kimiflow.model import Transition
    from kimiflow.neighbours.syncing import Syncing, Target
    from kimiflow.pool import KimiPool
    from kimiflow.roster import Strategy
    from kimiflow.scheduling.limits import Limits
    from kimiflow.signout import Departure
    from kimiflow.stores.base import Store, WorkerReport
    from kimiflow.vault import Vault

__all__ = ["KimiFlow"]

_PATIENCE_AT_THE_START = 3
"""Failed attempts to reach a server for a first code, after which a person is told."""


class KimiFlow:
    """Many accounts, signed in and kept signed in.

    Use it as an async context manager, made by :meth:`open`. Any number of processes may use the same store at
    once; they share the work, and one refresh token is never used by two of them.

    To leave the context waits until every request that has left is answered and committed, also where it is left by a
    cancellation, and where it is cancelled again meanwhile. Leaving it raises :class:`~kimiflow.errors.NotSaved` where
    something arrived that could be saved neither in the store nor in the home.

    All methods raise :class:`~kimiflow.errors.StoreUnavailable` where the database is away. They, and what is made by
    them, raise :class:`~kimiflow.errors.UsageError` where it is not open; in another event loop than the one that it was
    entered in; in a forked process, in which to leave it does nothing; and, before anything is done, for a value that
    cannot be meant.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        *,
        clock: Clock | None = None,
        draw: Callable[[], float] = random.random,
        transport_for: Callable[[Account, str], httpx.AsyncBaseTransport] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.settings = _checked(settings)
        if not hasattr(store, "snapshots"):
            raise UsageError(
                f"store is {shown(store)}",
                hint="A store is an object of the contract kimiflow.stores.base.Store; a URL belongs in database_url.",
            )
        self._engine = Engine(settings, store, clock or SystemClock(), draw, transport_for, limits=limits)
        self._tokens = TokenSource(self._engine)
        self._clock = self._engine.clock
        self._providers = self._engine.providers
        self._accounts: dict[str, Account] = {}

    @property
    def _store(self) -> Store:
        return self._engine.store

    @cached_property
    def _api(self) -> AccountApi:
        # With httpx, which takes longer to load than most commands have to do.
        from kimiflow.api.client import AccountApi  # noqa: PLC0415

        return AccountApi(self._engine, self._tokens, self._accounts)

    @classmethod
    def open(cls, settings: Settings | None = None, *, store: Store | None = None) -> Self:
        """An instance to enter with ``async with``; settings come from the environment unless they are given.

        :raises InvalidSetting: where a setting has a value that is not allowed.
        :raises UsageError: where ``settings`` or ``store`` is something else.
        """
        settings = load_settings() if settings is None else _checked(settings)
        return cls(settings, open_store(settings.store_url) if store is None else store)

    async def __aenter__(self) -> Self:
        make_folder(self.settings.home)
        await self._engine.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._engine.close(failing=error is not None)

    # Signing in

    async def login(
        self,
        name: str,
        *,
        provider: str | None = None,
        proxy: str | None = None,
        force: bool = False,
        timeout: float | None = None,
    ) -> Status:
        """Starts a sign-in, or picks up the one that is pending, and returns once there is a code to show.

        An account that is signed in is returned as it is, unless ``force``; then its grant works on until the new
        one arrives. The provider of a new account comes from the settings where it is not given.

        :param timeout: seconds to wait for the code.
        :raises AccessDenied: where the server refuses to start (RFC 6749 §5.2).
        :raises ServerUnreachable: where it cannot be reached; the sign-in stays requested.
        :raises StillPending: where there was no code in time.
        :raises UsageError: where the account has another provider, and as for :meth:`begin`.
        """
        seconds("timeout", timeout)
        await self.begin([name], provider=provider, proxy=proxy, force=force)
        failures_before: int | None = None
        async for status in self.follow([name], timeout=timeout):
            if status.state is not State.REQUESTED:
                break
            failures_before = status.attempts if failures_before is None else failures_before
            if status.attempts >= failures_before + _PATIENCE_AT_THE_START:
                raise failed_attempt(status)
        return _raise_if_settled_badly(status)

    async def begin(
        self,
        names: Sequence[str],
        *,
        provider: str | None = None,
        proxy: str | None = None,
        force: bool = False,
    ) -> list[Status]:
        """Writes sign-ins for all ``names`` to the store in one go, without driving them.

        Returns, in the same order, what each account is now: a sign-in on its way, or the grant it has already, unless
        that needs a person; then the new sign-in goes on beside it, and takes its place once it is approved.

        :raises InvalidAccountName: for a name that breaks the rule; then nothing was written.
        :raises UnknownProvider: likewise.
        :raises UsageError: where an account exists with another provider; likewise.
        """
        names = account_names(names)
        flag("force", force)
        find_provider(self._providers, text("provider", provider) or self.settings.provider)
        text("proxy", proxy)
        if proxy is not None:
            checked_proxy("--proxy", proxy, may_hold_password=False)
        await self._engine.synchronise()
        vault = await self._engine.vault()  # a missing key is better known before anything is written
        now = self._clock.now()
        known = await self._known(names)
        for name, snapshot in known.items():
            has = snapshot.account.provider
            if provider is not None and has != provider:
                raise UsageError(
                    f"{name} belongs to the provider {has}, and an account keeps its provider for life",
                    hint=f"Choose another name, or forget it first: kimiflow logout --forget {name}",
                    account=name,
                )
            if proxy is not None and snapshot.account.proxy != proxy:
                await self._store.set_proxy(snapshot.account.id, proxy)
        await self._store.add_accounts(
            [
                Account(
                    id=str(uuid.uuid4()),
                    name=name,
                    provider=provider or self.settings.provider,
                    device_id=str(uuid.uuid4()),
                    proxy=proxy,
                    created_at=now,
                )
                for name in names
                if name not in known
            ]
        )
        await self._let_overdue_expire(known.values(), now)
        known = await self._known(names)
        beginnings = [b for name in names if (b := self._beginning(known[name], vault, now, force=force))]
        if beginnings:
            await self._store.begin(beginnings)
        waiting = [s.on_its_way for s in known.values() if s.on_its_way and s.on_its_way.state is State.REQUESTED]
        if waiting:
            # Who asks again expects a try now, not when the backoff of an earlier failure is over.
            await self._store.hasten([(a.id, a.token_version) for a in waiting], now)
        if beginnings or waiting:
            self._engine.stirred()
            known = await self._known(names)
        return [status_of(known[name], self._clock.now()) for name in names]

    def _beginning(self, snapshot: Snapshot, vault: Vault, now: float, *, force: bool) -> Beginning | None:
        grant = snapshot.grant
        if snapshot.on_its_way is not None or not (force or grant is None or advance.needs_person(grant, now)):
            return None
        resting = snapshot.resting
        if resting is None:
            authorization, history = advance.begin(str(uuid.uuid4()), snapshot.account.id, now)
            renews = None
        else:
            authorization, history = advance.advance(
                vault.open_authorization(resting),
                LoginRequested(),
                now,
                pacing=self.settings.pacing,
                spread=0.0,
            )
            renews = resting.updated_at
        return Beginning(vault.seal_authorization(authorization), history, renews, beside_grant=grant is not None)

    async def _let_overdue_expire(self, snapshots: Iterable[Snapshot], now: float) -> None:
        """Lets codes run out that nobody drove while they did, so that who asks again gets a new one."""
        overdue = {
            s.account.id: s.account.name
            for s in snapshots
            if s.on_its_way and s.on_its_way.code_expires_at and s.on_its_way.code_expires_at <= now
        }
        if not overdue:
            return
        deadline = self._clock.monotonic() + 2.0
        async with self._engine.driving(overdue):
            while True:
                moved = self._engine.moved
                left = (await self._known(overdue.values())).values()
                if not any(s.on_its_way and (s.on_its_way.code_expires_at or now) <= now for s in left):
                    return
                try:
                    await self._engine.wait_for(moved, deadline)
                except StillPending:
                    return  # another worker holds it; the sign-in it belongs to is then picked up as it is

    async def wait(self, name: str, *, timeout: float | None = None) -> Status:
        """Drives a sign-in until it is granted.

        :param timeout: seconds; ``None`` waits until the code runs out.
        :raises AccessDenied: where the person or the server said no.
        :raises AuthorizationExpired: where nobody approved in time.
        :raises StillPending: a ``TimeoutError``, where time was up; the flow goes on when anybody drives it.
        :raises SignInNeeded: where there is nothing to wait for.
        """
        settled = [status async for status in self.follow([name], timeout=timeout)][-1]
        return _raise_if_settled_badly(settled)

    async def follow(
        self, names: Sequence[str], *, timeout: float | None = None, drive: bool = True
    ) -> AsyncGenerator[Status, None]:
        """Drives sign-ins, and yields each account at first and whenever its flow changes, until all have settled.

        :param drive: ``False`` only watches, and leaves the work to others.
        :raises StillPending: where ``timeout`` seconds were not enough.
        :raises UnknownAccount: where there is no such account.
        """
        names, timeout, drive = account_names(names), seconds("timeout", timeout), flag("drive", drive)
        deadline = None if timeout is None else self._clock.monotonic() + timeout
        known = await self._known(names)
        for name in names:
            if name not in known:
                raise unknown(name)
        ids = {name: known[name].shown.id if known[name].shown else None for name in names}  # type: ignore[union-attr]
        seen: dict[str, Status] = {}
        async with self._engine.driving([known[name].account.id for name in names] if drive else []):
            while True:
                moved = self._engine.moved
                snapshots = await self._known(names)
                for name in names:
                    snapshot = snapshots.get(name) or Snapshot(known[name].account, ())
                    status = status_of(snapshot, self._clock.now(), snapshot.find(ids[name]))
                    if name not in seen or _moved_on(seen[name], status):
                        seen[name] = status
                        yield status
                pending = [status for status in seen.values() if status.on_its_way]
                if not pending:
                    return
                try:
                    await self._engine.wait_for(moved, deadline)
                except StillPending:
                    raise _still_pending(pending) from None

    # Tokens

    async def token(self, name: str, *, timeout: float | None = None) -> Token:
        """An access token that is fresh; refreshed first where that is due, with one request for all who ask at once.

        Where the refresh fails but the present token still works, the present one is returned.

        :param timeout: seconds to wait for a refresh, that of a request by default.
        :raises PersonNeeded: where only a person can help: by signing in (``SignInNeeded``), by mending the settings
            (``Misconfigured``), or by finding out why the server refuses (``RefreshRefused``, which may pass).
        :raises StillPending: where the first sign-in has not been approved yet.
        :raises ServerUnreachable: where there is no usable token and the server does not answer.
        :raises RequestFailed: likewise, where it answers nonsense.
        """
        if timeout is not None:
            seconds("timeout", timeout)
        cached = self._tokens.cached(name)
        if cached is not None:
            return cached
        stamp = self._store.stamp()
        snapshot = await self._snapshot(name)
        return await self._tokens.fresh(snapshot, timeout, stamp)

    async def refresh(self, name: str, *, seen: str | None = None, timeout: float | None = None) -> Token:
        """Refreshes now, and returns the new token; many who ask at once share one request.

        Without ``seen`` it is a person's wish, which does not wait for what a server has asked for (``Retry-After``).

        :param seen: the access token that turned out not to work; where the store has another one by now, that one
            is returned and nothing is sent.
        :raises TokenRefused: where ``seen`` is the result of such a refresh not a minute ago.
        :raises PersonNeeded: and the others, as for :meth:`token`; also where the server gave no refresh token.
        """
        text("seen", seen)
        seconds("timeout", timeout)
        snapshot = await self._snapshot(name)
        return await self._tokens.refreshed(snapshot, seen, timeout)

    def auth(self, name: str, *, origins: Collection[str] = ()) -> KimiAuth:
        """An ``httpx.Auth`` that sends this account's token and device headers with each request to its API.

        A request to another origin than that of the account's ``api_base`` raises
        :class:`~kimiflow.errors.ForeignOrigin` before anything leaves. Redirects to another origin go without both.

        :param origins: further origins that may have them, as ``https://host`` or ``https://host:port``, such as a
            gateway's; plain http on loopback only.
        :raises UsageError: where one of ``origins`` is something else.
        :raises InvalidAccountName: for a name that breaks the rule.
        """
        from kimiflow.api.origins import Origins  # noqa: PLC0415 - likewise
        from kimiflow.auth import KimiAuth  # noqa: PLC0415 - likewise

        return KimiAuth(self, valid_account_name(name), Origins(self._api.api_base, self._snapshot, origins))

    def pool(
        self, names: Sequence[str], *, strategy: Strategy = "round_robin", origins: Collection[str] = ()
    ) -> KimiPool:
        """An ``httpx.Auth`` that serves each request as one of several accounts; see :mod:`kimiflow.pool`.

        An account is set aside while the API refuses it (its quota is used up, it has no membership…), and the request
        goes to the next one. Where none is left, the request raises :class:`~kimiflow.errors.PoolExhausted`.

        :param strategy: ``round_robin``, or ``least_recently_limited``, which uses up one quota after the other.
        :param origins: where requests may go besides the accounts' API, as for :meth:`auth`.
        :raises UsageError: for no names, another strategy, or where one of ``origins`` is no origin.
        :raises InvalidAccountName: for a name that breaks the rule.
        """
        from kimiflow.pool import KimiPool  # noqa: PLC0415 - likewise

        return KimiPool(self._api, names, strategy, origins)

    def api_base(self, name: str) -> str:
        """The base URL of the API that this account's tokens are for.

        :raises UnknownAccount: where this object has not met the account yet; :meth:`login`, :meth:`token` and
            :meth:`status` make it known.
        :raises InvalidSetting: where its provider has no ``api_base``.
        """
        from kimiflow.api.client import api_base_of  # noqa: PLC0415 - likewise

        account = self._accounts.get(valid_account_name(name))
        if account is None:
            raise UnknownAccount(
                f"{name} is not known here yet",
                hint=f"Ask for it first: await flow.token({name!r})",
                account=name,
            )
        return api_base_of(self._engine, account)

    @property
    def accounts(self) -> Accounts:
        """Renames and labels accounts, and says which are not to be handed out by pools."""
        return Accounts(self._engine)

    # Neighbours

    @property
    def moving(self) -> Moving:
        """Takes grants in from other tools, and hands them over."""
        return Moving(self._engine)

    def syncing(self, targets: Sequence[Target]) -> Syncing:
        """Keeps folders of other tools in step with the store; start it, then run it beside :meth:`run`.

        To start it raises :class:`~kimiflow.errors.UsageError` where two targets share a folder.
        """
        from kimiflow.neighbours.syncing import Syncing  # noqa: PLC0415 - few need it

        return Syncing(self._engine, targets)

    # Looking, and leaving

    async def status(self, names: Collection[str] | None = None) -> list[Status]:
        """All accounts, or those named, sorted by name.

        :raises UnknownAccount: where one that was named does not exist.
        """
        names = None if names is None else account_names(names)
        await self._engine.synchronise()
        snapshots = await self._known(names)
        for name in names or ():
            if name not in snapshots:
                raise unknown(name)
        now = self._clock.now()
        return [status_of(snapshot, now) for snapshot in snapshots.values()]

    async def now(self) -> float:
        """The time by the store, in Unix seconds: what times in a status are to be compared with."""
        await self._engine.synchronise()
        return self._clock.now()

    async def workers(self) -> list[WorkerReport]:
        """What every worker last said of itself, sorted by name."""
        return await self._store.workers()

    async def history(self, name: str) -> list[Transition]:
        """Every transition of an account, oldest first.

        :raises UnknownAccount: where there is none of that name.
        """
        snapshot = await self._snapshot(name)
        return await self._store.history(snapshot.account.id)

    def events(self, *, after: int | None = None) -> Feed:
        """Every transition of every account from now on, by whatever process, in the order of commits; endless.

        Each has a ``cursor``: with the last one as ``after``, a later stream continues where this one ended, also after
        a restart, and nothing is missed but what was pruned meanwhile.

        :param after: a cursor; 0 begins with all the history there is.
        """
        self._engine.check(in_its_loop=False)
        return Feed(self._engine, cursor("after", after))

    async def profile(self, name: str) -> Profile:
        """Who an account is, and what is left of its quota, as the API tells it now.

        A profile that can be had only in part says so in its ``problems``. Whatever goes wrong, the sign-in is as it
        was.

        :raises SignInNeeded: and the others, as for :meth:`token`.
        :raises ServerUnreachable: where the API does not answer.
        :raises RequestFailed: where it answers nothing of use, such as 402 where there is no membership.
        :raises InvalidSetting: where the account's provider has no ``api_base``.
        """
        return await self._api.profile(await self._snapshot(name))

    async def logout(self, names: Iterable[str], *, forget: bool = False, revoke: bool = True) -> int:
        """Deletes the secrets of these accounts and abandons their sign-ins; returns how many authorizations went.

        Name, provider, device id and history stay unless ``forget``. A refresh or poll in flight cannot bring anything
        back.

        After that, where an account's provider has a ``revocation_endpoint``, its server is told to take the tokens
        back (RFC 7009), which takes a few seconds at most. Whether it does is logged, and changes nothing here. Not cut
        short by a cancellation, because by then the tokens are nowhere else.

        :param revoke: ``False`` leaves the tokens valid at the server, for somebody else who has them.
        :raises UnknownAccount: where one does not exist; then nothing was done.
        """
        return sum(each.authorizations for each in await self.sign_out(names, forget=forget, revoke=revoke))

    async def sign_out(self, names: Iterable[str], *, forget: bool = False, revoke: bool = True) -> list[Departure]:
        """The same as :meth:`logout`, for who wants to know which server was told, and which could not be."""
        names, forget, revoke = account_names(names), flag("forget", forget), flag("revoke", revoke)
        snapshots = [await self._snapshot(name) for name in names]
        work = SignOut(self._engine, revoke=revoke).carry_out(snapshots, forget=forget)
        return await finish(self._engine.start(work, "kimiflow-sign-out"))

    async def run(self, *, until_settled: bool = False, stop: asyncio.Event | None = None) -> None:
        """Drives everything in the store until ``stop`` is set.

        With ``until_settled`` it also returns once no sign-in is on its way. Requests in flight land and are
        committed before it returns.
        """
        flag("until_settled", until_settled)
        if stop is not None and not isinstance(stop, asyncio.Event):  # a thread's would hold up the loop
            raise UsageError(f"stop is {shown(stop)}", hint="stop is an asyncio.Event, or None.")
        await self._engine.run(until_settled=until_settled, stop=stop)

    # Ending

    def awaited(self) -> list[str]:
        """Accounts whose request is with the server, sorted by name: its reply may hold the only copy of a token.

        To leave the context waits for them, up to :attr:`longest_stop`.
        """
        return self._engine.awaited()

    @property
    def longest_stop(self) -> float:
        """Seconds that leaving the context may take: a request has just left, and then the store is away."""
        return self._engine.longest_stop

    def give_up(self) -> list[str]:
        """For a process that has to end here and now: what has arrived is kept in a file in the home.

        Returns :meth:`awaited`, accounts that are in doubt from now on: what the server answers them is lost.

        :raises NotSaved: where something arrived that could be saved nowhere.
        """
        return self._engine.give_up()

    async def _known(self, names: Collection[str] | None) -> Mapping[str, Snapshot]:
        found = {s.account.name: s for s in await self._store.snapshots(names)}
        if names is not None:
            self._accounts.update((name, snapshot.account) for name, snapshot in found.items())
        return found

    async def _snapshot(self, name: str) -> Snapshot:
        snapshot = await self._engine.snapshot(name)
        self._accounts[name] = snapshot.account
        return snapshot


def _checked(settings: object) -> Settings:
    if not isinstance(settings, Settings):
        raise UsageError(f"settings is {shown(settings)}", hint="As in: KimiFlow.open(Settings(home=...))")
    return settings


def _moved_on(before: Status, after: Status) -> bool:
    """Whether there is something new to tell: another state, another code, another failure."""
    return (before.state, before.user_code, before.attempts) != (after.state, after.user_code, after.attempts)


def _raise_if_settled_badly(status: Status) -> Status:
    if status.state is None:
        raise signed_out(status.account)
    if status.state not in HOLDS_TOKENS | ON_ITS_WAY:
        raise settled_badly(status.account, status.state, status.error, status.error_description)
    return status


def _still_pending(pending: Sequence[Status]) -> StillPending:
    names = [status.account for status in pending]
    listed = " ".join(names)
    return StillPending(
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} not approved yet",
        hint=left_pending(pending, f"go on with: kimiflow login {listed}"),
        account=names[0] if len(names) == 1 else None,
    )

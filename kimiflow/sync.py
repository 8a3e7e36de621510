"""kimiflow for programs without an event loop.

    with kimiflow.sync.KimiFlow.open() as flow:
        flow.login("work")
        flow.wait("work")
        client = OpenAI(http_client=httpx.Client(auth=flow.auth("work")), base_url=…, api_key="unused")

Each method is that of :class:`kimiflow.flow.KimiFlow`, run in a loop of its own and waited for: same arguments, same
results, same errors.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from typing import TYPE_CHECKING

from kimiflow import flow as asynchronous
from kimiflow.errors import UsageError
from kimiflow.parameters import shown
from kimiflow.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Any, Self, TypeVar

    from kimiflow.accounts import Accounts as AsynchronousAccounts
    from kimiflow.api.profile import Profile
    from kimiflow.auth import KimiAuth
    from kimiflow.authflow import Run
    from kimiflow.model import AccountTransition, Transition
    from kimiflow.pool import KimiPool
    from kimiflow.roster import Strategy
    from kimiflow.settings import Settings
    from kimiflow.signout import Departure
    from kimiflow.status import Status, Token
    from kimiflow.stores.base import Store, WorkerReport

    T = TypeVar("T")

__all__ = ["KimiFlow"]

_LOOK_AT_STOP_EVERY = 0.1


class Accounts:
    """The methods of :class:`kimiflow.accounts.Accounts`, waited for."""

    def __init__(self, run: Run, accounts: AsynchronousAccounts) -> None:
        self._run = run
        self._accounts = accounts

    def disable(self, names: Iterable[str]) -> None:
        """See :meth:`kimiflow.accounts.Accounts.disable`."""
        self._run(lambda: self._accounts.disable(names))

    def enable(self, names: Iterable[str]) -> None:
        """See :meth:`kimiflow.accounts.Accounts.enable`."""
        self._run(lambda: self._accounts.enable(names))

    def label(self, names: Iterable[str], text: str | None) -> None:
        """See :meth:`kimiflow.accounts.Accounts.label`."""
        self._run(lambda: self._accounts.label(names, text))

    def rename(self, old: str, new: str) -> None:
        """See :meth:`kimiflow.accounts.Accounts.rename`."""
        self._run(lambda: self._accounts.rename(old, new))

    def set_origin(self, names: Iterable[str], url: str) -> None:
        """See :meth:`kimiflow.accounts.Accounts.set_origin`."""
        self._run(lambda: self._accounts.set_origin(names, url))


class KimiFlow:
    """The synchronous twin of :class:`kimiflow.flow.KimiFlow`, for any number of threads at once.

    Use it as a context manager, made by :meth:`open`; it can be entered once. Ctrl-C in a method cancels what it waits
    for, while requests in flight land and are committed, for which :meth:`close` waits.

    All methods raise :class:`~kimiflow.errors.UsageError` where it is not open, or was opened before a fork.
    """

    def __init__(self, flow: asynchronous.KimiFlow) -> None:
        if not isinstance(flow, asynchronous.KimiFlow):
            raise UsageError(f"flow is {shown(flow)}", hint="Use: with kimiflow.sync.KimiFlow.open() as flow")
        self._flow = flow
        self._portal = Portal()
        # One that is dropped without being closed lets go as well; then nobody is left to wait for it.
        self._finalizer = weakref.finalize(self, self._portal.release)
        self._finalizer.atexit = False

    @classmethod
    def open(cls, settings: Settings | None = None, *, store: Store | None = None) -> Self:
        """An instance to enter with ``with``; see :meth:`kimiflow.flow.KimiFlow.open`."""
        return cls(asynchronous.KimiFlow.open(settings, store=store))

    @property
    def settings(self) -> Settings:
        """What it was opened with."""
        return self._flow.settings

    def __enter__(self) -> Self:
        self._portal.open(self._flow)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends it, from any thread: who still waits in a method gets a ``UsageError``, requests in flight land."""
        self._portal.close()

    def _run(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        return self._portal.run(work)

    # Signing in

    def login(
        self,
        name: str,
        *,
        provider: str | None = None,
        proxy: str | None = None,
        force: bool = False,
        timeout: float | None = None,
    ) -> Status:
        """See :meth:`kimiflow.flow.KimiFlow.login`."""
        return self._run(lambda: self._flow.login(name, provider=provider, proxy=proxy, force=force, timeout=timeout))

    def begin(
        self,
        names: Sequence[str],
        *,
        provider: str | None = None,
        proxy: str | None = None,
        force: bool = False,
    ) -> list[Status]:
        """See :meth:`kimiflow.flow.KimiFlow.begin`."""
        return self._run(lambda: self._flow.begin(names, provider=provider, proxy=proxy, force=force))

    def wait(self, name: str, *, timeout: float | None = None) -> Status:
        """See :meth:`kimiflow.flow.KimiFlow.wait`."""
        return self._run(lambda: self._flow.wait(name, timeout=timeout))

    def follow(self, names: Sequence[str], *, timeout: float | None = None, drive: bool = True) -> Iterator[Status]:
        """See :meth:`kimiflow.flow.KimiFlow.follow`."""
        return self._portal.iterate(lambda: self._flow.follow(names, timeout=timeout, drive=drive))

    # Tokens

    def token(self, name: str, *, timeout: float | None = None) -> Token:
        """See :meth:`kimiflow.flow.KimiFlow.token`."""
        return self._run(lambda: self._flow.token(name, timeout=timeout))

    def refresh(self, name: str, *, seen: str | None = None, timeout: float | None = None) -> Token:
        """See :meth:`kimiflow.flow.KimiFlow.refresh`."""
        return self._run(lambda: self._flow.refresh(name, seen=seen, timeout=timeout))

    def auth(self, name: str, *, origins: Collection[str] = ()) -> KimiAuth:
        """An ``httpx.Auth`` for ``httpx.Client``; see :meth:`kimiflow.flow.KimiFlow.auth`."""
        return self._flow.auth(name, origins=origins).for_threads(self._run)

    def pool(
        self, names: Sequence[str], *, strategy: Strategy = "round_robin", origins: Collection[str] = ()
    ) -> KimiPool:
        """An ``httpx.Auth`` for ``httpx.Client``; see :meth:`kimiflow.flow.KimiFlow.pool`."""
        return self._flow.pool(names, strategy=strategy, origins=origins).for_threads(self._run)

    def api_base(self, name: str) -> str:
        """See :meth:`kimiflow.flow.KimiFlow.api_base`."""
        return self._flow.api_base(name)

    @property
    def accounts(self) -> Accounts:
        """Renames and labels accounts, and says which are not to be handed out by pools."""
        return Accounts(self._run, self._flow.accounts)

    # Ending

    def awaited(self) -> list[str]:
        """See :meth:`kimiflow.flow.KimiFlow.awaited`."""

        async def work() -> list[str]:
            return self._flow.awaited()

        return self._run(work)

    @property
    def longest_stop(self) -> float:
        """See :attr:`kimiflow.flow.KimiFlow.longest_stop`."""
        return self._flow.longest_stop

    def give_up(self) -> list[str]:
        """See :meth:`kimiflow.flow.KimiFlow.give_up`."""

        async def work() -> list[str]:
            return self._flow.give_up()

        return self._run(work)

    # Looking, and leaving

    def status(self, names: Collection[str] | None = None) -> list[Status]:
        """See :meth:`kimiflow.flow.KimiFlow.status`."""
        return self._run(lambda: self._flow.status(names))

    def now(self) -> float:
        """See :meth:`kimiflow.flow.KimiFlow.now`."""
        return self._run(self._flow.now)

    def workers(self) -> list[WorkerReport]:
        """See :meth:`kimiflow.flow.KimiFlow.workers`."""
        return self._run(self._flow.workers)

    def history(self, name: str) -> list[Transition]:
        """See :meth:`kimiflow.flow.KimiFlow.history`."""
        return self._run(lambda: self._flow.history(name))

    def events(self, *, after: int | None = None) -> Iterator[AccountTransition]:
        """See :meth:`kimiflow.flow.KimiFlow.events`."""
        return self._portal.iterate(lambda: self._flow.events(after=after))

    def profile(self, name: str) -> Profile:
        """See :meth:`kimiflow.flow.KimiFlow.profile`."""
        return self._run(lambda: self._flow.profile(name))

    def logout(self, names: Iterable[str], *, forget: bool = False, revoke: bool = True) -> int:
        """See :meth:`kimiflow.flow.KimiFlow.logout`."""
        return self._run(lambda: self._flow.logout(names, forget=forget, revoke=revoke))

    def sign_out(self, names: Iterable[str], *, forget: bool = False, revoke: bool = True) -> list[Departure]:
        """See :meth:`kimiflow.flow.KimiFlow.sign_out`."""
        return self._run(lambda: self._flow.sign_out(names, forget=forget, revoke=revoke))

    def run(self, *, until_settled: bool = False, stop: threading.Event | None = None) -> None:
        """See :meth:`kimiflow.flow.KimiFlow.run`; also ended by :meth:`close` and by Ctrl-C."""
        if stop is not None and not isinstance(stop, threading.Event):
            raise UsageError(f"stop is {shown(stop)}", hint="stop is a threading.Event, or None.")

        async def work() -> None:
            stopping = asyncio.Event()
            watching = asyncio.create_task(_watch(stop, stopping)) if stop is not None else None
            try:
                await self._flow.run(until_settled=until_settled, stop=stopping)
            finally:
                if watching is not None:
                    watching.cancel()

        self._run(work)


async def _watch(stop: threading.Event, stopping: asyncio.Event) -> None:
    # An event for threads has nothing to await; a thread that waits for it could not be told to give up.
    while not stop.is_set():  # noqa: ASYNC110
        await asyncio.sleep(_LOOK_AT_STOP_EVERY)
    stopping.set()

"""The sandbox with a thread and a loop of its own, for tests that block or start whole processes."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from kimiflow.sandbox.authority import Authority
    from kimiflow.sandbox.faults import Endpoint, Fault
    from kimiflow.sandbox.log import Kind, LogEntry
    from kimiflow.sandbox.quota import Tell
    from kimiflow.sandbox.records import PendingCode
    from kimiflow.sandbox.server import Sandbox
    from kimiflow.sandbox.settings import Policy, Settings

__all__ = ["ThreadedSandbox"]

P = ParamSpec("P")
T = TypeVar("T")


class ThreadedSandbox:
    """A `Sandbox` for ``with``; made by `Sandbox.in_thread`.

    Its methods may be called from any thread, since each of them runs in the sandbox's loop, between two requests.
    Entered again, it goes on where it was.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """See `Sandbox.url`."""
        return self._sandbox.url

    @property
    def port(self) -> int:
        """See `Sandbox.port`."""
        return self._sandbox.port

    @property
    def settings(self) -> Settings:
        """See `Settings`."""
        return self._sandbox.settings

    @property
    def authority(self) -> Authority:
        """Only to be read once the sandbox was left: it belongs to the thread. See `run`."""
        return self._sandbox.authority

    def __enter__(self) -> Self:
        if self._thread is not None:
            raise RuntimeError("the sandbox is running already")
        listening: Future[None] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._main(listening)), name="kimiflow sandbox", daemon=True
        )
        self._thread.start()
        try:
            listening.result()
        except BaseException:
            self._thread.join()
            self._thread = None
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._thread = self._loop = self._stop = None

    async def _main(self, listening: Future[None]) -> None:
        try:
            await self._sandbox.start()
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
            listening.set_exception(error)
            return
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        listening.set_result(None)
        try:
            await self._stop.wait()
        finally:
            await self._sandbox.stop()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call ``function`` in the sandbox's loop, and return what it returns; here and now once it is stopped."""
        loop = self._loop
        if loop is None:
            return function(*args, **kwargs)
        outcome: Future[T] = Future()

        def call() -> None:
            try:
                outcome.set_result(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits for it
                outcome.set_exception(error)

        loop.call_soon_threadsafe(call)
        return outcome.result()

    def now(self) -> float:
        """See `Sandbox.now`."""
        return self._sandbox.now()

    def approve(self, user_code: str) -> PendingCode:
        """See `Sandbox.approve`."""
        return self.run(self._sandbox.approve, user_code)

    def deny(self, user_code: str) -> PendingCode:
        """See `Sandbox.deny`."""
        return self.run(self._sandbox.deny, user_code)

    def approve_device(self, device_id: str) -> PendingCode:
        """See `Sandbox.approve_device`."""
        return self.run(self._sandbox.approve_device, device_id)

    def deny_device(self, device_id: str) -> PendingCode:
        """See `Sandbox.deny_device`."""
        return self.run(self._sandbox.deny_device, device_id)

    def set_policy(self, device_id: str, policy: Policy) -> None:
        """See `Sandbox.set_policy`."""
        self.run(self._sandbox.set_policy, device_id, policy)

    def revoke(self, device_id: str) -> None:
        """See `Sandbox.revoke`."""
        self.run(self._sandbox.revoke, device_id)

    def expire(self, device_id: str) -> None:
        """See `Sandbox.expire`."""
        self.run(self._sandbox.expire, device_id)

    def pending(self) -> list[PendingCode]:
        """See `Sandbox.pending`."""
        return self.run(self._sandbox.pending)

    def is_valid(self, access_token: str) -> bool:
        """See `Sandbox.is_valid`."""
        return self.run(self._sandbox.is_valid, access_token)

    def inject(
        self,
        fault: str | Fault,
        *,
        endpoint: Endpoint | None = None,
        times: int | None = None,
        probability: float | None = None,
        device_id: str | None = None,
    ) -> None:
        """See `Sandbox.inject`."""
        self.run(
            self._sandbox.inject,
            fault,
            endpoint=endpoint,
            times=times,
            probability=probability,
            device_id=device_id,
        )

    def limit(self, device_id: str, seconds: float, *, status: int = 429, tell: Tell = "header") -> None:
        """See `Sandbox.limit`."""
        self.run(self._sandbox.limit, device_id, seconds, status=status, tell=tell)

    def set_profile(self, device_id: str, **fields: object) -> None:
        """See `Sandbox.set_profile`."""
        self.run(self._sandbox.set_profile, device_id, **fields)

    def clear_faults(self) -> None:
        """See `Sandbox.clear_faults`."""
        self.run(self._sandbox.clear_faults)

    def log(self, kind: Kind | None = None, device_id: str | None = None) -> list[LogEntry]:
        """See `Sandbox.log`."""
        return self.run(self._sandbox.log, kind, device_id)

    def counts(self) -> dict[str, int]:
        """See `Sandbox.counts`."""
        return self.run(self._sandbox.counts)

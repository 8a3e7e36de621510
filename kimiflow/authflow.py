"""Auth flows for httpx, written once: a generator of what is to happen next, and the two loops that make it happen.

An auth flow of httpx yields requests and is given responses; that much fits clients with and without an event loop.
Tokens come from an event loop, though, and bodies are read in two ways. So a flow here also yields an :class:`Await`
or a :class:`ReadBody`, and leaves it to whoever drives it how that is done.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeAlias, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from typing import Self

__all__ = ["AuthFlow", "Await", "ReadBody", "Run", "Steps", "ask", "body_of"]

P = ParamSpec("P")
T = TypeVar("T")


class Run(Protocol):
    """Has a coroutine run in the loop that it belongs to, and waits for its result in a thread that has none."""

    def __call__(self, work: Callable[[], Coroutine[Any, Any, T]], /) -> T:
        """What the coroutine returns; what it raises is raised here."""


@dataclass(frozen=True, slots=True)
class Await:
    """A coroutine is to be run."""

    work: Callable[[], Coroutine[Any, Any, object]]


@dataclass(frozen=True, slots=True)
class ReadBody:
    """The body of a response is to be read. Never done to one that the caller may want to stream."""

    response: httpx.Response


Steps: TypeAlias = Generator["httpx.Request | Await | ReadBody", Any, None]


def ask(function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> Generator[Await, T, T]:
    """What a flow has for ``await``; used with ``yield from``, it gives what the coroutine returns."""
    return (yield Await(lambda: function(*args, **kwargs)))


def body_of(response: httpx.Response) -> Generator[ReadBody, bytes, bytes]:
    """How a flow reads a body; used with ``yield from``, it gives the bytes."""
    return (yield ReadBody(response))


class AuthFlow(httpx.Auth):
    """An ``httpx.Auth`` made of :meth:`steps`.

    Where httpx2 is installed, which newer releases of the OpenAI SDK are built on, it is an ``httpx2.Auth`` as well:
    requests and responses of the two have the same methods.
    """

    _run: Run | None = None

    def __new__(cls, *_args: object, **_kwargs: object) -> Self:
        made: Self = super().__new__(_for_both(cls))
        return made

    def for_threads(self, run: Run) -> Self:
        """The same, for clients without an event loop."""
        twin = copy.copy(self)
        twin._run = run  # noqa: SLF001 - its own class
        return twin

    @abstractmethod
    def steps(self, request: httpx.Request) -> Steps:
        """What is to happen, in order. The response to the last request is the one that the caller gets.

        :raises KimiFlowError: where there is no token to be had.
        """

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Called by ``httpx.AsyncClient``.

        :raises RuntimeError: where the tokens come from a synchronous flow, which has a loop of its own.
        """
        if self._run is not None:
            msg = "this auth is for httpx.Client; an httpx.AsyncClient needs kimiflow.KimiFlow, not kimiflow.sync"
            raise RuntimeError(msg)
        steps = self.steps(request)
        try:
            step = next(steps)
            while True:
                answer: object
                try:
                    if isinstance(step, Await):
                        answer = await step.work()
                    elif isinstance(step, ReadBody):
                        answer = await step.response.aread()
                    else:
                        answer = yield step
                except Exception as error:  # noqa: BLE001 - the flow decides
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration:
            return
        finally:
            steps.close()

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by ``httpx.Client``.

        :raises RuntimeError: where the tokens come from an event loop that may be this thread's own.
        """
        run = self._run
        if run is None:
            msg = "this auth is for httpx.AsyncClient; an httpx.Client needs kimiflow.sync.KimiFlow"
            raise RuntimeError(msg)
        steps = self.steps(request)
        try:
            step = next(steps)
            while True:
                answer: object
                try:
                    if isinstance(step, Await):
                        answer = run(step.work)
                    elif isinstance(step, ReadBody):
                        answer = step.response.read()
                    else:
                        answer = yield step
                except Exception as error:  # noqa: BLE001 - the flow decides
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration:
            return
        finally:
            steps.close()


_BOTH: dict[type[Any], type[Any]] = {}


def _for_both(cls: type[Any]) -> type[Any]:
    """``cls``, made a subclass of ``httpx2.Auth`` too where there is one, so that clients of httpx2 accept it."""
    if cls not in _BOTH:
        try:
            other: type[Any] = import_module("httpx2").Auth
        except ImportError:
            other = cls
        names = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
        _BOTH[cls] = cls if issubclass(cls, other) else type(cls.__name__, (cls, other), names)
    return _BOTH[cls]

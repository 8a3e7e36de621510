"""What callers give in the wrong type: told at once, by what it is, and with nothing done."""

from __future__ import annotations

import asyncio
import inspect
import threading
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow import KimiFlow, KimiFlowError, UsageError, sync

if TYPE_CHECKING:
    from .signing import World

NO_NAMES: list[Any] = [None, 7, object(), b"a", "", "no name", ["a"], ("a",), float("nan")]
NO_LISTS: list[Any] = ["a", b"a", 7, object(), [None], [b"a"], ["a", object()], ["a", ""], [["a"]]]
NO_SECONDS: list[Any] = ["1", object(), float("nan"), True]

BY_NAME: dict[str, Any] = {
    "token": lambda flow, name: flow.token(name),
    "refresh": lambda flow, name: flow.refresh(name),
    "login": lambda flow, name: flow.login(name),
    "wait": lambda flow, name: flow.wait(name),
    "history": lambda flow, name: flow.history(name),
    "profile": lambda flow, name: flow.profile(name),
    "auth": lambda flow, name: flow.auth(name),
    "api_base": lambda flow, name: flow.api_base(name),
    "rename": lambda flow, name: flow.accounts.rename("a", name),
    "rename it": lambda flow, name: flow.accounts.rename(name, "z"),
}
BY_NAMES: dict[str, Any] = {
    "begin": lambda flow, names: flow.begin(names),
    "pool": lambda flow, names: flow.pool(names),
    "status": lambda flow, names: flow.status(names),
    "logout": lambda flow, names: flow.logout(names),
    "sign_out": lambda flow, names: flow.sign_out(names),
    "follow": lambda flow, names: flow.follow(names),
    "disable": lambda flow, names: flow.accounts.disable(names),
    "enable": lambda flow, names: flow.accounts.enable(names),
    "label": lambda flow, names: flow.accounts.label(names, "x"),
    "set_origin": lambda flow, names: flow.accounts.set_origin(names, "https://x.example"),
}
OTHERS: dict[str, tuple[Any, list[Any]]] = {
    "token's timeout": (lambda flow, value: flow.token("a", timeout=value), NO_SECONDS),
    "login's timeout": (lambda flow, value: flow.login("z", timeout=value), NO_SECONDS),
    "wait's timeout": (lambda flow, value: flow.wait("a", timeout=value), NO_SECONDS),
    "follow's timeout": (lambda flow, value: flow.follow(["a"], timeout=value), NO_SECONDS),
    "follow's drive": (lambda flow, value: flow.follow(["a"], drive=value), ["no", 1, None]),
    "begin's provider": (lambda flow, value: flow.begin(["z"], provider=value), [b"kimi", 7, ""]),
    "begin's proxy": (lambda flow, value: flow.begin(["z"], proxy=value), [b"http://x", 7, ""]),
    "sign_out's forget": (lambda flow, value: flow.sign_out(["a"], forget=value), ["no", 1, None]),
    "refresh's timeout": (lambda flow, value: flow.refresh("a", timeout=value), NO_SECONDS),
    "refresh's seen": (lambda flow, value: flow.refresh("a", seen=value), [b"x", 7, object(), ""]),
    "login's force": (lambda flow, value: flow.login("a", force=value), ["no", 1, None]),
    "login's provider": (lambda flow, value: flow.login("z", provider=value), [b"kimi", 7, ""]),
    "login's proxy": (lambda flow, value: flow.login("z", proxy=value), [b"http://x", 7, ""]),
    "logout's forget": (lambda flow, value: flow.logout(["a"], forget=value), ["no", 1, None]),
    "logout's revoke": (lambda flow, value: flow.logout(["a"], revoke=value), ["no", 1, None]),
    "events' after": (lambda flow, value: flow.events(after=value), ["1", -1, object(), True]),
    "run's stop": (lambda flow, value: flow.run(stop=value), [object(), 7, True, threading.Event()]),
    "run's until_settled": (lambda flow, value: flow.run(until_settled=value), ["yes", 1, None]),
    "pool's strategy": (lambda flow, value: flow.pool(["a"], strategy=value), [None, 7, "fastest"]),
    "auth's origins": (lambda flow, value: flow.auth("a", origins=value), [None, 7, b"x", "https://x", [None], ["x"]]),
    "label's text": (lambda flow, value: flow.accounts.label(["a"], value), [7, b"x", object()]),
    "set_origin's url": (lambda flow, value: flow.accounts.set_origin(["a"], value), [None, 7, b"x", "x"]),
}


async def done(result: Any) -> None:
    """Whatever a method returns, to its end."""
    if inspect.isawaitable(result):
        await result
    elif inspect.isasyncgen(result):
        async for _ in result:
            pass
    elif inspect.isgenerator(result):
        list(result)


async def refused(act: Any, flow: Any, value: Any) -> None:
    with pytest.raises(KimiFlowError) as caught:
        await done(act(flow, value))
    assert caught.value.message
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("method", BY_NAME)
async def test_no_name(world: World, method: str) -> None:
    for value in NO_NAMES:
        await refused(BY_NAME[method], world.flow, value)


@pytest.mark.parametrize("method", BY_NAMES)
async def test_no_names(world: World, method: str) -> None:
    for value in NO_LISTS if method == "status" else [*NO_LISTS, None]:
        await refused(BY_NAMES[method], world.flow, value)
    assert sorted(each.account for each in await world.flow.status()) == ["a", "b", "c"], "nothing was done"
    assert all(each.state.value == "granted" for each in await world.flow.status())


@pytest.mark.parametrize("parameter", OTHERS)
async def test_no_such_value(world: World, parameter: str) -> None:
    act, values = OTHERS[parameter]
    requests, before = len(world.sandbox.log()), await world.flow._store.snapshots()
    for value in values:
        await refused(act, world.flow, value)
    assert len(world.sandbox.log()) == requests
    assert await world.flow._store.snapshots() == before


@pytest.mark.parametrize("method", [*BY_NAME, *BY_NAMES])
def test_the_synchronous_one_says_the_same(flow: sync.KimiFlow, method: str) -> None:
    act: Any = (BY_NAME | BY_NAMES)[method]
    for value in [None, 7, object(), b"a"]:
        if value is None and method == "status":
            continue
        with pytest.raises(KimiFlowError):
            result = act(flow, value)
            if inspect.isgenerator(result):
                list(result)


def test_an_event_of_a_loop_is_none_of_threads(flow: sync.KimiFlow) -> None:
    with pytest.raises(UsageError, match="stop"):
        flow.run(stop=asyncio.Event())  # type: ignore[arg-type]


async def test_what_is_shown_of_a_wrong_value_is_no_secret(world: World) -> None:
    token = (await world.flow.token("a")).access_token
    for wrong in (token.encode(), [token], {token: 1}, (token,)):
        for act in (world.flow.token, lambda value: world.flow.refresh("a", seen=value)):
            with pytest.raises(UsageError) as caught:
                await act(wrong)  # type: ignore[operator]
            assert token not in str(caught.value)


@pytest.mark.parametrize("kind", [KimiFlow, sync.KimiFlow])
def test_settings_and_stores_of_other_types(kind: Any) -> None:
    for wrong in ({"home": "/tmp"}, "sqlite:///x.db", 7, False):
        with pytest.raises(UsageError):
            kind.open(wrong)
    for wrong in ("sqlite:///x.db", 7, object(), False):
        with pytest.raises(UsageError):
            kind.open(store=wrong)


async def test_a_generator_of_names_is_gone_through_once(world: World) -> None:
    assert [each.account for each in await world.flow.status(name for name in ("a", "b", "a"))] == ["a", "b"]
    await world.flow.accounts.label((name for name in "ab"), "x")
    assert await world.flow.logout(name for name in "ab") == 2

"""How applications use kimiflow; a test has it type-checked strictly, nobody runs it."""

from __future__ import annotations

import threading
from typing import assert_type

import httpx

import kimiflow.sync
from kimiflow import (
    AccountTransition,
    KimiAuth,
    KimiFlow,
    KimiFlowError,
    KimiPool,
    PoolExhausted,
    Profile,
    QuotaWindow,
    Settings,
    SignInNeeded,
    State,
    Status,
    Token,
    Transition,
    load_settings,
)


async def asynchronous() -> None:
    settings = load_settings()
    assert_type(settings, Settings)
    async with KimiFlow.open(settings) as flow:
        assert_type(flow, KimiFlow)
        assert_type(await flow.login("work", provider="kimi", timeout=10), Status)
        assert_type(await flow.begin(["work", "home"]), list[Status])
        assert_type(await flow.wait("work"), Status)
        async for status in flow.follow(["work"]):
            assert_type(status.state, State | None)
        token = await flow.token("work")
        assert_type(token, Token)
        assert_type(await flow.refresh("work", seen=token.access_token), Token)
        assert_type(flow.auth("work"), KimiAuth)
        assert_type(flow.pool(["work", "home"], strategy="least_recently_limited"), KimiPool)
        assert_type(flow.api_base("work"), str)
        httpx.AsyncClient(auth=flow.auth("work", origins=["https://gateway.example"]))
        httpx.AsyncClient(auth=flow.pool(["work"]))
        assert_type(await flow.status(), list[Status])
        assert_type(await flow.history("work"), list[Transition])
        async for event in flow.events(after=0):
            assert_type(event, AccountTransition)
            assert_type(event.transition, Transition)
            assert_type((event.cursor, event.account), tuple[int, str])
        profile = await flow.profile("work")
        assert_type(profile, Profile)
        assert_type(profile.quota, tuple[QuotaWindow, ...])
        assert_type(await flow.logout(["work"], forget=True, revoke=False), int)
        await flow.accounts.rename("work", "office")
        await flow.run(until_settled=True)


def synchronous() -> None:
    with kimiflow.sync.KimiFlow.open() as flow:
        assert_type(flow, kimiflow.sync.KimiFlow)
        assert_type(flow.login("work"), Status)
        assert_type(flow.begin(["work"]), list[Status])
        assert_type(flow.wait("work", timeout=10), Status)
        for status in flow.follow(["work"]):
            assert_type(status, Status)
        assert_type(flow.token("work"), Token)
        assert_type(flow.refresh("work"), Token)
        httpx.Client(auth=flow.auth("work"), base_url=flow.api_base("work"))
        httpx.Client(auth=flow.pool(["work"], origins=["https://gateway.example"]))
        for event in flow.events():
            assert_type(event, AccountTransition)
        assert_type(flow.profile("work"), Profile)
        assert_type(flow.status(["work"]), list[Status])
        assert_type(flow.history("work"), list[Transition])
        assert_type(flow.logout(["work"]), int)
        flow.accounts.label(["work"], None)
        flow.run(stop=threading.Event())
        flow.close()


def errors(error: Exception) -> str:
    match error:
        case PoolExhausted():
            assert_type(error.returns_at, float | None)
            return error.message
        case SignInNeeded() | KimiFlowError():
            return error.hint
        case _:
            return ""


def mistakes(flow: KimiFlow) -> None:
    flow.pool(["work"], strategy="random")  # type: ignore[arg-type]
    flow.pool(7)  # type: ignore[arg-type]
    flow.token("work").access_token  # type: ignore[attr-defined]  # noqa: B018

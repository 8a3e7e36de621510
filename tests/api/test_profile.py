"""Profiles: as they are told, in whatever shape, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kimiflow import InvalidSetting, KimiFlow, RequestFailed, ServerUnreachable, SignedOut, State
from kimiflow.api.profile import Profile, QuotaWindow, duplicates, profile_of, quota_of
from kimiflow.api.tolerant import moment, number

from .conftest import settings_for

if TYPE_CHECKING:
    from pathlib import Path

    from kimiflow.sandbox import ThreadedSandbox

    from .signing import World

AT = "2025-12-23T05:24:18.443553353Z"
UNIX = 1766467458.443553
MINUTES = {"duration": "300", "timeUnit": "TIME_UNIT_MINUTE"}


@pytest.mark.parametrize(
    ("item", "window"),
    [
        (
            {"used": "12", "limit": "100", "resetTime": AT, "window": MINUTES},
            QuotaWindow(None, 12, 100, UNIX, 18_000),
        ),
        (
            {"detail": {"remaining": 40, "limit": 100, "reset_at": AT}, "window": {"duration": 5, "timeUnit": "HOURS"}},
            QuotaWindow(None, 60, 100, UNIX, 18_000),
        ),
        ({"name": "weekly", "used": 1.5}, QuotaWindow("weekly", 1.5, None, None, None)),
        ({"limit": "7", "duration": 2, "timeUnit": "TIME_UNIT_DAY"}, QuotaWindow(None, None, 7, None, 172_800)),
        ({"used": "-1", "limit": "1e3", "resetTime": "soon"}, QuotaWindow(None, None, 1000, None, None)),
        ({"used": 3, "window": "weekly", "detail": []}, QuotaWindow(None, 3, None, None, None)),
        ({"used": 1, "window": {"duration": 30, "timeUnit": "FORTNIGHT"}}, QuotaWindow(None, 1, None, None, 30)),
    ],
)  # fmt: skip
def test_a_window(item: Any, window: QuotaWindow) -> None:
    assert quota_of({"limits": [item]}) == (window,)
    assert quota_of({"usage": item}) == (window,)


@pytest.mark.parametrize("usages", [{}, {"usage": 1, "limits": 2}, {"limits": [None, {}, [], {"name": "x"}]}])
def test_no_windows(usages: Any) -> None:
    assert quota_of(usages) == ()


def test_exhausted() -> None:
    assert QuotaWindow(None, 5, 5, None, None).exhausted
    assert not QuotaWindow(None, 4, 5, None, None).exhausted
    assert not QuotaWindow(None, 4, None, None, None).exhausted
    assert not QuotaWindow(None, 0, 0, None, None).exhausted


@pytest.mark.parametrize("value", [None, True, "x", "NaN", "inf", -1, 10**400, [], {}, "", "1e99"])
def test_what_is_no_number(value: Any) -> None:
    assert number(value) is None


@pytest.mark.parametrize("value", [None, True, "", "yesterday", 0, "0", [], "9999999-01-01T00:00:00Z"])
def test_what_is_no_time(value: Any) -> None:
    assert moment(value) is None


def test_times() -> None:
    expected = 1_766_467_458
    assert moment("2025-12-23T05:24:18Z") == moment("2025-12-23T06:24:18+01:00") == expected
    assert (
        moment("2025-12-23 05:24:18")
        == moment(expected)
        == moment(str(expected))
        == moment(expected * 1000)
        == expected
    )


def test_any_field_may_be_missing_or_strange() -> None:
    assert profile_of("a", {}, {}) == Profile("a")
    strange = {"user_id": 42, "nickname": ["x"], "email": "", "region": {"a": 1}, "user_level_name": "A\nB"}
    assert profile_of("a", strange, {}) == Profile("a", user_id="42", level="A B")
    assert profile_of("a", {"data": {"userId": "u"}}, {}).user_id == "u"


def test_the_same_person_twice() -> None:
    profiles = [Profile("b", "u1"), Profile("a", "u1"), Profile("c", "u2"), Profile("d"), Profile("e")]
    assert duplicates(profiles) == {"u1": ["a", "b"]}


async def test_a_profile(world: World) -> None:
    world.sandbox.set_profile(world.devices["a"], user_id="u-1", nickname="Ann", email=None)
    profile = await world.flow.profile("a")
    assert (profile.user_id, profile.nickname, profile.email) == ("u-1", "Ann", None)
    assert (profile.region, profile.level, profile.problems) == ("REGION_CN", "Moderato", ())
    main, hourly = profile.quota
    assert (main.used, main.limit, hourly.limit, hourly.seconds) == (0, 2048, 200, 18_000)
    assert hourly.resets_at is not None
    told = profile.as_json()
    assert json.loads(json.dumps(told)) == told
    assert re.fullmatch(r"\d{4}-.*Z", told["quota"][0]["resets_at"])
    assert {entry.device_id for entry in world.sandbox.log("api")} == {world.devices["a"]}


async def test_a_token_that_is_refused_is_refreshed_once(world: World) -> None:
    world.fault("401:api=x2", "a")
    assert (await world.flow.profile("a")).user_id
    assert len(world.sandbox.log("refresh")) == 1


async def test_half_a_profile_says_what_is_missing(world: World) -> None:
    world.fault("500:api=x1", "a")
    profile = await world.flow.profile("a")
    (problem,) = profile.problems
    assert problem.startswith("the API answered 500 to /v1/")
    assert bool(profile.user_id) != bool(profile.quota)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("402:api", RequestFailed, r"402 \(no membership\) to /v1/me of a: There is no membership"),
        ("401:api", RequestFailed, "401 to /v1/me of a: The access token"),
        ("html:api", RequestFailed, "200 to /v1/me of a$"),
        ("invalid_json:api", RequestFailed, "200 to /v1/me of a$"),
        ("huge:api", RequestFailed, "200 to /v1/me of a$"),
        ("reset:api", ServerUnreachable, "the API of a could not be reached"),
        ("cut_off:api", ServerUnreachable, "the API of a could not be reached"),
    ],
)
async def test_a_profile_that_fails_harms_no_sign_in(
    world: World, fault: str, error: type[Exception], words: str
) -> None:
    world.fault(fault, "a")
    before = (await world.flow.token("a")).access_token
    with pytest.raises(error) as caught:
        await world.flow.profile("a")
    assert re.search(words, caught.value.message)  # type: ignore[attr-defined]
    assert before not in str(caught.value)
    (status,) = await world.flow.status(["a"])
    assert status.state is State.GRANTED
    assert (await world.flow.token("a")).access_token


async def test_a_profile_of_nobody(world: World, tmp_path: Path) -> None:
    await world.flow.logout(["a"])
    with pytest.raises(SignedOut):
        await world.flow.profile("a")
    settings = settings_for(world.sandbox.url, tmp_path / "two")
    bare = {"sandbox": settings.providers["sandbox"].model_copy(update={"api_base": None})}
    async with KimiFlow.open(settings.model_copy(update={"providers": bare})) as flow:
        await flow.login("x")
        await flow.wait("x")
        with pytest.raises(InvalidSetting, match="has no api_base"):
            await flow.profile("x")


def sign_in(home: Path, url: str, *names: str) -> None:
    async def work() -> None:
        async with KimiFlow.open(settings_for(url, home)) as flow:
            await flow.begin(names)
            async for _ in flow.follow(names):
                pass

    asyncio.run(work())


def test_on_the_command_line(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    sign_in(tmp_path, threaded.url, "a", "b", "c")
    devices = sorted({entry.device_id for entry in threaded.log("device_authorization")})
    names = [threaded.run(lambda device=device: device) for device in devices]
    for device in names[:2]:
        threaded.set_profile(device, user_id="u-1", nickname="Ann", email="ann@example.test")
    threaded.inject("402:api", device_id=names[2])
    settings = settings_for(threaded.url, tmp_path)
    provider = settings.providers["sandbox"].model_dump()
    lines = [f'{key} = "{value}"' for key, value in provider.items() if value is not None]
    (tmp_path / "config.toml").write_text("\n".join(["[providers.sandbox]", *lines]))
    command = [sys.executable, "-m", "kimiflow", "status", "--profile"]
    environment = {"KIMIFLOW_HOME": str(tmp_path), "KIMIFLOW_PROVIDER": "sandbox"}

    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    table = done.stdout.split("\n\n")[1].splitlines()
    assert table[0].split() == ["ACCOUNT", "USER", "LEVEL", "REGION", "QUOTA"]
    assert sum("Ann <ann@example.test>" in line for line in table) == 2
    assert sum("402 (no membership)" in line for line in table) == 1
    assert "0 of 2048, anew in " in done.stdout
    assert "5 h: 0 of 200, anew in " in done.stdout
    assert re.search(r"^(a and b|a and c|b and c) are the same person \(u-1\), and share one quota\.$", done.stderr)

    done = subprocess.run(
        [*command, "--json"], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    told = {each["account"]: each for each in json.loads(done.stdout)}
    twins = {name for name, each in told.items() if each["same_person_as"]}
    assert len(twins) == 2
    for name, each in told.items():
        assert set(each["same_person_as"]) == (twins - {name} if name in twins else set())
        assert (each["profile"] is None) == (name not in twins) == (each["profile_error"] is not None)


def test_the_line_that_the_sandbox_prints_is_enough(threaded: ThreadedSandbox, tmp_path: Path) -> None:
    servers = {"KIMIFLOW_OAUTH_HOST": threaded.url, "KIMIFLOW_API_BASE": f"{threaded.url}/coding"}
    environment = {"KIMIFLOW_HOME": str(tmp_path), "KIMIFLOW_POLL_INTERVAL_FLOOR": "0.05", **servers}

    def ran(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "kimiflow", *arguments]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, timeout=30, check=False)

    assert ran("login", "work").returncode == 0
    assert "Sandbox " in ran("status", "--profile").stdout
    [told] = json.loads(ran("status", "--profile", "--json", "--long").stdout)
    assert (told["disabled"], told["label"], told["profile"]["region"]) == (False, None, "REGION_CN")
    away = ran("status", "--profile", KIMIFLOW_API_BASE="http://127.0.0.1:1/coding")
    assert (away.returncode, "(connection refused (127.0.0.1:1))" in away.stdout) == (5, True)


async def test_a_name_that_comes_to_be_another_accounts_lends_no_token_to_its_api(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody renames accounts between a token that is refused and the next one."""
    sent: list[tuple[str, str]] = []

    async def refusing(account: Any, url: str, token: Any, known: Any) -> httpx.Response:
        del known
        sent.append((account.id, token.device_id))
        if len(sent) == 1:
            await world.flow.accounts.rename("a", "old")
            await world.flow.accounts.rename("b", "a")
        return httpx.Response(401, request=httpx.Request("GET", url))

    monkeypatch.setattr(world.flow._api, "_exchange", refusing)
    with pytest.raises(RequestFailed, match="a is the name of another account by now"):
        await world.flow._api._get((await world.flow._store.snapshots(["a"]))[0], "/v1/me")
    assert len({device for _, device in sent}) == 1

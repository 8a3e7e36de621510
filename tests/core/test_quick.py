"""The short way to a fresh token: the same token as the long way, or none at all."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from kimiflow import KimiFlow, Settings, load_settings
from kimiflow.model import State
from kimiflow.quick import fresh_token
from kimiflow.stores.revision import HEAD
from kimiflow.stores.sql import SqlStore
from tests.bench.ours import KEY, SOME_TOKEN, filled

if TYPE_CHECKING:
    from pathlib import Path

NAME = "account-0"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {"KIMIFLOW_HOME": str(tmp_path), "KIMIFLOW_KEY": b64encode(KEY).decode()}


async def a_home(settings: Settings, *, due_in: float = 500.0, state: State = State.GRANTED) -> None:
    store = SqlStore.from_url(settings.store_url)
    await store.open()
    await filled(store, 1, state=state, due=lambda _: time.time() + due_in)
    await store.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path, key=b64encode(KEY).decode())


async def test_a_fresh_token_is_read_as_the_long_way_would_read_it(
    settings: Settings, environment: dict[str, str]
) -> None:
    await a_home(settings)
    assert fresh_token(NAME, environment) == SOME_TOKEN
    async with KimiFlow.open(settings) as flow:
        assert (await flow.token(NAME)).access_token == SOME_TOKEN


async def test_with_the_key_in_its_file(settings: Settings, environment: dict[str, str]) -> None:
    await a_home(settings)
    (settings.home / "key").write_text(environment.pop("KIMIFLOW_KEY") + "\n")
    assert fresh_token(NAME, environment) == SOME_TOKEN


@pytest.mark.parametrize("due_in", [-1.0, 0.5])
async def test_one_that_is_due_for_a_refresh_is_left_to_the_long_way(
    settings: Settings, environment: dict[str, str], due_in: float
) -> None:
    await a_home(settings, due_in=due_in)
    assert fresh_token(NAME, environment) is None


async def test_so_is_one_that_is_being_refreshed(settings: Settings, environment: dict[str, str]) -> None:
    await a_home(settings, state=State.REFRESHING)
    assert fresh_token(NAME, environment) is None


async def test_a_sign_out_is_seen_at_once(settings: Settings, environment: dict[str, str]) -> None:
    await a_home(settings)
    async with KimiFlow.open(settings) as flow:
        await flow.logout([NAME])
        assert fresh_token(NAME, environment) is None


@pytest.mark.parametrize(
    "setting",
    [
        {"KIMIFLOW_DATABASE_URL": "sqlite:///elsewhere.db"},
        {"KIMIFLOW_CONCURRENCY": "many"},
        {"KIMIFLOW_KEY": "not a key"},
        {"KIMIFLOW_KEY": b64encode(bytes(32)).decode()},
        {"KIMIFLOW_HOME": "/nowhere/at/all"},
        {"KIMIFLOW_LOG_LEVEL": "loud"},
        {"KIMIFLOW_LOG_FORMAT": "xml"},
        {"KIMIFLOW_OAUTH_HOST": "http://example.com"},
        {"KIMIFLOW_OAUTH_HOST": "http://127.0.0.1:99999"},
        {"KIMI_CODE_OAUTH_HOST": "auth.example"},
        {"KIMI_OAUTH_HOST": "http://127.0.0.1.evil.example"},
    ],
    ids=lambda setting: next(map("=".join, setting.items())),
)
async def test_whatever_it_does_not_understand_it_leaves_alone(
    settings: Settings, environment: dict[str, str], setting: dict[str, str]
) -> None:
    await a_home(settings)
    assert fresh_token(NAME, environment | setting) is None


@pytest.mark.parametrize(
    "setting",
    [
        {"KIMIFLOW_LOG_LEVEL": "debug", "KIMIFLOW_LOG_FORMAT": "json"},
        {"KIMIFLOW_OAUTH_HOST": "https://auth.example"},
        {"KIMI_OAUTH_HOST": "http://127.0.0.1:64999"},
        {"KIMI_API_KEY": "another program's"},
    ],
    ids=lambda setting: next(iter(setting)),
)
async def test_settings_that_do_not_matter_for_it_do_not_slow_it_down(
    settings: Settings, environment: dict[str, str], setting: dict[str, str]
) -> None:
    await a_home(settings)
    assert fresh_token(NAME, environment | setting) == SOME_TOKEN


async def test_settings_in_a_file_are_left_to_the_long_way(settings: Settings, environment: dict[str, str]) -> None:
    await a_home(settings)
    (settings.home / "config.toml").write_text("refresh_lead = 10\n")
    assert fresh_token(NAME, environment) is None


async def test_so_is_a_database_of_another_schema(settings: Settings, environment: dict[str, str]) -> None:
    import sqlite3

    await a_home(settings)
    connection = sqlite3.connect(settings.home / "kimiflow.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    assert HEAD != "9999"
    assert fresh_token(NAME, environment) is None


def test_a_file_that_is_no_database(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "kimiflow.db").write_bytes(b"not a database" * 100)
    assert fresh_token(NAME, environment) is None


async def test_an_account_that_does_not_exist(settings: Settings, environment: dict[str, str]) -> None:
    await a_home(settings)
    assert fresh_token("nobody", environment) is None


class TestTheCacheInAProcess:
    """``flow.token`` keeps the token that it handed out, and asks whether anything was committed since."""

    async def test_a_token_is_read_once_while_nothing_changes(self, settings: Settings) -> None:
        await a_home(settings)
        async with KimiFlow.open(settings) as flow:
            first = await flow.token(NAME)
            assert await flow.token(NAME) is first

    async def test_a_sign_out_by_another_process_is_seen_by_the_next_call(self, settings: Settings) -> None:
        await a_home(settings)
        async with KimiFlow.open(settings) as flow, KimiFlow.open(settings) as other:
            await flow.token(NAME)
            await other.logout([NAME])
            with pytest.raises(Exception, match="signed out"):
                await flow.token(NAME)

    async def test_a_token_that_falls_due_is_not_handed_out_from_the_cache(self, settings: Settings) -> None:
        await a_home(settings, due_in=0.4)
        async with KimiFlow.open(settings) as flow:
            await flow.token(NAME)
            assert flow._tokens.cached(NAME) is not None
            moment = flow._clock.now() + 0.5
            flow._clock.now = lambda: moment  # type: ignore[method-assign]
            assert flow._tokens.cached(NAME) is None

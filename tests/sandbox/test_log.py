from __future__ import annotations

import dataclasses

import pytest

from .client import World, poll_form, refresh_form


def test_entries_are_frozen_and_show_no_secret() -> None:
    world = World()
    started = world.start()
    world.authority.approve(started["user_code"], world.now)
    issued = world.poll(started["device_code"]).body
    world.refresh(issued["refresh_token"])
    shown = repr(world.log)
    for secret in (started["device_code"], issued["access_token"], issued["refresh_token"]):
        assert secret not in shown
        assert secret[3:] not in shown
    entry = world.log[-1]
    assert entry.fingerprint in shown
    assert entry.credential == issued["refresh_token"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.at = 0


def test_what_is_under_way_shows_no_secret_either() -> None:
    world = World()
    started = world.start()
    exchange = world.authority.arrive("token", poll_form(started["device_code"]), "laptop", world.now)
    reply = world.authority.act(exchange, world.now)
    assert started["device_code"] not in f"{exchange} {exchange.code} {reply}"


def test_an_entry_tells_arrival_from_completion() -> None:
    world = World()
    token = world.sign_in()["refresh_token"]
    exchange = world.authority.arrive("token", refresh_form(token), "laptop", world.now)
    world.authority.act(exchange, world.now + 1)
    entry = world.authority.complete(exchange, world.now + 3, 200)
    assert (entry.at, entry.completed) == (world.now, world.now + 3)


def test_a_credential_in_flight_twice_is_seen() -> None:
    world = World()
    token = world.sign_in()["refresh_token"]
    first = world.authority.arrive("token", refresh_form(token), "laptop", world.now)
    second = world.authority.arrive("token", refresh_form(token), "laptop", world.now + 1)
    world.authority.complete(first, world.now + 2, 503)
    world.authority.complete(second, world.now + 2, 503)
    third = world.authority.arrive("token", refresh_form(token), "laptop", world.now + 2)
    world.authority.complete(third, world.now + 3, 503)
    assert [entry.concurrent for entry in world.authority.log.select("refresh")] == [False, True, False]
    assert world.authority.log.counts["refresh.concurrent"] == 1


def test_approved_flows_without_tokens_are_listed() -> None:
    world = World()
    granted, waiting, _undecided, lost = (world.start(name) for name in ("a", "b", "c", "d"))
    for started in (granted, waiting, lost):
        world.authority.approve(started["user_code"], world.now)
    world.poll(granted["device_code"])
    exchange = world.authority.arrive("token", poll_form(lost["device_code"]), "d", world.now)
    assert world.authority.act(exchange, world.now).outcome == "issued"
    world.authority.complete(exchange, world.now, 0, delivered=False)
    assert [code.device_id for code in world.authority.ungranted(world.now)] == ["b", "d"]


def test_counters_outlive_entries() -> None:
    world = World(log_limit=2)
    code = world.start()["device_code"]
    for _ in range(5):
        world.later(5)
        world.poll(code)
    assert len(world.log) == 2
    assert world.authority.log.counts["poll.authorization_pending"] == 5
    assert world.authority.log.counts["device_authorization.issued"] == 1


def test_entries_are_selected_by_kind_and_device() -> None:
    world = World()
    world.poll(world.start("a")["device_code"], "a")
    world.poll(world.start("b")["device_code"], "b")
    log = world.authority.log
    assert [entry.device_id for entry in log.select("poll")] == ["a", "b"]
    assert [entry.kind for entry in log.select(device_id="b")] == ["device_authorization", "poll"]
    assert len(log.select("poll", "b")) == 1

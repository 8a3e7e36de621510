from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kimiflow.sandbox import KIMI_CLIENT_ID, Policy, Settings, UserCodeError, parse_policy

from .client import DEVICE_CODE_GRANT, START, World, poll_form, refresh_form


def test_a_device_authorization_has_what_rfc_8628_asks_for() -> None:
    world = World()
    body = world.start()
    assert body["expires_in"] == 1800
    assert body["interval"] == 5
    assert body["verification_uri"] == "http://sandbox.invalid/device"
    assert body["verification_uri_complete"] == f"{body['verification_uri']}?user_code={body['user_code']}"
    letters, digits = body["user_code"].split("-")
    assert len(letters) == len(digits) == 4
    assert letters.isalpha()
    assert digits.isdigit()
    assert not set(body["user_code"]) & set("AEIOU01LBSZ")


def test_a_pending_code_is_400_by_the_rfc_and_200_where_asked_for() -> None:
    world = World()
    reply = world.poll(world.start()["device_code"])
    assert (reply.status, reply.body["error"]) == (400, "authorization_pending")
    world = World(pending_status=200)
    assert world.poll(world.start()["device_code"]).status == 200


def test_an_approved_code_is_exchanged_for_tokens_once() -> None:
    world = World()
    started = world.start()
    world.authority.approve(started["user_code"], world.now)
    issued = world.poll(started["device_code"])
    assert issued.status == 200
    assert set(issued.body) == {"access_token", "refresh_token", "token_type", "expires_in", "scope"}
    assert issued.body["expires_in"] == 900
    world.later(5)
    again = world.poll(started["device_code"])
    assert (again.status, again.outcome) == (400, "invalid_grant")
    assert world.log[-1].reuse


def test_a_denied_code_is_access_denied() -> None:
    world = World()
    started = world.start()
    world.authority.deny(started["user_code"], world.now)
    assert world.poll(started["device_code"]).outcome == "access_denied"


def test_an_unknown_device_code_is_invalid_grant() -> None:
    assert World().poll("dc_none").outcome == "invalid_grant"


def test_a_code_expires_at_the_end_of_its_life_even_when_approved_in_time() -> None:
    world = World(code_lifetime=60)
    pending, approved = world.start(), world.start()
    world.authority.approve(approved["user_code"], world.now)
    world.later(59.9)
    assert world.poll(pending["device_code"]).outcome == "authorization_pending"
    world.later(0.1)
    assert world.poll(pending["device_code"]).outcome == "expired_token"
    assert world.poll(approved["device_code"]).outcome == "expired_token"


def test_polling_too_fast_slows_the_code_down_by_five_seconds_each_time() -> None:
    world = World(interval=5)
    code = world.start()["device_code"]
    assert world.poll(code).outcome == "authorization_pending"
    world.later(4.9)
    assert world.poll(code).outcome == "slow_down"
    world.later(9.9)
    assert world.poll(code).outcome == "slow_down"
    world.later(15)
    assert world.poll(code).outcome == "authorization_pending"
    assert [entry.too_fast for entry in world.log] == [False, False, True, True, False]
    assert [entry.interval for entry in world.log if entry.kind == "poll"] == [5, 5, 10, 15]
    assert world.authority.log.counts["poll.too_fast"] == 2


def test_polling_at_the_interval_to_the_millisecond_is_not_too_fast() -> None:
    world = World(interval=0.1)
    code = world.start()["device_code"]
    for _ in range(50):
        world.later(0.1)
        assert world.poll(code).outcome == "authorization_pending"


def test_other_codes_are_not_slowed_down() -> None:
    world = World()
    fast, slow = world.start()["device_code"], world.start()["device_code"]
    world.poll(fast)
    world.poll(fast)
    world.poll(slow)
    world.later(5)
    assert world.poll(slow).outcome == "authorization_pending"


def test_a_slow_down_that_never_arrived_accuses_nobody() -> None:
    world = World()
    code = world.start()["device_code"]
    world.poll(code)
    world.later(1)
    exchange = world.authority.arrive("token", poll_form(code), "laptop", world.now)
    assert world.authority.act(exchange, world.now).outcome == "slow_down"
    world.authority.complete(exchange, world.now, 0, delivered=False)
    world.later(5)
    assert world.poll(code).outcome == "authorization_pending"


@pytest.mark.parametrize("policy", ["auto", 0, 0.0])
def test_auto_approves_as_soon_as_the_code_is_issued(policy: Policy) -> None:
    world = World(approve=policy)
    assert world.poll(world.start()["device_code"]).outcome == "issued"


def test_a_number_approves_so_many_seconds_after_issue() -> None:
    world = World(approve=2.5)
    code = world.start()["device_code"]
    world.later(2.4)
    assert world.poll(code).outcome == "authorization_pending"
    world.later(0.1)
    assert world.poll(code).outcome == "issued"


def test_a_person_can_be_faster_than_the_policy() -> None:
    world = World(approve=60)
    started, refused = world.start(), world.start()
    world.authority.approve(started["user_code"], world.now)
    world.authority.deny(refused["user_code"], world.now)
    assert world.poll(started["device_code"]).outcome == "issued"
    world.later(60)
    assert world.poll(refused["device_code"]).outcome == "access_denied"


def test_a_device_can_have_a_policy_of_its_own() -> None:
    world = World()
    world.authority.set_policy("robot", "auto")
    world.authority.set_policy("thief", "deny")
    assert world.poll(world.start("robot")["device_code"]).outcome == "issued"
    assert world.poll(world.start("thief")["device_code"]).outcome == "access_denied"
    assert world.poll(world.start("laptop")["device_code"]).outcome == "authorization_pending"


def test_the_newest_code_of_a_device_can_be_decided_without_its_user_code() -> None:
    world = World()
    older, newer = world.start("a"), world.start("a")
    world.authority.approve_device("a", world.now)
    assert world.poll(newer["device_code"]).outcome == "issued"
    assert world.poll(older["device_code"]).outcome == "authorization_pending"
    with pytest.raises(UserCodeError, match="'b'"):
        world.authority.approve_device("b", world.now)


@pytest.mark.parametrize("change", [str.lower, lambda c: c.replace("-", ""), lambda c: f"  {c[:2]} {c[2:]} "])
def test_user_codes_are_taken_as_people_type_them(change: Callable[[str], str]) -> None:
    world = World()
    started = world.start()
    world.authority.approve(change(started["user_code"]), world.now)
    assert world.poll(started["device_code"]).outcome == "issued"


def test_a_decision_is_final_and_errors_say_why() -> None:
    world = World(code_lifetime=60)
    approved, denied, expired = world.start(), world.start(), world.start()
    world.authority.approve(approved["user_code"], world.now)
    world.authority.deny(denied["user_code"], world.now)
    with pytest.raises(UserCodeError, match="approved already"):
        world.authority.deny(approved["user_code"], world.now)
    with pytest.raises(UserCodeError, match="denied already"):
        world.authority.approve(denied["user_code"], world.now)
    with pytest.raises(UserCodeError, match="not known"):
        world.authority.approve("CDFG-0000", world.now)
    world.later(60)
    with pytest.raises(UserCodeError, match="expired"):
        world.authority.approve(expired["user_code"], world.now)


def test_pending_lists_what_waits_for_a_person() -> None:
    world = World(code_lifetime=60)
    first, second = world.start("a"), world.start("b")
    assert [code.device_id for code in world.authority.pending(world.now)] == ["a", "b"]
    world.authority.approve(first["user_code"], world.now)
    assert [code.user_code for code in world.authority.pending(world.now)] == [second["user_code"]]
    world.later(60)
    assert world.authority.pending(world.now) == []


def test_a_refresh_rotates_the_refresh_token() -> None:
    world = World()
    first = world.sign_in()
    second = world.refresh(first["refresh_token"]).body
    third = world.refresh(second["refresh_token"]).body
    assert len({body["refresh_token"] for body in (first, second, third)}) == 3
    assert len({body["access_token"] for body in (first, second, third)}) == 3
    entry = world.log[-1]
    assert (entry.kind, entry.outcome) == ("refresh", "issued")
    assert (entry.refresh_token, entry.issued_refresh_token) == (second["refresh_token"], third["refresh_token"])


def test_the_second_use_of_a_refresh_token_revokes_the_family() -> None:
    world = World()
    first = world.sign_in()
    second = world.refresh(first["refresh_token"]).body
    bystander = world.sign_in("other")
    assert world.refresh(first["refresh_token"]).outcome == "invalid_grant"
    assert world.log[-1].reuse
    assert world.refresh(second["refresh_token"]).outcome == "invalid_grant"
    assert not world.log[-1].reuse
    assert world.authority.introspect(second["access_token"], world.now) is None
    assert world.authority.introspect(bystander["access_token"], world.now) is not None
    assert world.authority.log.counts["refresh.reuse"] == 1


def test_without_rotation_the_refresh_token_stays_good() -> None:
    world = World(rotate=False)
    token = world.sign_in()["refresh_token"]
    assert world.refresh(token).body["refresh_token"] == token
    assert world.refresh(token).outcome == "issued"


def test_an_access_token_is_valid_until_it_expires() -> None:
    world = World(token_lifetime=900)
    issued = world.sign_in()
    token = world.authority.introspect(issued["access_token"], world.now + 899)
    assert token is not None
    assert (token.device_id, token.client_id, token.scope) == ("laptop", KIMI_CLIENT_ID, issued["scope"])
    assert token.expires_at == START + 900
    assert world.authority.introspect(issued["access_token"], world.now + 900) is None
    assert world.authority.introspect("at_none", world.now) is None


def test_revoking_ends_access_and_refresh() -> None:
    world = World()
    issued = world.sign_in()
    world.authority.revoke("laptop", world.now)
    assert world.authority.introspect(issued["access_token"], world.now) is None
    assert world.refresh(issued["refresh_token"]).outcome == "invalid_grant"
    with pytest.raises(LookupError, match="'nobody'"):
        world.authority.revoke("nobody", world.now)


@pytest.mark.parametrize("hint", ["refresh_token", "access_token", "something_else", None])
@pytest.mark.parametrize("rotated", [False, True])
def test_a_client_that_revokes_a_refresh_token_ends_the_whole_grant(hint: str | None, rotated: bool) -> None:
    world = World()
    bystander, issued = world.sign_in("phone"), world.sign_in()
    newest = world.refresh(issued["refresh_token"]).body if rotated else issued
    reply = world.revoke(issued["refresh_token"], hint)
    assert (reply.status, reply.outcome) == (200, "revoked")
    for token in (issued["access_token"], newest["access_token"]):
        assert world.authority.introspect(token, world.now) is None
    assert world.refresh(newest["refresh_token"]).outcome == "invalid_grant"
    assert world.authority.introspect(bystander["access_token"], world.now) is not None


def test_a_client_that_revokes_an_access_token_ends_that_one_alone() -> None:
    world = World(token_lifetime=900)
    issued = world.sign_in()
    assert world.revoke(issued["access_token"], "access_token").outcome == "revoked"
    assert world.authority.introspect(issued["access_token"], world.now) is None
    world.later(901)
    newest = world.refresh(issued["refresh_token"]).body
    assert world.authority.introspect(newest["access_token"], world.now) is not None


def test_what_cannot_be_revoked() -> None:
    world = World(client_ids={KIMI_CLIENT_ID, "other"})
    token = world.sign_in()["refresh_token"]
    assert (world.revoke("rt_none").status, world.log[-1].outcome) == (200, "unknown")
    assert (world.revoke(token, client_id="nobody").status, world.log[-1].outcome) == (401, "invalid_client")
    assert (world.revoke(token, client_id="other").status, world.log[-1].outcome) == (400, "invalid_grant")
    assert (world.revoke("").status, world.log[-1].outcome) == (400, "invalid_request")
    assert world.refresh(token).status == 200


def test_a_revocation_is_logged_with_the_token_that_it_is_about() -> None:
    world = World()
    issued = world.sign_in()
    world.revoke(issued["access_token"], "access_token")
    world.revoke(issued["refresh_token"])
    first, second = world.authority.log.select("revocation")
    assert (first.access_token, first.refresh_token) == (issued["access_token"], None)
    assert (second.access_token, second.refresh_token) == (None, issued["refresh_token"])
    assert world.authority.log.counts["revocation.revoked"] == 2


@pytest.mark.parametrize(
    ("form", "outcome", "status"),
    [
        (None, "invalid_request", 400),
        ({}, "invalid_request", 400),
        ({"grant_type": "refresh_token"}, "invalid_request", 400),
        ({"client_id": KIMI_CLIENT_ID}, "invalid_request", 400),
        ({"client_id": KIMI_CLIENT_ID, "grant_type": "password"}, "unsupported_grant_type", 400),
        ({"client_id": KIMI_CLIENT_ID, "grant_type": DEVICE_CODE_GRANT}, "invalid_request", 400),
        ({"client_id": KIMI_CLIENT_ID, "grant_type": "refresh_token"}, "invalid_request", 400),
        (poll_form("x") | {"client_id": "somebody"}, "invalid_client", 401),
        (refresh_form("x"), "invalid_grant", 400),
    ],
)
def test_bad_token_requests_are_refused_in_the_words_of_rfc_6749(form: Any, outcome: str, status: int) -> None:
    world = World()
    reply = world.authority.token(form, "laptop", world.now)
    assert (reply.outcome, reply.status, reply.body["error"]) == (outcome, status, outcome)
    assert world.log[-1].outcome == outcome


def test_an_unknown_client_gets_no_device_code() -> None:
    world = World(client_ids={"mine"})
    reply = world.authority.device_authorization({"client_id": KIMI_CLIENT_ID}, "laptop", world.now)
    assert (reply.outcome, reply.status) == ("invalid_client", 401)
    assert world.authority.device_authorization({"client_id": "mine"}, "laptop", world.now).outcome == "issued"


def test_codes_and_tokens_belong_to_the_client_that_asked() -> None:
    world = World(client_ids={KIMI_CLIENT_ID, "other"}, approve="auto")
    started = world.start()
    assert world.authority.token(
        poll_form(started["device_code"]) | {"client_id": "other"}, "laptop", world.now
    ).outcome == "invalid_grant"  # fmt: skip
    issued = world.poll(started["device_code"]).body
    assert world.authority.token(
        refresh_form(issued["refresh_token"]) | {"client_id": "other"}, "laptop", world.now
    ).outcome == "invalid_grant"  # fmt: skip
    assert world.refresh(issued["refresh_token"]).outcome == "issued"


def test_the_same_seed_makes_the_same_codes() -> None:
    assert [World().start(), World().sign_in()] == [World().start(), World().sign_in()]


def test_old_codes_and_tokens_are_forgotten_where_asked_for() -> None:
    world = World(code_lifetime=60, token_lifetime=60, forget_after=60, approve="auto")
    started = world.start()
    first = world.poll(started["device_code"]).body
    second = world.refresh(first["refresh_token"]).body
    world.later(120)
    world.start()
    world.refresh(second["refresh_token"])
    world.poll(started["device_code"])
    assert not world.log[-1].reuse
    assert world.refresh(first["refresh_token"]).outcome == "invalid_grant"
    assert not world.log[-1].reuse


def test_memory_stays_bounded_in_a_long_run() -> None:
    world = World(code_lifetime=60, token_lifetime=60, forget_after=0, approve="auto", log_limit=10)
    refresh_token = world.poll(world.start()["device_code"]).body["refresh_token"]
    for _ in range(500):
        world.later(61)
        world.start()
        refresh_token = world.refresh(refresh_token).body["refresh_token"]
    codes, tokens = world.authority._codes, world.authority._tokens
    assert max(len(codes._codes), len(codes._by_user_code), len(codes._live), len(codes._expired)) <= 3
    assert max(len(tokens._access), len(tokens._access_by_age), len(tokens._refresh), len(tokens._used_refresh)) <= 3
    assert len(world.log) == 10
    assert world.authority.log.counts["refresh.issued"] == 500


@pytest.mark.parametrize(
    "options",
    [
        {"interval": 0},
        {"code_lifetime": float("nan")},
        {"token_lifetime": -1},
        {"approve": "maybe"},
        {"approve": -1},
        {"pending_status": 100},
        {"client_ids": frozenset()},
        {"log_limit": -1},
        {"forget_after": -1},
    ],
)
def test_settings_that_make_no_sense_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Settings(**options)


def test_a_policy_is_read_as_typed() -> None:
    assert [parse_policy(text) for text in ("manual", "AUTO", "deny", " 2.5 ", "0")] == [
        "manual",
        "auto",
        "deny",
        2.5,
        0,
    ]
    for bad in ("soon", "-1", "nan", "inf", ""):
        with pytest.raises(ValueError, match="allowed are manual, auto, deny") as error:
            parse_policy(bad)
        assert repr(bad) in str(error.value)

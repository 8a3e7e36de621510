"""A grant that moves in: what the state machine makes of it, and what it is called. What stores do is in their contract."""

from __future__ import annotations

from kimiflow.advance import adopt
from kimiflow.events import RefreshDue
from kimiflow.formats.base import Credential
from kimiflow.model import State, TokenSet, Transition
from kimiflow.neighbours.moving import Residents, authorization_id_of
from kimiflow.secret import Secret
from tests.core.samples import step

NOW = 1_700_000_000.0
TOKENS = TokenSet(Secret("access"), Secret("refresh"), None, "kimi-code", 300.0)


def test_it_begins_granted_and_due() -> None:
    after, transition = adopt("row", "account", TOKENS, NOW, origin="https://auth.example", detail="from there")
    assert transition == Transition(NOW, None, State.GRANTED, "imported", "from there")
    assert (after.state, after.next_attempt_at, after.token_version) == (State.GRANTED, NOW, 1)
    assert (after.access_token, after.refresh_token) == (Secret("access"), Secret("refresh"))
    assert (after.token_type, after.scope, after.token_expires_at) == ("Bearer", "kimi-code", NOW + 300)
    assert step(after, RefreshDue()).state is State.REFRESHING


def test_the_id_says_nothing_and_is_always_the_same() -> None:
    one, other = authorization_id_of(Secret("one")), authorization_id_of(Secret("other"))
    assert one == authorization_id_of(Secret("one")) != other
    assert (len(one), "one" in one) == (36, False)


def test_names_that_are_taken_in_the_same_run() -> None:
    credential = Credential(Secret("a"), Secret("r"), "x" * 64)
    name = Residents.of(()).free_name(credential, "kimi", {"x" * 64})
    assert (len(name), name[-2:]) == (60, "-2")

"""What an account looks like from outside, and why it has no token to give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kimiflow import errors
from kimiflow.model import State
from kimiflow.outcome import failed_attempt, left_pending, no_grant
from kimiflow.status import Status, Token, rfc3339, status_of
from kimiflow.stores.base import Snapshot
from kimiflow.vault import Vault

from .samples import NOW, account, authorization_in

if TYPE_CHECKING:
    from kimiflow.model import Authorization, Sealed

VAULT = Vault(bytes(32))
LINK = "https://kimi.example/device?user_code=GZ4V-K8PN"


def sealed(state: State, **changes: object) -> Authorization[Sealed]:
    return VAULT.seal_authorization(authorization_in(state, **changes))


def snapshot(*authorizations: Authorization[Sealed]) -> Snapshot:
    return Snapshot(account(), authorizations)


def test_as_json_it_has_these_keys_in_this_order() -> None:
    assert status_of(snapshot(sealed(State.PENDING)), NOW).as_json() == {
        "account": "work",
        "provider": "kimi",
        "state": "pending",
        "user_code": "GZ4V-K8PN",
        "verification_uri": "https://kimi.example/device",
        "verification_uri_complete": "https://kimi.example/device?user_code=GZ4V-K8PN",
        "code_expires_at": "2023-11-14T22:28:20.000Z",
        "interval": 5.0,
        "token_expires_at": None,
        "next_attempt_at": "2023-11-14T22:13:25.000Z",
        "attempts": 0,
        "error": None,
        "error_description": None,
        "updated_at": "2023-11-14T22:13:20.000Z",
        "needs_person": False,
    }
    assert list(status_of(snapshot(), NOW).as_json()) == list(status_of(snapshot(sealed(State.GRANTED)), NOW).as_json())


def test_a_token_has_these() -> None:
    token = Token("work", "access-1", "Bearer", NOW, "coding", "device-1")
    assert token.as_json() == {
        "account": "work",
        "access_token": "access-1",
        "token_type": "Bearer",
        "expires_at": "2023-11-14T22:13:20.000Z",
        "scope": "coding",
        "device_id": "device-1",
    }


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(None) is None
    assert rfc3339(0.0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(NOW + 0.1239) == "2023-11-14T22:13:20.123Z"


def test_an_account_that_is_signed_out_has_no_state() -> None:
    status = status_of(snapshot(), NOW)
    assert (status.state, status.user_code, status.next_attempt_at) == (None, None, None)
    assert status.updated_at == NOW


def test_a_new_sign_in_is_shown_while_the_old_grant_still_works() -> None:
    flow = sealed(State.PENDING)._replace(id="authorization-2")
    status = status_of(snapshot(sealed(State.GRANTED), flow), NOW)
    assert status.state is State.PENDING
    assert status.on_its_way
    assert status.token_expires_at == NOW + 900
    assert status.holds_tokens


def test_it_says_who_needs_a_person() -> None:
    assert status_of(snapshot(sealed(State.EXPIRED)), NOW).needs_person
    refused = sealed(State.REFRESHING, error="http_404", attempts=3)
    assert not status_of(snapshot(refused), NOW + 899).needs_person
    assert status_of(snapshot(refused), NOW + 900).needs_person
    assert not status_of(snapshot(), NOW).needs_person, "somebody has signed it out"


class TestWhyThereIsNoToken:
    @pytest.mark.parametrize(
        ("there", "error", "message"),
        [
            ([], errors.SignedOut, "work is signed out"),
            ([sealed(State.REQUESTED)], errors.StillPending, "work waits for somebody to approve it"),
            (
                [sealed(State.PENDING)],
                errors.StillPending,
                f"work waits for somebody to approve it: open {LINK} (code GZ4V-K8PN)",
            ),
            (
                [sealed(State.DENIED, error="access_denied", error_description="not you")],
                errors.AccessDenied,
                "the sign-in of work was denied (access_denied: not you)",
            ),
            (
                [sealed(State.EXPIRED, error="expired_token")],
                errors.AuthorizationExpired,
                "the sign-in of work has expired (expired_token)",
            ),
        ],
    )
    def test_is_said_with_the_account_and_what_to_type(
        self, there: list[Authorization[Sealed]], error: type[errors.KimiFlowError], message: str
    ) -> None:
        found = no_grant(snapshot(*there))
        assert type(found) is error
        assert found.message == message
        assert found.account == "work"
        assert "kimiflow login work" in found.hint

    @pytest.mark.parametrize(
        ("code", "error"),
        [
            ("timeout", errors.ServerUnreachable),
            ("connection_failed", errors.ServerUnreachable),
            ("http_503", errors.RequestFailed),
            ("http_404", errors.RequestFailed),
            ("invalid_response", errors.RequestFailed),
        ],
    )
    def test_may_be_that_the_server_was_of_no_help(self, code: str, error: type[errors.KimiFlowError]) -> None:
        for state, again in ((State.REQUESTED, "login"), (State.PENDING, "login"), (State.REFRESHING, "refresh")):
            found = failed_attempt(failed(state, code))
            assert type(found) is error
            assert f"({code}: some detail)" in found.message
            assert f"kimiflow {again} work" in found.hint
            in_doubt = state is not State.REQUESTED and not code.startswith("http_")
            assert ("Nothing is lost" in found.hint) is not in_doubt

    @pytest.mark.parametrize(
        ("state", "code", "lost"),
        [
            (State.PENDING, "invalid_response", True),
            (State.PENDING, "timeout", True),
            (State.PENDING, "http_404", False),
            (State.REQUESTED, "invalid_response", False),
        ],
    )
    def test_who_stops_waiting_is_told_whether_something_may_be_lost(self, state: State, code: str, lost: bool) -> None:
        told = left_pending([failed(State.PENDING, "http_503"), failed(state, code)], "go on")
        assert ("may have held tokens" in told, "Nothing is lost" in told) == (lost, not lost)
        assert told.endswith("; go on")

    def test_may_be_that_the_server_refuses_for_longer_than_the_token_lived(self) -> None:
        found = failed_attempt(failed(State.REFRESHING, "http_404", NOW + 900))
        assert type(found) is errors.RefreshRefused
        assert "(http_404: some detail)" in found.message
        assert "kimiflow login work" in found.hint

    @pytest.mark.parametrize("code", ["invalid_client", "misconfigured"])
    @pytest.mark.parametrize("state", [State.PENDING, State.REFRESHING])
    def test_may_be_a_matter_of_settings(self, state: State, code: str) -> None:
        found = failed_attempt(failed(state, code))
        assert type(found) is errors.Misconfigured
        assert ("client_id" if code == "invalid_client" else "Nothing was sent") in found.hint


def failed(state: State, code: str, now: float = NOW) -> Status:
    return status_of(snapshot(sealed(state, error=code, error_description="some detail", attempts=2)), now)

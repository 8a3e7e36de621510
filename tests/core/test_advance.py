"""What a step does besides changing the state: the whole behaviour of a flow, without a loop, a store or a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow import events
from kimiflow.advance import INTERRUPTED, advance, begin, in_doubt, local_event, needs_person
from kimiflow.machine import EVENTS, IllegalTransition, next_state
from kimiflow.model import HOLDS_TOKENS, ON_ITS_WAY, RESTS, State
from kimiflow.pacing import Pacing
from kimiflow.secret import Secret

from .samples import NOW, PACING, Open, authorization_in, issued, quick, recorded, step, tokens

if TYPE_CHECKING:
    from kimiflow.events import Event

POLLING = [State.PENDING, State.SLOW_DOWN]
SECRETS = ("device_code", "access_token", "refresh_token")


def secrets_of(authorization: Open) -> tuple[Secret | None, ...]:
    return tuple(getattr(authorization, name) for name in SECRETS)


class TestBegin:
    def test_a_sign_in_begins_requested_and_is_due_at_once(self) -> None:
        authorization, transition = begin("a", "b", NOW)
        assert authorization.state is State.REQUESTED
        assert authorization.next_attempt_at == NOW
        assert secrets_of(authorization) == (None, None, None)
        assert (transition.from_state, transition.to_state) == (None, State.REQUESTED)
        assert (transition.at, transition.event) == (NOW, "login_requested")


class TestDeviceCodeIssued:
    def test_keeps_codes_and_uris(self) -> None:
        pending = step(authorization_in(State.REQUESTED), issued())
        assert pending.state is State.PENDING
        assert pending.device_code == Secret("the-device-code")
        assert pending.user_code == "GZ4V-K8PN"
        assert pending.verification_uri == "https://kimi.example/device"
        assert pending.verification_uri_complete == "https://kimi.example/device?user_code=GZ4V-K8PN"

    @pytest.mark.parametrize(("sent", "interval"), [(5.0, 5.0), (1.0, 5.0), (8.0, 8.0)])
    def test_the_interval_is_what_was_sent_but_not_under_the_floor(self, sent: float, interval: float) -> None:
        assert step(authorization_in(State.REQUESTED), issued(interval=sent)).interval == interval

    @pytest.mark.parametrize(("expires_in", "allowed"), [(1800.0, 900.0), (300.0, 300.0)])
    def test_the_deadline_is_the_servers_or_ours(self, expires_in: float, allowed: float) -> None:
        pending = step(authorization_in(State.REQUESTED), issued(expires_in=expires_in))
        assert pending.code_expires_at == NOW + allowed

    def test_the_first_poll_is_one_interval_later(self) -> None:
        assert step(authorization_in(State.REQUESTED), issued(interval=7.0)).next_attempt_at == NOW + 7.0

    def test_what_failed_before_is_forgotten(self) -> None:
        troubled = step(authorization_in(State.REQUESTED), events.AttemptFailed("timeout"))
        assert (troubled.attempts, troubled.error) == (1, "timeout")
        pending = step(troubled, issued())
        assert (pending.attempts, pending.error, pending.error_description) == (0, None, None)

    def test_history_shows_the_user_code_and_not_the_device_code(self) -> None:
        _, transition = recorded(authorization_in(State.REQUESTED), issued())
        assert transition.detail == "user code GZ4V-K8PN, interval 5 s"


class TestAuthorizationPending:
    @pytest.mark.parametrize("state", POLLING)
    def test_polls_again_one_interval_after_this_reply(self, state: State) -> None:
        before = authorization_in(state)
        after = step(before, events.AuthorizationPending(), NOW + 50)
        assert after.state is State.PENDING
        assert after.next_attempt_at == NOW + 50 + (before.interval or 0)

    def test_never_shortens_an_interval_that_was_slowed_down(self) -> None:
        slowed = authorization_in(State.SLOW_DOWN)
        assert slowed.interval == 10.0
        assert step(slowed, events.AuthorizationPending()).interval == 10.0

    def test_obeys_retry_after(self) -> None:
        after = step(authorization_in(State.PENDING), events.AuthorizationPending(retry_after=42.0))
        assert after.next_attempt_at == NOW + 42.0
        assert after.interval == 5.0, "a single wait is not a new interval"

    def test_a_row_without_an_interval_falls_back_to_5_s(self) -> None:
        before = authorization_in(State.PENDING, interval=None)
        fast = Pacing(poll_interval_floor=0.05)
        assert step(before, events.AuthorizationPending(), pacing=fast).next_attempt_at == NOW + 5.0


class TestSlowDown:
    @pytest.mark.parametrize("state", POLLING)
    def test_adds_5_s_for_good(self, state: State) -> None:
        before = authorization_in(state)
        after = step(before, events.SlowDown())
        assert after.state is State.SLOW_DOWN
        assert after.interval == (before.interval or 0) + 5.0
        later = step(after, events.AuthorizationPending(), NOW + 100)
        assert later.interval == after.interval
        assert later.next_attempt_at == NOW + 100 + (after.interval or 0)

    @pytest.mark.parametrize(("sent", "interval"), [(None, 10.0), (7.0, 10.0), (30.0, 30.0)])
    def test_takes_a_longer_interval_that_was_sent_along(self, sent: float | None, interval: float) -> None:
        assert step(authorization_in(State.PENDING), events.SlowDown(interval=sent)).interval == interval

    def test_may_come_first_or_hundreds_of_times_in_a_row(self) -> None:
        authorization = authorization_in(State.PENDING)
        for count in range(1, 501):
            authorization = step(authorization, events.SlowDown())
            assert authorization.interval == 5.0 + 5.0 * count
        assert authorization.state is State.SLOW_DOWN
        assert authorization.attempts == 0, "the server answered each time"
        assert step(authorization, tokens()).state is State.GRANTED

    def test_obeys_retry_after_too(self) -> None:
        after = step(authorization_in(State.PENDING), events.SlowDown(retry_after=99.0))
        assert (after.interval, after.next_attempt_at) == (10.0, NOW + 99.0)

    def test_history_names_the_new_interval(self) -> None:
        assert recorded(authorization_in(State.PENDING), events.SlowDown())[1].detail == "interval 10 s from now on"


class TestAccessTokenIssued:
    @pytest.mark.parametrize("state", [*POLLING, State.REFRESHING])
    def test_keeps_the_tokens_and_comes_back_at_refresh_time(self, state: State) -> None:
        fresh = tokens(access_token=Secret("access-2"), refresh_token=Secret("refresh-2"))
        after = step(authorization_in(state), fresh)
        assert after.state is State.GRANTED
        assert after.access_token == Secret("access-2")
        assert after.refresh_token == Secret("refresh-2")
        assert after.token_expires_at == NOW + 900.0
        assert after.next_attempt_at == NOW + 900.0 - 300.0
        assert after.device_code is None, "it is spent"
        assert (after.code_expires_at, after.interval) == (None, None)

    def test_a_short_life_is_refreshed_at_its_half(self) -> None:
        assert step(authorization_in(State.PENDING), tokens(expires_in=60.0)).next_attempt_at == NOW + 30.0

    def test_a_reply_without_refresh_token_keeps_the_old_one(self) -> None:
        after = step(authorization_in(State.REFRESHING), tokens(refresh_token=None))
        assert after.refresh_token == Secret("refresh-1")

    def test_a_reply_without_scope_and_type_keeps_the_old_ones(self) -> None:
        after = step(authorization_in(State.REFRESHING), tokens(scope=None, token_type=None))
        assert (after.scope, after.token_type) == ("coding", "Bearer")

    def test_a_first_reply_without_scope_and_type_is_no_reason_to_lose_its_tokens(self) -> None:
        after = step(authorization_in(State.PENDING), tokens(scope=None, token_type=None))
        assert (after.scope, after.token_type) == (None, "Bearer")
        assert after.access_token == Secret("access-1")

    def test_the_user_code_stays_to_tell_which_sign_in_it_was(self) -> None:
        after = step(authorization_in(State.PENDING), tokens())
        assert after.user_code == "GZ4V-K8PN"
        assert after.verification_uri is None

    def test_a_life_that_is_not_told_is_taken_for_kimis(self) -> None:
        assert step(authorization_in(State.REFRESHING), tokens(expires_in=None)).token_expires_at == NOW + 900.0
        bare = tokens(expires_in=None, refresh_token=None)
        assert step(authorization_in(State.REFRESHING), bare).token_expires_at == NOW + 900.0

    def test_without_a_life_and_a_refresh_token_it_has_no_end(self) -> None:
        """GitHub's OAuth apps: good until the API says otherwise."""
        after, transition = recorded(authorization_in(State.PENDING), tokens(expires_in=None, refresh_token=None))
        assert after.state is State.GRANTED
        assert (after.token_expires_at, after.next_attempt_at) == (None, None)
        assert transition.detail == "access token without an end"
        assert not needs_person(after, NOW + 1e9)

    def test_a_refresh_token_with_an_end_is_used_before_it(self) -> None:
        after = step(authorization_in(State.PENDING), tokens(expires_in=60.0, refresh_expires_in=20.0))
        assert after.refresh_token_expires_at == NOW + 20.0
        assert after.next_attempt_at == NOW + 10.0
        assert step(authorization_in(State.PENDING), tokens(refresh_expires_in=1e6)).next_attempt_at == NOW + 600.0

    def test_a_refresh_token_that_is_kept_ends_when_it_would_have(self) -> None:
        first = step(authorization_in(State.PENDING), tokens(refresh_expires_in=1_000.0))
        refreshing = step(first, events.RefreshDue(), NOW + 600)
        kept = step(refreshing, tokens(refresh_token=None), NOW + 600)
        assert (kept.refresh_token_expires_at, kept.next_attempt_at) == (NOW + 1_000.0, NOW + 800.0)
        assert step(refreshing, tokens(), NOW + 600).refresh_token_expires_at is None, "another one, without an end"
        outlived = step(refreshing, tokens(refresh_token=None), NOW + 1_001)
        assert outlived.refresh_token_expires_at is None, "as it still works, it had none"

    def test_without_any_refresh_token_there_is_nothing_to_do_until_the_end(self) -> None:
        after = step(authorization_in(State.PENDING), tokens(refresh_token=None))
        assert after.next_attempt_at == after.token_expires_at
        assert after.token_expires_at is not None
        refreshing = step(after, events.RefreshDue(), after.token_expires_at)
        said = local_event(refreshing, after.token_expires_at)
        assert isinstance(said, events.InvalidGrant)
        ended = step(refreshing, said, after.token_expires_at)
        assert (ended.state, ended.error) == (State.EXPIRED, "no_refresh_token")

    def test_history_tells_the_life_and_no_token(self) -> None:
        assert recorded(authorization_in(State.PENDING), tokens())[1].detail == "access token for 900 s"


class TestRefreshDue:
    def test_is_due_again_at_once_so_that_only_a_lease_stands_in_the_way_of_the_next_worker(self) -> None:
        after = step(authorization_in(State.GRANTED), events.RefreshDue(), NOW + 600)
        assert after.state is State.REFRESHING
        assert after.next_attempt_at == NOW + 600

    def test_the_access_token_goes_on_working(self) -> None:
        granted = authorization_in(State.GRANTED)
        after = step(granted, events.RefreshDue(), NOW + 600)
        assert after.access_token is granted.access_token
        assert after.token_expires_at == granted.token_expires_at


class TestTheEnds:
    @pytest.mark.parametrize(
        ("state", "event", "reached"),
        [
            (State.REQUESTED, events.AccessDenied("invalid_client", "who are you"), State.DENIED),
            (State.PENDING, events.AccessDenied(description="no"), State.DENIED),
            (State.SLOW_DOWN, events.AccessDenied(), State.DENIED),
            (State.REFRESHING, events.AccessDenied(), State.DENIED),
            (State.PENDING, events.ExpiredToken("too late"), State.EXPIRED),
            (State.SLOW_DOWN, events.ExpiredToken(), State.EXPIRED),
            (State.PENDING, events.InvalidGrant(description="spent"), State.EXPIRED),
            (State.SLOW_DOWN, events.InvalidGrant(), State.EXPIRED),
            (State.REFRESHING, events.InvalidGrant("bad_refresh_token"), State.EXPIRED),
        ],
        ids=lambda x: x.value if isinstance(x, State) else getattr(x, "name", None),
    )
    def test_keep_code_and_description_forget_the_secrets_and_rest(
        self,
        state: State,
        event: events.AccessDenied | events.ExpiredToken | events.InvalidGrant,
        reached: State,
    ) -> None:
        after = step(authorization_in(state), event)
        assert after.state is reached
        assert after.error == (event.name if isinstance(event, events.ExpiredToken) else event.error)
        assert after.error_description == event.description
        assert secrets_of(after) == (None, None, None)
        assert after.next_attempt_at is None, "only a person starts it again"

    def test_the_history_has_code_and_description(self) -> None:
        _, transition = recorded(authorization_in(State.PENDING), events.AccessDenied("access_denied", "not you"))
        assert transition.detail == "access_denied: not you"
        assert (transition.from_state, transition.to_state) == (State.PENDING, State.DENIED)

    def test_forgetting_is_not_replacing(self) -> None:
        """Tokens that arrive late are merged while the version is the one they grew from."""
        refreshing = authorization_in(State.REFRESHING)
        assert step(refreshing, events.InvalidGrant()).token_version == refreshing.token_version


class TestInDoubt:
    """A refresh whose worker vanished may have reached the server; if the grant is gone then, the history says why."""

    def test_it_is_tried_again_at_once_with_the_same_refresh_token(self) -> None:
        refreshing = authorization_in(State.REFRESHING)
        after = step(refreshing, events.AttemptFailed(INTERRUPTED), NOW + 60)
        assert after.state is State.REFRESHING
        assert after.next_attempt_at == NOW + 60, "the lease that ran out was wait enough"
        assert after.refresh_token is refreshing.refresh_token
        assert local_event(after, NOW + 60) is None

    def test_invalid_grant_then_says_what_may_have_happened(self) -> None:
        doubtful = step(authorization_in(State.REFRESHING), events.AttemptFailed(INTERRUPTED))
        after, transition = recorded(doubtful, events.InvalidGrant(description="unknown token"))
        assert after.state is State.EXPIRED
        assert after.error_description is not None
        assert after.error_description.startswith("unknown token; ")
        assert "rotated the token unseen" in after.error_description
        assert transition.detail == f"invalid_grant: {after.error_description}"

    def test_so_it_does_of_a_poll_that_was_interrupted(self) -> None:
        doubtful = step(authorization_in(State.PENDING), events.AttemptFailed(INTERRUPTED))
        after = step(doubtful, events.InvalidGrant())
        assert after.error_description is not None
        assert "may have been spent" in after.error_description

    @pytest.mark.parametrize("state", [*POLLING, State.REFRESHING])
    def test_so_it_does_of_a_reply_that_could_not_be_read(self, state: State) -> None:
        doubtful = step(authorization_in(state), events.AttemptFailed("invalid_response"))
        after = step(doubtful, events.InvalidGrant())
        assert after.error_description is not None
        assert "may have held tokens" in after.error_description

    def test_it_is_not_forgotten_over_the_failures_that_come_between(self) -> None:
        authorization = step(authorization_in(State.REFRESHING), events.AttemptFailed("invalid_response"))
        for error in ("http_503", "http_404", "invalid_client", "http_503"):
            authorization = step(authorization, events.AttemptFailed(error, "a web page"))
            assert in_doubt(authorization.error, authorization.error_description)
        ended = step(authorization, events.InvalidGrant())
        assert ended.error_description == "an earlier reply could not be read; it may have held tokens"
        healed = step(authorization, tokens())
        assert not in_doubt(healed.error, healed.error_description)

    def test_an_interrupted_poll_still_waits_its_interval(self) -> None:
        after = step(authorization_in(State.PENDING), events.AttemptFailed(INTERRUPTED), NOW + 60)
        assert after.next_attempt_at == NOW + 65.0

    def test_no_doubt_where_nothing_was_interrupted(self) -> None:
        assert step(authorization_in(State.REFRESHING), events.InvalidGrant()).error_description is None
        assert step(authorization_in(State.PENDING), events.InvalidGrant()).error_description is None


class TestAttemptFailed:
    @pytest.mark.parametrize("state", [State.REQUESTED, *POLLING, State.REFRESHING])
    def test_stays_counts_and_keeps_what_is_needed_to_go_on(self, state: State) -> None:
        before = authorization_in(state)
        after = step(before, events.AttemptFailed("http_503", "a web page"))
        assert after.state is state
        assert after.attempts == before.attempts + 1
        assert (after.error, after.error_description) == ("http_503", "a web page")
        assert secrets_of(after) == secrets_of(before)
        assert after.interval == before.interval

    @pytest.mark.parametrize("state", [State.REQUESTED, State.REFRESHING])
    def test_backs_off(self, state: State) -> None:
        authorization, waits = authorization_in(state), []
        for _ in range(9):
            authorization = step(authorization, events.AttemptFailed("timeout"), spread=0.0)
            assert authorization.next_attempt_at is not None
            waits.append(authorization.next_attempt_at - NOW)
        assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

    def test_polls_less_often_than_before_not_just_as_often(self) -> None:
        """RFC 8628 §3.5: after a time-out the client backs off."""
        once = step(authorization_in(State.PENDING), events.AttemptFailed("timeout"))
        assert once.next_attempt_at == NOW + 5.0 + 0.5
        often = step(authorization_in(State.PENDING, attempts=8), events.AttemptFailed("timeout"))
        assert often.next_attempt_at == NOW + 5.0 + 30.0
        assert (once.interval, often.interval) == (5.0, 5.0), "the interval itself is the server's to change"

    @pytest.mark.parametrize("state", [State.REQUESTED, *POLLING, State.REFRESHING])
    def test_obeys_retry_after_and_remembers_it_for_whoever_asks(self, state: State) -> None:
        after = step(authorization_in(state), events.AttemptFailed("http_429", retry_after=120.0))
        assert after.next_attempt_at == NOW + 120.0
        assert after.not_before == NOW + 120.0

    @pytest.mark.parametrize(
        ("life", "waits"), [(900.0, 840.0), (300.0, 240.0), (90.0, 45.0), (10.0, 5.0), (-500.0, 60.0)]
    )
    @pytest.mark.parametrize("ends", ["token_expires_at", "refresh_token_expires_at"])
    def test_no_longer_than_the_life_of_the_tokens_allows(self, ends: str, life: float, waits: float) -> None:
        """A day, or the year 2999, says nothing about when the server is well again. One try is left before the end."""
        before = authorization_in(State.REFRESHING, **{ends: NOW + life})
        after = step(before, events.AttemptFailed("http_503", retry_after=86_400.0))
        assert after.next_attempt_at == after.not_before == NOW + waits

    @pytest.mark.parametrize(
        "event",
        [events.AttemptFailed("http_503", retry_after=86_400.0), events.AuthorizationPending(86_400.0),
         events.SlowDown(retry_after=86_400.0)],
        ids=lambda event: event.name,
    )  # fmt: skip
    def test_no_longer_than_the_life_of_the_code_allows(self, event: Event) -> None:
        """Somebody may approve meanwhile: one poll is left to hear of it."""
        assert step(authorization_in(State.PENDING), event).next_attempt_at == NOW + 840.0

    def test_no_longer_than_a_person_would_wait_for_a_code(self) -> None:
        after = step(authorization_in(State.REQUESTED), events.AttemptFailed("http_503", retry_after=86_400.0))
        assert after.next_attempt_at == NOW + 900.0

    @pytest.mark.parametrize(
        "error", ["invalid_client", "unauthorized_client", "unsupported_grant_type", "misconfigured"]
    )
    def test_a_grant_is_tried_seldom_where_this_program_is_what_is_wrong(self, error: str) -> None:
        after = step(authorization_in(State.REFRESHING), events.AttemptFailed(error))
        assert after.next_attempt_at == NOW + 150.0
        assert secrets_of(after) == secrets_of(authorization_in(State.REFRESHING))
        assert step(authorization_in(State.REQUESTED), events.AttemptFailed(error)).next_attempt_at == NOW + 0.5

    def test_a_short_retry_after_does_not_shorten_the_backoff(self) -> None:
        before = authorization_in(State.REFRESHING, attempts=8)
        after = step(before, events.AttemptFailed("http_429", retry_after=1.0))
        assert after.next_attempt_at == NOW + 30.0

    def test_the_next_success_forgets_it(self) -> None:
        troubled = step(authorization_in(State.REFRESHING), events.AttemptFailed("http_429", retry_after=60.0))
        after = step(troubled, tokens(), NOW + 60)
        assert (after.attempts, after.error, after.not_before) == (0, None, None)

    def test_a_hundred_bad_replies_do_not_end_a_sign_in(self) -> None:
        authorization = authorization_in(State.PENDING)
        for _ in range(100):
            authorization = step(authorization, events.AttemptFailed("invalid_response"))
        assert step(authorization, tokens()).state is State.GRANTED


class TestAPersonIsNeeded:
    @pytest.mark.parametrize("state", sorted(RESTS, key=lambda s: s.value))
    def test_once_it_has_ended(self, state: State) -> None:
        assert needs_person(authorization_in(state), NOW)

    @pytest.mark.parametrize("state", [State.REQUESTED, *POLLING, State.GRANTED, State.REFRESHING])
    def test_not_while_all_goes_well(self, state: State) -> None:
        assert not needs_person(authorization_in(state), NOW + 10_000)

    @pytest.mark.parametrize("error", ["http_404", "http_401", "invalid_response", "invalid_request", "whatever"])
    def test_where_refreshes_are_refused_beyond_the_tokens_end(self, error: str) -> None:
        refused = step(authorization_in(State.REFRESHING), events.AttemptFailed(error))
        assert not needs_person(refused, NOW + 899.0), "it may heal before anybody notices"
        assert needs_person(refused, NOW + 900.0)
        healed = step(refused, tokens(), NOW + 1_000.0)
        assert not needs_person(healed, NOW + 1_000.0)

    @pytest.mark.parametrize(
        "error", ["timeout", "connection_failed", "http_503", "http_429", "server_error", INTERRUPTED]
    )
    def test_not_where_it_passes_by_itself(self, error: str) -> None:
        failed = step(authorization_in(State.REFRESHING), events.AttemptFailed(error))
        assert not needs_person(failed, NOW + 10_000)

    def test_and_go_on_to_be_whatever_comes_between(self) -> None:
        now = NOW + 1_000.0
        refused = step(authorization_in(State.REFRESHING), events.AttemptFailed("http_404"), now)
        for error in ("http_503", "connection_failed", "timeout"):
            refused = step(refused, events.AttemptFailed(error), now)
            assert needs_person(refused, now)
            assert refused.error == "http_404"
            assert error in (refused.error_description or "")

    def test_at_once_where_this_program_is_misconfigured(self) -> None:
        assert needs_person(step(authorization_in(State.REFRESHING), events.AttemptFailed("invalid_client")), NOW)
        assert needs_person(step(authorization_in(State.PENDING), events.AttemptFailed("misconfigured")), NOW)

    @pytest.mark.parametrize("state", POLLING)
    def test_not_for_a_sign_in_that_has_a_deadline_of_its_own(self, state: State) -> None:
        assert not needs_person(step(authorization_in(state), events.AttemptFailed("http_404")), NOW + 10_000)


class TestTheDeadline:
    """900 s after the code was issued. Somebody may have approved while nobody polled, so one last poll asks."""

    @pytest.mark.parametrize("state", POLLING)
    def test_leaves_room_for_one_last_poll(self, state: State) -> None:
        assert local_event(authorization_in(state), NOW + 900.0) is None
        assert step(authorization_in(state), tokens(), NOW + 905.0).state is State.GRANTED

    @pytest.mark.parametrize("event", [events.AuthorizationPending(), events.SlowDown()], ids=lambda e: e.name)
    @pytest.mark.parametrize("state", POLLING)
    def test_ends_a_sign_in_whose_last_poll_found_no_approval(self, state: State, event: Event) -> None:
        after, transition = advance(authorization_in(state), event, NOW + 900.0, pacing=PACING, spread=0.0)
        assert after.state is State.EXPIRED
        assert transition.event == "expired_token"
        assert transition.detail == "nobody approved it in time"

    @pytest.mark.parametrize("state", POLLING)
    def test_does_not_wait_for_ever_for_a_server_that_is_away(self, state: State) -> None:
        failed = step(authorization_in(state), events.AttemptFailed("timeout", reached=False), NOW + 905.0)
        assert failed.state is state
        assert local_event(failed, NOW + 1_199.0) is None
        assert isinstance(local_event(failed, NOW + 1_200.0), events.ExpiredToken)

    def test_does_not_wait_for_a_server_that_asks_for_more_patience_than_is_left(self) -> None:
        after = step(
            authorization_in(State.PENDING), events.AttemptFailed("http_503", retry_after=86_400.0), NOW + 898.0
        )
        assert after.next_attempt_at == NOW + 903.0
        assert local_event(after, NOW + 903.0) is None, "somebody may have approved: it is asked once more"
        again = step(after, events.AttemptFailed("http_503", retry_after=86_400.0), NOW + 903.0)
        assert again.next_attempt_at == NOW + 908.0
        assert isinstance(local_event(again, NOW + 908.0), events.ExpiredToken)

    def test_does_not_touch_a_grant(self) -> None:
        assert isinstance(local_event(authorization_in(State.GRANTED), NOW + 10_000), events.RefreshDue)
        assert local_event(authorization_in(State.REFRESHING), NOW + 10_000) is None

    def test_nor_a_request_that_has_no_code_yet(self) -> None:
        assert local_event(authorization_in(State.REQUESTED), NOW + 10_000) is None


class TestLoginRequested:
    @pytest.mark.parametrize("state", sorted(RESTS, key=lambda s: s.value))
    def test_starts_again_from_nothing_in_the_same_row(self, state: State) -> None:
        resting = authorization_in(state, error="access_denied", attempts=3)
        after = step(resting, events.LoginRequested(), NOW + 1_000)
        fresh, _ = begin(resting.id, resting.account_id, NOW + 1_000)
        assert after._replace(created_at=fresh.created_at, token_version=0) == fresh
        assert after.created_at == resting.created_at

    def test_what_is_still_in_flight_from_before_cannot_be_merged_into_it(self) -> None:
        resting = authorization_in(State.EXPIRED)
        assert step(resting, events.LoginRequested()).token_version > resting.token_version


def an_event(name: str) -> st.SearchStrategy[Event]:
    seconds = st.floats(0.001, 1e5)
    wait = st.none() | seconds
    return {
        "device_code_issued": st.builds(
            issued,
            device_code=st.integers().map(lambda n: Secret(f"code-{n}")),
            interval=seconds,
            expires_in=seconds,
        ),
        "authorization_pending": st.builds(events.AuthorizationPending, wait),
        "slow_down": st.builds(events.SlowDown, wait, wait),
        "access_token_issued": st.builds(
            tokens,
            access_token=st.integers().map(lambda n: Secret(f"access-{n}")),
            refresh_token=st.none() | st.integers().map(lambda n: Secret(f"refresh-{n}")),
            scope=st.none() | st.just("coding"),
            expires_in=wait,
            refresh_expires_in=wait,
        ),
        "access_denied": st.builds(events.AccessDenied),
        "expired_token": st.builds(events.ExpiredToken),
        "refresh_due": st.builds(events.RefreshDue),
        "invalid_grant": st.builds(events.InvalidGrant),
        "attempt_failed": st.builds(
            events.AttemptFailed, st.sampled_from(["timeout", "http_503", INTERRUPTED]), retry_after=wait
        ),
        "login_requested": st.builds(events.LoginRequested),
    }[name]


def possible(state: State) -> list[str]:
    found = []
    for name in EVENTS:
        try:
            next_state(state, name)
        except IllegalTransition:
            continue
        found.append(name)
    return found


class TestWhateverHappens:
    """Random flows, and what holds at each of their steps."""

    @quick
    @given(st.data())
    def test_the_promises_hold_at_every_step(self, data: st.DataObject) -> None:
        pacing = data.draw(st.builds(Pacing, st.floats(0.05, 60), st.floats(1, 3_600), st.floats(0, 3_600)), "pacing")
        before, now = begin("a", "b", NOW)[0], NOW
        for _ in range(data.draw(st.integers(1, 15), "steps")):
            now += data.draw(st.floats(0, 1_000), "seconds pass")
            event = data.draw(st.sampled_from(possible(before.state)).flatmap(an_event), "event")
            spread = data.draw(st.floats(0, 1, exclude_max=True), "spread")
            after, transition = advance(before, event, now, pacing=pacing, spread=spread)
            self.check_the_record(before, event, after, transition.event, now)
            self.check_the_pace(before, after, event, now)
            self.check_the_secrets(before, after, event)
            before = after

    @staticmethod
    def check_the_record(before: Open, event: Event, after: Open, recorded_as: str, now: float) -> None:
        last_poll = event.name in {"authorization_pending", "slow_down"} and now >= (before.code_expires_at or now + 1)
        happened = "expired_token" if last_poll else event.name
        assert after.state is next_state(before.state, happened)
        assert (recorded_as, after.updated_at) == (happened, now)
        assert (after.id, after.account_id, after.created_at) == (
            before.id,
            before.account_id,
            before.created_at,
        )
        endless = after.state is State.GRANTED and after.token_expires_at is None
        assert (after.next_attempt_at is None) == (after.state in RESTS or endless)

    @staticmethod
    def check_the_pace(before: Open, after: Open, event: Event, now: float) -> None:
        if after.next_attempt_at is not None:
            assert after.next_attempt_at >= min(now, after.code_expires_at or now)
        if after.state not in {State.PENDING, State.SLOW_DOWN}:
            return
        assert after.interval is not None
        assert after.next_attempt_at is not None
        assert after.code_expires_at is not None
        if before.state in {State.PENDING, State.SLOW_DOWN}:
            assert before.interval is not None
            assert after.interval >= before.interval, "an interval never shrinks within a flow"
            assert after.code_expires_at == before.code_expires_at
        # Never before the interval is over.
        assert after.next_attempt_at >= min(now + after.interval, before.code_expires_at or after.code_expires_at)
        # Never before the server asks for it, but that a poll is left before the end.
        wait = getattr(event, "retry_after", None) or 0.0
        left = after.code_expires_at - now
        assert after.next_attempt_at >= min(now + min(wait, left / 2), after.code_expires_at)

    @staticmethod
    def check_the_secrets(before: Open, after: Open, event: Event) -> None:
        replaces = isinstance(event, (events.DeviceCodeIssued, events.AccessTokenIssued, events.LoginRequested))
        assert after.token_version == before.token_version + replaces
        if not replaces and after.state not in RESTS:
            assert all(a is b for a, b in zip(secrets_of(after), secrets_of(before), strict=True))
        assert (after.access_token is not None) == (after.state in HOLDS_TOKENS)
        assert (after.device_code is not None) == (after.state in ON_ITS_WAY - {State.REQUESTED})
        if after.state in RESTS:
            assert secrets_of(after) == (None, None, None)


def test_an_impossible_event_is_refused_and_changes_nothing() -> None:
    granted = authorization_in(State.GRANTED)
    with pytest.raises(IllegalTransition):
        advance(granted, events.AuthorizationPending(), NOW, pacing=PACING, spread=0.0)


def test_a_step_never_writes_to_what_it_was_given() -> None:
    before = authorization_in(State.PENDING)
    copy = before._replace()
    step(before, tokens())
    assert all(one is other for one, other in zip(before, copy, strict=True))

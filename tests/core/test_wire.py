"""Requests as bytes, and what becomes of every reply that a server can send.

The tables follow what authorization servers in the wild are known to do. An ``AttemptFailed`` proves nothing and is
tried again; every other event moves the flow.
"""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, get_args
from urllib.parse import parse_qs, quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow import events, wire
from kimiflow.events import (
    AccessDenied,
    AccessTokenIssued,
    AttemptFailed,
    AuthorizationPending,
    DeviceCodeIssued,
    ExpiredToken,
    InvalidGrant,
    SlowDown,
)
from kimiflow.secret import Secret
from kimiflow.wire import About, Identity, Reply, TokenRequest

from .samples import IDENTITY, NOW, PROVIDER, quick, reply

if TYPE_CHECKING:
    from collections.abc import Callable

CODE = Secret("the-device-code")
REFRESH_TOKEN = Secret("the-refresh-token")
START = wire.device_authorization_request(PROVIDER)
POLL = wire.poll_request(PROVIDER, CODE)
REFRESH = wire.refresh_request(PROVIDER, REFRESH_TOKEN)

TOKEN_BODY = {
    "access_token": "new-access",
    "refresh_token": "new-refresh",
    "token_type": "Bearer",
    "scope": "coding",
    "expires_in": 900,
}
DEVICE_BODY = {
    "device_code": "dc",
    "user_code": "GZ4V-K8PN",
    "verification_uri": "https://kimi.example/device",
    "verification_uri_complete": "https://kimi.example/device?user_code=GZ4V-K8PN",
    "expires_in": 1800,
    "interval": 5,
}
HTML = b"<html><body>Access denied by the firewall</body></html>"


def started(body: object, status: int = 200, **more: Any) -> events.Event:
    return wire.parse_device_authorization(reply(body, status, **more), START)


def polled(body: object, status: int = 200, **more: Any) -> events.Event:
    return wire.parse_poll(reply(body, status, **more), POLL)


def refreshed(body: object, status: int = 200, **more: Any) -> events.Event:
    return wire.parse_refresh(reply(body, status, **more), REFRESH)


class TestRequests:
    @pytest.mark.parametrize(
        ("request_", "url", "form"),
        [
            (START, PROVIDER.device_authorization_endpoint, {"client_id": ["the-client"]}),
            (
                POLL,
                PROVIDER.token_endpoint,
                {
                    "client_id": ["the-client"],
                    "device_code": ["the-device-code"],
                    "grant_type": ["urn:ietf:params:oauth:grant-type:device_code"],
                },
            ),
            (
                REFRESH,
                PROVIDER.token_endpoint,
                {
                    "client_id": ["the-client"],
                    "grant_type": ["refresh_token"],
                    "refresh_token": ["the-refresh-token"],
                },
            ),
        ],
        ids=["device authorization", "poll", "refresh"],
    )
    def test_carry_exactly_these_form_fields(
        self, request_: TokenRequest, url: str, form: dict[str, list[str]]
    ) -> None:
        assert request_.url == url
        assert parse_qs(request_.body.decode("ascii"), strict_parsing=True) == form

    def test_a_scope_is_sent_where_the_provider_has_one(self) -> None:
        from dataclasses import replace

        request = wire.device_authorization_request(replace(PROVIDER, scope="openid offline_access"))
        assert parse_qs(request.body.decode())["scope"] == ["openid offline_access"]

    @pytest.mark.parametrize("token", ["a&b=c", "a+b/c==", "ünï", "a b%20"])
    def test_tokens_are_opaque(self, token: str) -> None:
        body = wire.refresh_request(PROVIDER, Secret(token)).body
        assert parse_qs(body.decode("ascii"))["refresh_token"] == [token]

    def test_know_which_secrets_they_carry(self) -> None:
        assert (START.secrets, POLL.secrets, REFRESH.secrets) == ((), (CODE,), (REFRESH_TOKEN,))


class TestIdentityHeaders:
    def test_name_program_machine_and_device(self) -> None:
        assert wire.identity_headers(IDENTITY, "device-1") == (
            ("X-Msh-Platform", "kimiflow"),
            ("X-Msh-Version", "1.2.3"),
            ("X-Msh-Device-Name", "host"),
            ("X-Msh-Device-Model", "Linux amd64"),
            ("X-Msh-Device-Id", "device-1"),
        )

    @pytest.mark.parametrize(
        ("name", "sent"),
        [
            ("  host \t", "host"),
            ("Jürgens Büro", "Jrgens Bro"),
            ("電腦", "unknown"),
            ("", "unknown"),
            (" \u00a0 ", "unknown"),
            ("a\r\nX-Evil: 1", "aX-Evil: 1"),
            ("a\x00\x1b[31mb", "a[31mb"),
        ],
    )
    def test_are_stripped_ascii_or_unknown(self, name: str, sent: str) -> None:
        headers = dict(wire.identity_headers(Identity("p", "v", name, name), name))
        assert {headers[f"X-Msh-Device-{part}"] for part in ("Name", "Model", "Id")} == {sent}


class TestDeviceAuthorization:
    def test_kimis_reply(self) -> None:
        event = started(DEVICE_BODY)
        assert isinstance(event, DeviceCodeIssued)
        assert event.device_authorization.device_code == Secret("dc")
        assert event.device_authorization.expires_in == 1800
        assert event.device_authorization.interval == 5

    def test_googles_spelling_and_no_complete_uri(self) -> None:
        event = started({"device_code": "dc", "user_code": "AB", "verification_url": "https://google.example/device"})
        assert isinstance(event, DeviceCodeIssued)
        assert event.device_authorization.verification_uri == "https://google.example/device"
        assert event.device_authorization.verification_uri_complete is None

    @pytest.mark.parametrize("missing", ["device_code", "user_code", "verification_uri"])
    def test_without_what_a_person_or_a_poll_needs_it_is_no_reply(self, missing: str) -> None:
        event = started({k: v for k, v in DEVICE_BODY.items() if k != missing})
        assert isinstance(event, AttemptFailed)
        assert event.error == "invalid_response"

    @pytest.mark.parametrize(
        "uri",
        ["javascript:alert(1)", "file:///etc/passwd", "//kimi.example", "https://", "x", 5, None, "ftp://h/"],
    )
    def test_a_link_that_is_no_web_address_is_not_shown(self, uri: object) -> None:
        assert isinstance(started({**DEVICE_BODY, "verification_uri": uri}), AttemptFailed)
        event = started({**DEVICE_BODY, "verification_uri_complete": uri})
        assert isinstance(event, DeviceCodeIssued)
        assert event.device_authorization.verification_uri_complete is None

    @pytest.mark.parametrize(
        "code",
        ["invalid_client", "unauthorized_client", "unsupported_grant_type", "access_denied", "invalid_scope",
         "invalid_request"],
    )  # fmt: skip
    @pytest.mark.parametrize("status", [200, 400, 401, 403])
    def test_a_request_that_no_repetition_can_help_is_denied(self, code: str, status: int) -> None:
        event = started({"error": code, "error_description": "no such client"}, status)
        assert event == AccessDenied(code, "no such client")

    @pytest.mark.parametrize("code", ["server_error", "temporarily_unavailable", "slow_down", "whatever"])
    def test_anything_else_is_tried_again(self, code: str) -> None:
        event = started({"error": code}, 400, retry_after=7.0)
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.retry_after) == (code, 7.0)


NUMBERS: list[tuple[object, float | None]] = [
    # sent, read (None: the default)
    (3600, 3600),
    ("3600", 3600),
    (" 3600 ", 3600),
    (12.5, 12.5),
    ("12.5", 12.5),
    (0, None),
    (-5, None),
    ("-5", None),
    ("abc", None),
    ("", None),
    ("NaN", None),
    (None, None),
    (True, None),
    ([], None),
    ({}, None),
]


class TestNumbers:
    """Strings, floats, missing, zero, negative, not a number: read where they parse, the default where not, clamped."""

    @pytest.mark.parametrize(("sent", "read"), NUMBERS, ids=repr)
    def test_expires_in_of_a_token(self, sent: object, read: float | None) -> None:
        event = polled({**TOKEN_BODY, "expires_in": sent})
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.expires_in == read

    @pytest.mark.parametrize("field", ["refresh_expires_in", "refresh_token_expires_in"])
    @pytest.mark.parametrize(("sent", "read"), NUMBERS, ids=repr)
    def test_life_of_a_refresh_token(self, sent: object, read: float | None, field: str) -> None:
        event = refreshed({**TOKEN_BODY, field: sent})
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.refresh_expires_in == read

    @pytest.mark.parametrize(("sent", "read"), NUMBERS, ids=repr)
    def test_expires_in_of_a_code(self, sent: object, read: float | None) -> None:
        event = started({**DEVICE_BODY, "expires_in": sent})
        assert isinstance(event, DeviceCodeIssued)
        assert event.device_authorization.expires_in == (read or 900)

    @pytest.mark.parametrize(("sent", "read"), NUMBERS, ids=repr)
    def test_interval(self, sent: object, read: float | None) -> None:
        event = started({**DEVICE_BODY, "interval": sent})
        assert isinstance(event, DeviceCodeIssued)
        assert event.device_authorization.interval == min(read or 5, 300)

    @pytest.mark.parametrize(("sent", "read"), NUMBERS, ids=repr)
    def test_interval_sent_along_with_slow_down(self, sent: object, read: float | None) -> None:
        assert polled({"error": "slow_down", "interval": sent}, 400) == SlowDown(
            None if read is None else min(read, 300)
        )

    @pytest.mark.parametrize(
        "huge",
        ["1e400", "9" * 400, "9" * 10_000, "Infinity", '"Infinity"', '"1e999"', '"' + "9" * 10_000 + '"'],
        ids=lambda text: f"{text[:10]} ({len(text)} characters)",
    )
    def test_absurdly_large_is_clamped_and_costs_no_token(self, huge: str) -> None:
        body = f'{{"access_token": "new-access", "refresh_token": "r", "expires_in": {huge}}}'.encode()
        event = refreshed(body)
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.expires_in == 366 * 86_400
        code = json.dumps(DEVICE_BODY).replace("1800", huge).replace('"interval": 5', f'"interval": {huge}')
        issued = started(code.encode())
        assert isinstance(issued, DeviceCodeIssued)
        assert issued.device_authorization.expires_in == 86_400
        assert issued.device_authorization.interval == 300

    @pytest.mark.parametrize("nothing", ["NaN", "-Infinity", "-0.0", "0", "1e-400"])
    def test_nothing_sensible_says_nothing(self, nothing: str) -> None:
        event = refreshed(f'{{"access_token": "new-access", "expires_in": {nothing}}}'.encode())
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.expires_in is None


ERROR_STATUSES = [200, 400, 401, 403, 429, 500]


class TestTheBodyDecidesNotTheStatus:
    """GitHub and Kimi answer errors with 200, the RFC with 400, OpenAM and Auth0 with 401, 403 and 429."""

    @pytest.mark.parametrize("status", ERROR_STATUSES)
    @pytest.mark.parametrize(
        ("code", "event"),
        [
            ("authorization_pending", AuthorizationPending()),
            ("slow_down", SlowDown()),
            ("access_denied", AccessDenied()),
            ("authorization_declined", AccessDenied()),
            ("expired_token", ExpiredToken()),
            ("code_expired", ExpiredToken()),
            ("invalid_grant", InvalidGrant()),
            ("invalid device code", InvalidGrant()),
            ("invalid_client", AccessDenied("invalid_client")),
            ("unauthorized_client", AccessDenied("unauthorized_client")),
            ("unsupported_grant_type", AccessDenied("unsupported_grant_type")),
        ],
    )
    def test_a_poll(self, code: str, event: events.Event, status: int) -> None:
        assert polled({"error": code}, status) == event

    @pytest.mark.parametrize("status", ERROR_STATUSES)
    @pytest.mark.parametrize(
        ("code", "event"),
        [
            ("invalid_grant", InvalidGrant()),
            ("invalid_client", AttemptFailed("invalid_client")),
            ("unauthorized_client", AttemptFailed("unauthorized_client")),
            ("unsupported_grant_type", AttemptFailed("unsupported_grant_type")),
            ("invalid_request", AttemptFailed("invalid_request")),
            ("access_denied", AccessDenied()),
            ("server_error", AttemptFailed("server_error")),
            ("temporarily_unavailable", AttemptFailed("temporarily_unavailable")),
            ("slow_down", AttemptFailed("slow_down")),
        ],
    )
    def test_a_refresh(self, code: str, event: events.Event, status: int) -> None:
        assert refreshed({"error": code}, status) == event

    @pytest.mark.parametrize("status", [200, 201, 400])
    def test_tokens_are_tokens(self, status: int) -> None:
        for event in (polled(TOKEN_BODY, status), refreshed(TOKEN_BODY, status)):
            assert isinstance(event, AccessTokenIssued)
            assert event.tokens.access_token == Secret("new-access")
            assert event.tokens.refresh_token == Secret("new-refresh")

    @pytest.mark.parametrize("nothing", ["ok", "none", "0", "success"])
    def test_nor_is_a_word_that_is_none(self, nothing: str) -> None:
        for key in ("error", "message"):
            assert isinstance(polled({**TOKEN_BODY, key: nothing}), AccessTokenIssued)
            assert isinstance(refreshed({**TOKEN_BODY, key: nothing}), AccessTokenIssued)
        assert isinstance(refreshed({**TOKEN_BODY, "message": "invalid_token"}), AccessTokenIssued)
        assert refreshed({**TOKEN_BODY, "error": "invalid_grant"}) == InvalidGrant()

    @pytest.mark.parametrize("nothing", [None, "", "  ", 0, False, [], {}])
    def test_an_empty_error_beside_a_token_is_no_error(self, nothing: object) -> None:
        assert isinstance(polled({**TOKEN_BODY, "error": nothing}), AccessTokenIssued)
        assert isinstance(refreshed({**TOKEN_BODY, "error": nothing}), AccessTokenIssued)

    def test_twitch_has_its_codes_under_message(self) -> None:
        assert polled({"status": 400, "message": "authorization_pending"}, 400) == AuthorizationPending()
        assert polled({"status": 400, "message": "invalid device code"}, 400) == InvalidGrant(
            description="invalid device code"
        )
        assert polled({"error": "Bad Request", "message": "slow_down"}, 400) == SlowDown()

    @pytest.mark.parametrize("status", [200, 400, 429])
    def test_retry_after_comes_along_whatever_the_code(self, status: int) -> None:
        assert polled({"error": "authorization_pending"}, status, retry_after=9.0) == AuthorizationPending(9.0)
        assert polled({"error": "slow_down", "interval": 20}, status, retry_after=9.0) == SlowDown(20, 9.0)


BAD_REPLIES = {
    "5xx": reply(b"oops", 500),
    "502 page": reply(HTML, 502),
    "503": reply(None, 503),
    "html with 200": reply(HTML),
    "html with 403": reply(HTML, 403),
    "empty body": reply(b""),
    "cut off": reply(b'{"access_token": "new-acc'),
    "longer than is read": reply(b'{"access_token": "a"}', truncated=True),
    "redirect": reply(None, 302),
    "no content": reply(None, 204),
    "a list": reply([1, 2]),
    "a string": reply("authorization_pending"),
    "null": reply(b"null"),
    "an empty object": reply({}),
    "a token that is a number": reply({"access_token": 5}),
    "a token that is empty": reply({"access_token": ""}),
    "a token with a line break": reply({"access_token": "a\r\nX-Evil: 1"}),
    "a token with a zero byte": reply({"access_token": "a\0b"}),
    "a token that speaks to terminals": reply({"access_token": "a\x1b[2J"}),
    "a token that speaks to them in one byte": reply({"access_token": "a\x9b2J"}),
    "a token that cannot be sent": reply(b'{"access_token": "\\ud800"}'),
    "not UTF-8": reply(b"\xff\xfe{\x00}\x00"),
    "a thousand brackets": reply(b"[" * 200_000),
    "a thousand objects": reply(b'{"a":' * 100_000),
    "an unknown error": reply({"error": "out_of_cheese"}, 400),
    "an error that is no text": reply({"error": 17}, 400),
}


class TestOneBadReplyEndsNothing:
    @pytest.mark.parametrize("bad", BAD_REPLIES.values(), ids=BAD_REPLIES)
    def test_a_poll_stays_and_polls_again(self, bad: Reply) -> None:
        assert isinstance(wire.parse_poll(bad, POLL), AttemptFailed)

    @pytest.mark.parametrize("bad", BAD_REPLIES.values(), ids=BAD_REPLIES)
    def test_a_refresh_keeps_its_tokens(self, bad: Reply) -> None:
        assert isinstance(wire.parse_refresh(bad, REFRESH), AttemptFailed)

    @pytest.mark.parametrize("bad", BAD_REPLIES.values(), ids=BAD_REPLIES)
    def test_a_device_authorization_is_asked_for_again(self, bad: Reply) -> None:
        assert isinstance(wire.parse_device_authorization(bad, START), AttemptFailed)

    @pytest.mark.parametrize("status", [401, 403, 404, 410])
    @pytest.mark.parametrize("ask", [started, polled, refreshed])
    def test_not_even_one_whose_status_says_that_all_is_over(
        self, ask: Callable[..., events.Event], status: int
    ) -> None:
        assert ask(HTML, status) == AttemptFailed(f"http_{status}", "the body is a web page, not JSON")

    @pytest.mark.parametrize(
        ("body", "status", "error", "description"),
        [
            (b"", 200, "invalid_response", "the body is empty"),
            (HTML, 502, "http_502", "the body is a web page, not JSON"),
            (b"oops", 200, "invalid_response", "the body is not JSON"),
            ({}, 200, "invalid_response", "the body lacks what the protocol asks for"),
            ({"error": "odd"}, 400, "odd", None),
        ],
    )
    def test_the_reason_is_kept_for_a_person(
        self, body: object, status: int, error: str, description: str | None
    ) -> None:
        assert polled(body, status) == AttemptFailed(error, description)

    def test_retry_after_is_kept(self) -> None:
        event = polled(None, 429, retry_after=30.0)
        assert isinstance(event, AttemptFailed)
        assert (event.error, event.retry_after, event.reached) == ("http_429", 30.0, True)


class TestADeadRefreshToken:
    @pytest.mark.parametrize(
        ("body", "status", "error"),
        [
            ({"error": "invalid_grant"}, 400, "invalid_grant"),
            ({"error": "invalid_grant"}, 401, "invalid_grant"),
            ({"error": "INVALID_GRANT"}, 400, "invalid_grant"),
            ({"message": "invalid_grant"}, 400, "invalid_grant"),
            ({"error": "invalid_token"}, 401, "invalid_token"),
            ({"error": "invalid_token"}, 403, "invalid_token"),
            ({"error": "expired_token"}, 200, "expired_token"),
            ({"error": "bad_refresh_token"}, 200, "bad_refresh_token"),
            ({"error": "interaction_required"}, 400, "interaction_required"),
            ({"error": "refresh_token_reused"}, 401, "refresh_token_reused"),
        ],
    )
    def test_ends_the_grant(self, body: object, status: int, error: str) -> None:
        event = refreshed(body, status)
        assert isinstance(event, InvalidGrant)
        assert event.error == error

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
    @pytest.mark.parametrize(
        "body",
        [
            HTML,
            b"",
            None,
            b"404 page not found",
            {},
            {"detail": "signed out"},
            {"error": "insufficient_scope"},
            {"error": "invalid_client"},
            {"message": "Forbidden"},
            {"error": "Forbidden", "message": "blocked by policy"},  # a gateway's JSON, not OAuth's
            {"error": {"code": 403, "message": "quota"}},
            {"timestamp": 1, "status": 403, "error": "Forbidden", "path": "/api/oauth/token"},
        ],
    )
    def test_what_is_no_oauth_error_about_it_wipes_nothing(self, body: object, status: int) -> None:
        assert isinstance(refreshed(body, status), AttemptFailed)


class TestWhatAnErrorIsAbout:
    """And so what can help: a person who signs in, a person who mends the settings, another try, time."""

    @pytest.mark.parametrize(
        ("errors", "about"),
        [
            ("invalid_grant access_denied expired_token invalid_token bad_refresh_token login_required", About.GRANT),
            ("invalid_client unauthorized_client unsupported_grant_type misconfigured", About.CLIENT),
            ("invalid_request invalid_scope insufficient_scope whatever invalid_response", About.REQUEST),
            ("http_302 http_400 http_401 http_403 http_404 http_410 http_ http_x", About.REQUEST),
            ("slow_down server_error temporarily_unavailable timeout connection_failed interrupted", About.MOMENT),
            ("http_408 http_425 http_429 http_500 http_503 http_599", About.MOMENT),
        ],
    )  # fmt: skip
    def test_is_in_one_table(self, errors: str, about: About) -> None:
        assert {error: wire.about(error) for error in errors.split()} == dict.fromkeys(errors.split(), about)

    @pytest.mark.parametrize("word", ["login_required", "invalid_token", "refresh_token_reused"])
    def test_words_about_a_refresh_token_end_no_sign_in(self, word: str) -> None:
        assert polled({"error": word}, 400) == AttemptFailed(word)


class TestATokenThatArrivedIsNeverThrownAway:
    @pytest.mark.parametrize("missing", ["refresh_token", "scope", "token_type", "expires_in"])
    def test_whatever_else_is_missing(self, missing: str) -> None:
        event = refreshed({k: v for k, v in TOKEN_BODY.items() if k != missing})
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.access_token == Secret("new-access")
        assert getattr(event.tokens, missing) is None

    @pytest.mark.parametrize("odd", [None, 5, [], {}, True, ""])
    @pytest.mark.parametrize("field", ["refresh_token", "scope", "token_type", "expires_in"])
    def test_whatever_else_is_odd(self, field: str, odd: object) -> None:
        assert isinstance(refreshed({**TOKEN_BODY, field: odd}), AccessTokenIssued)

    @pytest.mark.parametrize("odd", ["r\n", "r\0", "\x1br"])
    def test_a_refresh_token_that_is_none_is_left_out(self, odd: str) -> None:
        event = refreshed({**TOKEN_BODY, "refresh_token": odd})
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.refresh_token is None

    @pytest.mark.parametrize("odd", ["d\n", "d\0", "\x1bd"])
    def test_nor_is_such_a_device_code_one(self, odd: str) -> None:
        assert isinstance(started({**DEVICE_BODY, "device_code": odd}), AttemptFailed)

    def test_behind_a_byte_order_mark(self) -> None:
        assert isinstance(refreshed(b"\xef\xbb\xbf" + json.dumps(TOKEN_BODY).encode()), AccessTokenIssued)

    def test_beside_a_byte_that_is_no_utf8(self) -> None:
        event = refreshed(b'{"access_token": "new-access", "nickname": "J\xfcrgen", "scope": "a\xff"}')
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.access_token == Secret("new-access")
        assert event.tokens.scope == "a"

    def test_beside_a_number_of_ten_thousand_digits(self) -> None:
        body = b'{"access_token": "new-access", "created_at": ' + b"9" * 10_000 + b"}"
        assert isinstance(refreshed(body), AccessTokenIssued)

    def test_as_it_is_to_the_last_character(self) -> None:
        odd = " ~tok\u00e9n+/=\u2028 "
        event = polled({"access_token": odd, "refresh_token": odd})
        assert isinstance(event, AccessTokenIssued)
        assert event.tokens.access_token.reveal() == odd
        assert event.tokens.refresh_token is not None
        assert event.tokens.refresh_token.reveal() == odd


class TestWhatAPersonIsShown:
    @pytest.mark.parametrize(
        ("body", "shown"),
        [
            ({"error": "x", "error_description": "described"}, "described"),
            ({"error": "x", "message": "messaged"}, "messaged"),
            ({"error": "x", "detail": "detailed"}, "detailed"),
            ({"error": {"message": "nested"}}, "nested"),
            ({"error": {"detail": "nested deeper"}}, "nested deeper"),
            ({"detail": "alone"}, "alone"),
        ],
    )
    def test_the_reason_is_found_under_any_of_its_names(self, body: object, shown: str) -> None:
        event = polled(body, 400)
        assert isinstance(event, AttemptFailed)
        assert event.description == shown

    @pytest.mark.parametrize(
        "echo",
        ["bad token the-refresh-token", "the-refresh-token", "a the-refresh-token b the-refresh-token"],
    )
    @pytest.mark.parametrize("key", ["error", "error_description", "message", "detail"])
    def test_our_secret_is_struck_out_of_an_echo(self, key: str, echo: str) -> None:
        for status in (400, 401, 403):
            event = refreshed({"error": "odd", key: echo}, status)
            assert "the-refresh-token" not in repr(event)
            assert "[redacted]" in repr(event)

    def test_neither_is_what_the_account_holds_beside_it(self) -> None:
        access = Secret("access-token-of-the-account")
        request = wire.refresh_request(PROVIDER, REFRESH_TOKEN, access)
        body = {"error": "invalid_grant", "error_description": f"{access.reveal().upper()} or access-token-of..."}
        assert wire.parse_refresh(reply(body, 400), request) == InvalidGrant(
            "invalid_grant", "[redacted] or [redacted]"
        )
        request = wire.poll_request(PROVIDER, CODE, access)
        event = wire.parse_poll(reply({"error": "access-token-of", "message": access.reveal()}, 400), request)
        assert event == AttemptFailed("[redacted]", "[redacted]")

    def test_nor_what_the_reply_gives_out_itself(self) -> None:
        """Tokens beside an error are not taken, and the old ones stay: these may be good all the same."""
        body = {**TOKEN_BODY, "access_token": "the-newest-access-token", "error": "server_error"}
        event = refreshed({**body, "message": "here you are: the-newest-access-token"}, 200)
        assert event == AttemptFailed("server_error", "here you are: [redacted]")

    @pytest.mark.parametrize("wrapped", [False, True])
    def test_wherever_it_stands_and_also_as_an_error_code(self, wrapped: bool) -> None:
        given = {"refresh_token": "correct-horse-battery-staple"}
        body = {"error": "correct-horse-battery-staple", **({"data": given} if wrapped else given)}
        assert refreshed(body, 400) == AttemptFailed("[redacted]")
        assert started({**body, "message": "correct-horse-battery"}, 400) == AttemptFailed("[redacted]", "[redacted]")

    def test_what_looks_like_a_token_is_in_nothing_that_is_kept(self) -> None:
        """Another one of the account may be, which this sign-in does not know."""
        token = "rt-9Kd02Mfp3LsQ77vWcX1yTnB6hZ"
        assert isinstance(started({**DEVICE_BODY, "user_code": token}), AttemptFailed)
        issued = started({**DEVICE_BODY, "verification_uri_complete": f"https://x.example/?c={token}"})
        assert isinstance(issued, DeviceCodeIssued)
        assert issued.device_authorization.verification_uri_complete is None
        event = refreshed({**TOKEN_BODY, "token_type": token, "scope": f"read {token}"})
        assert isinstance(event, AccessTokenIssued)
        assert (event.tokens.token_type, event.tokens.scope) == (None, None)

    @pytest.mark.parametrize("key", ["scope", "token_type"])
    @pytest.mark.parametrize("secret", ["the-new-access-token", "the-new-refresh-token", "the-refresh-token"])
    def test_what_is_kept_in_clear_holds_none(self, key: str, secret: str) -> None:
        body = {**TOKEN_BODY, "access_token": "the-new-access-token", "refresh_token": "the-new-refresh-token"}
        for said in (secret, f"read {secret}", f"read {secret[:12]}", quote(secret, safe="").replace("-", "%2d")):
            event = refreshed({**body, key: said})
            assert isinstance(event, AccessTokenIssued)
            assert getattr(event.tokens, key) is None
            assert event.tokens.access_token == Secret("the-new-access-token"), "the tokens are taken all the same"

    def test_a_device_code_is_no_code_for_people_and_in_no_link(self) -> None:
        body = {**DEVICE_BODY, "device_code": "device-code-of-this-sign-in"}
        for field in ("user_code", "verification_uri"):
            assert isinstance(started({**body, field: "https://x.example/device-code-of-this-sign-in"}), AttemptFailed)
        link = "https://x.example/?code=device%2dcode%2dof%2dthis%2dsign%2din"
        issued = started({**body, "verification_uri_complete": link})
        assert isinstance(issued, DeviceCodeIssued)
        assert issued.device_authorization.verification_uri_complete is None

    def test_also_where_the_form_is_echoed_as_it_was_sent(self) -> None:
        secret = Secret("a+b/c d&e=")
        request = wire.refresh_request(PROVIDER, secret)
        for echo in (request.body.decode(), quote(secret.reveal(), safe="")):
            event = wire.parse_refresh(reply({"error": "invalid_grant", "error_description": echo}, 400), request)
            assert isinstance(event, InvalidGrant)
            assert event.description is not None
            assert "c%20d" not in event.description
            assert "c+d" not in event.description
            assert "[redacted]" in event.description

    @pytest.mark.parametrize(
        ("sent", "shown"),
        [
            ("\x1b[2J\x1b[31mowned\x1b[0m", "[2J [31mowned [0m"),
            ("line\r\nline\ttab", "line line tab"),
            ("bell\x07 null\x00 csi\x9b2J", "bell null csi 2J"),
            ("right\u202eto left", "right to left"),
            ("half \ud800 a pair", "half a pair"),
        ],
    )
    def test_nothing_in_it_can_steer_a_terminal(self, sent: str, shown: str) -> None:
        event = polled({"error": "access_denied", "error_description": sent})
        assert event == AccessDenied("access_denied", shown)
        issued = started({**DEVICE_BODY, "user_code": sent})
        assert isinstance(issued, DeviceCodeIssued)
        assert issued.device_authorization.user_code == shown

    def test_it_is_cut_short(self) -> None:
        event = polled({"error": "access_denied", "error_description": "x" * 100_000})
        assert isinstance(event, AccessDenied)
        assert event.description == "x" * 299 + "…"
        odd = polled({"error": "y" * 100_000})
        assert isinstance(odd, AttemptFailed)
        assert len(odd.error) <= 64


class TestRetryAfter:
    @pytest.mark.parametrize(
        ("sent", "seconds"),
        [
            ("120", 120.0),
            (" 120 ", 120.0),
            ("0", 0.0),
            ("1.5", 1.5),
            ("999999999", 86_400.0),
            ("9" * 500, 86_400.0),
            (formatdate(NOW + 90, usegmt=True), 90.0),
            (formatdate(NOW - 90, usegmt=True), 0.0),
            ("Wed, 01 Jan 9999 00:00:00 GMT", 86_400.0),
            (None, None),
            ("", None),
            ("-5", None),
            ("soon", None),
            ("NaN", None),
            ("1e3", None),
            ("120, 130", None),
            ("Wed, 99 Foo 2024 99:99:99 GMT", None),
        ],
    )
    def test_is_seconds_or_an_http_date_or_nothing(self, sent: str | None, seconds: float | None) -> None:
        assert wire.retry_after(sent, NOW) == seconds

    @quick
    @given(st.text(st.characters(codec="latin-1"), max_size=60))
    def test_no_header_makes_it_raise(self, text: str) -> None:
        waited = wire.retry_after(text, NOW)
        assert waited is None or 0 <= waited <= 86_400


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from([*TOKEN_BODY, *DEVICE_BODY, "error", "error_description", "message", "detail", "interval"])
codes = st.sampled_from(
    [
        "authorization_pending",
        "slow_down",
        "access_denied",
        "expired_token",
        "invalid_grant",
        "invalid_client",
        "?",
    ]
)
bodies = (
    st.binary(max_size=200)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(keys, json_values | codes, max_size=8).map(lambda value: json.dumps(value).encode())
)
replies = st.builds(Reply, st.integers(100, 599), bodies, st.none() | st.floats(0, 86_400), st.booleans())


class TestWhateverAServerSends:
    @quick
    @given(replies)
    def test_an_event_comes_of_it_and_never_an_exception(self, sent: Reply) -> None:
        for event in (
            wire.parse_device_authorization(sent, START),
            wire.parse_poll(sent, POLL),
            wire.parse_refresh(sent, REFRESH),
        ):
            assert isinstance(event, get_args(events.Event))

    @quick
    @given(replies)
    def test_its_numbers_are_sane_and_its_texts_are_printable(self, sent: Reply) -> None:
        match wire.parse_device_authorization(sent, START):
            case DeviceCodeIssued(device_authorization=issued):
                assert 0 < issued.expires_in <= 86_400
                assert 0 < issued.interval <= 300
                assert issued.user_code.isprintable()
            case AccessDenied(description=text) | AttemptFailed(description=text):
                assert text is None or text.isprintable()
        match wire.parse_poll(sent, POLL):
            case AccessTokenIssued(tokens=tokens):
                assert tokens.expires_in is None or 0 < tokens.expires_in <= 366 * 86_400
                tokens.access_token.reveal().encode()
            case SlowDown(interval=interval):
                assert interval is None or 0 < interval <= 300
            case AttemptFailed(error=error):
                assert error.isprintable()
                assert 0 < len(error) <= 64

    @quick
    @given(st.text(max_size=30), st.text(max_size=30), keys, st.integers(200, 599))
    def test_no_secret_of_ours_survives_an_echo(self, before: str, after: str, key: str, status: int) -> None:
        sent = reply({"error": "odd", key: f"{before}{REFRESH_TOKEN.reveal()}{after}"}, status)
        event = wire.parse_refresh(sent, REFRESH)
        if not isinstance(event, AccessTokenIssued):
            assert REFRESH_TOKEN.reveal() not in repr(event)

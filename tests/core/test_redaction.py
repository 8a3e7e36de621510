"""What somebody else has written is shown without secrets: whole, in pieces, and in any spelling."""

from __future__ import annotations

import html
import json
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiflow.redaction import PIECE, _known, clear_of, holds, redacted, struck_out, without_tokens
from kimiflow.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable

WORDS = "purple+monkey/dish washer&co=="
"""Nothing about it looks like a token; it is only known because the account holds it."""
PLAIN = "purple-monkey-dishwasher"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJkMDFnYiIsImV4cCI6MTc1NDl9.c2lnbmF0dXJlLW9mLWl0"

SPELLINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "capitals": str.upper,
    "percent-encoded": lambda s: quote(s, safe=""),
    "percent-encoded in small letters": lambda s: quote(s, safe="").lower(),
    "as a form": quote_plus,
    "twice": lambda s: quote(quote(s, safe=""), safe=""),
    "every character": lambda s: "".join(f"%{ord(c):02x}" for c in s),
    "HTML": html.escape,
    "HTML in numbers": lambda s: "".join(f"&#{ord(c)};" for c in s),
    "JSON in JSON": lambda s: json.dumps(json.dumps(s)),
    "JSON in numbers": lambda s: "".join(f"\\u{ord(c):04x}" for c in s),
    "base64": lambda s: b64encode(s.encode()).decode(),
    "base64 for URLs": lambda s: urlsafe_b64encode(s.encode()).decode().rstrip("="),
    "base64 with a name": lambda s: b64encode(f"user:{s}".encode()).decode(),
    "base64, percent-encoded": lambda s: quote(b64encode(s.encode()).decode(), safe=""),
    "hex": lambda s: s.encode().hex(),
    "a prefix": lambda s: s[:PIECE],
    "a prefix with dots": lambda s: f"{s[:PIECE]}...",
    "the middle": lambda s: s[5 : 5 + PIECE],
    "the end": lambda s: s[-PIECE:],
    "in a URL": lambda s: f"https://x.example/?token={quote_plus(s)}&y=1",
    "in quotes": lambda s: f"'{s}'",
    "as a header": lambda s: f"Bearer {s}",
    "over two lines": lambda s: f"{s[:10]}\n{s[10:]}",
    "with what cannot be seen in it": "\u200b".join,
    "with what joins without being seen": "\u034f".join,
    "in wide letters": lambda s: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in s),
    "percent-encoded four times": lambda s: quote(quote(quote(quote(s, safe=""), safe=""), safe=""), safe=""),
    "hex behind a letter": lambda s: "x" + s.encode().hex(),
    "JSON with braces": lambda s: "".join(f"\\u{{{ord(c):x}}}" for c in s),
    "octal": lambda s: "".join(f"\\{ord(c):03o}" for c in s),
    "long": lambda s: "".join(f"\\U{ord(c):08x}" for c in s),
    "percent and u": lambda s: "".join(f"%u{ord(c):04x}" for c in s),
    "base64 of percent-encoded": lambda s: b64encode(quote(s, safe="").encode()).decode(),
    "base64 twice": lambda s: b64encode(b64encode(s.encode())).decode(),
    "base64 of UTF-16": lambda s: b64encode(s.encode("utf-16-le")).decode(),
}


@pytest.mark.parametrize("secret", [WORDS, PLAIN, JWT])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_secret_is_shown(secret: str, spelling: str) -> None:
    spelt = SPELLINGS[spelling](secret)
    shown = redacted(f"the token {spelt} is not known", [Secret("something-else-altogether"), Secret(secret)])
    assert "[redacted]" in shown
    assert not pieces(secret) & pieces(shown)
    assert not pieces(spelt) & pieces(shown)


def pieces(text: str) -> set[str]:
    return {text[at : at + PIECE] for at in range(len(text) - PIECE + 1)}


@pytest.mark.parametrize(
    "text",
    [
        "The refresh token has been revoked by its owner.",
        "Unknown client: kimi-code-command-line-interface",
        "Too many requests, please try again in 30 seconds (limit: 100 per minute)",
        "invalid_request: missing parameter grant_type at https://auth.kimi.com/api/oauth/token?lang=en",
        "用户拒绝了授权请求,请重新登录。",
        "Cannot connect to host auth.kimi.com:443 [Errno 111] Connection refused",
        "error 40012345 at 2026-03-14T15:09:26.535+00:00",
        "org.example.oauth.InvalidRefreshTokenProvidedException at TokenEndpointAuthenticationFilter",
        "x" * 300,
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text, [Secret(JWT), Secret(PLAIN)]) == text


@pytest.mark.parametrize(
    "token",
    [
        JWT,
        "sk-kimi-9fQ2xLw7Zp1RtB8vN3mKc6Yd",
        "0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33",
        "gho_16C7e42F292c6912E7710c838347Ae178B4a",
        "4815162342481516234248151623",
        "9b74c9897bac770ffc029102a200c5de9b74c989",
        "qLwZpRtBvNmKcYdxQfGhTjUs",
    ],
)
def test_what_may_be_a_token_that_nobody_knows_is_not_shown_either(token: str) -> None:
    """The token before the last one, another account's: only its looks tell."""
    for said in (f"no such token: {token}", f"refresh_token={token}&x=y", f"({token})"):
        assert token not in redacted(said, [])


def test_who_makes_up_a_secret_does_not_decide_how_long_that_takes() -> None:
    """Counted in looks, not in seconds: each of them is at a set."""
    endless = "a" * 900_000
    text = "aaaaaaaaaaab" * 97 + "&amp;amp;amp;a"
    assert redacted(text, [Secret(endless)]) == text
    known = _known([endless])
    assert len(known[0]._whole) <= 16_384
    assert not known[0].is_in("b" * 1_200)
    assert len(known[0]._pieces or ()) == 1


def test_a_short_secret_is_looked_for_as_a_whole() -> None:
    assert redacted("code abc12345 is used", [Secret("abc12345")]) == "code [redacted] is used"
    assert redacted("a dc is a dcode", [Secret("dc")]) == "a [redacted] is a dcode"


def test_a_text_without_end_is_cut_before_a_secret_is() -> None:
    shown = redacted("word " * 239 + PLAIN + " more", [Secret(PLAIN)])
    assert PLAIN[:5] not in shown


def test_it_is_one_line() -> None:
    assert redacted("a\n b\x1b[31m\tc", []) == "a b [31m c"


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=PIECE, max_size=60),
    st.text(max_size=60),
    st.text(max_size=60),
    st.data(),
)
def test_whatever_stands_around_it_no_piece_of_it_is_left(before: str, secret: str, after: str, data: Any) -> None:
    before, secret = secret, before
    at = data.draw(st.integers(0, len(secret) - PIECE))
    piece = secret[at : data.draw(st.integers(at + PIECE, len(secret)))]
    spelt = data.draw(st.sampled_from([piece, quote_plus(piece), html.escape(piece), json.dumps(piece)]))
    shown = redacted(f"{before} {spelt} {after}", [Secret(secret)])
    for text in (shown, html.unescape(shown)):
        assert piece not in text


class TestWhatIsKeptInClear:
    @pytest.mark.parametrize("spelling", SPELLINGS)
    def test_is_nothing_where_it_holds_a_secret(self, spelling: str) -> None:
        if spelling != "with what cannot be seen in it":  # which is taken out before
            assert clear_of([Secret(PLAIN)], f"read write {SPELLINGS[spelling](PLAIN)}") is None

    def test_is_the_text_otherwise(self) -> None:
        assert (
            clear_of([Secret(PLAIN), Secret(JWT)], "openid profile offline_access") == "openid profile offline_access"
        )
        assert clear_of([Secret(PLAIN)], "Bearer") == "Bearer"
        assert clear_of([], "Bearer") == "Bearer"
        assert clear_of([Secret(PLAIN)], None) is None
        assert not holds("Bearer", [])


def test_in_a_traceback_the_lines_stay() -> None:
    trace = 'Traceback:\n  File "/usr/lib/python3.11/site-packages/x.py", line 7\nValueError: sk-9fQ2xLw7Zp1RtB8vN3m\n'
    assert without_tokens(trace) == trace.replace("sk-9fQ2xLw7Zp1RtB8vN3m", "[redacted]")


def test_of_json_only_the_texts_change() -> None:
    reply = {
        "id": "0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33",
        "n": 1,
        "at": [None, True, f"x {PLAIN}"],
        PLAIN: {"a": PLAIN},
    }
    assert struck_out(reply, [Secret(PLAIN)]) == {
        "id": "0f3c9d52-7a1e-4c9b-8f0a-2b6d1e5a4c33",
        "n": 1,
        "at": [None, True, "x [redacted]"],
        "[redacted]": {"a": "[redacted]"},
    }

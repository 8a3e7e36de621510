"""Replies drawn from a seed: what authorization servers are known to send, and what becomes of it in bad hands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from random import Random

__all__ = ["Ending", "Reply", "draw"]


class Ending(Enum):
    """What becomes of the connection after the last byte."""

    STAYS = auto()
    CLOSES = auto()
    RESETS = auto()


@dataclass(frozen=True)
class Reply:
    """What the server does with one request."""

    pieces: tuple[bytes, ...]
    pause: float = 0.0
    """Seconds between two pieces."""
    ending: Ending = Ending.STAYS
    early: bool = False
    """The first piece is sent as soon as the head of the request is there."""


WORDS: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 5.5, 1e308, float("nan"), float("inf"), -float("inf"), 10**30, "", " ", "3600", "5.5",
    "abc", "NaN", "-1", "1e999", [], {}, [[]], {"a": {}}, "\x00\x1b[2J\x07", "\ud800", "\u202egnp.exe", "x" * 5_000,
    "javascript:alert(1)", "http://", "https://[::1", "authorization_pending", "slow_down", "access_denied", "é" * 40,
)  # fmt: skip
"""What stands where something else is expected."""

ERRORS = (
    "authorization_pending", "slow_down", "access_denied", "expired_token", "invalid_grant", "invalid_client",
    "unauthorized_client", "unsupported_grant_type", "invalid_request", "invalid_scope", "server_error", "Forbidden",
    "temporarily_unavailable", "rate_limit_exceeded", "bad_verification_code", "invalid device code", "code_expired",
)  # fmt: skip

STATUSES = (200, 200, 200, 200, 201, 204, 301, 302, 303, 304, 307, 308, 400, 400, 400, 401, 402, 403, 404, 408,
            418, 429, 500, 502, 503, 504, 599, 999)  # fmt: skip

RETRY_AFTER = (
    "5", "0", "-1", "1.5", "9" * 400, "soon", "", "Fri, 31 Dec 1999 23:59:59 GMT", "Fri, 31 Dec 9999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 -2359", "Fri, 31 Dec 2099 23:59:59", "32 Foo 99999999999 99:99:99 +9999", "\xff\xfe",
    "٣", ", , , ,", "1 2 3 4 5 6 7", "Thu, 01 Jan 1970 00:00:00 +99999999999999",
)  # fmt: skip


def _good(rng: Random, marker: str) -> dict[str, Any]:
    kind = rng.randrange(4)
    if kind == 0:
        return {
            "device_code": f"dc-{marker}",
            "user_code": "ABCD-EFGH",
            rng.choice(("verification_uri", "verification_url")): "https://kimi.example/device",
            "verification_uri_complete": "https://kimi.example/device?user_code=ABCD-EFGH",
            "expires_in": 1800,
            "interval": 5,
        }
    if kind == 1:
        return {"error": rng.choice(ERRORS), "error_description": f"words {marker}", "interval": 10}
    return {
        "access_token": f"at-{marker}",
        "refresh_token": f"rt-{marker}",
        "token_type": "Bearer",
        "scope": "kimi-code",
        "expires_in": 900,
    }


def _body(rng: Random, marker: str, secret: str) -> bytes:
    fields = _good(rng, marker)
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2, 4))):
        key = rng.choice([*fields, "error", "message", "detail", "error_description", "interval", "expires_in"])
        match rng.randrange(6):
            case 0:
                fields.pop(key, None)
            case 1:
                fields[key] = {"message": rng.choice(WORDS), "code": rng.choice(WORDS)}
            case 2:
                # Servers echo what they were sent.
                fields[key] = f"what is {secret}?"
            case _:
                fields[key] = rng.choice(WORDS)
    text = json.dumps(fields, ensure_ascii=rng.random() < 0.9)
    raw = text.encode("utf-8", "surrogatepass")
    match rng.randrange(30):
        case 0:
            return rng.randbytes(rng.randrange(400))
        case 1:
            return raw[: rng.randrange(len(raw))]
        case 2:
            return b"\xef\xbb\xbf" + raw
        case 3:
            return text.encode("utf-16", "surrogatepass")
        case 4:
            return b"<!DOCTYPE html><html><body><h1>502</h1>" + raw + b"</body></html>"
        case 5:
            return rng.choice(
                (b"", b"null", b"[]", b'"text"', b"1", b"{", b"[" * 60_000, b'{"a":' * 20_000, b" " * 9_000)
            )
        case 6:
            return (
                b'{"expires_in": '
                + rng.choice((b"9" * 20_000, b"0." + b"0" * 20_000 + b"1", b"1e", b"-"))
                + b","
                + raw[1:]
            )
        case 7:
            return raw[:-1] + b"," + raw[1:]  # every key twice
        case 8:
            return raw + rng.choice((b"\n", b"\x00", raw, b"garbage"))
        case _:
            return raw


def _framed(rng: Random, body: bytes) -> tuple[list[bytes], bytes, bool]:
    """Headers that say how long the body is, the body as it goes out, and whether its end is the connection's."""
    length = len(body)
    match rng.randrange(30):
        case 0:
            wrong = rng.choice((length + 1, length + 10**6, max(0, length - 1), length // 2, 10**17))
            return [b"Content-Length: %d" % wrong], body, False
        case 1:
            odd = rng.choice((b"-1", b"+5", b"0x10", b"1e3", b"", b"five", b"9" * 30, b"5 5", b"\xb2"))
            return [b"Content-Length: " + odd], body, False
        case 2:
            return [b"Content-Length: %d" % length, b"Content-Length: %d" % (length + rng.randrange(2))], body, False
        case 3:
            return [], body, True
        case 4:
            return [b"Transfer-Encoding: " + rng.choice((b"gzip", b"chunked, gzip", b"identity", b"x"))], body, False
        case 5:
            return (
                [b"Transfer-Encoding: chunked", b"Content-Length: %d" % rng.choice((0, length))],
                _chunks(rng, body),
                False,
            )
        case n if n < 16:
            return (
                [rng.choice((b"Transfer-Encoding: chunked", b"transfer-encoding:Chunked"))],
                _chunks(rng, body),
                False,
            )
        case _:
            return [b"Content-Length: %d" % length], body, False


def _chunks(rng: Random, body: bytes) -> bytes:
    sent, at = bytearray(), 0
    while at < len(body):
        size = rng.choice((1, 2, 7, 100, 4_000))
        piece = body[at : at + size]
        at += size
        written = (
            b"%x" % len(piece) if rng.random() < 0.999 else rng.choice((b"", b"-1", b"zz", b"f" * 9, b"7fffffff", b"0"))
        )
        sent += (
            written
            + rng.choice((b"",) * 90 + (b";a=b", b" ", b"\t;c", b";" + b"x" * 900, b";" + b"x" * 2_000))
            + b"\r\n"
        )
        sent += piece + (b"\r\n" if rng.random() < 0.999 else rng.choice((b"", b"\n", b"x\r\n")))
    return bytes(sent) + rng.choice(
        (b"0\r\n\r\n",) * 24 + (b"0\r\nTrailer: x\r\n\r\n", b"0\r\n", b"", b"00000000\r\n\r\n")
    )


def _head(rng: Random, framing: list[bytes]) -> bytes:
    version = rng.choice((b"HTTP/1.1",) * 40 + (b"HTTP/1.0", b"HTTP/2", b"ICY", b"http/1.1", b""))
    status = (
        b"%d" % rng.choice(STATUSES)
        if rng.random() < 0.98
        else rng.choice((b"20", b"2000", b"abc", b"", b"-20", b"099"))
    )
    lines = [version + b" " + status + rng.choice((b" OK", b"", b" ", b" \xff\xfe", b" " + b"x" * 900)), *framing]
    more = (
        b"Content-Type: application/json",
        b"Connection: close",
        b"Connection: keep-alive",
        b"Content-Encoding: gzip",
        b"Location: /api/oauth/elsewhere",
        b"Location: //elsewhere.example/",
        b"Set-Cookie: a=b",
        b"Keep-Alive: timeout=0",
        b"X: " + b"y" * 3_000,
        b"Retry-After: " + rng.choice(RETRY_AFTER).encode("utf-8"),
    )
    lines += rng.choices(more, k=rng.randrange(4))
    if rng.random() < 0.04:
        lines.append(
            rng.choice((b"no colon", b": no name", b" folded: x", b"a b: c", b"X\x00: y", b"Y: a\nb", b"Z : q"))
        )
    if rng.random() < 0.03:
        lines += [b"Flood-%d: x" % n for n in range(rng.choice((200, 6_000)))]
    rest = lines[1:]
    rng.shuffle(rest)
    lines[1:] = rest
    return b"\r\n".join(lines) + (b"\r\n\r\n" if rng.random() < 0.98 else rng.choice((b"\n\n", b"\r\n", b"\r\n\r")))


def _in_bad_hands(rng: Random, raw: bytes) -> bytes:
    """The same with a few bytes changed, taken out, put in or repeated."""
    changed = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if at < len(changed):
                changed[at] = rng.randrange(256)
            case 1:
                del changed[at : at + rng.randrange(8)]
            case 2:
                changed[at:at] = rng.choice(
                    (b"\r\n", b"\r\n\r\n", b"\n", b"\x00", b"HTTP/1.1 200 OK\r\n\r\n", b"0\r\n\r\n")
                )
            case 3:
                changed[at:at] = changed[at : at + rng.randrange(60)]
            case _:
                changed[at:at] = rng.randbytes(rng.randrange(5))
    return bytes(changed)


def _afterwards(rng: Random, stale: str) -> bytes:
    """What comes after a reply that nobody asked for: most tempting, another one, with tokens."""
    body = json.dumps({"access_token": f"at-{stale}", "refresh_token": f"rt-{stale}"}).encode()
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    return rng.choice((whole, whole[: rng.randrange(1, len(whole))], b"\r\n", b"\x00", rng.randbytes(9)))


def draw(rng: Random, *, marker: str, stale: str, secret: str) -> Reply:
    """One reply.

    :param marker: stands in the tokens of this reply.
    :param stale: stands in tokens that nobody may ever hold.
    :param secret: what the client sent.
    """
    framing, body, ends = _framed(rng, _body(rng, marker, secret))
    raw = _head(rng, framing) + body
    if rng.random() < 0.03:
        interim = rng.choice((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"))
        raw = interim * rng.choice((1, 3, 3_000)) + raw
    if rng.random() < 0.01:
        raw = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n" + raw
    if rng.random() < 0.12:
        raw = _in_bad_hands(rng, raw)
    if rng.random() < 0.02:
        raw = rng.randbytes(rng.randrange(3_000))
    # In one piece with the reply: what comes later, when the next request has left, cannot be told from its reply.
    followed = rng.random() < 0.1
    if followed:
        raw += _afterwards(rng, stale)
    if rng.random() < 0.05:
        raw = raw[: rng.randrange(len(raw) + 1)]
        ends = True
    ending = Ending.STAYS
    if ends or rng.random() < 0.1:
        ending = rng.choice((Ending.CLOSES, Ending.CLOSES, Ending.RESETS))
    pieces, pause = (raw,), 0.0
    if rng.random() < 0.2 and not followed:
        cuts = sorted(rng.randrange(len(raw) + 1) for _ in range(rng.choice((1, 2, 5, 20))))
        pieces = tuple(raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b)
        pause = rng.choice((0.0, 0.0, 0.001))
    if rng.random() < 0.01 and not followed:
        pieces, pause = tuple(raw[n : n + 1] for n in range(min(len(raw), 2_000))), 0.01
    return Reply(pieces, pause, ending, early=rng.random() < 0.05)

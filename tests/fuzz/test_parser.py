"""The parser of replies alone: however the bytes are cut, and as another parser reads them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kimiflow.http.framing import BadFraming, ReplyParser

from .harness import Fuzz

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

MOST = 1_000
thorough = settings(
    max_examples=int(os.environ.get("KIMIFLOW_FUZZ_CASES", "2000")) // 8, deadline=None, database=None, derandomize=True
)

Result = tuple[str, int, list[tuple[bytes, bytes]], bytes, bool]


def parsed(pieces: Iterable[bytes], *, most: int = MOST) -> Result:
    """What a connection makes of it: how it ended, status, headers, body, and whether it may be used again."""
    parser, rest = ReplyParser(most), list(pieces)
    try:
        while rest:
            reply = parser.feed(rest.pop(0))
            if reply is not None:
                # What is left in the pieces arrives at a connection that is not waiting for it, and ends it.
                return "whole", *reply[:3], parser.reusable and not any(rest)
    except BadFraming:
        return "bad", 0, [], b"", False
    so_far = parser.so_far() or (0, [], b"")
    return "to the end" if parser.ends_with_connection else "cut short", *so_far[:3], False


def cut(raw: bytes, at: Sequence[int]) -> list[bytes]:
    cuts = sorted(n % (len(raw) + 1) for n in at)
    return [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True) if a < b]


token = st.text("abcdefghijklmnopqrstuvwxyzABCXYZ0123456789-_", min_size=1, max_size=12).map(str.encode)
value = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(str.encode)
FRAMING = {b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"keep-alive"}
header = st.tuples(token.filter(lambda name: name.lower() not in FRAMING), value).map(b": ".join)
body = st.binary(max_size=300)


@st.composite
def chunked(draw: st.DrawFn, content: bytes) -> bytes:
    sent, at = b"", 0
    while at < len(content):
        size = draw(st.integers(1, len(content) - at))
        extension = draw(st.sampled_from([b"", b"", b";a=b", b";c"]))
        digits = b"%x" % size if draw(st.booleans()) else b"0%X" % size
        sent += digits + extension + b"\r\n" + content[at : at + size] + b"\r\n"
        at += size
    trailers = draw(st.lists(header, max_size=2))
    return sent + b"\r\n".join([b"0", *trailers]) + b"\r\n\r\n"


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """Well-formed ones, all ways of framing, with interim replies before."""
    content = draw(body)
    status = draw(st.sampled_from([200, 200, 201, 204, 304, 307, 400, 401, 403, 429, 500, 503]))
    lines = draw(st.lists(header, max_size=4))
    if status in {204, 304}:
        sent = b""
    else:
        match draw(st.integers(0, 2)):
            case 0:
                lines.append(draw(st.sampled_from([b"Content-Length: %d", b"content-length:%d "])) % len(content))
                sent = content
            case 1:
                lines.append(draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding:chunked"])))
                sent = draw(chunked(content))
            case _:
                sent = content
    connection = draw(st.sampled_from([None, None, b"close", b"keep-alive", b"x, Close"]))
    if connection is not None:
        lines.append(b"Connection: " + connection)
    lines = draw(st.permutations(lines))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"]))
    head = b"\r\n".join([version + b" %d Words of it" % status, *lines]) + b"\r\n\r\n"
    interim = draw(
        st.lists(st.sampled_from([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nA: b\r\n\r\n"]), max_size=2)
    )
    return b"".join(interim) + head + sent


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = bytearray(draw(replies()))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.integers(0, 3)):
            case 0:
                raw[at : at + 1] = draw(st.binary(max_size=2))
            case 1:
                del raw[at : at + draw(st.integers(1, 6))]
            case 2:
                raw[at:at] = draw(
                    st.sampled_from([b"\r\n", b"\r", b"\n", b"\r\n\r\n", b":", b";", b"0", b"\x00", b" "])
                )
            case _:
                raw[at:at] = raw[at : at + 30]
    return bytes(raw)


def by_h11(raw: bytes) -> Result | None:
    """The same by another parser; ``None`` where it refuses."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    connection.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    connection.send(h11.EndOfMessage())
    status, headers, content = 0, [], bytearray()
    try:
        connection.receive_data(raw)
        ended = False
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if ended:
                    return "cut short", 0, [], b"", False
                connection.receive_data(b"")
                ended = True
            elif isinstance(event, h11.Response):
                status = event.status_code
                headers = [(bytes(name), bytes(found)) for name, found in event.headers]
            elif isinstance(event, h11.Data):
                content += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            elif isinstance(event, (h11.ConnectionClosed, type(h11.PAUSED))):
                return "cut short", 0, [], b"", False
    except h11.RemoteProtocolError:
        return None
    # HTTP/1.0 with keep-alive is a connection that h11 never uses again, which is no opinion about its framing.
    old = connection.their_http_version == b"1.0"
    reusable = (old or connection.their_state is h11.DONE) and not connection.trailing_data[0]
    return "to the end" if ended else "whole", status, headers, bytes(content), reusable


@thorough
@given(replies() | damaged() | st.binary(max_size=200), st.lists(st.integers(0, 2_000), max_size=12))
def test_it_does_not_matter_how_the_bytes_are_cut(raw: bytes, at: list[int]) -> None:
    whole = parsed([raw] if raw else [])
    assert parsed(cut(raw, at)) == whole
    assert parsed([raw[n : n + 1] for n in range(len(raw))]) == whole


@pytest.mark.parametrize("seed", range(3))
def test_nor_for_what_the_fuzz_test_draws(seed: int) -> None:
    fuzz = Fuzz(seed, range(0))
    for number in range(120):
        raw = b"".join(fuzz._reply(number).pieces)
        whole = parsed([raw])
        for size in (1, 2, 3, 7, 61, 1_000, 65_536):
            if size < 7 and len(raw) > 5_000:
                continue
            assert parsed([raw[n : n + size] for n in range(0, len(raw), size)]) == whole, (seed, number, size)


LONG = {
    "a head": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: %b\r\n\r\n",
    "a chunk's extension": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;%b\r\nx\r\n0\r\n\r\n",
    "a trailer": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: %b\r\n\r\n",
}


@pytest.mark.parametrize("what", LONG)
@pytest.mark.parametrize("limit", [1_024, 65_536])
def test_nor_around_the_limits_of_length(what: str, limit: int) -> None:
    for length in range(limit - 60, limit + 10):
        raw = LONG[what] % (b"x" * length)
        whole = parsed([raw])
        for at in range(len(raw) - 40, len(raw)):
            assert parsed([raw[:at], raw[at:]]) == whole, (length, at)
        near = raw.find(b"xx") + length - 4
        for at in range(near, near + 10):
            assert parsed([raw[:at], raw[at:]]) == whole, (length, at)


@thorough
@given(replies())
def test_well_formed_replies_are_read_as_another_parser_reads_them(raw: bytes) -> None:
    ours, theirs = parsed([raw]), by_h11(raw)
    assert theirs is not None
    assert ours[0] in {"whole", "to the end"}
    assert ours[1] == theirs[1]
    assert ours[3] == theirs[3]
    told = {name.lower(): found for name, found in theirs[2]}
    assert {name.lower(): found for name, found in ours[2] if name.lower() != b"transfer-encoding"} == {
        name: found for name, found in told.items() if name != b"transfer-encoding"
    }
    assert not ours[4] or theirs[4]


@thorough
@given(damaged())
def test_a_connection_is_used_again_only_where_both_agree_on_the_end(raw: bytes) -> None:
    """Where the other parser understands a damaged reply at all; ours may be the stricter one, never the laxer."""
    ours, theirs = parsed([raw]), by_h11(raw)
    if ours[4] and theirs is not None:
        assert theirs[0] == "whole"
        assert theirs[4]
        assert ours[3] == theirs[3]


@thorough
@given(replies(), st.binary(min_size=1, max_size=20))
def test_what_follows_ends_the_connection(raw: bytes, more: bytes) -> None:
    if parsed([raw])[4]:
        assert not parsed([raw + more])[4]
        assert parsed([raw + more])[:4] == parsed([raw])[:4]

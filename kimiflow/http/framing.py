"""Where an HTTP/1.1 reply ends: the bytes of a connection in, one reply out. Pure.

A reply may hold the only copy of a token, so whatever can be read is read: line breaks without a carriage return, folded
headers, a blank before a colon, a length that makes no sense. Such leniency could confuse one reply with the next
(RFC 9112 §6.3, §11.2), and so a connection over which anything odd came is not used again.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["BadFraming", "RawReply", "ReplyParser"]

_MAX_HEAD: Final = 64 * 1024
_MAX_LINE: Final = 1024
"""Of a chunk's size with its extensions, and of a trailer."""
_NO_CHUNK: Final = -2
_BETWEEN: Final = -1
_HEX: Final = b"0123456789abcdefABCDEF"
_STATUS_LINE: Final = re.compile(rb"(HTTP/[0-9](?:\.[0-9])?)([ \t]+)([0-9]{3})(?![0-9])", re.IGNORECASE)
_TO_BLANKS: Final = bytes.maketrans(b"\r\0", b"  ")


class BadFraming(ValueError):
    """Not a reply that HTTP/1.1 allows, and none that can be made out."""


class RawReply(NamedTuple):
    """What came back; the headers as they were sent, without white space around the values.

    ``surplus`` is what came along behind a body that was as long as was said: it may be the rest of it.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    surplus: bytes = b""


class _Head(NamedTuple):
    """``length`` of the body in bytes; without it, the body comes in chunks or goes on to the end of the connection."""

    status: int
    headers: list[tuple[bytes, bytes]]
    length: int | None
    chunked: bool
    reusable: bool


def _read_head(head: bytes) -> _Head:
    lines, odd = _lines(head)
    found = _STATUS_LINE.match(lines[0])
    if found is None:
        msg = "the reply does not begin with an HTTP/1.1 status line"
        raise BadFraming(msg)
    version, blank, status = found[1], found[2], int(found[3])
    odd = odd or blank != b" " or version not in {b"HTTP/1.1", b"HTTP/1.0"}
    headers, encodings, lengths, options = [], [], set(), set()
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if name != name.strip():
            name, odd = name.strip(), True
        if not colon or not name:
            odd = True
            continue  # not a header, whatever it is
        value = value.strip(b" \t")
        headers.append((name, value))
        match name.lower():
            case b"content-length":
                lengths.update(_listed(value))
                odd = odd or b"," in value
            case b"transfer-encoding":
                codings = [each.partition(b";")[0].strip() for each in _listed(value.lower())]
                encodings += [each for each in codings if each not in {b"", b"identity"}]
                odd = odd or value.lower() != b"chunked"
            case b"connection":
                options.update(_listed(value.lower()))
    # How long the body is, and what becomes of the connection (RFC 9112 §6.3, §9.3).
    reusable = not odd and b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)
    if status == 101:
        msg = "the server switched protocols unasked"
        raise BadFraming(msg)
    if status in {204, 304} or 100 <= status < 200:
        return _Head(status, headers, 0, chunked=False, reusable=reusable)
    if encodings:
        chunked = encodings[-1] == b"chunked"
        reusable = reusable and encodings == [b"chunked"] and not lengths
        return _Head(status, headers, None, chunked=chunked, reusable=reusable)
    if len(lengths) == 1:
        length = lengths.pop()
        if length.isdigit() and len(length) <= 18:
            return _Head(status, headers, int(length), chunked=False, reusable=reusable)
    return _Head(status, headers, None, chunked=False, reusable=False)


def _lines(head: bytes) -> tuple[list[bytes], bool]:
    """The lines, each header in one of them; and whether there is anything odd about them."""
    lines = head.split(b"\r\n")
    breaks = len(lines) - 1
    odd = head[:1] in {b"\r", b"\n"} or head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head
    if odd:
        lines = [line.removesuffix(b"\r").translate(_TO_BLANKS) for line in head.lstrip(b"\r\n").split(b"\n")]
    if b"\n " in head or b"\n\t" in head:
        odd = True
        for at in range(len(lines) - 1, 1, -1):
            if lines[at][:1] in {b" ", b"\t"}:
                lines[at - 1 : at + 1] = [lines[at - 1] + b" " + lines[at].strip(b" \t")]
    return lines, odd


def _listed(value: bytes) -> list[bytes]:
    return [each.strip() for each in value.split(b",")]


class ReplyParser:
    """Finds the end of one reply in a stream of bytes. Fed with each piece that arrives, it keeps at most the bound.

    :param max_body: bytes of a body that are read; of a longer one just one byte more is returned.
    """

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._buffer = bytearray()
        self._body = bytearray()
        self._head: _Head | None = None
        self._chunk_left = _NO_CHUNK  # bytes left of the chunk at hand, or where between two we are
        self._in_trailers = False
        self._odd = False
        self.reusable = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self._head is not None and self._head.length is None and not self._head.chunked

    def so_far(self) -> RawReply | None:
        """The reply as far as it has come; ``None`` where not even its head has."""
        return None if self._head is None else RawReply(self._head.status, self._head.headers, bytes(self._body))

    def feed(self, data: bytes) -> RawReply | None:
        """The reply, once it is complete; ``reusable`` then says whether the connection is.

        :raises BadFraming: where it cannot be made out.
        """
        head, at = self._head, 0
        if head is None and self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        while head is None:
            end, behind = _blank_line(data, at)
            # However the bytes are cut: of an end that is not there yet, two bytes may be.
            if (len(data) - 2 if end < 0 else end) - at > _MAX_HEAD:
                msg = "the reply's head is too long"
                raise BadFraming(msg)
            if end < 0:
                self._buffer += data[at:]
                return None
            if not data[at:end].strip():
                self._odd, at = True, behind  # nothing yet
                continue
            found, at = _read_head(data[at:end].removesuffix(b"\r")), behind
            if not 100 <= found.status < 200:  # else an interim reply; the real one follows
                self._head = head = found
        if at and head.length == len(data) - at <= self._max_body and not self._odd:
            # As nearly always: just the reply, in one piece. What follows here would say the same.
            self.reusable = head.reusable
            return RawReply(head.status, head.headers, data[at:])
        self._buffer += data[at:] if at else data
        if head.chunked and self._chunk_left == _NO_CHUNK and self._buffer and self._buffer[0] not in _HEX + b" \t\r\n":
            # Somebody on the way has taken the chunks out, and left the header that speaks of them.
            self._head = head = head._replace(chunked=False, reusable=False)
        if head.chunked:
            return self.so_far() if self._take_chunks() else None
        if not self._take_plain(head.length):
            return None
        surplus = bytes(self._buffer[: max(0, self._max_body + 1 - len(self._body))])
        return RawReply(head.status, head.headers, bytes(self._body), surplus)

    def _finish(self, *, truncated: bool = False) -> bool:
        sound = self._head is not None and self._head.reusable and not self._odd
        self.reusable = sound and not truncated and not self._buffer
        return True

    def _keep(self, size: int) -> bool:
        """Moves ``size`` bytes from the buffer to the body; whether that is more than may be kept."""
        room = self._max_body + 1 - len(self._body)
        self._body += self._buffer[: min(size, room)]
        del self._buffer[:size]
        return len(self._body) > self._max_body

    def _take_plain(self, length: int | None) -> bool:
        wanted = len(self._buffer) if length is None else length - len(self._body)
        if self._keep(min(wanted, len(self._buffer))):
            return self._finish(truncated=True)
        return len(self._body) == length and self._finish()

    def _take_chunks(self) -> bool:
        while True:
            if self._chunk_left > 0:
                taken = min(self._chunk_left, len(self._buffer))
                if self._keep(taken):
                    return self._finish(truncated=True)
                self._chunk_left -= taken
                if self._chunk_left:
                    return False
            line_end = self._buffer.find(b"\n")
            if (len(self._buffer) if line_end < 0 else line_end) > _MAX_LINE + 1:
                msg = "the reply has a malformed chunk"
                raise BadFraming(msg)
            if line_end < 0:
                return False
            line = bytes(self._buffer[:line_end])
            self._odd = self._odd or not line.endswith(b"\r")
            line = line.removesuffix(b"\r")
            del self._buffer[: line_end + 1]
            if self._in_trailers:
                if not line:
                    return self._finish()
                self._odd = self._odd or b":" not in line
            elif self._chunk_left == 0:
                if line:
                    msg = "a chunk of the reply is longer than it says"
                    raise BadFraming(msg)
                self._chunk_left = _BETWEEN
            else:
                size = line.partition(b";")[0]
                self._odd = self._odd or size[:1] not in _HEX
                size = size.strip()
                if not size or len(size.lstrip(b"0")) > 8 or size.strip(_HEX):
                    msg = "the reply has a malformed chunk size"
                    raise BadFraming(msg)
                self._chunk_left = int(size, 16)
                self._in_trailers = self._chunk_left == 0


def _blank_line(data: bytes, start: int) -> tuple[int, int]:
    """Where the line before the first empty one ends, but for a carriage return, and what comes behind; -1: nowhere yet."""
    end = data.find(b"\n\r\n", start)
    bare = data.find(b"\n\n", start) if end < 0 else data.find(b"\n\n", start, end + 1)
    return (bare, bare + 2) if bare >= 0 else (end, end + 3)

"""Where an HTTP/1.1 reply ends: the bytes of a connection in, one reply out. Pure.

Strict where leniency could confuse one reply with the next (RFC 9112 §6.3, §11.2): two lengths, a length beside chunks,
an encoding nobody asked for, a line break that is none.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["BadFraming", "RawReply", "ReplyParser"]

_MAX_HEAD: Final = 64 * 1024
_MAX_LINE: Final = 1024
"""Of a chunk's size with its extensions, and of a trailer."""
_FRAMING: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})


class BadFraming(ValueError):
    """Not a reply that HTTP/1.1 allows."""


class RawReply(NamedTuple):
    """What came back; the headers as they were sent, without white space around the values."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class _Head(NamedTuple):
    """``length`` of the body in bytes; without it, the body comes in chunks or goes on to the end of the connection."""

    status: int
    headers: list[tuple[bytes, bytes]]
    length: int | None
    chunked: bool
    reusable: bool


def _read_head(head: bytes) -> _Head:
    status_line, _, fields = head.partition(b"\r\n")
    version, _, rest = status_line.partition(b" ")
    if version not in {b"HTTP/1.1", b"HTTP/1.0"} or not rest[:3].isdigit() or rest[3:4] not in {b" ", b""}:
        msg = "the reply does not begin with an HTTP/1.1 status line"
        raise BadFraming(msg)
    lines = fields.split(b"\r\n") if len(head) > len(status_line) else []
    breaks = max(len(lines) - 1, 0)
    sound = fields.count(b"\r") == breaks and fields.count(b"\n") == breaks and b"\0" not in fields
    headers, encodings, lengths, options = [], [], set(), set()
    for line in lines:
        name, colon, value = line.partition(b":")
        if not sound or not colon or not name or name != name.strip():
            msg = "the reply has a malformed header"
            raise BadFraming(msg)
        value = value.strip(b" \t")
        headers.append((name, value))
        match name.lower():
            case b"content-length":
                lengths.update(_listed(value))
            case b"transfer-encoding":
                encodings.append(value.lower())
            case b"connection":
                options.update(_listed(value.lower()))
    # How long the body is, and what becomes of the connection (RFC 9112 §6.3, §9.3).
    status = int(rest[:3])
    reusable = b"close" not in options and (version == b"HTTP/1.1" or b"keep-alive" in options)
    if status == 101:
        msg = "the server switched protocols unasked"
        raise BadFraming(msg)
    if status in {204, 304} or 100 <= status < 200:
        return _Head(status, headers, 0, chunked=False, reusable=reusable)
    if encodings:
        if encodings != [b"chunked"]:
            msg = "the reply has a transfer encoding other than chunked"
            raise BadFraming(msg)
        return _Head(status, headers, None, chunked=True, reusable=reusable and not lengths)
    if lengths:
        length = lengths.pop()
        if lengths or not length.isdigit() or len(length) > 18:
            msg = "the reply's content length makes no sense"
            raise BadFraming(msg)
        return _Head(status, headers, int(length), chunked=False, reusable=reusable)
    return _Head(status, headers, None, chunked=False, reusable=False)


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
        self._chunk_left = -1  # bytes left of the chunk at hand; -1: a size line comes next
        self._in_trailers = False
        self.reusable = False

    @property
    def ends_with_connection(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        return self._head is not None and self._head.length is None and not self._head.chunked

    def ended(self) -> RawReply:
        """The reply as far as it has come, at the end of a connection that ends it."""
        assert self._head is not None  # noqa: S101 - else the connection's end would not have ended it
        return RawReply(self._head.status, self._head.headers, bytes(self._body))

    def feed(self, data: bytes) -> RawReply | None:
        """The reply, once it is complete; ``reusable`` then says whether the connection is.

        :raises BadFraming: where it is no HTTP/1.1.
        """
        head, at = self._head, 0
        if head is None and self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        while head is None:
            end = data.find(b"\r\n\r\n", at)
            # However the bytes are cut: of an end that is not there yet, three bytes may be.
            if (len(data) - 3 if end < 0 else end) - at > _MAX_HEAD:
                msg = "the reply's head is too long"
                raise BadFraming(msg)
            if end < 0:
                self._buffer += data[at:]
                return None
            found, at = _read_head(data[at:end]), end + 4
            if not 100 <= found.status < 200:  # else an interim reply; the real one follows
                self._head = head = found
        if at and head.length == len(data) - at <= self._max_body:
            # As nearly always: just the reply, in one piece. What follows here would say the same.
            self.reusable = head.reusable
            return RawReply(head.status, head.headers, data[at:])
        self._buffer += data[at:] if at else data
        complete = self._take_chunks() if head.chunked else self._take_plain(head.length)
        return self.ended() if complete else None

    def _finish(self, *, truncated: bool = False) -> bool:
        self.reusable = self._head is not None and self._head.reusable and not truncated and not self._buffer
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
            line_end = self._buffer.find(b"\r\n")
            if (len(self._buffer) - 1 if line_end < 0 else line_end) > _MAX_LINE:
                msg = "the reply has a malformed chunk"
                raise BadFraming(msg)
            if line_end < 0:
                return False
            line = bytes(self._buffer[:line_end])
            del self._buffer[: line_end + 2]
            if self._in_trailers:
                if not line:
                    return self._finish()
            elif self._chunk_left == 0:
                if line:
                    msg = "a chunk of the reply is longer than it says"
                    raise BadFraming(msg)
                self._chunk_left = -1
            else:
                size = line.partition(b";")[0].strip()
                if not size or len(size) > 8 or size.strip(b"0123456789abcdefABCDEF"):
                    msg = "the reply has a malformed chunk size"
                    raise BadFraming(msg)
                self._chunk_left = int(size, 16)
                self._in_trailers = self._chunk_left == 0

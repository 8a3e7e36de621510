"""Bodies that come compressed though nobody asked (RFC 9110 §8.4): what a proxy on the way may do. Pure."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["decoded"]

_GZIP: Final = b"\x1f\x8b"
_HEADERS: Final = frozenset({b"content-encoding", b"transfer-encoding"})
_CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})
_CHECKSUM: Final = 8
"""Bytes at the end that are no data; where they are wrong, the data before them may still be right."""


def decoded(body: bytes, headers: Iterable[tuple[bytes, bytes]], most: int) -> bytes:
    """The body without its compression, at most ``most`` bytes and one.

    Names of codings are hints: proxies leave them out, or leave them in when they have done the work. What does not turn
    out to be compressed, or by nothing that is known here, is returned as it is.
    """
    codings = [
        coding
        for name, value in headers
        if name.lower() in _HEADERS
        for coding in (each.strip() for each in value.lower().split(b","))
        if coding in _CODINGS
    ]
    for coding in reversed(codings):
        body = _inflated(body, most, deflate=coding == b"deflate")
    return _inflated(body, most) if body.startswith(_GZIP) else body


def _inflated(body: bytes, most: int, *, deflate: bool = False) -> bytes:
    window = zlib.MAX_WBITS | 32  # with a header, of gzip or of zlib
    if not body.startswith(_GZIP) and not _has_zlib_header(body):
        if not deflate:
            return body
        window = -zlib.MAX_WBITS  # as many servers understand ``deflate``
    found, rest = bytearray(), body
    try:
        while rest and len(found) <= most:  # gzip may come in several members (RFC 1952 §2.2)
            inflate = zlib.decompressobj(window)
            for part in (rest[:-_CHECKSUM], rest[-_CHECKSUM:]):
                found += inflate.decompress(inflate.unconsumed_tail + part, most + 1 - len(found) or 1)
            rest = inflate.unused_data
    except zlib.error:
        if not found:
            return body
    return bytes(found[: most + 1])


def _has_zlib_header(body: bytes) -> bool:
    """RFC 1950 §2.2."""
    return len(body) > 1 and body[0] & 0x0F == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0

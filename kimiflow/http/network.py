"""What went wrong on the way to a server, in words for a person. Pure."""

from __future__ import annotations

import os
import re
import socket
import ssl
from typing import TYPE_CHECKING

from kimiflow.descriptors import used_up

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["in_words", "is_ours"]

_ERRNO = re.compile(r"\[Errno (\d+)\]")
_QUOTED = re.compile(r"[: (]*bytearray\(.*", re.DOTALL)
_ADDRESS = re.compile(r"Connect call failed \('([^']+)', (\d+)")


def in_words(error: BaseException) -> str:
    """``connection refused (127.0.0.1:443)`` rather than ``[Errno 111] Connect call failed ('127.0.0.1', 443)``.

    The address is that of whoever refused, which may be a proxy. What has no number is left in its own words.
    """
    for each in _causes(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"the certificate is not to be trusted: {each.verify_message}"
        if isinstance(each, socket.gaierror):
            return _begun_small(each.strerror or "the name is not known")
        text = str(each)
        number = each.errno if isinstance(each, OSError) and not isinstance(each, ssl.SSLError) else None
        if number is None and (found := _ERRNO.search(text)):
            # Where several addresses were tried, asyncio lists what each of them said.
            number = int(found[1])
        if (said := used_up(number)) is not None:
            return said
        if number is not None and number > 0:
            where = _ADDRESS.search(text)
            host = None if where is None else f"[{where[1]}]" if ":" in where[1] else where[1]
            return _begun_small(os.strerror(number)) + (f" ({host}:{where[2]})" if where else "")
    # What h11 could not read it quotes, and nobody knows what a server has put there.
    return " ".join(_QUOTED.sub("", str(error)).split()) or type(error).__name__


def is_ours(error: BaseException) -> bool:
    """Whether it is this machine that has no room for a connection, and no host has to do with it."""
    return any(isinstance(each, OSError) and used_up(each.errno) for each in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """What was raised, and what it was raised from, the innermost first: the outer ones only repeat it."""
    chain, each = [], error
    while each not in chain:
        chain.append(each)
        each = each.__cause__ or each.__context__ or each
    return reversed(chain)


def _begun_small(text: str) -> str:
    return text[:1].lower() + text[1:]

"""Secrets struck out of what somebody else has written. Pure.

A server may repeat what it was sent, or what it gives out, in any text, cut short or in another spelling; and texts are
stored, logged and shown. So a word that holds a piece of a secret is not shown, in whatever encoding; and where
the server speaks of what went wrong, neither is a word that cannot be told apart from a token.
"""

from __future__ import annotations

import binascii
import html
import re
from base64 import b64decode
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kimiflow.secret import Secret

__all__ = ["PIECE", "REDACTED", "clear_of", "holds", "redacted", "struck_out", "without_tokens"]

REDACTED: Final = "[redacted]"

PIECE: Final = 12
"""Characters of a secret, in a row, that are too many to be shown. A shorter secret is only looked for as a whole."""

_LONGEST: Final = 1_200
"""Characters of a text that are looked at; whoever shows it cuts it shorter still."""

_SHORTEST_SECRET: Final = 4
"""What is shorter stands in every other text, and is only known where it is a word by itself."""

_TIMES_DECODED: Final = 3
_ENCODED: Final = re.compile(r"[%&\\+]")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_ESCAPED: Final = re.compile(r"\\u([0-9a-fA-F]{4})|\\x([0-9a-fA-F]{2})|\\(.)")
_WORD: Final = re.compile(r"\S+")
_RUN: Final = re.compile(r"[A-Za-z0-9_~%=+-]{20,}")
_PART: Final = re.compile(r"[^-_~%=+]+")
_LONG_PART: Final = 12
_LONG_WORD: Final = 20


def redacted(text: str, secrets: Iterable[Secret]) -> str:
    """``text`` on one line, without the words that hold a piece of one of ``secrets``, or that may be a token."""
    known = _folded(secrets)
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " for c in text)
    if len(text) > _LONGEST:
        # What is left of the last word may be too little of a secret to be known again.
        text = text[:_LONGEST].rpartition(" ")[0] or text[:_LONGEST]
    words = [REDACTED if _is_opaque(word) or _holds(word, known) else word for word in text.split()]
    line = " ".join(words)
    # A secret with blanks in it, or one that was broken over several lines, is in no single word.
    return REDACTED if _holds(line, known) or _holds("".join(words), known) else line


def without_tokens(text: str) -> str:
    """``text``, its lines as they are, without the words that may be a token."""
    return _WORD.sub(lambda word: REDACTED if _is_opaque(word[0]) else word[0], text)


def struck_out(value: Any, secrets: Sequence[Secret]) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value whose texts are without the words that hold a piece of one of ``secrets``; ids stay as they are."""
    if isinstance(value, str):
        if not holds(value, secrets):
            return value
        words = [REDACTED if holds(word, secrets) else word for word in value.split()]
        line = " ".join(words)
        return REDACTED if holds(line, secrets) else line
    if isinstance(value, list):
        return [struck_out(each, secrets) for each in value]
    if isinstance(value, dict):
        return {REDACTED if holds(str(key), secrets) else key: struck_out(each, secrets) for key, each in value.items()}
    return value


def clear_of(secrets: Iterable[Secret], text: str | None) -> str | None:
    """``text``, or ``None`` where it holds one of ``secrets``: what is kept in clear is that, or nothing."""
    return None if text is None or holds(text, secrets) else text


def holds(text: str, secrets: Iterable[Secret]) -> bool:
    """Whether ``text`` holds one of ``secrets``, or a piece of one, in whatever encoding."""
    known = [secret.reveal() for secret in secrets]
    # No encoding makes a piece shorter, and so most scopes and token types need no further look.
    return len(text) >= min(PIECE, *map(len, known), PIECE) and _holds(text, [clear.casefold() for clear in known])


def _folded(secrets: Iterable[Secret]) -> list[str]:
    return [secret.reveal().casefold() for secret in secrets]


def _holds(text: str, known: Sequence[str]) -> bool:
    folded = text.casefold()
    if any(_in_plain(folded, clear) for clear in known):
        return True
    if len(text) < _SHORTEST_SECRET:
        return False
    return any(_in_plain(spelt.casefold(), clear) for spelt in _decodings(text) for clear in known)


def _in_plain(text: str, clear: str) -> bool:
    if len(clear) < _SHORTEST_SECRET:
        return text == clear
    if len(clear) < PIECE:
        return clear in text
    if len(text) < PIECE:
        return False
    if clear[:PIECE] in text:
        return True
    # A piece from the middle or the end. Of a short text, nothing else is looked at than its own pieces.
    return any(text[at : at + PIECE] in clear for at in range(len(text) - PIECE + 1))


def _decodings(text: str) -> Iterator[str]:
    """``text`` in the clear, if it was percent-encoded (twice, perhaps), escaped for HTML or JSON, or base64."""
    plain = text
    if _ENCODED.search(text):
        for _ in range(_TIMES_DECODED):
            before, plain = plain, _ESCAPED.sub(_unescaped, html.unescape(unquote_plus(plain, errors="replace")))
            if plain == before:
                break
            yield plain
    for run in _BASE64.findall(plain):
        yield from _from_base64(run)
        try:
            yield bytes.fromhex(run).decode("latin-1")
        except ValueError:
            continue


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2]
    return chr(int(code, 16)) if code else match[3]


def _from_base64(run: str) -> Iterator[str]:
    standard = run.translate(str.maketrans("-_", "+/"))
    # Where what is encoded begins in the middle of a run, it begins at one of four places.
    for at in range(4):
        part = standard[at:]
        part = part[: len(part) // 4 * 4]
        try:
            yield b64decode(part).decode("latin-1")
        except (binascii.Error, ValueError):
            continue


def _is_opaque(word: str) -> bool:
    """Whether a word has what tokens, keys and their like have: many characters in a row that spell nothing."""
    return any(_spells_nothing(run) for run in _RUN.findall(word))


def _spells_nothing(run: str) -> bool:
    parts: list[str] = _PART.findall(run)
    mixed = [part for part in parts if any(map(str.isdigit, part)) and any(map(str.isalpha, part))]
    if len(mixed) > 1 or any(len(part) >= _LONG_PART for part in mixed):
        return True
    return any(len(part) >= _LONG_WORD and (part.isdecimal() or _capitals_anywhere(part)) for part in parts)


def _capitals_anywhere(part: str) -> bool:
    """Whether large and small letters take turns more often than they do in names that are several words."""
    return sum(a.isupper() != b.isupper() for a, b in pairwise(part)) > len(part) * 0.4

"""Secrets struck out of what somebody else has written. Pure.

A server may repeat what it was sent, or what it gives out, in any text, cut short or in another spelling; and texts are
stored, logged and shown. So a word that holds a piece of a secret is not shown, in whatever encoding; and where
the server speaks of what went wrong, neither is a word that cannot be told apart from a token.
"""

from __future__ import annotations

import binascii
import html
import re
import unicodedata
from base64 import b64decode
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kimiflow.secret import Secret

__all__ = ["PIECE", "REDACTED", "clear_of", "holds", "looks_like_a_token", "redacted", "struck_out", "without_tokens"]

REDACTED: Final = "[redacted]"

PIECE: Final = 12
"""Characters of a secret, in a row, that are too many to be shown. A shorter secret is only looked for as a whole."""

_LONGEST: Final = 1_200
"""Characters of a text that are looked at; whoever shows it cuts it shorter still."""

_SHORTEST_SECRET: Final = 4
"""What is shorter stands in every other text, and is only known where it is a word by itself."""

_LONGEST_SECRET: Final = 16_384
"""Characters of a secret that are looked for: whoever makes it up is not to decide how long that takes."""

_WORTH_A_SET: Final = 50_000
_MOST_SPELLINGS: Final = 64
_TIMES_DECODED: Final = 4
_UNSEEN: Final = frozenset({"Cc", "Cf", "Mn", "Me", "Zl", "Zp"})
_ENCODED: Final = re.compile(r"[%&\\+=]")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{16,}")
_HEX: Final = re.compile(r"[0-9a-fA-F]{24,}")
_URL_SAFE: Final = str.maketrans("-_", "+/")
_ESCAPED: Final = re.compile(
    r"\\u(?P<u>[0-9a-fA-F]{4})|\\x(?P<x>[0-9a-fA-F]{2})|\\u\{(?P<brace>[0-9a-fA-F]{1,6})\}|\\U(?P<long>[0-9a-fA-F]{8})"
    r"|[%=]u?(?P<percent>(?<=%u)[0-9a-fA-F]{4}|(?<==)[0-9a-fA-F]{2})|\\(?P<oct>[0-3][0-7]{2})|\\(?P<other>.)"
)
_WORD: Final = re.compile(r"\S+")
_RUN: Final = re.compile(r"[A-Za-z0-9_~%=+-]{20,}")
_PART: Final = re.compile(r"[^-_~%=+]+")
_LONG_PART: Final = 12
_LONG_WORD: Final = 20


def redacted(text: str, secrets: Iterable[Secret]) -> str:
    """``text`` on one line, without the words that hold a piece of one of ``secrets``, or that may be a token."""
    known = _known(secret.reveal() for secret in secrets)
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


def struck_out(value: Any, secrets: Iterable[Secret]) -> Any:  # noqa: ANN401 - any JSON value
    """A JSON value whose texts are without the words that hold a piece of one of ``secrets``; ids stay as they are."""
    known = _known(secret.reveal() for secret in secrets)

    def text(value: str) -> str:
        value = value[:_LONGEST]
        if len(value) < _SHORTEST_SECRET or not _holds_also_broken(value, known):
            return value
        words = [REDACTED if _holds(word, known) else word for word in value.split()]
        line = " ".join(words)
        return REDACTED if _holds_also_broken(line, known) else line

    def struck(value: Any) -> Any:  # noqa: ANN401 - any JSON value
        if isinstance(value, str):
            return text(value)
        if isinstance(value, list):
            return [struck(each) for each in value]
        if isinstance(value, dict):
            return {text(key): struck(each) for key, each in value.items()}
        return value

    return struck(value)


def clear_of(secrets: Iterable[Secret], text: str | None) -> str | None:
    """``text``, or ``None`` where it holds one of ``secrets`` or may hold another token: kept is all of it, or nothing."""
    return None if text is None or holds(text, secrets) or looks_like_a_token(text) else text


def holds(text: str, secrets: Iterable[Secret]) -> bool:
    """Whether ``text`` holds one of ``secrets``, or a piece of one, in whatever encoding."""
    known = [secret.reveal() for secret in secrets]
    # No encoding makes a piece shorter, and so most scopes and token types need no further look.
    if len(text) < min([PIECE, *map(len, known)]):
        return False
    return _holds_also_broken(text, _known(known))


def looks_like_a_token(text: str) -> bool:
    """Whether a word of ``text`` cannot be told apart from one."""
    return any(map(_is_opaque, text.split()))


class _Known:
    """A secret that is looked for, in small letters."""

    __slots__ = ("_pieces", "_start", "_whole")

    def __init__(self, clear: str) -> None:
        self._whole = clear
        self._start = self._whole[:PIECE]
        self._pieces: set[str] | None = None

    def is_in(self, text: str) -> bool:
        whole, count = self._whole, len(text) - PIECE + 1
        if len(whole) < _SHORTEST_SECRET:
            return text == whole
        if len(whole) < PIECE:
            return whole in text
        if count < 1:
            return False
        if self._start in text:
            return True
        # A piece from the middle or the end. Of a short text, nothing else is looked at than its own pieces.
        if count * len(whole) < _WORTH_A_SET:
            return any(text[at : at + PIECE] in whole for at in range(count))
        if self._pieces is None:
            self._pieces = {whole[at : at + PIECE] for at in range(len(whole) - PIECE + 1)}
        return not self._pieces.isdisjoint(text[at : at + PIECE] for at in range(count))


def _known(secrets: Iterable[str]) -> list[_Known]:
    wholes = (clear[:_LONGEST_SECRET] for clear in secrets)
    return [_Known(each) for each in dict.fromkeys(form for whole in wholes for form in _folded(whole))]


def _holds_also_broken(text: str, known: Sequence[_Known]) -> bool:
    return _holds(text, known) or (" " in text and _holds("".join(text.split()), known))


def _holds(text: str, known: Sequence[_Known]) -> bool:
    return bool(known) and any(each.is_in(spelt) for spelt in _spellings(text) for each in known)


def _spellings(text: str) -> Iterator[str]:
    """``text`` in small letters, and whatever it may be an encoding of: percent, HTML, JSON, base64, hex, or several."""
    seen = {text}
    layer = [text]
    for depth in range(_TIMES_DECODED + 1):
        following: list[str] = []
        for each in layer:
            yield from _folded(each)
            if depth < _TIMES_DECODED:
                for decoded in _decodings(each):
                    if len(decoded) >= _SHORTEST_SECRET and decoded not in seen and len(seen) < _MOST_SPELLINGS:
                        seen.add(decoded)
                        following.append(decoded)
        layer = following


def _folded(text: str) -> tuple[str, ...]:
    """In small letters; and without what is not seen, or looks like something else, as people see it."""
    if text.isascii():
        return (text.casefold(),)
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) not in _UNSEEN)
    return text.casefold(), plain.casefold()


def _decodings(text: str) -> Iterator[str]:
    if _ENCODED.search(text):
        yield _ESCAPED.sub(_unescaped, html.unescape(unquote_plus(text, errors="replace")))
    for run in _BASE64.findall(text):
        yield from _from_base64(run)
    for run in _HEX.findall(text):
        # Letters in front of it may be its own.
        for at in (0, 1):
            yield bytes.fromhex(run[at : at + (len(run) - at) // 2 * 2]).decode("latin-1")


def _unescaped(match: re.Match[str]) -> str:
    if match["oct"]:
        return chr(int(match["oct"], 8))
    code = next((found for found in match.group("u", "x", "brace", "long", "percent") if found), None)
    if code is None:
        return match["other"]
    try:
        return chr(int(code, 16))
    except (ValueError, OverflowError):
        return ""


def _from_base64(run: str) -> Iterator[str]:
    standard = run.translate(_URL_SAFE)
    # Where what is encoded begins in the middle of a run, it begins at one of four places.
    for at in range(4):
        part = standard[at:]
        part = part[: len(part) // 4 * 4]
        try:
            raw = b64decode(part)
        except (binascii.Error, ValueError):
            continue
        yield (raw.replace(b"\0", b"") if b"\0" in raw else raw).decode("latin-1")


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

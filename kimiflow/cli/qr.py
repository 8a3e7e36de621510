"""A QR code made of half blocks, for a phone in front of a terminal."""

from __future__ import annotations

__all__ = ["qr_lines"]

_BLOCKS = {(True, True): " ", (False, True): "▀", (True, False): "▄", (False, False): "█"}
"""By whether the upper and the lower module are dark. Light is drawn, because most terminals are dark; readers
take the inverse as well."""

_BORDER = 2
"""Modules of quiet zone. The standard asks for four; two are enough for phones, and fit more terminals."""


def qr_lines(text: str) -> list[str]:
    """The lines of a QR code, all of the same width; none where ``text`` is too long for one."""
    import segno
    from segno.encoder import DataOverflowError

    try:
        code = segno.make_qr(text, error="l", boost_error=False)
    except (DataOverflowError, ValueError):
        return []
    rows = [[bool(module) for module in row] for row in code.matrix_iter(border=_BORDER)]
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))
    return [
        "".join(_BLOCKS[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]

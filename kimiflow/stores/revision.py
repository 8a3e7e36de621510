"""The schema that this program works with, named where nothing heavy has to be imported to know it."""

from __future__ import annotations

from typing import Final

__all__ = ["HEAD"]

HEAD: Final = "0005"
"""The newest migration in ``migrations/versions``."""

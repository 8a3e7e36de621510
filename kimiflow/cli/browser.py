"""Opening the page where a sign-in is approved."""

from __future__ import annotations

import os
import sys
import threading
from urllib.parse import urlsplit

__all__ = ["can_open", "open_page"]


def can_open(url: str | None) -> bool:
    """Whether there is a page, and a screen in front of this person to show it on.

    Over SSH, or on a machine without a display, a text browser would take the terminal away from the codes.
    """
    if url is None or urlsplit(url).scheme not in {"http", "https"}:
        return False
    if os.environ.get("BROWSER"):
        return True
    if os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_TTY"):
        return False
    return sys.platform in {"win32", "darwin"} or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def open_page(url: str) -> None:
    """Opens ``url`` in the background: some browsers keep their caller waiting until they are closed."""
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(url,), name="kimiflow-browser", daemon=True).start()

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


_OPEN = "import sys, webbrowser; webbrowser.open(sys.argv[1])"


def open_page(url: str) -> None:
    """Opens ``url`` in the background: some browsers keep their caller waiting until they are closed."""
    import subprocess

    from kimiflow.settings import without_settings

    # In a process of its own, because the library hands this one's whole environment on to the browser.
    command, environment = [sys.executable, "-I", "-c", _OPEN, url], without_settings(os.environ)

    def work() -> None:
        subprocess.run(command, env=environment, check=False)  # noqa: S603 - our own words, and a checked link

    threading.Thread(target=work, name="kimiflow-browser", daemon=True).start()

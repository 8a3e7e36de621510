"""The person's pages, as strings of HTML. They work without JavaScript, in the dark, and with a screen reader."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kimiflow.sandbox.records import PendingCode

__all__ = ["PAGE_HEADERS", "ask_for_code", "decide", "front", "result"]

# Nothing is loaded, nothing is run, and no other site can put the buttons under somebody's cursor (RFC 8628 §5.4).
PAGE_HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": (
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}

_REFRESH_SECONDS: Final = 3

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fafaf8; --line: #c9c9c4; --soft: #5c5f66;
  --yes: #14663a; --no: #9c2a22; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8e8e4; --paper: #17181a; --line: #45484d; --soft: #a4a7ad; --yes: #1f7a48; --no: #b43a31; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 system-ui, sans-serif; }
main { max-width: 46rem; margin: 0 auto; padding: 3rem 1.25rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
p { margin: 0 0 1rem; }
a { color: inherit; }
.soft { color: var(--soft); }
.code { font: 600 1.9rem/1.2 ui-monospace, monospace; letter-spacing: .06em; }
label { display: block; font-weight: 600; margin-bottom: .35rem; }
input, button { font: inherit; padding: .55rem .9rem; border-radius: .4rem; border: 1px solid var(--line); }
input { background: transparent; color: inherit; font-family: ui-monospace, monospace; text-transform: uppercase;
  width: 12rem; }
button { cursor: pointer; background: transparent; color: inherit; }
button[value=approve] { background: var(--yes); border-color: var(--yes); color: #fff; }
button[value=deny] { background: var(--no); border-color: var(--no); color: #fff; }
:focus-visible { outline: 3px solid #3b82f6; outline-offset: 2px; }
form { display: flex; flex-wrap: wrap; gap: .6rem; align-items: end; margin: 1rem 0; }
td form { margin: 0; flex-wrap: nowrap; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .55rem .9rem .55rem 0; border-bottom: 1px solid var(--line); }
td { font-variant-numeric: tabular-nums; }
td:first-child { font-family: ui-monospace, monospace; white-space: nowrap; }
"""


def front(codes: Sequence[PendingCode], now: float) -> str:
    """What this is, and the codes that wait; loads itself again every few seconds."""
    if codes:
        rows = "".join(_row(code, now) for code in codes)
        table = (
            '<div class="wide"><table><caption class="soft">Codes that wait for a decision</caption><thead><tr>'
            '<th scope="col">Code</th><th scope="col">Device</th><th scope="col">Time left</th>'
            f'<th scope="col">Decision</th></tr></thead><tbody>{rows}</tbody></table></div>'
        )
    else:
        table = "<p>No code waits for a decision. Start a sign-in against this server, and it appears here.</p>"
    return _page(
        "kimiflow sandbox",
        "<p>An authorization server for the OAuth 2.0 Device Authorization Grant (RFC 8628) that behaves like "
        "Kimi's. It knows no accounts and hands out tokens that are good for nothing but tests.</p>"
        f'{table}<p><a href="/device">Enter a code</a></p>',
        refresh=True,
    )


def _row(code: PendingCode, now: float) -> str:
    user_code = escape(code.user_code)
    minutes, seconds = divmod(max(0, round(code.expires_at - now)), 60)
    return (
        f"<tr><td>{user_code}</td><td>{escape(code.device_id) or 'unknown'}</td><td>{minutes}:{seconds:02}</td>"
        f"<td>{_buttons(user_code)}</td></tr>"
    )


def ask_for_code(complaint: str | None = None, typed: str = "") -> str:
    """The form that a code is typed into, with what was wrong about the last one."""
    described = ' aria-invalid="true" aria-describedby="complaint"' if complaint else ""
    return _page(
        "Enter the code",
        (f'<p id="complaint" role="alert"><strong>{escape(complaint)}</strong></p>' if complaint else "")
        + "<p>Type the code that your device shows.</p>"
        '<form method="get" action="/device"><div><label for="user_code">Code</label>'
        f'<input id="user_code" name="user_code" value="{escape(typed)}" placeholder="CDFG-2345" required autofocus '
        f'maxlength="20" autocomplete="off" autocapitalize="characters" spellcheck="false"{described}></div>'
        '<button type="submit">Continue</button></form>',
    )


def decide(code: PendingCode) -> str:
    """The question, and its two answers."""
    user_code = escape(code.user_code)
    device = escape(code.device_id) or "unknown"
    return _page(
        "Let this device in?",
        f'<p class="code">{user_code}</p><p>Approve only if your device shows this very code.</p>'
        f'<p class="soft">Device: {device}<br>Client: {escape(code.client_id)}</p>{_buttons(user_code)}',
    )


def result(code: PendingCode, *, approved: bool) -> str:
    """What was decided."""
    user_code = escape(code.user_code)
    said = (
        "The device is signed in as soon as it asks again. You can close this page."
        if approved
        else "The device stays out. You can close this page."
    )
    return _page(
        "Approved" if approved else "Denied",
        f'<p class="code">{user_code}</p><p role="status">{said}</p><p><a href="/">Other codes that wait</a></p>',
    )


def _buttons(user_code: str) -> str:
    return (
        f'<form method="post" action="/device"><input type="hidden" name="user_code" value="{user_code}">'
        f"{_button('approve', 'Approve', user_code)}{_button('deny', 'Deny', user_code)}</form>"
    )


def _button(decision: str, label: str, user_code: str) -> str:
    # A screen reader that lists the buttons of a table has to tell them apart.
    named = f'aria-label="{label} {user_code}"'
    return f'<button type="submit" name="decision" value="{decision}" {named}>{label}</button>'


def _page(title: str, content: str, *, refresh: bool = False) -> str:
    meta = f'<meta http-equiv="refresh" content="{_REFRESH_SECONDS}">' if refresh else ""
    heading = escape(title)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">{meta}'
        f"<title>{heading}</title><style>{_STYLE}</style></head>"
        f"<body><main><h1>{heading}</h1>{content}</main></body></html>\n"
    )

"""The person with the browser: opens the verification URI, logs in, types the code, approves or denies."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

import httpx

__all__ = ["PageComplained", "Person"]


class PageComplained(Exception):
    """A form was shown again, with these words beside it ("Expired user code")."""


class Page(HTMLParser):
    """As much of a page as a person uses: its heading, its one form, and any complaint beside a field."""

    def __init__(self, reply: httpx.Response) -> None:
        super().__init__()
        reply.raise_for_status()
        self.url = reply.url
        self.heading = ""
        self.fields: dict[str, str] = {}
        self.buttons: set[tuple[str, str]] = set()
        self.complaints: list[str] = []
        self._open: list[str] = []
        self.feed(reply.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {key: value or "" for key, value in attrs}
        if tag == "input":
            self.fields[known["name"]] = known.get("value", "")
        elif tag == "button" and "name" in known:
            self.buttons.add((known["name"], known["value"]))
        elif tag in {"h1", "ul"}:
            self._open.append("heading" if tag == "h1" else known.get("class", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag in {"h1", "ul"}:
            self._open.pop()

    def handle_data(self, data: str) -> None:
        if not (words := " ".join(data.split())) or not self._open:
            return
        if self._open[-1] == "heading":
            self.heading = f"{self.heading} {words}".strip()
        elif "errorlist" in self._open[-1]:
            self.complaints.append(words)

    async def submit(self, browser: httpx.AsyncClient, **entries: str) -> Page:
        """Fill ``entries`` in (a button counts as one), send the form, return the page that comes of it."""
        for name, value in entries.items():
            assert name in self.fields or (name, value) in self.buttons, f"{self.url} has no {name}={value}"
        after = Page(await browser.post(self.url, data={**self.fields, **entries}))
        if after.complaints:
            raise PageComplained("; ".join(after.complaints))
        return after


@dataclass(frozen=True)
class Person:
    """Somebody with a login. Each visit is a new browser session, so visits can overlap."""

    name: str
    password: str = field(repr=False)

    async def approve(self, verification_uri: str, user_code: str | None = None) -> str:
        """Let the device in; return the heading of the last page.

        Without a ``user_code`` the one that the page already shows is sent: that of a complete
        verification URI.

        :raises PageComplained: where the page does not take the code.
        """
        return await self._decide(verification_uri, user_code, "accept")

    async def deny(self, verification_uri: str, user_code: str | None = None) -> str:
        """Keep the device out; otherwise as `approve`."""
        return await self._decide(verification_uri, user_code, "deny")

    async def _decide(self, verification_uri: str, user_code: str | None, decision: str) -> str:
        async with httpx.AsyncClient(follow_redirects=True, trust_env=False) as browser:
            page = Page(await browser.get(verification_uri))
            page = await page.submit(browser, username=self.name, password=self.password)
            page = await page.submit(browser, **({} if user_code is None else {"user_code": user_code}))
            page = await page.submit(browser, action=decision)
            return page.heading

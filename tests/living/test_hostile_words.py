"""A server that puts secrets wherever it may put words: none is stored in clear, shown, or logged."""

from __future__ import annotations

import base64
import itertools
import json
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

import pytest

from tests.formats.house import House

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPELLINGS: list[Callable[[str], str]] = [
    str,
    str.upper,
    lambda s: s[:12],
    lambda s: quote(s, safe="").lower().replace("-", "%2d"),
    lambda s: base64.b64encode(s.encode()).decode(),
]


class Blabber(ThreadingHTTPServer):
    """Signs everybody in, and tells everybody everything."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.given_out: list[str] = []
        self.refuses = False
        self._count = itertools.count()

    def secret(self, kind: str) -> str:
        """As unlike a token as can be, so that nothing but knowing it tells."""
        made = f"{kind}-" + "-".join(["azure", "basil", "cedar", "delta"][next(self._count) % 4 :]) + "-of-a-person"
        self.given_out.append(made)
        return made

    def spelt(self) -> str:
        """What is in force; of a code or a token that was used up nobody has a copy to compare with."""
        return "; ".join(f"<{spell(secret)}>" for secret in self.given_out[-2:] for spell in SPELLINGS)

    def reply(self, path: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        if path.endswith("device_authorization"):
            code = self.secret("device")
            return 200, {
                "device_code": code,
                "user_code": "ABCD-EFGH",
                "verification_uri": f"{self.url}/device",
                "verification_uri_complete": f"{self.url}/device?user_code={quote(code)}",
                "interval": 0.1,
                "expires_in": 60,
                "message": code,
            }
        if self.refuses:
            return 400, {"error": "invalid_grant", "error_description": f"not good: {self.spelt()}"}
        tokens = {"access_token": self.secret("access"), "refresh_token": self.secret("refresh"), "expires_in": 900}
        return 200, {**tokens, "scope": f"read {tokens['refresh_token']}", "token_type": tokens["access_token"]}


class _Handler(BaseHTTPRequestHandler):
    server: Blabber

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status, said = self.server.reply(self.path, {key: values[0] for key, values in parse_qs(body).items()})
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Nothing: what the tests look at is the other side."""


@pytest.fixture
def blabber(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blabber]:
    with Blabber() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("KIMIFLOW_OAUTH_HOST", server.url)
        yield server
        server.shutdown()


def test_nothing_of_it_is_kept_or_shown(house: House, blabber: Blabber) -> None:
    said = [house.good("login", "a", "--no-browser"), house.good("refresh", "a")]
    assert house.good("token", "a").out.strip() in blabber.given_out, "the tokens themselves are taken"
    said.append(house("status", "--json"))
    blabber.refuses = True
    refused = house("refresh", "a")
    assert refused.code == 3
    said += [refused, house("status"), house("status", "--json"), house("history", "a")]
    said += [house("history", "a", "--json"), house("doctor")]
    with sqlite3.connect(house.root.parent / "home/kimiflow.db") as database:
        kept = "\n".join(database.iterdump())
    seen = "\n".join([kept, *(f"{done.out}\n{done.err}" for done in said)])
    assert "not good: [redacted] [redacted]" in seen, "the words around them are shown"
    for secret in blabber.given_out:
        for spell in SPELLINGS:
            assert spell(secret) not in seen
        assert secret[-12:] not in seen

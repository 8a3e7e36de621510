"""The person's pages, used as a browser without JavaScript uses them."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from kimiflow.sandbox import Sandbox

from .client import Connect

if TYPE_CHECKING:
    import httpx


class Page(HTMLParser):
    """The forms of a page, each a method, an action, its fields and its buttons; and all of the text."""

    def __init__(self, reply: httpx.Response) -> None:
        super().__init__()
        self.forms: list[dict[str, Any]] = []
        self.text: list[str] = []
        self.meta: list[dict[str, str | None]] = []
        self.feed(reply.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "form":
            self.forms.append({"method": known["method"], "action": known["action"], "fields": {}, "buttons": []})
        elif tag == "input":
            self.forms[-1]["fields"][known["name"]] = known.get("value", "")
        elif tag == "button" and "name" in known:
            self.forms[-1]["buttons"].append((known["name"], known["value"]))
        elif tag == "meta":
            self.meta.append(known)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


async def press(http: httpx.AsyncClient, form: dict[str, Any], decision: str) -> httpx.Response:
    assert ("decision", decision) in form["buttons"]
    return await http.request(form["method"], form["action"], data=form["fields"] | {"decision": decision})


@pytest.mark.parametrize(("decision", "outcome"), [("approve", "access_token"), ("deny", "access_denied")])
async def test_a_person_decides_at_the_complete_verification_uri(client: Connect, decision: str, outcome: str) -> None:
    async with Sandbox(interval=0.01) as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        reply = await c.http.get(started["verification_uri_complete"])
        assert reply.status_code == 200
        page = Page(reply)
        assert started["user_code"] in page.text
        assert "error" in (await c.poll(started["device_code"])).json()
        reply = await press(c.http, page.forms[0], decision)
        assert reply.status_code == 200
        assert ("Approved" if decision == "approve" else "Denied") in Page(reply).text
        assert outcome in (await c.poll(started["device_code"])).text


async def test_a_person_types_the_code_as_they_please(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        form = Page(await c.http.get(started["verification_uri"])).forms[0]
        assert (form["method"], list(form["fields"])) == ("get", ["user_code"])
        typed = started["user_code"].replace("-", " ").lower()
        page = Page(await c.http.get(form["action"], params={"user_code": typed}))
        assert started["user_code"] in page.text
        await press(c.http, page.forms[0], "approve")
        assert (await c.poll(started["device_code"])).status_code == 200


async def test_getting_a_page_never_decides(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        for decision in ("approve", "deny"):
            await c.http.get("/device", params={"user_code": started["user_code"], "decision": decision})
            await c.http.head("/device", params={"user_code": started["user_code"], "decision": decision})
        assert (await c.poll(started["device_code"])).json()["error"] == "authorization_pending"
        assert len(sandbox.pending()) == 1


async def test_a_post_without_a_decision_decides_nothing(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        for form in ({"user_code": started["user_code"]}, {"user_code": started["user_code"], "decision": "x"}, {}):
            assert (await c.http.post("/device", data=form)).status_code == 400
        assert len(sandbox.pending()) == 1


async def test_unknown_and_decided_codes_are_explained_and_asked_for_again(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        sandbox.deny(started["user_code"])
        for code, words in ((started["user_code"], "denied already"), ("CDFG-0000", "not known")):
            for reply in (
                await c.http.get("/device", params={"user_code": code}),
                await c.http.post("/device", data={"user_code": code, "decision": "approve"}),
            ):
                assert reply.status_code == 404
                assert words in reply.text
                assert Page(reply).forms[0]["fields"] == {"user_code": code}


async def test_what_strangers_send_is_escaped(client: Connect) -> None:
    evil = '"><script>alert(1)</script>'
    async with Sandbox() as sandbox, client(sandbox) as c:
        c.device_id = evil
        started = (await c.start()).json()
        pages = [
            await c.http.get("/"),
            await c.http.get("/device", params={"user_code": evil}),
            await c.http.get("/device", params={"user_code": started["user_code"]}),
            await c.http.post("/device", data={"user_code": evil, "decision": "approve"}),
        ]
        for page in pages:
            assert "<script" not in page.text
            assert "&lt;script&gt;" in page.text


async def test_the_front_page_lists_what_waits_and_loads_itself_again(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        assert Page(await c.http.get("/")).forms == []
        first, second = (await c.start()).json(), (await c.start()).json()
        page = Page(await c.http.get("/"))
        assert [form["fields"]["user_code"] for form in page.forms] == [first["user_code"], second["user_code"]]
        assert any(meta.get("http-equiv") == "refresh" for meta in page.meta)
        await press(c.http, page.forms[0], "approve")
        await press(c.http, page.forms[1], "deny")
        assert Page(await c.http.get("/")).forms == []
        assert (await c.poll(first["device_code"])).status_code == 200
        assert (await c.poll(second["device_code"])).json()["error"] == "access_denied"


async def test_pages_load_nothing_and_stay_out_of_frames(client: Connect) -> None:
    async with Sandbox() as sandbox, client(sandbox) as c:
        reply = await c.http.get("/device")
        policy = reply.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert reply.headers["cache-control"] == "no-store"
        assert "<script" not in reply.text
        assert "prefers-color-scheme: dark" in reply.text


@pytest.mark.parametrize(
    "told",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://elsewhere.example"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_form_of_another_site_decides_nothing(client: Connect, told: dict[str, str]) -> None:
    async with Sandbox(interval=0.01) as sandbox, client(sandbox) as c:
        started = (await c.start()).json()
        form = {"user_code": started["user_code"], "decision": "approve"}
        reply = await c.http.post("/device", data=form, headers=told)
        assert reply.status_code == 403
        assert "came from another site" in reply.text
        assert len(sandbox.pending()) == 1
        own = {"Sec-Fetch-Site": "same-origin"} if "Sec-Fetch-Site" in told else {"Origin": sandbox.url}
        assert (await c.http.post("/device", data=form, headers=own)).status_code == 200
        assert sandbox.pending() == []


@pytest.mark.parametrize("path", ["/", "/device", "/api/oauth/token", "/coding/v1/me"])
async def test_it_answers_to_the_names_of_this_machine_only(client: Connect, path: str) -> None:
    """A page whose name was made to point here could read whatever it is told."""
    async with Sandbox(interval=0.01) as sandbox, client(sandbox) as c:
        assert (await c.http.get(path, headers={"Host": f"elsewhere.example:{sandbox.port}"})).status_code == 400
        for name in ("127.0.0.1", "localhost"):
            reply = await c.http.get(path, headers={"Host": f"{name}:{sandbox.port}"})
            assert b"host header" not in reply.content

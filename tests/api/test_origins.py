"""Where a token and a device id go: to the account's API, to whom the caller names, and nowhere by a redirect."""

from __future__ import annotations

import contextlib
import importlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from kimiflow import ForeignOrigin, KimiFlow, RequestFailed, UsageError, sync
from kimiflow.api import origins
from kimiflow.stores.memory import MemoryStore

from .conftest import settings_for
from .signing import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from kimiflow.sandbox import Sandbox, ThreadedSandbox

SECRET = ("authorization", "x-msh-device-id", "x-msh-device-name", "x-msh-platform")


def kinds() -> list[Any]:
    """httpx, and httpx2 where it is installed."""
    found: list[Any] = [httpx]
    with contextlib.suppress(ImportError):
        found.append(importlib.import_module("httpx2"))
    return found


@dataclass
class Server:
    """Keeps the headers of each request. Answers ``/to/…`` with a redirect to there, and everything else with a status."""

    redirect: int = 307
    status: int = 200
    url: str = ""
    targets: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)

    def secrets(self) -> list[list[str]]:
        """Of each request, in order, the headers that are nobody else's business."""
        return [[name for name in SECRET if name in headers] for _, _, headers in self.seen]


def answering(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server.seen.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
            to = server.targets.get(self.path)
            self.send_response(server.status if to is None else server.redirect)
            if to is not None:
                self.send_header("Location", to)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        do_GET = do_POST = answer  # noqa: N815 - as they are looked for

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@pytest.fixture
def serve() -> Iterator[Callable[[], Server]]:
    with contextlib.ExitStack() as stack:

        def start() -> Server:
            server = Server()
            listening = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), answering(server)))
            listening.daemon_threads = True
            server.url = f"http://127.0.0.1:{listening.server_port}"
            thread = threading.Thread(target=lambda: listening.serve_forever(0.02))
            thread.start()
            stack.callback(thread.join)
            stack.callback(listening.shutdown)
            return server

        yield start


@pytest.fixture
def api(serve: Callable[[], Server]) -> Server:
    """The API of the accounts. (They sign in at the sandbox.)"""
    return serve()


@pytest.fixture
def elsewhere(serve: Callable[[], Server]) -> Server:
    return serve()


@pytest.fixture
async def here(sandbox: Sandbox, api: Server, tmp_path: Path) -> AsyncIterator[World]:
    async with KimiFlow(settings(sandbox.url, api, tmp_path), MemoryStore()) as flow:
        world = World(flow, sandbox)
        for name in "ab":
            await world.sign_in(name)
        yield world


@pytest.fixture
def threads(threaded: ThreadedSandbox, api: Server, tmp_path: Path) -> Iterator[sync.KimiFlow]:
    with sync.KimiFlow.open(settings(threaded.url, api, tmp_path), store=MemoryStore()) as flow:
        for name in "ab":
            flow.login(name)
            flow.wait(name)
        yield flow


def settings(url: str, api: Server, home: Path) -> Any:
    made = settings_for(url, home)
    provider = made.providers["sandbox"].model_copy(update={"api_base": f"{api.url}/coding"})
    return made.model_copy(update={"providers": {"sandbox": provider}})


def auths(flow: Any, **options: Any) -> list[Any]:
    return [flow.auth("a", **options), flow.pool(["a", "b"], **options)]


def client(auth: Any, **options: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(auth=auth, trust_env=False, **options)


def remembering(seen: list[httpx.Request]) -> httpx.MockTransport:
    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    return httpx.MockTransport(handler)


class TestARequestToAnotherOrigin:
    async def test_is_not_sent(self, here: World, elsewhere: Server, api: Server) -> None:
        for auth in auths(here.flow):
            async with client(auth) as http:
                with pytest.raises(ForeignOrigin) as caught:
                    await http.get(f"{elsewhere.url}/v1/me?key=hush")
            assert caught.value.account == "a"
            assert f"not sent to {elsewhere.url};" in caught.value.message
            assert f"go to {api.url} only" in caught.value.message
            assert caught.value.hint.endswith(f"origins=['{elsewhere.url}']")
            assert isinstance(caught.value, UsageError)
        assert elsewhere.seen == []

    async def test_takes_no_token(self, here: World, elsewhere: Server, api: Server) -> None:
        """Not even one that is due for a refresh, which the next request gets."""
        (snapshot,) = await here.flow._store.snapshots(["a"])
        assert snapshot.grant is not None
        await here.flow._store.hasten([(snapshot.grant.id, snapshot.grant.token_version)], 0.0)
        for auth in auths(here.flow):
            async with client(auth) as http:
                with pytest.raises(ForeignOrigin):
                    await http.get(elsewhere.url)
        assert here.sandbox.log("refresh") == []
        async with client(here.flow.auth("a")) as http:
            await http.get(api.url)
        assert len(here.sandbox.log("refresh")) == 1

    @pytest.mark.parametrize(
        "url",
        [
            "https://127.0.0.1:{port}/v1/me",
            "http://127.0.0.1/v1/me",
            "http://localhost:{port}/v1/me",
            "http://127.0.0.1.evil.example:{port}/v1/me",
            "http://127.0.0.1:{port}@evil.example/v1/me",
            "http://evil.example/http://127.0.0.1:{port}",
        ],
    )
    async def test_may_differ_in_any_part(self, here: World, api: Server, url: str) -> None:
        seen: list[httpx.Request] = []
        for auth in auths(here.flow):
            async with client(auth, base_url=api.url, transport=remembering(seen)) as http:
                with pytest.raises(ForeignOrigin):
                    await http.get(url.format(port=api.url.rpartition(":")[2]))
        assert seen == []

    async def test_is_described_without_what_may_be_secret(self, here: World) -> None:
        for auth in auths(here.flow):
            async with client(auth, transport=remembering([])) as http:
                with pytest.raises(ForeignOrigin) as caught:
                    await http.get("https://me:hush@evil.example/hush?key=hush#hush")
            assert "https://evil.example;" in str(caught.value)
            assert "hush" not in str(caught.value)

    async def test_is_refused_over_plain_http_too(self, here: World) -> None:
        for auth in auths(here.flow, origins=["https://gateway.example"]):
            async with client(auth, transport=remembering([])) as http:
                with pytest.raises(ForeignOrigin, match=r"not sent to http://gateway\.example;") as caught:
                    await http.get("http://gateway.example/v1/me")
            assert caught.value.hint.startswith("Plain http is refused except on loopback")

    async def test_is_refused_where_the_provider_has_no_api(self, sandbox: Sandbox, tmp_path: Path) -> None:
        made = settings_for(sandbox.url, tmp_path)
        provider = made.providers["sandbox"].model_copy(update={"api_base": None})
        async with KimiFlow(made.model_copy(update={"providers": {"sandbox": provider}}), MemoryStore()) as flow:
            await flow.login("a")
            await flow.wait("a")
            async with client(flow.auth("a"), transport=remembering([])) as http:
                with pytest.raises(ForeignOrigin, match="its provider has no api_base"):
                    await http.get("https://api.example")
            async with client(flow.auth("a", origins=["https://api.example"]), transport=remembering([])) as http:
                assert (await http.get("https://api.example")).status_code == 200

    def test_is_not_sent_by_threads_either(self, threads: sync.KimiFlow, elsewhere: Server, api: Server) -> None:
        for auth in auths(threads):
            with httpx.Client(auth=auth, trust_env=False) as http:
                with pytest.raises(ForeignOrigin, match=f"not sent to {elsewhere.url};"):
                    http.get(elsewhere.url)
                assert http.get(f"{api.url}/v1/me").status_code == 200
        assert elsewhere.seen == []
        assert api.secrets() == [list(SECRET)] * 2


class TestARequestToTheApi:
    async def test_has_everything_however_the_origin_is_spelled(self, here: World) -> None:
        seen: list[httpx.Request] = []
        for auth in auths(here.flow, origins=["https://API.example.:443/", "http://[0:0::1]:8080", "http://localhost"]):
            async with client(auth, transport=remembering(seen)) as http:
                for url in (
                    here.flow.api_base("a") + "/v1/me",
                    "https://api.example/v1/me",
                    "https://Api.Example:443",
                    "https://api.example./",
                    "http://[::1]:8080",
                    "http://LOCALHOST:80",
                ):
                    assert (await http.get(url)).status_code == 200
        assert len(seen) == 12
        assert all(name in request.headers for request in seen for name in SECRET)

    async def test_of_an_account_that_has_the_name_by_now_is_told_from_the_old(
        self, sandbox: Sandbox, tmp_path: Path
    ) -> None:
        made = settings_for(sandbox.url, tmp_path)
        other = made.providers["sandbox"].model_copy(update={"api_base": "https://other.example"})
        made = made.model_copy(update={"providers": made.providers | {"other": other}})
        async with KimiFlow(made, MemoryStore()) as flow:
            for name, provider in {"a": "sandbox", "b": "other"}.items():
                await flow.login(name, provider=provider)
                await flow.wait(name)
            async with client(flow.auth("a"), transport=remembering([])) as http:
                assert (await http.get(sandbox.url)).status_code == 200
                await flow.accounts.rename("a", "c")
                await flow.accounts.rename("b", "a")
                with pytest.raises(ForeignOrigin, match=r"go to https://other\.example only"):
                    await http.get(sandbox.url)
                assert (await http.get("https://other.example")).status_code == 200


class TestOriginsThatAreNamed:
    @pytest.mark.parametrize(
        ("named", "said"),
        [
            (["http://gateway.example"], "'http://gateway.example'; plain http is refused except on loopback"),
            (["gateway.example"], "'gateway.example' has no origin"),
            (["ftp://gateway.example"], "'ftp://gateway.example'; allowed is https://host or https://host:port"),
            (["https://*.example"], r"'https://\*.example'; allowed is"),
            (["https://a.example", "https://b.example/v1"], "more than an origin: of https://b.example"),
            (["https://b.example?x=hush"], "more than an origin: of https://b.example"),
            (["https://me:hush@b.example"], "more than an origin: of https://b.example"),
            ("https://a.example", "a list of URLs, not one"),
            (["https://me:hush@b.example", 7], "more than an origin"),
            ([7], "origins has 7, which is no URL"),
        ],
    )
    def test_are_checked_at_once(self, tmp_path: Path, named: Any, said: str) -> None:
        made = settings_for("http://127.0.0.1:1", tmp_path)
        flows: list[Any] = [KimiFlow.open(made, store=MemoryStore()), sync.KimiFlow.open(made, store=MemoryStore())]
        for flow in flows:
            for make in (lambda f: f.auth("a", origins=named), lambda f: f.pool(["a"], origins=named)):
                with pytest.raises(UsageError, match=said) as caught:
                    make(flow)
                assert "hush" not in str(caught.value)

    def test_may_be_plain_http_on_loopback(self, tmp_path: Path) -> None:
        flow = KimiFlow.open(settings_for("http://127.0.0.1:1", tmp_path), store=MemoryStore())
        assert flow.auth("a", origins=("http://127.0.0.1:8080", "http://localhost", "http://[::1]:1"))

    async def test_get_what_the_api_gets(self, here: World, elsewhere: Server) -> None:
        for auth in auths(here.flow, origins={elsewhere.url}):
            async with client(auth) as http:
                assert (await http.get(f"{elsewhere.url}/v1/me")).status_code == 200
        assert elsewhere.secrets() == [list(SECRET)] * 2

    async def test_are_heard_about_the_account(self, here: World, elsewhere: Server) -> None:
        elsewhere.status = 401
        async with client(here.flow.auth("a", origins=[elsewhere.url])) as http:
            assert (await http.get(elsewhere.url)).status_code == 401
        assert len(elsewhere.seen) == 2
        assert len(here.sandbox.log("refresh")) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
class TestARedirect:
    @pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
    async def test_to_another_origin_goes_without(
        self, here: World, api: Server, elsewhere: Server, status: int, kind: Any
    ) -> None:
        api.redirect, api.targets = status, {"/away": f"{elsewhere.url}/here"}
        for auth in auths(here.flow, origins=[elsewhere.url]):
            async with kind.AsyncClient(auth=auth, trust_env=False, follow_redirects=True) as http:
                response = await http.post(f"{api.url}/away", json={}, headers={"X-Own": "kept"})
            assert str(response.url) == f"{elsewhere.url}/here"
        assert api.secrets() == [list(SECRET)] * 2
        assert elsewhere.secrets() == [[]] * 2
        assert {headers["x-own"] for _, _, headers in elsewhere.seen} == {"kept"}
        assert not any(name.startswith("x-msh") for _, _, headers in elsewhere.seen for name in headers)

    @pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
    def test_to_another_origin_goes_without_in_threads(
        self, threads: sync.KimiFlow, api: Server, elsewhere: Server, status: int, kind: Any
    ) -> None:
        api.redirect, api.targets = status, {"/away": f"{elsewhere.url}/here"}
        for auth in auths(threads):
            with kind.Client(auth=auth, trust_env=False, follow_redirects=True) as http:
                assert str(http.get(f"{api.url}/away").url) == f"{elsewhere.url}/here"
        assert api.secrets() == [list(SECRET)] * 2
        assert elsewhere.secrets() == [[]] * 2

    @pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
    async def test_within_the_origin_keeps_them(self, here: World, api: Server, status: int, kind: Any) -> None:
        api.redirect, api.targets = status, {"/old": "/new", "/new": f"{api.url}/newest"}
        for auth in auths(here.flow):
            async with kind.AsyncClient(auth=auth, trust_env=False, follow_redirects=True) as http:
                assert (await http.post(f"{api.url}/old", json={})).status_code == 200
        assert [path for _, path, _ in api.seen] == ["/old", "/new", "/newest"] * 2
        assert api.secrets() == [list(SECRET)] * 6

    def test_within_the_origin_keeps_them_in_threads(self, threads: sync.KimiFlow, api: Server, status: int) -> None:
        api.redirect, api.targets = status, {"/old": "/new"}
        for auth in auths(threads):
            with httpx.Client(auth=auth, trust_env=False, follow_redirects=True) as http:
                assert http.get(f"{api.url}/old").status_code == 200
        assert api.secrets() == [list(SECRET)] * 4

    async def test_there_and_back_again_goes_without(
        self, here: World, api: Server, elsewhere: Server, status: int
    ) -> None:
        """And what the API says to a request without a token says nothing about the token."""
        api.redirect = elsewhere.redirect = status
        api.targets, elsewhere.targets = {"/away": elsewhere.url + "/back"}, {"/back": f"{api.url}/home"}
        api.status = 401
        pool = here.flow.pool(["a", "b"])
        for auth in (here.flow.auth("a"), pool):
            async with client(auth, follow_redirects=True) as http:
                assert (await http.get(f"{api.url}/away")).status_code == 401
        assert api.secrets() == [list(SECRET), []] * 2
        assert elsewhere.secrets() == [[]] * 2
        assert (here.sandbox.log("refresh"), dict(pool.set_aside)) == ([], {})

    async def test_that_is_not_followed_holds_no_secret_for_who_follows_it(
        self, here: World, api: Server, elsewhere: Server, status: int
    ) -> None:
        api.redirect, api.targets = status, {"/away": elsewhere.url}
        async with client(here.flow.auth("a")) as http:
            following = (await http.get(f"{api.url}/away")).next_request
            assert following is not None
            with pytest.raises(ForeignOrigin):
                await http.send(following)
            await http.send(following, auth=None)
        assert elsewhere.secrets() == [[]]


class TestWhatIsSaidBehindARedirectToAnotherOrigin:
    async def test_causes_no_refresh(self, here: World, api: Server, elsewhere: Server) -> None:
        api.targets, elsewhere.status = {"/away": elsewhere.url}, 401
        for auth in auths(here.flow):
            async with client(auth, follow_redirects=True) as http:
                assert (await http.get(f"{api.url}/away")).status_code == 401
        assert here.sandbox.log("refresh") == []
        assert (len(api.seen), len(elsewhere.seen)) == (2, 2), "nor a second try"

    def test_causes_no_refresh_in_threads(
        self, threads: sync.KimiFlow, threaded: ThreadedSandbox, api: Server, elsewhere: Server
    ) -> None:
        api.targets, elsewhere.status = {"/away": elsewhere.url}, 401
        for auth in auths(threads):
            with httpx.Client(auth=auth, trust_env=False, follow_redirects=True) as http:
                assert http.get(f"{api.url}/away").status_code == 401
        assert threaded.log("refresh") == []

    @pytest.mark.parametrize("status", [401, 402, 403, 429])
    async def test_sets_nobody_aside(self, here: World, api: Server, status: int) -> None:
        def handler(request: httpx.Request) -> httpx.Response:
            if request.url.host == "evil.example":
                return httpx.Response(status, json={"error": {"type": "access_terminated_error"}})
            return httpx.Response(307, headers={"Location": "https://evil.example/"})

        pool = here.flow.pool(["a", "b"])
        async with client(pool, transport=httpx.MockTransport(handler), follow_redirects=True) as http:
            assert (await http.get(api.url)).status_code == status
        assert dict(pool.set_aside) == {}

    async def test_counts_within_the_origin(self, here: World, api: Server) -> None:
        api.targets, api.status = {"/old": "/new"}, 402
        pool = here.flow.pool(["a", "b"])
        async with client(pool, follow_redirects=True) as http:
            with pytest.raises(Exception, match="402, no membership"):
                await http.get(f"{api.url}/old")
        assert list(pool.set_aside) == ["a", "b"]


async def test_the_profile_is_asked_for_where_the_api_is_and_no_redirect_is_followed(
    here: World, api: Server, elsewhere: Server
) -> None:
    api.targets = {f"/coding/v1/{name}": f"{elsewhere.url}/{name}" for name in ("me", "usages")}
    with pytest.raises(RequestFailed, match="answered 307"):
        await here.flow.profile("a")
    assert len(api.seen) == 2
    assert elsewhere.seen == []


async def test_an_account_of_another_api_that_is_disabled_is_no_obstacle(sandbox: Sandbox, tmp_path: Path) -> None:
    made = settings_for(sandbox.url, tmp_path)
    other = made.providers["sandbox"].model_copy(update={"api_base": "https://other.example"})
    made = made.model_copy(update={"providers": made.providers | {"other": other}})
    async with KimiFlow(made, MemoryStore()) as flow:
        for name, provider in {"a": "sandbox", "b": "other"}.items():
            await flow.login(name, provider=provider)
            await flow.wait(name)
        await flow.accounts.disable(["b"])
        async with client(flow.pool(["b", "a"]), transport=remembering([])) as http:
            for _ in range(4):
                assert (await http.get(sandbox.url)).status_code == 200


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_headers_that_are_tied_are_headers_like_others(kind: Any) -> None:
    headers = kind.Headers({"Authorization": "Bearer x", "X-Msh-Device-Id": "1", "X-Msh-Platform": "p"})
    origins._tie(headers)
    assert headers["Authorization"] == "Bearer x"
    assert headers.get_list("x-msh-device-id") == ["1"]
    assert dict(headers.items())["x-msh-platform"] == "p"
    assert (b"X-Msh-Device-Id", b"1") in headers.raw
    headers.update({"X-Msh-Device-Id": "2"})
    assert headers["x-msh-device-id"] == "2"
    del headers["X-Msh-Platform"]
    assert list(headers) == ["authorization", "x-msh-device-id"]


def test_a_release_that_would_take_device_headers_along_is_not_used() -> None:
    class Headers(httpx.Headers):
        def __delitem__(self, key: str) -> None:
            self._list = [entry for entry in self._list if entry[1] != key.lower().encode()]

    with pytest.raises(RuntimeError, match="redirects could not be kept safe"):
        origins._check_tie(Headers)

"""The sandbox as an ASGI application: the protocol's endpoints, and the pages of the person who decides."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from kimiflow.sandbox import pages
from kimiflow.sandbox.api import API_BASE
from kimiflow.sandbox.effects import REDIRECT_TARGET
from kimiflow.sandbox.endpoints import ApiEndpoint, ProtocolEndpoint
from kimiflow.sandbox.records import UserCodeError
from kimiflow.sandbox.service import DEVICE_AUTHORIZATION_PATH, REVOCATION_PATH, TOKEN_PATH, parse_form

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from kimiflow.sandbox.service import Service

__all__ = ["create_app"]

_HOSTS: Final = ("127.0.0.1", "localhost")
"""Names of this machine. Any other is a page's that has its name point here, to speak to us as its own (DNS rebinding)."""


def create_app(service: Service, clock: Callable[[], float], closing: asyncio.Event | None = None) -> Starlette:
    """The application around a service. ``closing`` ends the requests that a fault makes wait."""
    closing = asyncio.Event() if closing is None else closing
    authority = service.authority

    async def front(_request: Request) -> Response:
        now = clock()
        return _page(pages.front(authority.pending(now), now))

    async def device(request: Request) -> Response:
        typed = request.query_params.get("user_code", "")
        if not typed.strip():
            return _page(pages.ask_for_code())
        try:
            return _page(pages.decide(authority.look_up(typed, clock())))
        except UserCodeError as error:
            return _page(pages.ask_for_code(str(error), typed), 404)

    async def decision(request: Request) -> Response:
        if not _is_own_form(request):
            return _page(pages.ask_for_code("Nothing was decided: that came from another site."), 403)
        form = parse_form(request.headers.get("content-type", ""), await request.body()) or {}
        typed, decided = form.get("user_code", ""), form.get("decision")
        if decided not in {"approve", "deny"}:
            return _page(pages.ask_for_code("Nothing was decided: press Approve or Deny.", typed), 400)
        approved = decided == "approve"
        try:
            code = (authority.approve if approved else authority.deny)(typed, clock())
        except UserCodeError as error:
            return _page(pages.ask_for_code(str(error), typed), 404)
        return _page(pages.result(code, approved=approved))

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[
            Route(TOKEN_PATH, ProtocolEndpoint(service, "token", clock, closing)),
            Route(DEVICE_AUTHORIZATION_PATH, ProtocolEndpoint(service, "device_authorization", clock, closing)),
            Route(REVOCATION_PATH, ProtocolEndpoint(service, "revocation", clock, closing)),
            Route(REDIRECT_TARGET, ProtocolEndpoint(service, "redirected", clock, closing)),
            Mount(API_BASE, ApiEndpoint(service, clock, closing)),
            Route("/", front),
            Route("/device", device, methods=["GET"]),
            Route("/device", decision, methods=["POST"]),
            Route("/healthz", healthz),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=_HOSTS, www_redirect=False)],
    )


def _is_own_form(request: Request) -> bool:
    """Whether a form is one of these pages', as far as a browser tells; what is no browser tells nothing."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in {"same-origin", "none"}
    origin = request.headers.get("origin")
    return origin is None or origin == f"{request.url.scheme}://{request.url.netloc}"


def _page(content: str, status: int = 200) -> Response:
    return HTMLResponse(content, status, pages.PAGE_HEADERS)

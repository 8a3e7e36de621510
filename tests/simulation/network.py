"""What lies between a worker's client and the server: an httpx transport without a socket."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

import httpx

if TYPE_CHECKING:
    from kimiflow.sandbox.authority import Authority
    from kimiflow.sandbox.records import Exchange, Reply

    from .worker import Worker
    from .world import World

__all__ = ["Network"]


class Network(httpx.AsyncBaseTransport):
    """One worker's way to the server.

    The server's part of an exchange is a task of its own: it goes on when the client gives up or its process dies.
    """

    def __init__(self, world: World, worker: Worker) -> None:
        self._world = world
        self._worker = worker

    @property
    def _authority(self) -> Authority:
        return self._world.authority

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        world, worker, weather = self._world, self._worker, self._world.weather
        rng = world.rng
        await worker.touch("connect")
        if rng.random() < weather.connection_refused:
            raise httpx.ConnectError("connection refused")
        await asyncio.sleep(rng.random() * weather.latency)
        form = dict(parse_qsl((await request.aread()).decode()))
        world.judge.sent(worker, form, request.headers["X-Msh-Device-Id"])
        answer: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        world.in_background(self._serve(request, form, answer))
        try:
            response = await answer
            await asyncio.sleep(rng.random() * weather.latency)
            await worker.touch("reply")
        finally:
            if not worker.dead:
                world.judge.ended(worker, form)
        world.judge.arrived(worker, response)
        return response

    async def _serve(
        self, request: httpx.Request, form: dict[str, str], answer: asyncio.Future[httpx.Response]
    ) -> None:
        world, weather, rng, loop = self._world, self._world.weather, self._world.rng, asyncio.get_running_loop()
        if rng.random() < weather.request_lost:
            return  # nobody will ever know
        await asyncio.sleep(rng.random() * weather.latency)
        if rng.random() < weather.slow:
            await asyncio.sleep(world.settings.http_timeout * (0.5 + rng.random() * 2))
        abandoned = answer.done()  # the client has given it up; the server cannot know
        endpoint = "device_authorization" if request.url.path.endswith("device_authorization") else "token"
        exchange = self._authority.arrive(endpoint, form, request.headers["X-Msh-Device-Id"], world.server_now())
        response = self._before_the_server() or self._by_the_server(exchange, form)
        lost = rng.random() < weather.reply_lost
        delivered = not lost and not answer.done() and not self._worker.dead
        self._authority.complete(exchange, world.server_now(), response.status_code, delivered=delivered)
        world.judge.served(exchange, abandoned=abandoned)
        if not answer.done() and not lost:
            loop.call_soon(_deliver, answer, response)

    def _before_the_server(self) -> httpx.Response | None:
        weather, rng = self._world.weather, self._world.rng
        if rng.random() < weather.nonsense:
            return rng.choice(
                (
                    httpx.Response(502, text="<html>Bad Gateway</html>"),
                    httpx.Response(403, text="<html>blocked by the firewall</html>"),
                    httpx.Response(200, content=b""),
                    httpx.Response(200, content=b'{"access_tok'),
                    httpx.Response(500, json={"detail": "oops"}),
                )
            )
        if rng.random() < weather.patience:
            return httpx.Response(429, headers={"Retry-After": str(rng.randrange(1, 60))})
        return None

    def _by_the_server(self, exchange: Exchange, form: dict[str, str]) -> httpx.Response:
        weather, rng = self._world.weather, self._world.rng
        now = self._world.server_now()
        reply: Reply = self._authority.act(exchange, now)
        body = dict(reply.body)
        if (
            exchange.kind == "poll"
            and body.get("error") == "authorization_pending"
            and rng.random() < weather.slow_down
        ):
            exchange.slower = (exchange.interval or 0.0) + 5.0
            body["error"] = "slow_down"
        if exchange.kind == "refresh" and "access_token" in body and rng.random() < weather.bare_refresh:
            for key in ("scope", "token_type", "expires_in"):
                body.pop(key, None)
        return httpx.Response(reply.status, content=json.dumps(body).encode())


def _deliver(answer: asyncio.Future[httpx.Response], response: httpx.Response) -> None:
    if not answer.done():
        answer.set_result(response)

"""What lies between a worker's client and the server: an httpx transport without a socket."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl

import httpx

from kimiflow.sandbox.log import NOT_PROCESSED

if TYPE_CHECKING:
    from kimiflow.sandbox.authority import Authority
    from kimiflow.sandbox.records import Exchange, Reply

    from .worker import Worker
    from .world import World

__all__ = ["Network"]

_MEMORY: Final = 60.0
"""Seconds after which nothing on the way knows a reply any more: shorter than a code must still live to be approved."""


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
        device_id = request.headers["X-Msh-Device-Id"]
        world.judge.sent(worker, form, device_id)
        answer: asyncio.Future[httpx.Response] = asyncio.get_running_loop().create_future()
        at, said_before = world.replies.get(_same(device_id, form), (0.0, None))
        if said_before is not None and world.server_now() - at < _MEMORY and rng.random() < weather.reply_doubled:
            world.judge.counts["replies doubled"] += 1
            answer.set_result(_copy(said_before))
        else:
            doubled = rng.random() < weather.request_doubled
            for _ in range(2 if doubled else 1):
                world.in_background(self._serve(request, form, answer, doubled=doubled))
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
        self, request: httpx.Request, form: dict[str, str], answer: asyncio.Future[httpx.Response], *, doubled: bool
    ) -> None:
        world, weather, rng, loop = self._world, self._world.weather, self._world.rng, asyncio.get_running_loop()
        if rng.random() < weather.request_lost:
            return  # nobody will ever know
        await asyncio.sleep(rng.random() * weather.latency)
        if rng.random() < weather.slow:
            await asyncio.sleep(world.settings.http_timeout * (0.5 + rng.random() * 2))
        endpoint = "device_authorization" if request.url.path.endswith("device_authorization") else "token"
        device_id = request.headers["X-Msh-Device-Id"]
        exchange = self._authority.arrive(endpoint, form, device_id, world.server_now())
        world.judge.reached(exchange)
        await asyncio.sleep(rng.random() * weather.latency)
        response = self._before_the_server() or self._by_the_server(exchange, form)
        # The client has given it up, or is gone; the server cannot know.
        abandoned = answer.cancelled() or self._worker.dead
        lost = rng.random() < weather.reply_lost
        delivered = not lost and not answer.done() and not self._worker.dead
        self._authority.complete(exchange, world.server_now(), response.status_code, delivered=delivered)
        world.judge.served(exchange, abandoned=abandoned, doubled=doubled)
        if exchange.outcome != NOT_PROCESSED:
            world.replies[_same(device_id, form)] = world.server_now(), response
        if not answer.done() and not lost:
            loop.call_soon(_deliver, answer, response)

    def _before_the_server(self) -> httpx.Response | None:
        weather, rng = self._world.weather, self._world.rng
        if rng.random() < weather.nonsense:
            return rng.choice(
                (
                    httpx.Response(502, text="<html>Bad Gateway</html>"),
                    httpx.Response(403, text="<html>blocked by the firewall</html>"),
                    httpx.Response(404, text="404 page not found"),
                    httpx.Response(401, text="<html>401 Authorization Required</html>"),
                    httpx.Response(410),
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
        content, headers = json.dumps(body).encode(), {}
        if rng.random() < weather.compressed:
            content, headers = gzip.compress(content), {"Content-Encoding": "gzip"}
        return httpx.Response(reply.status, headers=headers, content=content)


def _same(device_id: str, form: dict[str, str]) -> tuple[str, ...]:
    """What two requests have in common that are the same to a proxy."""
    return (device_id, *(word for field in sorted(form.items()) for word in field))


def _copy(response: httpx.Response) -> httpx.Response:
    return httpx.Response(response.status_code, headers=response.headers, content=response.content)


def _deliver(answer: asyncio.Future[httpx.Response], response: httpx.Response) -> None:
    if not answer.done():
        answer.set_result(response)

"""The others: clients without state and database, and what one would write first.

Each makes ``count`` polls (or refreshes) and returns how many seconds that took.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import httpx
from sqlalchemy import Float, String
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

if TYPE_CHECKING:
    import ssl

    from .place import Place

__all__ = ["aiohttp_polls", "aiohttp_refreshes", "httpx_polls", "limit", "naive", "session_per_poll"]

FORM = {
    "client_id": "17e5f671-d194-4dfb-9706-5516cb48c098",
    "device_code": "d" * 64,
    "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
}
HEADERS = {
    "Accept": "application/json",
    "X-Msh-Platform": "bench",
    "X-Msh-Version": "1.0.0",
    "X-Msh-Device-Name": "bench",
    "X-Msh-Device-Model": "Linux amd64",
    "X-Msh-Device-Id": "01234567-89ab-cdef-0123-456789abcdef",
}
TOKEN = "/api/oauth/token"


async def _at_once(workers: int, count: int, poll: Any) -> float:
    left = itertools.count()

    async def work() -> None:
        while next(left) < count:
            await poll()

    started = time.perf_counter()
    await asyncio.gather(*[work() for _ in range(workers)])
    return time.perf_counter() - started


class _Raw(asyncio.Protocol):
    """The least that can be called a client."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport
        self.reply: asyncio.Future[bytes] | None = None

    def data_received(self, data: bytes) -> None:
        head, _, body = data.partition(b"\r\n\r\n")
        assert b"content-length" in head.lower()
        assert self.reply is not None
        self.reply.set_result(body)


async def limit(place: Place, count: int) -> float:
    """Hand-written HTTP/1.1 on asyncio, keep-alive, no state, no database."""
    loop, url = asyncio.get_running_loop(), urlsplit(place.http)
    body = "&".join(f"{k}={v}" for k, v in FORM.items()).encode()
    lines = [f"POST {TOKEN} HTTP/1.1", f"Host: {url.netloc}", "Content-Type: application/x-www-form-urlencoded"]
    lines += [f"{k}: {v}" for k, v in HEADERS.items()] + [f"Content-Length: {len(body)}", "", ""]
    message = "\r\n".join(lines).encode() + body
    connections = [(await loop.create_connection(_Raw, url.hostname, url.port))[1] for _ in range(256)]
    free = list(connections)

    async def poll() -> None:
        connection = free.pop()
        connection.reply = loop.create_future()
        connection.transport.write(message)
        json.loads(await connection.reply)
        free.append(connection)

    try:
        return await _at_once(256, count, poll)
    finally:
        for connection in connections:
            connection.transport.abort()
        await asyncio.sleep(0)


async def aiohttp_polls(place: Place, count: int, *, tls: bool = False, at_once: int = 256) -> float:
    """One session, keep-alive."""
    base, context = _where(place, tls=tls)
    connector = aiohttp.TCPConnector(limit=at_once, ssl=context)
    async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:

        async def poll() -> None:
            async with session.post(base + TOKEN, data=FORM) as reply:
                json.loads(await reply.read())

        await _at_once(at_once, 2 * at_once, poll)
        return await _at_once(at_once, count, poll)


async def aiohttp_refreshes(place: Place, count: int) -> float:
    """The same with refreshes of 256 tokens, each in its turn."""
    base, _ = _where(place, tls=False)
    tokens = [f"aiohttp-{time.monotonic_ns()}-{i}.0" for i in range(256)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=256), headers=HEADERS) as session:

        async def refresh() -> None:
            form = {"client_id": FORM["client_id"], "grant_type": "refresh_token", "refresh_token": tokens.pop()}
            async with session.post(base + TOKEN, data=form) as reply:
                tokens.append(json.loads(await reply.read())["refresh_token"])

        await _at_once(256, 2 * 256, refresh)
        return await _at_once(256, count, refresh)


async def httpx_polls(place: Place, count: int) -> float:
    """The default pool, at the concurrency where it is best, which is one."""
    async with httpx.AsyncClient(headers=HEADERS, trust_env=False) as client:

        async def poll() -> None:
            (await client.post(place.http + TOKEN, data=FORM)).json()

        return await _at_once(1, count, poll)


async def session_per_poll(place: Place, count: int) -> float:
    """A new aiohttp session, and so a new connection, for every poll, over TLS; 32 at once."""

    async def poll() -> None:
        async with (
            aiohttp.ClientSession(headers=HEADERS) as session,
            session.post(place.https + TOKEN, data=FORM, ssl=place.tls) as reply,
        ):
            json.loads(await reply.read())

    return await _at_once(32, count, poll)


class Base(DeclarativeBase):
    pass


class Flow(Base):
    __tablename__ = "flows"
    id: Mapped[int] = mapped_column(primary_key=True)
    device_code: Mapped[str] = mapped_column(String)
    state: Mapped[str] = mapped_column(String)
    next_poll: Mapped[float] = mapped_column(Float)


async def naive(place: Place, count: int) -> float:
    """What one would write first: a task for each flow, default httpx, an ORM session and a commit for each poll."""
    path = place.folder / f"naive-{time.monotonic_ns()}.db"
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    sessions = async_sessionmaker(engine)
    async with engine.begin() as connection:
        await connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        await connection.run_sync(Base.metadata.create_all)
    async with sessions() as session, session.begin():
        session.add_all(Flow(device_code=FORM["device_code"], state="pending", next_poll=0.0) for _ in range(count))
    writing = asyncio.Lock()  # without it most of the tasks would see "database is locked"
    async with httpx.AsyncClient(headers=HEADERS, trust_env=False, timeout=300.0) as client:

        async def poll(flow_id: int) -> None:
            reply = (await client.post(place.http + TOKEN, data=FORM)).json()
            async with writing, sessions() as session, session.begin():
                flow = await session.get_one(Flow, flow_id)
                flow.state = reply["error"]
                flow.next_poll = time.time() + 5

        started = time.perf_counter()
        await asyncio.gather(*[poll(i) for i in range(1, count + 1)])
        seconds = time.perf_counter() - started
    await engine.dispose()
    return seconds


def _where(place: Place, *, tls: bool) -> tuple[str, ssl.SSLContext | bool]:
    return (place.https, place.tls) if tls else (place.http, True)

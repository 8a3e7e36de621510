"""PostgreSQL's URLs as people write them."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
import sqlalchemy as sa

from kimiflow.errors import InvalidSetting, StoreError, StoreUnavailable
from kimiflow.stores.address import Address
from kimiflow.stores.registry import open_store

if TYPE_CHECKING:
    from tests.postgres import Postgres

PASSWORD = "hunter2"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the driver is asked to connect to; it does not."""
    found: dict[str, Any] = {}

    async def connect(dsn: str, **options: Any) -> None:
        found.update(options, dsn=dsn)
        raise ConnectionRefusedError

    monkeypatch.setattr(asyncpg, "connect", connect)
    return found


async def ask(url: str) -> Address:
    address = Address(url, {"lock_timeout": "10000"})
    with pytest.raises(ConnectionRefusedError):
        await address.connect()
    return address


@pytest.mark.parametrize(
    ("url", "dsn"),
    [
        ("postgresql://kim:pw@db/flow", "postgresql://kim:pw@db/flow"),
        ("postgres://kim:pw@db:6432/flow", "postgres://kim:pw@db:6432/flow"),
        ("postgresql+asyncpg://kim@db/flow", "postgresql://kim@db/flow"),
        ("postgresql://kim:p%40ss@[::1]:5433/flow", "postgresql://kim:p%40ss@[::1]:5433/flow"),
        ("postgresql:///flow?host=/var/run/postgresql", "postgresql:/flow?host=%2Fvar%2Frun%2Fpostgresql"),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/flow", "postgresql://%2Fvar%2Frun%2Fpostgresql/flow"),
        ("postgresql://db/flow?sslmode=require", "postgresql://db/flow?sslmode=require"),
        ("postgresql://db/flow?sslmode=disable", "postgresql://db/flow?sslmode=disable"),
        (
            "postgresql://db/flow?sslmode=verify-full&sslrootcert=/dev/../etc/passwd",
            "postgresql://db/flow?sslmode=verify-full&sslrootcert=%2Fdev%2F..%2Fetc%2Fpasswd",
        ),
        (
            "postgresql://a:5432,b:5433/flow?target_session_attrs=read-write",
            "postgresql://a:5432,b:5433/flow?target_session_attrs=read-write",
        ),
        ("postgresql://db/flow?search_path=mine&gssencmode=disable", "postgresql://db/flow?search_path=mine"),
    ],
)
async def test_what_the_driver_is_given(asked: dict[str, Any], url: str, dsn: str) -> None:
    await ask(url)
    assert asked["dsn"] == dsn
    assert asked["server_settings"] == {"application_name": "kimiflow", "lock_timeout": "10000"}
    assert asked["timeout"] == 10


async def test_parameters_that_are_understood_here(asked: dict[str, Any]) -> None:
    await ask("postgresql://db/flow?connect_timeout=3&application_name=web-1&keepalives_idle=5&tcp_user_timeout=9000")
    assert asked["dsn"] == "postgresql://db/flow"
    assert asked["timeout"] == 3
    assert asked["server_settings"]["application_name"] == "web-1"
    assert "statement_cache_size" not in asked


async def test_pgbouncer_is_sent_no_parameter_that_it_refuses(asked: dict[str, Any]) -> None:
    address = await ask("postgresql://db:6432/flow?pgbouncer=true")
    assert address.pgbouncer
    assert asked["server_settings"] == {"application_name": "kimiflow"}
    assert asked["statement_cache_size"] == 0


async def test_the_certificates_of_the_machine(asked: dict[str, Any]) -> None:
    await ask("postgresql://db/flow?sslmode=verify-full&sslrootcert=system")
    assert asked["ssl"].verify_mode is ssl.CERT_REQUIRED
    assert asked["ssl"].check_hostname
    with pytest.raises(InvalidSetting, match="verify-full only"):
        Address("postgresql://db/flow?sslmode=require&sslrootcert=system", {})


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://kim:hun@ter2@db/flow",
        "postgresql://kim:hunt/er2@db/flow",
        "postgresql://kim:hunt?er2@db/flow",
        "postgresql://kim:hunt#er2@db/flow",
        "postgresql://kim:hunt:er2@db/flow?sslmode",
        "postgresql://kim:hunter2@db:port/flow",
        "postgresql://kim:hunter2@db:99999/flow",
        "postgresql://kim:hunter2@[::1/flow",
        "postgresql://kim:hunter2@db/flow?connect_timeout=soon",
        "postgresql://kim:hunter2@db/flow?pgbouncer=perhaps",
        "postgresql://kim:hunter2@db/flow?channel_binding=require",
        "postgresql://kim:hunter2@db/flow?sslmode=verify-full&sslrootcert=/nowhere/ca.pem",
        "postgresql+psycopg://kim:hunter2@db/flow",
    ],
)
def test_what_cannot_be_meant_is_refused_and_never_quoted(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        open_store(url)
    for part in ("hun", "er2"):
        assert part not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ("sslmode=perhaps", "sslmode"),
        ("target_session_attrs=any-old", "target_session_attrs"),
        ("sslmode=disable&connect_timeout=1", "cannot be reached"),
    ],
)
async def test_what_only_the_driver_finds_wrong(parameters: str, said: str) -> None:
    store = open_store(f"postgresql://kim:{PASSWORD}@127.0.0.1:1/flow?{parameters}")
    with pytest.raises((InvalidSetting, StoreError), match=said) as caught:
        await store.open()
    assert PASSWORD not in str(caught.value)


async def test_a_server_without_tls_where_tls_is_required() -> None:
    done = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(8)
        writer.write(b"N")
        await reader.read()
        writer.close()
        await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = open_store(f"postgresql://kim:{PASSWORD}@127.0.0.1:{port}/flow?sslmode=require")
        with pytest.raises(StoreUnavailable) as caught:
            await store.open()
        await done.wait()
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "name", "hint"),
    [("", "lock_timeout", "add pgbouncer=true"), ("&pgbouncer=true&search_path=mine", "search_path", "Leave it out")],
)
async def test_a_pooler_that_was_not_named_as_one(parameters: str, name: str, hint: str) -> None:
    """In the words of PgBouncer, before it asks for a password or looks for a server."""
    done = asyncio.Event()

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        size = int.from_bytes(await reader.readexactly(4))
        assert name.encode() in await reader.readexactly(size - 4)
        fields = f"SFATAL\0C08P01\0Munsupported startup parameter: {name}\0\0".encode()
        writer.write(b"E" + (len(fields) + 4).to_bytes(4) + fields)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        done.set()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        store = open_store(f"postgresql://kim:{PASSWORD}@127.0.0.1:{port}/flow?sslmode=disable{parameters}")
        with pytest.raises(InvalidSetting, match=f"does not take the parameter {name}") as caught:
            await store.open()
        await done.wait()
    assert hint in caught.value.hint


async def test_every_way_leads_to_the_same_database(postgres: Postgres) -> None:
    url = postgres.fresh()
    parsed = sa.make_url(url)
    ways = [
        url,
        url.replace("postgresql", "postgres", 1),
        url.replace("postgresql", "postgresql+asyncpg", 1),
        url + ("&" if parsed.query else "?") + "sslmode=prefer&application_name=way&connect_timeout=5",
        url + ("&" if parsed.query else "?") + "target_session_attrs=read-write&pgbouncer=false",
    ]
    host = postgres.address()
    if isinstance(host, str):
        folder = host.rpartition("/")[0].replace("/", "%2F")
        ways.append(f"postgresql://{parsed.username}@{folder}/{parsed.database}")
    for way in ways:
        store = open_store(way)
        await store.open()
        assert await store.snapshots() == []
        await store.close()


async def test_a_standby_is_not_a_primary(postgres: Postgres) -> None:
    url = postgres.fresh()
    store = open_store(url + ("&" if "?" in url else "?") + "target_session_attrs=standby")
    with pytest.raises(StoreUnavailable, match="no host is what target_session_attrs asks for"):
        await store.open()

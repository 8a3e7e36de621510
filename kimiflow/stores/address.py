"""A PostgreSQL URL as people write it, and a connection to what it names.

The driver understands libpq's URLs, service files, ``~/.pgpass`` and ``PG…`` variables by itself. What it does not
understand is understood here, and what it would pass over in silence is refused. No message quotes the URL: a
password that was not percent-encoded ends up in any part of it.

Of the parameters,

- ``host`` (several are tried in turn, and one may be a socket's folder), ``port``, ``dbname``, ``user``, ``password``,
  ``passfile``, ``service``, ``ssl…`` and ``target_session_attrs`` are libpq's; ``sslrootcert=system`` means the
  certificates that the machine trusts;
- ``connect_timeout`` is in seconds, 10 by default; ``keepalives…`` and ``tcp_user_timeout`` are libpq's, with defaults
  by which a dead network is noticed in about 15 s; ``application_name`` is ``kimiflow`` by default;
- ``pgbouncer=true`` is for poolers that give each transaction another connection: no ``LISTEN``, no named statements;
- any other is a setting of the session, such as ``search_path``.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

import asyncpg  # type: ignore[import-untyped]

from kimiflow.errors import InvalidSetting, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Address"]

_HINT: Final = "It looks like postgresql://user:password@host/database; special characters of the password as %XX."
_NO_ANSWER: Final = 30.0
"""Seconds after which a statement without an answer is given up, because the connection is taken for dead."""

_KEEPALIVE: Final = {
    "keepalives_idle": ("TCP_KEEPIDLE", 10),
    "keepalives_interval": ("TCP_KEEPINTVL", 3),
    "keepalives_count": ("TCP_KEEPCNT", 3),
    # In milliseconds: for how long what was sent may stay unacknowledged.
    "tcp_user_timeout": ("TCP_USER_TIMEOUT", 15_000),
}
_WITHOUT_EFFECT: Final = frozenset({"client_encoding", "gssencmode", "sslcompression", "sslsni"})
_FILES: Final = frozenset({"sslrootcert", "sslcert", "sslkey", "sslcrl"})
_REFUSED: Final = {"channel_binding": "require", "gssencmode": "require"}
"""What the driver cannot do, and what must not be passed over for that."""


class Address:
    """Where a database is, and how to connect to it.

    :param settings: of each session, by the names of PostgreSQL's parameters.
    :raises InvalidSetting: where the URL cannot be meant.
    """

    def __init__(self, url: str, settings: Mapping[str, str]) -> None:
        scheme, _, driver = url.partition(":")[0].partition("+")
        if driver not in {"", "asyncpg"}:
            raise InvalidSetting(f"KIMIFLOW_DATABASE_URL asks for the driver {driver!r}", hint=_HINT)
        try:
            parts = urlsplit(scheme + ":" + url.partition(":")[2])
            query = dict(parse_qsl(parts.query, strict_parsing=True, keep_blank_values=True)) if parts.query else {}
            ports = [int(one.rpartition(":")[2]) for one in _with_ports(parts.netloc.rpartition("@")[2])]
        except ValueError:
            raise InvalidSetting("KIMIFLOW_DATABASE_URL is no database URL", hint=_HINT) from None
        if parts.fragment or parts.netloc.count("@") > 1 or "@" in parts.path or any(p > 65535 for p in ports):
            raise InvalidSetting("KIMIFLOW_DATABASE_URL is no database URL", hint=_HINT)
        host = unquote(parts.netloc.rpartition("@")[2]) or query.get("host") or "localhost"
        database = unquote(parts.path.removeprefix("/")) or query.get("dbname") or query.get("database") or ""
        self.where = f"the database {database!r} on {host}"

        for name, value in _REFUSED.items():
            if query.get(name) == value:
                raise InvalidSetting(
                    f"KIMIFLOW_DATABASE_URL asks for {name}={value}, which the driver cannot do",
                    hint=f"Take {name} out; sslmode=verify-full makes sure of the server.",
                )
        self.pgbouncer = _flag(query, "pgbouncer")
        self._timeout = _number(query, "connect_timeout", 10) or None
        self._keeps_alive = _flag(query, "keepalives", default=True)
        self._keepalive = {option: _number(query, name, default) for name, (option, default) in _KEEPALIVE.items()}
        for name in _FILES & query.keys():
            if query[name] != "system" and not Path(query[name]).is_file():
                raise InvalidSetting(f"KIMIFLOW_DATABASE_URL: {name} names no file")
        self._ssl: ssl.SSLContext | None = None
        if query.get("sslrootcert") == "system":
            # As libpq: whoever trusts all authorities must at least look at the name.
            if query.pop("sslmode", "verify-full") != "verify-full":
                raise InvalidSetting("KIMIFLOW_DATABASE_URL: sslrootcert=system goes with sslmode=verify-full only")
            del query["sslrootcert"]
            self._ssl = ssl.create_default_context()
        rest = {name: value for name, value in query.items() if name not in _WITHOUT_EFFECT | {"channel_binding"}}
        # A pooler refuses parameters that it does not know when a connection begins; there each transaction sets them.
        self._settings = {"application_name": rest.pop("application_name", "kimiflow")}
        if not self.pgbouncer:
            self._settings |= settings
        self._dsn = urlunsplit((parts.scheme.lower(), parts.netloc, parts.path, urlencode(rest), ""))

    async def connect(self) -> asyncpg.Connection:
        """A new connection.

        :raises InvalidSetting: where the driver cannot make sense of the URL.
        :raises StoreUnavailable: where no host is one that the URL asks for. What else goes wrong is the driver's.
        """
        try:
            connection = await asyncpg.connect(
                self._dsn,
                timeout=self._timeout,
                command_timeout=_NO_ANSWER,
                server_settings=self._settings,
                **({"statement_cache_size": 0} if self.pgbouncer else {}),
                **({} if self._ssl is None else {"ssl": self._ssl}),
            )
        except asyncpg.TargetServerAttributeNotMatched:
            raise StoreUnavailable(
                f"{self.where}: no host is what target_session_attrs asks for",
                hint="During a failover this passes by itself. Nothing was lost; what was not written is tried again.",
            ) from None
        except asyncpg.ProtocolViolationError as error:
            # PgBouncer's word for what no server would refuse.
            _, refused, name = str(error).partition("unsupported startup parameter: ")
            if not refused:
                raise
            raise InvalidSetting(
                f"KIMIFLOW_DATABASE_URL leads to a pooler that does not take the parameter {name}",
                hint="Leave it out, or have PgBouncer ignore it (ignore_startup_parameters)."
                if self.pgbouncer
                else "Behind PgBouncer, add pgbouncer=true to the URL's parameters.",
            ) from None
        except (asyncpg.exceptions.ClientConfigurationError, asyncpg.InterfaceError) as error:
            raise InvalidSetting(f"KIMIFLOW_DATABASE_URL cannot be used: {str(error).partition(chr(10))[0]}") from None
        except ssl.SSLError:
            raise
        except ValueError:
            raise InvalidSetting("KIMIFLOW_DATABASE_URL cannot be used by the driver", hint=_HINT) from None
        self._watch(connection)
        return connection

    def _watch(self, connection: asyncpg.Connection) -> None:
        """Has the kernel notice a dead network, which no statement would before its time-out."""
        transport = getattr(connection, "_transport", None)
        sock = None if transport is None else transport.get_extra_info("socket")
        if sock is None or sock.family not in {socket.AF_INET, socket.AF_INET6} or not self._keeps_alive:
            return
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in self._keepalive.items():
                # Not every system has each of them; 0 leaves the system's own.
                if value and hasattr(socket, option):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _with_ports(hosts: str) -> list[str]:
    """Those of the comma-separated hosts that name a port; an IPv6 address has colons of its own."""
    return [host for host in hosts.split(",") if ":" in host.rpartition("]")[2]]


def _number(query: dict[str, Any], name: str, default: int) -> int:
    given = query.pop(name, None)
    if given in {None, ""}:
        return default
    try:
        return max(0, int(given))
    except ValueError:
        raise InvalidSetting(f"KIMIFLOW_DATABASE_URL: {name} is a whole number") from None


def _flag(query: dict[str, Any], name: str, *, default: bool = False) -> bool:
    given = query.pop(name, None)
    if given is None:
        return default
    word = given.lower()
    if word not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise InvalidSetting(f"KIMIFLOW_DATABASE_URL: {name} is true or false")
    return word in {"true", "1", "yes", "on"}

"""uvicorn's HTTP protocol with what a misbehaving server needs.

That is the connection in the hands of the application, and word of when a connection is gone.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from uvicorn.config import Config
    from uvicorn.server import ServerState

__all__ = ["TRANSPORT", "SandboxProtocol", "reset"]

TRANSPORT: Final = "kimiflow.sandbox.transport"
"""The key in ASGI's ``scope["state"]`` under which the connection's transport is found."""

# struct linger: on, with no time to linger.
_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


class SandboxProtocol(H11Protocol):
    """Each request's ASGI state holds the transport under `TRANSPORT`.

    ``on_lost`` is called whenever a connection is gone.
    """

    def __init__(self, config: Config, server_state: ServerState, on_lost: Callable[[], None]) -> None:
        super().__init__(config=config, server_state=server_state, app_state={})
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        # uvicorn copies this into the scope of each request, as it does with the state of a lifespan.
        self.app_state: dict[str, Any] = {TRANSPORT: transport}
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._on_lost()


def reset(transport: asyncio.Transport) -> None:
    """Drop the connection with a RST: the peer's next read fails, instead of finding an end."""
    # What loops hand out here may lack setsockopt; the descriptor is borrowed for a moment and stays theirs.
    connection = socket.socket(fileno=transport.get_extra_info("socket").fileno())
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    finally:
        connection.detach()
    transport.abort()

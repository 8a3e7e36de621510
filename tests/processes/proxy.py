"""A TCP proxy on loopback that loses things: between a worker and the server, or the database."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self


class Proxy:
    """Passes bytes on, until told otherwise.

    :param target: a host and port, or the path of a Unix socket.
    """

    def __init__(self, target: str | tuple[str, int]) -> None:
        self._target = target
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._swallow_up = self._swallow_down = False
        self._pipes: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.swallowed = 0
        """Bytes that vanished."""
        self.connections = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        pipes = list(self._pipes)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)
        for writer in list(self._writers):
            writer.transport.abort()
        await asyncio.sleep(0)

    def stall(self) -> None:
        """Nothing gets through any more, and nothing is lost: packets are sent again until :meth:`heal`."""
        self._flowing.clear()

    def swallow(self, *, up: bool = True, down: bool = True) -> None:
        """What is sent from now on vanishes. Who lost something hears nothing on that connection ever again.

        :param up: from the worker.
        :param down: to the worker.
        """
        self._swallow_up, self._swallow_down = up, down

    def heal(self) -> None:
        """From now on everything gets through; connections that lost something stay dead."""
        self._swallow_up = self._swallow_down = False
        self._flowing.set()

    def reset(self) -> None:
        """Ends every connection with a TCP reset."""
        for writer in list(self._writers):
            raw: socket.socket = writer.get_extra_info("socket")
            if raw.family != socket.AF_UNIX:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            await self._flowing.wait()
            if isinstance(self._target, str):
                far_reader, far_writer = await asyncio.open_unix_connection(self._target)
            else:
                far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(far_writer)
        pipes = [
            asyncio.create_task(self._pipe(reader, far_writer, up=True)),
            asyncio.create_task(self._pipe(far_reader, writer, up=False)),
        ]
        self._pipes.update(pipes)
        await asyncio.gather(*pipes, return_exceptions=True)
        self._pipes.difference_update(pipes)
        for each in (writer, far_writer):
            each.transport.abort()
            self._writers.discard(each)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, up: bool) -> None:
        dead = False
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._flowing.wait()
                dead = dead or (self._swallow_up if up else self._swallow_down)
                if dead:
                    self.swallowed += len(data)
                    continue
                writer.write(data)
                await writer.drain()
            if not dead:
                writer.write_eof()
                return
            # The end of a connection that lost something is not heard of either.
            await asyncio.get_running_loop().create_future()

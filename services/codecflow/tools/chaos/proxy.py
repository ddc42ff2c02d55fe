"""A TCP proxy in front of a broker that can cut, freeze, refuse and slow down connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from typing import Any

_HOST = "127.0.0.1"
_CHUNK = 1 << 16


class Mode(Enum):
    """How connections are handled.

    SILENT: bytes are dropped, like by a machine that has lost power: open connections stay open but permanently dead, as do
    new ones made in this mode. REFUSE: all are reset. SLOW: each chunk takes `delay_s` longer.
    """

    PASS = "pass"
    SILENT = "silent"
    REFUSE = "refuse"
    SLOW = "slow"


class Proxy:
    """Listens on `port` while the context is active and forwards to `target`, a port of the same host."""

    delay_s = 0.15

    def __init__(self, port: int, target: int) -> None:
        self.port, self._target = port, target
        self._mode = Mode.PASS
        self._open: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._call(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def set(self, mode: Mode) -> None:
        """Sets the mode. Connections that have been silenced stay dead."""
        self._call(self._set(mode))

    def cut(self) -> None:
        """Resets every connection once."""
        self._call(self._cut())

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, _HOST, self.port)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(self, mode: Mode) -> None:
        self._mode = mode
        if mode is Mode.REFUSE:
            await self._cut()
        if mode is Mode.SILENT:
            for connection in self._open:
                connection.dead = True

    async def _cut(self) -> None:
        for connection in list(self._open):
            connection.reset()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode is Mode.REFUSE:
            writer.transport.abort()
            return
        connection = _Connection([writer])
        connection.dead = self._mode is Mode.SILENT
        self._open.add(connection)
        try:
            with suppress(OSError):
                there, back = await asyncio.open_connection(_HOST, self._target)
                connection.writers.append(back)
                await asyncio.gather(self._pump(reader, back, connection), self._pump(there, writer, connection))
        finally:
            connection.reset()
            self._open.discard(connection)

    async def _pump(self, source: asyncio.StreamReader, to: asyncio.StreamWriter, connection: _Connection) -> None:
        try:
            while data := await source.read(_CHUNK):
                if self._mode is Mode.SLOW:
                    await asyncio.sleep(self.delay_s)
                if connection.dead:
                    continue
                to.write(data)
                await to.drain()
        finally:
            if not connection.dead:  # the end of a silenced connection is not forwarded either
                connection.reset()


class _Connection:
    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.writers = writers
        self.dead = False

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()

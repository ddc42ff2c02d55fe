"""The page as a service: runs until it is stopped, or brokers are down for too long."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop

from .access import Access
from .app import build
from .health import PageHealth
from .hub import Hub

_SWEEP_TURNS = 10


class _Server(uvicorn.Server):
    """Without its own signal handlers: it ends like all our services."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"page: cannot listen on {host}:{port}: {reason}") from error
    listening.listen(128)
    return listening


def serve(
    settings: KafkaSettings,
    access: Access,
    listening: socket.socket,
    stop: GracefulStop,
    ready: Callable[[], None] = lambda: None,
    health: PageHealth | None = None,
) -> None:
    """Serve until `stop` is requested; `ready` is called once requests are answered. `health` is kept up to date. Raises
    KafkaError."""
    asyncio.run(_serve(settings, access, listening, stop, ready, health or PageHealth()))


async def _serve(
    settings: KafkaSettings,
    access: Access,
    listening: socket.socket,
    stop: GracefulStop,
    ready: Callable[[], None],
    health: PageHealth,
) -> None:
    failures: list[Exception] = []
    loop = asyncio.get_running_loop()
    hub = await asyncio.to_thread(Hub, settings, loop, failures.append)
    try:
        config = uvicorn.Config(
            build(access, lambda: hub),
            log_level="critical",
            access_log=False,  # addresses of requests are private
            server_header=False,
            lifespan="off",
            ws="websockets-sansio",
            ws_max_size=1 << 16,
            ws_ping_interval=20.0,
            ws_ping_timeout=30.0,
            timeout_graceful_shutdown=2,
            proxy_headers=False,
        )
        server = _Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not running.done():
            await asyncio.sleep(0.02)
        beating = asyncio.create_task(health.follow(hub.figures))
        ready()
        turns = 0
        while not (running.done() or stop.requested or failures):
            await asyncio.sleep(0.1)
            turns += 1
            if turns % _SWEEP_TURNS == 0:
                hub.board.sweep()
        beating.cancel()
        server.should_exit = True
        await running
    finally:
        await asyncio.to_thread(hub.close)
    if failures:
        raise failures[0]

"""One small HTTP port per service: /metrics for Prometheus, /livez, /readyz and /startupz for orchestrators."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from prometheus_client import CollectorRegistry, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from codecflow.errors import ConfigError

from .metrics import Sample, families

_logger = logging.getLogger("codecflow.monitoring")


@dataclass(slots=True)
class Health:
    """A service's health, written by its own thread. `started`: its start has finished (model, camera, group). `ready`: it
    can serve now. `stuck`: what has been running for too long."""

    started: bool = False
    ready: bool = False
    stuck: str | None = None

    def answer(self, path: str) -> tuple[bool, str]:
        """Whether the probe at a path passes, and a word for people. Raises KeyError for paths without a probe."""
        return {
            "/livez": (self.stuck is None, self.stuck or "alive"),
            "/readyz": (self.ready and self.stuck is None, "ready" if self.ready else "not ready"),
            "/startupz": (self.started, "started" if self.started else "starting"),
        }[path]


class MonitoringServer:
    """A context manager: serves HTTP on `address` ("PORT" of 127.0.0.1, or "HOST:PORT") until it exits.

    `health` and `samples` are called at each request, in the server's threads. Raises ConfigError if the address cannot be
    used.
    """

    def __init__(
        self,
        address: str,
        health: Callable[[], Health],
        samples: Callable[[], Iterable[Sample]],
        histograms: Iterable[Histogram] = (),
    ) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"--metrics-port {address}: PORT or HOST:PORT is expected, such as 9100 or 0.0.0.0:9100")
        registry = CollectorRegistry()
        registry.register(_Samples(samples))
        for histogram in histograms:
            registry.register(histogram)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        handler = type("Handler", (_Handler,), {"registry": registry, "health": staticmethod(health)})
        try:
            self._server = _Server((host.strip("[]") or "127.0.0.1", int(port)), handler)
        except OSError as error:
            raise ConfigError(f"--metrics-port {address}: {error.strerror or error}") from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="monitoring", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> MonitoringServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves before its answer is there, as a probe does after its time-out, is no error of ours."""
        left = isinstance(sys.exception(), OSError)
        _logger.log(logging.DEBUG if left else logging.ERROR, "request of %s", client_address, exc_info=True)


class _Samples(Collector):
    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        yield from families(self._samples())

    def describe(self) -> Iterable[Metric]:  # a registry that finds this does not collect at registration
        return ()


class _Handler(BaseHTTPRequestHandler):
    registry: CollectorRegistry
    health: Callable[[], Health]
    timeout = 30  # for a client that connects and sends nothing

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._send(200, CONTENT_TYPE_LATEST, generate_latest(self.registry))
            return
        try:
            passes, text = self.health().answer(path)
        except KeyError:
            self._send(404, "text/plain", b"/metrics, /livez, /readyz, /startupz\n")
            return
        self._send(200 if passes else 503, "text/plain; charset=utf-8", f"{text}\n".encode())

    def _send(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        _logger.debug(format, *args)

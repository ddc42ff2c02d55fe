"""Cameras for tests: a real HTTP server on this machine with configurable behaviour."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .serving import secure, serving

Behaviour = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def camera(behave: Behaviour, certificate: Path | None = None) -> Iterator[str]:
    """host:port of a server that answers every GET with `behave`; with TLS if there is a certificate."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # http.server's name
            with suppress(BrokenPipeError, ConnectionResetError):
                behave(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda request, client_address: None  # type: ignore[method-assign]  # clients leave
    if certificate is not None:
        secure(server, certificate)
    with serving(server) as address:
        yield address


def refuses(status: int) -> Behaviour:
    return lambda request: request.send_error(status)


def answers(content: bytes) -> Behaviour:
    """A page or file of known length."""

    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)

    return behave


def stalls(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.end_headers()
    time.sleep(3)


def plays(clip: Path) -> Behaviour:
    """A camera that sends a clip without its length, then hangs up."""

    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "video/mp2t")
        request.end_headers()
        request.wfile.write(clip.read_bytes())

    return behave

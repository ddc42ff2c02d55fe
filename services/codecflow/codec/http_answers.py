"""What an HTTP server answers, requested after FFmpeg failed: it does not say where redirects lead, or which status and
data came.

Sources: RFC 9110 (15.3 to 15.6 status codes, 10.2.2 Location).
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

from codecflow.errors import SourceError

from .addresses import Address, shown
from .tls import Trust

_WITHIN_S = 3.0
_MAX_HOPS = 8
"""Redirects that FFmpeg follows."""

_OF_JPEGS = (
    "image/jpeg",
    "image/jpg",
    "multipart/",
    "video/x-motion-jpeg",
    "video/x-jpeg",
    "video/mjpeg",
    "video/x-mjpeg",
)
"""Content types of cameras that send JPEG pictures."""

_LATER = (408, 425, 429)
"""Statuses after which another attempt makes sense."""


def refusal(address: Address, trust: Trust, timeout_s: float) -> SourceError | None:
    """Why no video comes from an `http` address; None if its answers do not show it. Sends no user and no password. Blocks
    for some seconds."""
    if os.environ.get("http_proxy") or os.environ.get("https_proxy"):
        return None
    url, name = _without_user(address.url), address.shown
    for _ in range(_MAX_HOPS + 1):
        try:
            with _answer(url, trust, min(timeout_s, _WITHIN_S)) as answer:
                status, reason, location = answer.status, answer.reason, answer.getheader("Location", "")
        except socket.gaierror:
            line = f"source {name}: cannot be opened: dns: the host name cannot be resolved; check the address"
            return SourceError(line, "dns")
        except (OSError, ValueError, http.client.HTTPException):
            return None
        if not (300 <= status < 400 and location):
            return _of_status(name, status, reason)
        url = _without_user(urljoin(url, location))
        name = f"{address.shown}, redirected to {shown(url)}"
        if urlsplit(url).scheme not in ("http", "https"):
            return SourceError(f"source {name}: that is no HTTP address; give the camera's own address", "protocol")
    line = f"source {address.shown}: redirected more than {_MAX_HOPS} times; give the camera's own address"
    return SourceError(line, "protocol")


def may_send_jpegs(address: Address, trust: Trust, timeout_s: float) -> bool:
    """Whether an `http` address may send a series of JPEG pictures: it says so, or gives no answer without a password."""
    if os.environ.get("http_proxy") or os.environ.get("https_proxy"):
        return True
    try:
        with _answer(_without_user(address.url), trust, min(timeout_s, _WITHIN_S)) as answer:
            kind = answer.getheader("Content-Type", "").lower()
            return (
                answer.status != http.client.OK or kind.startswith(_OF_JPEGS) or answer.read1(2).startswith(b"\xff\xd8")
            )
    except (OSError, ValueError, http.client.HTTPException):
        return False


@contextmanager
def _answer(url: str, trust: Trust, timeout_s: float) -> Iterator[http.client.HTTPResponse]:
    """The answer to a request, without its data."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.netloc, timeout=timeout_s, context=trust.context()
        )
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=timeout_s)
    try:
        connection.request("GET", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""))
        yield connection.getresponse()
    finally:
        connection.close()


def _of_status(name: str, status: int, reason: str) -> SourceError | None:
    said = (
        f"source {name}: cannot be opened: {{}}: the server answered {status} {reason or 'without a reason'}".rstrip()
    )
    if status in (204, 205) or 300 <= status < 400:
        return SourceError(said.format("codec") + ", and sends nothing; check the address", "codec")
    if 400 <= status < 500 and status not in (401, 403, *_LATER):
        return SourceError(said.format("missing") + "; check the path", "missing")
    if status >= 500 or status in _LATER:
        return SourceError(said.format("gone") + "; try again later, or restart the camera", "gone")
    return None


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="").geturl()

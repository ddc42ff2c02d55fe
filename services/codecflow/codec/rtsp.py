"""Queries to an RTSP host before FFmpeg connects, or after that failed: whether it redirects, and whether it answers.

FFmpeg follows an RTSP redirect to any host, and authenticates there with the user and password of the first one. So
redirects are followed here, and FFmpeg gets the final address: without user and password if that is another host's.

Sources: RFC 2326 (10.1 OPTIONS, 10.2 DESCRIBE, 11.3 redirection, appendix A.1 URLs); RFC 7617 and 7616 (Basic, Digest).
"""

from __future__ import annotations

import base64
import http.client
import socket
import urllib.request
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from codecflow.errors import SourceError

from .addresses import Address, shown
from .source_errors import source_error
from .tls import Trust

_PORTS = {"rtsp": 554, "rtsps": 322}
_WITHIN_S = 3.0
_MAX_HOPS = 5
_TROUBLE = (OSError, ValueError, http.client.HTTPException)
"""Errors that an unusual host may cause here. FFmpeg then finds out for itself what is wrong."""


def answers(address: Address, trust: Trust, timeout_s: float) -> bool:
    """Whether the host answers requests at all. Blocks for at most a few seconds."""
    try:
        with _Connection(address, trust, timeout_s) as connection:
            return connection.ask("OPTIONS")[0] > 0
    except _TROUBLE:
        return False


def without_redirection(address: Address, trust: Trust, timeout_s: float) -> Address:
    """The address to which a host redirects, or the same one. Blocks for at most some seconds.

    Raises SourceError: dns; protocol, if it is not RTSP, or there are too many redirects.
    """
    first = address
    for _ in range(_MAX_HOPS):
        if not (location := _location(address, trust, timeout_s)):
            return address
        address = _followed(address, location)
    raise SourceError(
        f"source {first.shown}: redirected more than {_MAX_HOPS} times; give the camera's own address", "protocol"
    )


def _location(address: Address, trust: Trust, timeout_s: float) -> str:
    """The target of a redirected DESCRIBE; empty if it is not redirected."""
    try:
        with _Connection(address, trust, timeout_s) as connection:
            status, headers = connection.ask("DESCRIBE")
            if status == 401 and (credentials := _credentials(address, headers.get_all("WWW-Authenticate", []))):
                status, headers = connection.ask("DESCRIBE", Authorization=credentials)
            return headers.get("Location", "") if 300 <= status < 400 else ""
    except socket.gaierror:
        raise source_error(address, "dns", opening=True, timeout_s=timeout_s) from None
    except _TROUBLE:
        return ""


def _followed(address: Address, location: str) -> Address:
    if "://" not in location:
        location = urljoin(address.url.replace("rtsp", "http", 1), location).replace("http", "rtsp", 1)
    try:
        target = Address.parse(location)
    except SourceError:
        target = address
    if target.kind != "rtsp" or target is address:
        raise SourceError(
            f"source {address.shown}: redirected to {shown(location)}, which is not an RTSP address; give the right one",
            "protocol",
        )
    user = urlsplit(address.url).netloc.rpartition("@")[0]
    parts = urlsplit(target.url)
    ours = target.host == address.host and (target.secure or not address.secure)
    netloc = parts.netloc.rpartition("@")[2]
    url = urlunsplit(parts._replace(netloc=f"{user}@{netloc}" if ours and user else netloc))
    return replace(target, url=url, shown=f"{address.shown}, redirected to {target.shown}")


class _Connection:
    """One connection to the host of an address. Raises OSError, HTTPException and ValueError."""

    def __init__(self, address: Address, trust: Trust, timeout_s: float) -> None:
        parts = urlsplit(address.url)
        self._url = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
        self._number = 0
        within_s = min(timeout_s, _WITHIN_S)
        self._socket = socket.create_connection((address.host, address.port or _PORTS[address.scheme]), within_s)
        if address.secure:
            self._socket = trust.context().wrap_socket(self._socket, server_hostname=address.host)
        self._file = self._socket.makefile("rb")

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._socket.close()

    def ask(self, verb: str, **headers: str) -> tuple[int, http.client.HTTPMessage]:
        """Status and headers of the answer; its body is not needed."""
        self._number += 1
        lines = [f"{verb} {self._url} RTSP/1.0", f"CSeq: {self._number}", "Accept: application/sdp"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        version, status, *_ = self._file.readline(1024).decode("latin-1").split()
        if not version.startswith("RTSP/"):
            raise ValueError("not RTSP")
        message = http.client.parse_headers(self._file)
        self._file.read(min(int(message.get("Content-Length", "0")), 1 << 16))
        return int(status), message


def _credentials(address: Address, challenges: list[str]) -> str:
    """The Authorization header for one of a host's challenges; empty if there is no user, or no known scheme."""
    user, _, password = urlsplit(address.url).netloc.rpartition("@")[0].partition(":")
    if not user:
        return ""
    user, password = unquote(user), unquote(password)
    for challenge in sorted(challenges, reverse=True):  # Digest before Basic
        way, _, rest = challenge.partition(" ")
        if way.lower() == "digest":
            parts = urlsplit(address.url)
            uri = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
            passwords.add_password(None, uri, user, password)
            request = SimpleNamespace(data=None, selector=uri, full_url=uri, get_method=lambda: "DESCRIBE")
            fields = urllib.request.parse_keqv_list(urllib.request.parse_http_list(rest))
            handler = urllib.request.AbstractDigestAuthHandler(passwords)
            if answer := handler.get_authorization(request, fields):  # type: ignore[arg-type]
                return f"Digest {answer}"
        if way.lower() == "basic":
            return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return ""

"""Access control of the page: a token, permitted host names, and permitted origins of requests.

A browser sends the token once, in a form, and gets a cookie that is valid only for this process. Requests that change
something, and WebSockets, must come from the page itself (RFC 6455, 10.2): a foreign site that a visitor has open could send
both, with the visitor's cookie. Without a token the page answers only to this machine's names, so that a foreign site cannot
point its own name at it (DNS rebinding).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from codecflow.errors import ConfigError

COOKIE = "codecflow_page"
_SHORTEST = 16


def read_token(file: Path | None, environment: str | None) -> str | None:
    """The token of a file, else of the environment. Raises ConfigError, which never contains it."""
    if file is not None:
        try:
            token = file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise ConfigError(f"--token-file {file}: {reason}") from error
        where = f"--token-file {file}"
    elif environment is not None:
        token, where = environment.strip(), "CODECFLOW_PAGE_TOKEN"
    else:
        return None
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(f"{where}: a token has {_SHORTEST} printable ASCII characters or more, without spaces")
    return token


def is_loopback(host: str) -> bool:
    """Whether a bind address can be reached only from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class Access:
    """`token`: None if none is required. `hosts`: host names in requests that are answered without a token; None means all.
    `origins`: permitted origins of requests that change something, in addition to the page's own address."""

    token: str | None
    hosts: frozenset[str] | None = None
    origins: frozenset[str] = frozenset()
    _key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def cookie(self) -> str:
        """The cookie of a browser that knows the token. It does not reveal the token."""
        return hmac.new(self._key, b"visitor", hashlib.sha256).hexdigest()

    def accepts(self, given: str) -> bool:
        """Whether `given` is the token."""
        return self.token is not None and hmac.compare_digest(given.encode(), self.token.encode())

    def admits(self, headers: Mapping[str, str], cookies: Mapping[str, str]) -> bool:
        """Whether a request has the token, or none is required."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.accepts(given.strip()):
            return True
        return hmac.compare_digest(cookies.get(COOKIE, "").encode(), self.cookie().encode())

    def is_called(self, host: str) -> bool:
        """Whether the page answers to the name in a request's header `host`."""
        if self.hosts is None:
            return True
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self.hosts or is_loopback(name)

    def is_own(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that changes something, or opens a WebSocket, comes from the page itself, or from a program with
        the token, which no foreign site knows."""
        origin = headers.get("origin")
        if origin is None:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            return scheme.lower() == "bearer" and self.accepts(given.strip())
        if origin in self.origins:
            return True
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and parts.netloc != "" and parts.netloc == headers.get("host")

"""Which certificates are trusted for a source with TLS."""

from __future__ import annotations

import base64
import errno
import os
import socket
import ssl
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from codecflow.errors import ConfigError

_HANDSHAKE_S = 5.0


@dataclass(frozen=True, slots=True)
class Trust:
    """`authorities`: file of trusted certificates in PEM; None: this system's. `insecure`: nothing is checked."""

    authorities: Path | None
    insecure: bool

    @property
    def settings(self) -> dict[str, str]:
        """Options of FFmpeg's protocols."""
        if self.insecure:
            return {"tls_verify": "0"}
        file = self.authorities or _system_authorities()
        return {"tls_verify": "1"} | ({"ca_file": str(file)} if file else {})

    def io_open(self, timeout_s: float) -> Callable[..., Any]:
        """For FFmpeg's io_open: opens http and https addresses and checks certificates. For playlists: FFmpeg checks the
        certificate of a playlist's host, but not those of the hosts named in it."""
        opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=self.context()))

        def io_open(url: str, flags: int, options: dict[str, str]) -> Any:
            if not url.startswith(("http://", "https://")):
                raise PermissionError(errno.EACCES, "not an address")
            plain, user = _without_user(url)
            request = urllib.request.Request(plain)
            if user:
                request.add_unredirected_header("Authorization", user)
            if (first := int(options.get("offset", 0))) or "end_offset" in options:
                last = int(options.get("end_offset", 0))
                request.add_header("Range", f"bytes={first}-{last - 1 if last else ''}")
            return opener.open(request, timeout=timeout_s)

        return io_open

    def trouble(self, host: str, port: int, timeout_s: float) -> str | None:
        """Why a handshake with a host fails; None if it succeeds. FFmpeg does not report this."""
        try:
            with socket.create_connection((host, port), min(timeout_s, _HANDSHAKE_S)) as plain:
                self.context().wrap_socket(plain, server_hostname=host).close()
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted ({error.verify_message.rstrip('.')})"
        except ssl.SSLError as error:
            plain_text = error.reason == "WRONG_VERSION_NUMBER"
            return "the host does not speak TLS" if plain_text else f"the handshake failed ({error.reason})"
        except OSError:
            return None
        return None

    def context(self) -> ssl.SSLContext:
        """For Python's own connections."""
        context = ssl.create_default_context(cafile=self.authorities or _system_authorities())
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # on in Python 3.13; few cameras' certificates pass it
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def check_certificates(file: Path) -> None:
    """Raises ConfigError when a file contains no certificates."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (OSError, ssl.SSLError) as error:
        reason = "no certificates in PEM" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"--tls-ca {file}: {reason}; give a file of certificates in PEM") from None


@cache
def _system_authorities() -> str | None:
    """File of this system's trusted certificates. FFmpeg's own build looks for it in one place at most."""
    places = [
        ssl.get_default_verify_paths().cafile,
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/cert.pem",
    ]
    for place in places:
        if place and os.path.isfile(place):
            return place
    try:
        import certifi
    except ImportError:
        return None
    return str(certifi.where())


def _without_user(url: str) -> tuple[str, str]:
    """An address without its user and password, and these as an Authorization header."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url, ""
    user, _, host = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=host)), "Basic " + base64.b64encode(unquote(user).encode()).decode()

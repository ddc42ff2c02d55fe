"""Addresses of cameras and files as they may be shown."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LIVE = ("rtsp", "rtsps", "rtmp", "rtmps", "udp", "rtp", "srt", "tcp")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://[^\s'\"]+")


def is_url(source: str) -> bool:
    """Whether `source` is an address with a scheme, not a path."""
    return bool(_URL.match(source))


def redact(text: str) -> str:
    """`text` with what may be a secret taken out of every URL in it: user, password and the values of the query."""
    return _URL.sub(lambda match: _redact_url(match.group()), text)


def _redact_url(url: str) -> str:
    scheme, rest = url.split("://", 1)
    # A password may itself hold '@', '/' or '?', so everything up to the last '@' goes.
    if "@" in rest:
        rest = "***@" + rest.rsplit("@", 1)[1]
    rest, _, _ = rest.partition("#")
    path, question, query = rest.partition("?")
    if question:
        names = [pair.split("=", 1)[0] for pair in query.split("&")]
        path += "?" + "&".join(f"{name}=***" for name in names)
    return f"{scheme}://{path}"


def is_live(source: str) -> bool:
    """Whether pictures arrive at a camera's own pace and the address is worth opening again when they stop."""
    return is_url(source) and urlsplit(source).scheme.lower() in _LIVE

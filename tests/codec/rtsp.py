"""A small real RTSP camera for tests: with a password or TLS, refused transports, a wrong clock."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from codecflow.codec.source import Source
from codecflow.messages import CodedPicture
from codecflow.tools.bench.rtsp_camera import RtspSession

from .serving import quiet_server, serving


@contextmanager
def rtsp_camera(
    clip: Path,
    password: str | None = None,
    start: int = 0,
    *,
    transport: str = "tcp",
    certificate: Path | None = None,
    hangs: bool = False,
    silent_over_tcp: bool = False,
    keyframes: bool = True,
    moved_to: str = "",
    asked: list[str] | None = None,
    clock: Callable[[CodedPicture], float] = lambda picture: 0.0,
    pace: float = 10.0,
) -> Iterator[str]:
    """host:port of a camera that plays the H.264 `clip` from its picture `start` on, `pace` times real time, then hangs up.

    `transport`: tcp or udp, the only one that it accepts. `silent_over_tcp`: it accepts both, but sends over UDP only.
    `certificate`: PEM of a key and its certificate, for TLS. `hangs`: instead of hanging up it stays silent after the last
    picture. `keyframes`: False drops them. `moved_to`: an address to which it redirects authenticated clients. `asked`
    collects its requests, with their headers. `clock`: by how many seconds its clock is off at a picture.
    """
    with Source(str(clip)) as source:
        whole = list(source.pictures("camera", 0))
    authorization = password and "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()

    class Session(RtspSession):
        first = whole[0]
        speed = pace
        pictures = [one for one in whole if keyframes or not one.keyframe][start:]

        def refusal(self, verb: str, headers: Mapping[str, str]) -> tuple[str, ...]:
            if asked is not None:
                asked.append(f"{verb} {headers}")
            if authorization and verb != "OPTIONS" and headers.get("Authorization") != authorization:
                return "401 Unauthorized", 'WWW-Authenticate: Basic realm="camera"'
            if moved_to and verb == "DESCRIBE":
                return "302 Moved Temporarily", f"Location: {moved_to}"
            over_tcp = "TCP" in headers.get("Transport", "")
            if verb == "SETUP" and not silent_over_tcp and over_tcp != (transport == "tcp"):
                return ("461 Unsupported transport",)
            self.interleaved = over_tcp or getattr(self, "interleaved", False)
            return ()

        def stamp(self, picture: CodedPicture) -> int:
            return int((picture.pts * picture.time_base + Fraction(clock(picture))) * 90_000)

        def lost(self, picture: CodedPicture) -> bool:
            return silent_over_tcp and self.interleaved

        def ended(self) -> None:
            if hangs or (silent_over_tcp and self.interleaved):
                self.rfile.read()
            elif not self.interleaved:
                time.sleep(0.5)

    with serving(quiet_server(Session, certificate)) as address:
        yield address

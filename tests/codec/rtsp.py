"""A small real RTSP camera: one H.264 track over TCP, interleaved, or UDP (RFC 2326, RFC 6184); with a password or TLS."""

from __future__ import annotations

import base64
import socket
import socketserver
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from codecflow.codec.annexb import nal_type, split_annex_b
from codecflow.codec.source import Source
from codecflow.messages import CodedPicture

from .serving import quiet_server, serving

_LARGEST = 1200


@contextmanager
def rtsp_camera(
    clip: Path,
    password: str | None = None,
    start: int = 0,
    *,
    transport: str = "tcp",
    certificate: Path | None = None,
    hangs: bool = False,
    keyframes: bool = True,
    asked: list[str] | None = None,
    clock: Callable[[CodedPicture], float] = lambda picture: 0.0,
) -> Iterator[str]:
    """host:port of a camera that plays the H.264 `clip` from its picture `start` on, ten times real time, then hangs up.

    `transport`: tcp or udp, the only one that it takes. `certificate`: PEM of a key and its certificate, for TLS. `hangs`:
    it says nothing more after the last picture, instead. `keyframes`: else it leaves them out.
    `asked` is added to: its requests, with their headers. `clock`: by how many seconds its clock is off at a picture.
    """
    with Source(str(clip)) as source:
        whole = list(source.pictures("camera", 0))
    pictures = [one for one in whole if keyframes or not one.keyframe][start:]
    sets = [unit for unit in split_annex_b(whole[0].data) if nal_type(unit, "h264") in (7, 8)]
    sprop = ",".join(base64.b64encode(unit).decode() for unit in sets)

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                while self.answer():
                    pass
            except (BrokenPipeError, ConnectionResetError):
                return

        def answer(self) -> bool:
            request = self.rfile.readline().decode().split()
            if not request:
                return False
            headers = dict(line.split(": ", 1) for line in iter(lambda: self.rfile.readline().decode().strip(), ""))
            verb, sequence = request[0], headers["CSeq"]
            if asked is not None:
                asked.append(f"{verb} {headers}")
            wanted = password and "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
            if wanted and verb != "OPTIONS" and headers.get("Authorization") != wanted:
                self.reply("401 Unauthorized", sequence, 'WWW-Authenticate: Basic realm="camera"')
            elif verb == "OPTIONS":
                self.reply("200 OK", sequence, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
            elif verb == "DESCRIBE":
                sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                sdp += f"a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;sprop-parameter-sets={sprop}\r\n"
                sdp += "a=control:track\r\n"
                self.reply("200 OK", sequence, "Content-Type: application/sdp", f"Content-Length: {len(sdp)}", body=sdp)
            elif verb == "SETUP":
                self.set_up(sequence, headers["Transport"])
            elif verb == "PLAY":
                self.reply("200 OK", sequence, "Session: 1")
                self.play()
                if hangs:
                    self.rfile.read()
                self.connection.shutdown(socket.SHUT_RDWR)
                return False
            else:
                self.reply("200 OK", sequence)
            return True

        def set_up(self, sequence: str, wanted: str) -> None:
            if ("TCP" in wanted) != (transport == "tcp"):
                self.reply("461 Unsupported transport", sequence)
            elif transport == "tcp":
                self.reply("200 OK", sequence, "Transport: RTP/AVP/TCP;unicast;interleaved=0-1", "Session: 1")
            else:
                self.port = int(wanted.partition("client_port=")[2].partition("-")[0])
                self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                self.udp.bind(("127.0.0.1", 0))
                ours = self.udp.getsockname()[1]
                ports = f"client_port={self.port}-{self.port + 1};server_port={ours}-{ours + 1}"
                self.reply("200 OK", sequence, f"Transport: RTP/AVP;unicast;{ports}", "Session: 1")

        def reply(self, status: str, sequence: str, *lines: str, body: str = "") -> None:
            head = "\r\n".join([f"RTSP/1.0 {status}", f"CSeq: {sequence}", *lines])
            self.wfile.write(f"{head}\r\n\r\n{body}".encode())

        def play(self) -> None:
            number = 0
            for picture in pictures:
                for payload, last in _payloads(picture):
                    stamp = int((picture.pts * picture.time_base + Fraction(clock(picture))) * 90_000) & 0xFFFFFFFF
                    header = struct.pack(">BBHII", 0x80, 96 | (0x80 if last else 0), number & 0xFFFF, stamp, 7)
                    number += 1
                    packet = header + payload
                    if transport == "udp":
                        self.udp.sendto(packet, ("127.0.0.1", self.port))
                    else:
                        self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
                time.sleep(float(picture.duration * picture.time_base) / 10)

    server = quiet_server(Session, certificate)
    with serving(server) as address:
        yield address


def _payloads(picture: CodedPicture) -> Iterator[tuple[bytes, bool]]:
    """RTP payloads of a picture: whole NAL units, or fragments (FU-A); whether each is the picture's last."""
    units = list(split_annex_b(picture.data))
    for unit in units:
        end = unit is units[-1]
        if len(unit) <= _LARGEST:
            yield unit, end
            continue
        pieces = [unit[at : at + _LARGEST] for at in range(1, len(unit), _LARGEST)]
        for index, piece in enumerate(pieces):
            flags = (0x80 if index == 0 else 0) | (0x40 if index == len(pieces) - 1 else 0)
            yield bytes([unit[0] & 0xE0 | 28, unit[0] & 0x1F | flags]) + piece, end and index == len(pieces) - 1

"""A local RTSP camera (RFC 2326, RFC 6184 for H.264, RFC 7798 for HEVC), and one whose network loses packets."""

from __future__ import annotations

import base64
import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import ClassVar

from codecflow.codec.annexb import nal_type, split_annex_b
from codecflow.messages import CodedPicture

_LARGEST = 1200
"""Maximum bytes of an RTP payload: fits an Ethernet packet through most tunnels."""

_NAMES = {"h264": "H264", "hevc": "H265"}


class RtspSession(socketserver.StreamRequestHandler):
    """One client's session: sends `pictures` (H.264 or HEVC) once, `speed` times as fast as real time, then closes.

    `first`: the picture whose parameter sets the description contains, if not the first one sent. UDP or, if the client
    requests it, interleaved in TCP. Subclasses set `pictures`, and may override the rest.
    """

    pictures: ClassVar[Sequence[CodedPicture]]
    first: ClassVar[CodedPicture | None] = None
    speed: ClassVar[float] = 10.0

    def refusal(self, verb: str, headers: Mapping[str, str]) -> tuple[str, ...]:
        """Status and header lines to refuse a request; empty to accept it."""
        return ()

    def stamp(self, picture: CodedPicture) -> int:
        """Its time, in units of 1/90000 s."""
        return int(picture.pts * picture.time_base * 90_000)

    def lost(self, picture: CodedPicture) -> bool:
        """Whether the next RTP packet, one of `picture`, is lost in transit."""
        return False

    def ended(self) -> None:
        """Called after everything has been sent."""
        if self._to:
            time.sleep(1.0)

    def handle(self) -> None:
        self._to: tuple[str, int] | None = None
        try:
            while self._answer():
                pass
        except (BrokenPipeError, ConnectionResetError):
            return

    def _answer(self) -> bool:
        request = self.rfile.readline().decode().split()
        if not request:
            return False
        headers = dict(line.split(": ", 1) for line in iter(lambda: self.rfile.readline().decode().strip(), ""))
        verb, number = request[0], headers["CSeq"]
        if refusal := self.refusal(verb, headers):
            self._reply(number, *refusal[1:], status=refusal[0])
        elif verb == "OPTIONS":
            self._reply(number, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
        elif verb == "DESCRIBE":
            sdp = self._description()
            self._reply(number, "Content-Type: application/sdp", f"Content-Length: {len(sdp)}", body=sdp)
        elif verb == "SETUP":
            transport = headers["Transport"]
            if "client_port=" in transport:
                port = int(transport.split("client_port=")[1].split("-")[0].split(";")[0])
                self._to = (self.client_address[0], port)
                transport += ";server_port=9000-9001"
            self._reply(number, f"Transport: {transport}", "Session: 1")
        elif verb == "PLAY":
            self._reply(number, "Session: 1")
            self._play()
            self.ended()
            self.connection.shutdown(socket.SHUT_RDWR)
            return False
        else:
            self._reply(number)
        return True

    def _reply(self, number: str, *lines: str, status: str = "200 OK", body: str = "") -> None:
        head = "\r\n".join([f"RTSP/1.0 {status}", f"CSeq: {number}", *lines])
        self.wfile.write(f"{head}\r\n\r\n{body}".encode())

    def _description(self) -> str:
        first = self.first or self.pictures[0]
        codec = first.codec
        sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
        sdp += f"a=rtpmap:96 {_NAMES[codec]}/90000\r\n"
        if codec == "h264":
            units = [unit for unit in split_annex_b(first.data) if nal_type(unit, codec) in (7, 8)]
            sets = ",".join(base64.b64encode(unit).decode() for unit in units)
            sdp += f"a=fmtp:96 packetization-mode=1;sprop-parameter-sets={sets}\r\n"
        return sdp + "a=control:track\r\n"

    def _play(self) -> None:
        number = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            for picture in self.pictures:
                stamp = self.stamp(picture) & 0xFFFFFFFF
                for payload, last in _payloads(picture.data, picture.codec):
                    header = struct.pack(">BBHII", 0x80, 96 | (0x80 if last else 0), number & 0xFFFF, stamp, 7)
                    number += 1
                    if self.lost(picture):
                        continue
                    packet = header + payload
                    if self._to:
                        udp.sendto(packet, self._to)
                    else:
                        self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
                time.sleep(float(picture.duration * picture.time_base) / self.speed)


@contextmanager
def lossy_camera(pictures: Sequence[CodedPicture], loss: float, seed: int, speed: float = 10.0) -> Iterator[str]:
    """Address of a camera that sends `pictures` once, `speed` times as fast as real time, then closes.

    Each RTP packet is lost with probability `loss`, except those of the first picture, so that the stream can be joined.
    """
    chance, all_pictures, times = random.Random(seed), pictures, speed

    class Lossy(RtspSession):
        pictures = all_pictures
        speed = times

        def lost(self, picture: CodedPicture) -> bool:
            return picture is not all_pictures[0] and chance.random() < loss

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Lossy) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield "rtsp://{}:{}/camera".format(*server.server_address[:2])
        finally:
            server.shutdown()
            thread.join()


def _payloads(data: bytes, codec: str) -> Iterator[tuple[bytes, bool]]:
    """RTP payloads of a picture, NAL units whole or in fragments; whether each is the picture's last."""
    units = list(split_annex_b(data))
    header = 1 if codec == "h264" else 2
    for number, unit in enumerate(units):
        end = number == len(units) - 1
        if len(unit) <= _LARGEST:
            yield unit, end
            continue
        pieces = [unit[at : at + _LARGEST] for at in range(header, len(unit), _LARGEST)]
        for index, piece in enumerate(pieces):
            flags = (0x80 if index == 0 else 0) | (0x40 if index == len(pieces) - 1 else 0)
            if codec == "h264":
                prefix = bytes([unit[0] & 0xE0 | 28, unit[0] & 0x1F | flags])
            else:
                prefix = bytes([unit[0] & 0x81 | 49 << 1, unit[1], unit[0] >> 1 & 0x3F | flags])
            yield prefix + piece, end and index == len(pieces) - 1

"""An RTSP camera on this machine whose network loses packets (RFC 2326, RFC 6184 for H.264, RFC 7798 for HEVC)."""

from __future__ import annotations

import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from codecflow.codec.annexb import split_annex_b
from codecflow.messages import CodedPicture

_LARGEST = 1200
"""Bytes of an RTP payload at most: what fits an Ethernet packet through most tunnels."""


@contextmanager
def lossy_camera(pictures: Sequence[CodedPicture], loss: float, seed: int, speed: float = 10.0) -> Iterator[str]:
    """Address of a camera that sends H.264 or HEVC `pictures` once, `speed` times as fast as real time, then hangs up.

    Each RTP packet is lost with probability `loss`, but none of the first picture's: a camera is joined where it is sound.
    UDP or, where the client asks for it, interleaved in TCP.
    """
    codec = pictures[0].codec

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.to: tuple[str, int] | None = None
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
            number = headers["CSeq"]
            match request[0]:
                case "OPTIONS":
                    self.reply(number, "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")
                case "DESCRIBE":
                    name = {"h264": "H264", "hevc": "H265"}[codec]
                    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
                    sdp += f"a=rtpmap:96 {name}/90000\r\na=control:track\r\n"
                    self.reply(number, "Content-Type: application/sdp", f"Content-Length: {len(sdp)}", body=sdp)
                case "SETUP":
                    wanted = headers["Transport"]
                    if "client_port=" in wanted:
                        port = wanted.split("client_port=")[1].split("-")[0].split(";")[0]
                        self.to = (self.client_address[0], int(port))
                        wanted += ";server_port=9000-9001"
                    self.reply(number, f"Transport: {wanted}", "Session: 1")
                case "PLAY":
                    self.reply(number, "Session: 1")
                    self.play()
                    return False
                case _:
                    self.reply(number)
            return True

        def reply(self, number: str, *lines: str, body: str = "") -> None:
            head = "\r\n".join(["RTSP/1.0 200 OK", f"CSeq: {number}", *lines])
            self.wfile.write(f"{head}\r\n\r\n{body}".encode())

        def play(self) -> None:
            chance = random.Random(seed)
            number = 0
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                for picture in pictures:
                    stamp = int(picture.pts * picture.time_base * 90_000) & 0xFFFFFFFF
                    for payload, last in _payloads(picture.data, codec):
                        header = struct.pack(">BBHII", 0x80, 96 | (0x80 if last else 0), number & 0xFFFF, stamp, 7)
                        number += 1
                        if picture is not pictures[0] and chance.random() < loss:
                            continue
                        packet = header + payload
                        if self.to:
                            udp.sendto(packet, self.to)
                        else:
                            self.wfile.write(b"$\0" + struct.pack(">H", len(packet)) + packet)
                    time.sleep(float(picture.duration * picture.time_base) / speed)
            if self.to:
                time.sleep(1.0)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
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

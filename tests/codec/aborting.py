"""Data at which FFmpeg 8.1 calls abort(): an assertion fails while it opens them."""

from __future__ import annotations

_TABLES = {
    "programs": (0x0000, "00 00b00d 0001c10000 0001f000 2ab104b2"),
    "mpeg4": (0x1000, "00 02b012 0001c10000 e100f000 10e100f000 8f43e2c7"),
    "h264": (0x1000, "00 02b012 0001c10000 e100f000 1be100f000 15bd4d56"),
}
_PICTURE = "000001e0 0000 00c0 00"


def aborting_ts() -> bytes:
    """An MPEG-TS whose only track is MPEG-4, and H.264 after the first picture. Over HTTP FFmpeg reads nothing shorter."""
    tables = {name: _packet(pid, bytes.fromhex(data), b"\xff") for name, (pid, data) in _TABLES.items()}
    pictures = _packet(0x100, bytes.fromhex(_PICTURE), b"\0") + _packet(0x100, b"", b"\0")
    return tables["programs"] + tables["mpeg4"] + pictures + tables["h264"] + 40 * _packet(0x1FFF, b"", b"\xff")


def _packet(pid: int, payload: bytes, padding: bytes) -> bytes:
    """One that begins a unit."""
    return bytes((0x47, 0x40 | pid >> 8, pid & 255, 0x10)) + payload.ljust(184, padding)

"""Bitstreams without timing, as cameras write them: sequence parameter sets without VUI."""

from __future__ import annotations

from codecflow.codec.annexb import START_CODE, nal_type, split_annex_b


def without_timing(data: bytes) -> bytes:
    """H.264 in Annex B (Main or Baseline profile) with the VUI removed from its sequence parameter sets."""
    return b"".join(
        START_CODE + (_plain(unit) if nal_type(unit, "h264") == 7 else unit) for unit in split_annex_b(data)
    )


class _Reader:
    def __init__(self, payload: bytes) -> None:
        self.bits = "".join(f"{byte:08b}" for byte in payload)
        self.at = 0

    def take(self, count: int) -> int:
        self.at += count
        return int(self.bits[self.at - count : self.at], 2)

    def golomb(self) -> int:
        zeros = self.bits.index("1", self.at) - self.at
        self.at += zeros
        return self.take(zeros + 1) - 1


def _plain(unit: bytes) -> bytes:
    """A sequence parameter set without VUI (H.264 7.3.2.1.1)."""
    reader = _Reader(unit[1:].replace(b"\0\0\3", b"\0\0"))
    assert reader.take(8) in (66, 77), "Baseline or Main"
    reader.take(16)
    reader.golomb()
    reader.golomb()
    kind = reader.golomb()
    assert kind in (0, 2)
    if kind == 0:
        reader.golomb()
    reader.golomb()
    reader.take(1)
    reader.golomb()
    reader.golomb()
    if not reader.take(1):
        reader.take(1)
    reader.take(1)
    if reader.take(1):
        for _ in range(4):
            reader.golomb()
    bits = reader.bits[: reader.at] + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    payload = b""
    for byte in (int(bits[at : at + 8], 2) for at in range(0, len(bits), 8)):
        if payload[-2:] == b"\0\0" and byte <= 3:
            payload += b"\3"
        payload += bytes([byte])
    return unit[:1] + payload

"""Which partition a stream's records lie in, by Kafka's default rule, so that anybody can compute it."""

from __future__ import annotations

_MULTIPLIER = 0x5BD1E995
_SEED = 0x9747B28C
_MASK = 0xFFFFFFFF


def murmur2(data: bytes) -> int:
    """MurmurHash2 (Austin Appleby, public domain) of 32 bits, as Kafka's Java clients seed it; unsigned."""
    value = _SEED ^ len(data)
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        part = int.from_bytes(data[start : start + 4], "little") * _MULTIPLIER & _MASK
        part = (part ^ part >> 24) * _MULTIPLIER & _MASK
        value = value * _MULTIPLIER & _MASK ^ part
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _MULTIPLIER & _MASK
    value = (value ^ value >> 13) * _MULTIPLIER & _MASK
    return value ^ value >> 15


def partition_of(stream: str, partitions: int) -> int:
    """The partition of `stream` in a topic of `partitions`: the same in packets, metadata and state."""
    return (murmur2(stream.encode()) & 0x7FFFFFFF) % partitions

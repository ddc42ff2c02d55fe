"""When the pictures of a live source arrive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from av.packet import Packet

from codecflow.errors import SourceError

_INSTANT_S = 0.005
"""A packet that arrives within this time was already buffered."""

_BURST_S = 1.0
"""If packets arrive in one burst for longer than this, reading no longer waits for its end."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A packet and its arrival: seconds since reading began, and wall clock in ms. `waited_s`: how much of the time until
    then was spent waiting for packets."""

    packet: Packet[Any]
    at_s: float
    at_ms: int
    waited_s: float


def arrivals(packets: Iterator[Packet[Any]]) -> Iterator[Arrival]:
    """The packets, each with its arrival time."""
    began = time.monotonic()
    waited_s = 0.0
    while True:
        started = time.monotonic()
        packet = next(packets, None)
        if packet is None:
            return
        now = time.monotonic()
        waited_s += now - started
        yield Arrival(packet, now - began, int(time.time() * 1000), waited_s)


def spread(arrived: Iterator[Arrival], opening_s: float) -> Iterator[Arrival]:
    """The same, but packets that were buffered when reading began, `opening_s` seconds after the source was opened, are
    spread over that time, at no slower a pace than the packets after them. They are held until two more have arrived."""
    probed: list[Arrival] = []
    later: list[Arrival] = []
    before_s = 0.0
    failed: SourceError | None = None
    try:
        while len(later) < 2 and (one := next(arrived, None)):
            instant = one.waited_s - before_s <= _INSTANT_S
            before_s = one.waited_s
            (probed if instant and not later else later).append(one)
            if one.at_s > _BURST_S:
                break
    except SourceError as error:
        failed = error
    apart_s = 0.0
    if probed:
        apart_s = opening_s / len(probed)
        if len(later) == 2:
            apart_s = min(apart_s, 1.5 * (later[1].at_s - later[0].at_s))
    for index, one in enumerate(probed):
        early_s = (len(probed) - 1 - index) * apart_s
        yield replace(one, at_s=one.at_s - early_s, at_ms=one.at_ms - round(1000 * early_s))
    yield from later
    if failed is not None:
        raise failed
    yield from arrived

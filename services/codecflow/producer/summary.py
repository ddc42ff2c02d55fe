"""A producer's figures so far, for its status line and its final output."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

import orjson

from codecflow.kafka.sending import RecordSender

BEFORE_FIRST_KEYFRAME = "before the first keyframe"
"""Reason for dropping undecodable pictures: a camera is joined between keyframes."""

TOO_LARGE = "too large for the broker"
AFTER_TOO_LARGE = "after one too large"
"""Reasons for dropping pictures that topic packets does not accept, and those that refer to them."""

_REPORT_EVERY_S = 0.5


@dataclass(slots=True)
class Summary:
    """Figures of one run, updated while it runs.

    `pictures` published, of them `signals` signal pictures; `seconds` of presentation time; `packets_bytes`: coded pictures;
    `metadata_bytes`: documents uncompressed; `metadata_sent_bytes`: as sent to the brokers, batched and compressed.
    `dropped`: pictures that were not published, by reason. `not_shown`: pictures that were published although a decoder
    never shows them, since others refer to them. `epoch`: of the newest opening. `reconnects` after the first opening.
    `ended`: the newest epoch was closed cleanly. `corrected`: times that were corrected, by kind. `live`: the source is a
    camera. `error`: what ended the run, if it failed. `last_picture_s`: wall clock at which the newest was published.
    """

    stream: str
    source: str
    codec: str = ""
    epoch: int = 0
    pictures: int = 0
    signals: int = 0
    seconds: float = 0.0
    packets_bytes: int = 0
    metadata_bytes: int = 0
    metadata_sent_bytes: int = 0
    reconnects: int = 0
    ended: bool = False
    live: bool = False
    dropped: Counter[str] = field(default_factory=Counter)
    corrected: Counter[str] = field(default_factory=Counter)
    not_shown: int = 0
    error: str | None = None
    last_picture_s: float = 0.0

    @property
    def lost(self) -> int:
        """Pictures of the source that subscribers will not see; those before a camera's first keyframe do not count."""
        return sum(count for reason, count in self.dropped.items() if reason != BEFORE_FIRST_KEYFRAME)

    @property
    def empty(self) -> bool:
        return not (self.pictures or self.dropped)

    def line(self) -> str:
        """One line for people."""
        share = 100 * self.metadata_sent_bytes / self.packets_bytes if self.packets_bytes else 0.0
        text = (
            f"stream {self.stream}: {self.pictures} pictures, {self.seconds:.1f} s, packets {self.packets_bytes} bytes, "
            f"metadata {self.metadata_sent_bytes} bytes ({share:.1f} %)"
        )
        if self.dropped:
            text += ", dropped " + ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        if self.not_shown:
            text += f", {self.not_shown} not shown"
        if self.corrected:
            text += ", corrected " + ", ".join(f"{count} {kind}" for kind, count in sorted(self.corrected.items()))
        if self.reconnects:
            text += f", {self.reconnects} reconnects"
        return text

    def loss(self) -> str:
        """What was not published of the source, and why."""
        if not self.lost:
            return f"all pictures of {self.source} were published"
        reasons = ", ".join(f"{n} {reason}" for reason, n in self.dropped.items() if reason != BEFORE_FIRST_KEYFRAME)
        if not self.pictures:
            return f"none of the {self.lost} pictures of {self.source} was published ({reasons})"
        return (
            f"{self.lost} of the {self.lost + self.pictures} pictures of {self.source} were not published ({reasons})"
        )

    def document(self) -> dict[str, Any]:
        """For machines."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


class WireBytes:
    """Counts the bytes that one client sends to the brokers, from librdkafka's own statistics: records batched and
    compressed, with their requests."""

    def __init__(self) -> None:
        self.total = 0
        self._reports = 0
        self._counted: dict[str, int] = {}  # by broker, as of the newest report

    def properties(self) -> dict[str, Any]:
        """librdkafka properties that make a client report here."""
        return {"statistics.interval.ms": int(_REPORT_EVERY_S * 1000), "stats_cb": self._on_statistics}

    def settle(self, sender: RecordSender) -> None:
        """Wait for a report that covers everything sent so far, a second at most."""
        wanted, deadline = self._reports + 1, time.monotonic() + 2 * _REPORT_EVERY_S
        while self._reports < wanted and time.monotonic() < deadline:
            sender.poll(_REPORT_EVERY_S / 5)

    def _on_statistics(self, report: str) -> None:
        for name, broker in orjson.loads(report)["brokers"].items():
            if not (broker["toppars"] or name in self._counted):
                continue  # a broker used only to look up the topics
            # A new client counts from 0 again, as may one that has reconnected.
            before = self._counted.get(name, 0)
            self.total += broker["txbytes"] - (before if broker["txbytes"] >= before else 0)
            self._counted[name] = broker["txbytes"]
        self._reports += 1

"""How many bytes a producer client really sends, from librdkafka's own statistics."""

from __future__ import annotations

import time
from typing import Any

import orjson

from codecflow.kafka.sending import RecordSender

_EVERY_S = 0.5


class WireBytes:
    """Counts what one client sends to the brokers: records batched and compressed, with their requests."""

    def __init__(self) -> None:
        self.total = 0
        self._reports = 0

    def properties(self) -> dict[str, Any]:
        """librdkafka properties that make a client report here."""
        return {"statistics.interval.ms": int(_EVERY_S * 1000), "stats_cb": self._on_statistics}

    def settle(self, sender: RecordSender) -> None:
        """Wait for a report that covers everything sent so far, a second at most."""
        wanted, deadline = self._reports + 1, time.monotonic() + 2 * _EVERY_S
        while self._reports < wanted and time.monotonic() < deadline:
            sender.poll(_EVERY_S / 5)

    def _on_statistics(self, report: str) -> None:
        brokers = orjson.loads(report)["brokers"].values()
        self.total = sum(broker["txbytes"] for broker in brokers if broker["toppars"])
        self._reports += 1

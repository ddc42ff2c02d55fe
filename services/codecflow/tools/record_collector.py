"""A sender that collects records, in place of a producer's client."""

from __future__ import annotations

from codecflow.kafka.records import Record


class RecordCollector:
    """Collects records in the order in which a producer sends them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def send(self, record: Record) -> None:
        self.records.append(record)

    def flush(self) -> None:
        """Nothing to wait for."""

"""What the model wrote about an event: its answers to text questions."""

from __future__ import annotations

import time
from collections.abc import Callable

from codecflow.kafka.partition_reader import PartitionReader
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Event, decode_result

_EARLIER_MS = 60_000
_WITHIN_S = 3.0
"""An event may be visible a moment before the results of its transaction: they are on another topic."""


def words_of(settings: KafkaSettings, event: Event, stopping: Callable[[], bool]) -> str:
    """The answers to the stream's text questions in the window of an event; empty if there are none. Raises KafkaError."""
    if event.window is None:
        return ""
    until = time.monotonic() + _WITHIN_S
    with PartitionReader(settings, settings.topics.results, event.stream) as history:
        while True:
            results = history.of_stream(event.stream, event.written_at_ms - _EARLIER_MS, decode_result)
            found = [one for one in results if (one.epoch, one.window) == (event.epoch, event.window)]
            if found or stopping() or time.monotonic() > until:
                return "; ".join(one.answer for one in found if one.type == "text" and one.error is None)
            time.sleep(0.2)

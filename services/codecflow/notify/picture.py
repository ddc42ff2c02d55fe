"""The picture of a notification: the recorder's, if it writes one, else cut from packets."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from codecflow.errors import CodecFlowError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Event
from codecflow.storage import Storage
from codecflow.subscriber.evidence import evidence_name
from codecflow.subscriber.picture import event_picture
from codecflow.subscriber.recording import Recording
from codecflow.text import one_line

from .sink import key_of

RECORDER_WITHIN_S = 5.0
"""How long after seeing an event to wait for the recorder's picture."""

_logger = logging.getLogger("codecflow.notify")
_LIMIT_S = 20.0
_KEPT = 32
_FRESH_S = 60.0


class Pictures:
    """Shared by all sinks; each calls it in its own thread. `evidence`: where the recorder writes, if it does."""

    def __init__(self, settings: KafkaSettings, evidence: Storage | None, notice: Callable[[str], None]) -> None:
        self._settings, self._evidence, self._notice = settings, evidence, notice
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, bytes | None] = OrderedDict()

    def of(self, event: Event, stopping: Callable[[], bool]) -> bytes | None:
        """JPEG; None if there is none, after a line with the reason. Takes at most some seconds."""
        key = key_of(event)
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        try:
            found = self._recorded(event, stopping) or self._cut(event, stopping)
        except CodecFlowError as error:
            self._notice(f"event {event.id} of stream {event.stream!r} is sent without its picture: {error}")
            found = None
        except Exception as error:  # whatever a foreign picture causes must not stop the notifier
            _logger.debug("picture", exc_info=True)
            what = one_line(f"{type(error).__name__}: {error}", 200)
            self._notice(f"event {event.id} of stream {event.stream!r} goes without its picture, unexpectedly: {what}")
            found = None
        with self._lock:
            self._kept[key] = found
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return found

    def _recorded(self, event: Event, stopping: Callable[[], bool]) -> bytes | None:
        if self._evidence is None or event.change != "opened" or event.kind != "answer":
            return None
        name = f"{evidence_name(event)}.jpg"
        # For an old event the recorder's picture exists already, or never will.
        fresh = time.time() * 1000 - event.written_at_ms < 1000 * _FRESH_S
        until = time.monotonic() + (RECORDER_WITHIN_S if fresh else 0.0)
        while True:
            data = self._evidence.read(name)
            if data is not None or stopping() or time.monotonic() >= until:
                return data
            time.sleep(0.2)

    def _cut(self, event: Event, stopping: Callable[[], bool]) -> bytes | None:
        until = time.monotonic() + _LIMIT_S
        with Recording(self._settings, event.stream, lambda: stopping() or time.monotonic() > until) as recording:
            return event_picture(self._settings, recording, event, self._notice)

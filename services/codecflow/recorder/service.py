"""Follows events and writes their evidence. Its group's offsets are committed once the files are in place: after any crash,
the successor writes the same files again."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import orjson
from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message

from codecflow.errors import CodecFlowError, KafkaError, MessageError, SourceError
from codecflow.kafka.clients import BrokerWatch, consumer, require_broker
from codecflow.kafka.failures import client_error, is_retriable, reason
from codecflow.kafka.partition_reader import partitions_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import Rejections
from codecflow.lifecycle import GracefulStop
from codecflow.messages import Event, decode_event, encode_event
from codecflow.storage import StorageError
from codecflow.subscriber.evidence import AFTER_S, BEFORE_S, LONGEST_S, evidence_name, span, write_evidence
from codecflow.subscriber.picture import event_picture
from codecflow.subscriber.recording import NotThereError, Recording
from codecflow.text import one_line

from .evidence_store import EvidenceStore
from .figures import RecorderFigures

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Pauses between attempts to write double from the first to the longest."""

_logger = logging.getLogger("codecflow.recorder")
_CLEAN_EVERY_S = 60.0
_NOTICE_EVERY_S = 300.0
_PUBLISHED_WITHIN_MS = 3_000
"""Maximum delay from a picture's capture to its arrival in packets."""
_WITH_FILES = ("answer", "camera-lost")


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """`before_s`, `after_s`, `longest_s`: of clips, see `codecflow.subscriber.evidence.span`. `stream`: only this one."""

    before_s: float = BEFORE_S
    after_s: float = AFTER_S
    longest_s: float = LONGEST_S
    stream: str | None = None


class Recorder:
    """Writes the files of events until a stop is requested. `notice` is called with a line per event and for what is
    missing. A storage that rejects files is retried until it works. Raises KafkaError."""

    def __init__(
        self,
        settings: KafkaSettings,
        evidence: EvidenceStore,
        options: RecorderOptions,
        stop: GracefulStop,
        notice: Callable[[str], None],
        figures: RecorderFigures | None = None,
    ) -> None:
        self._settings, self._evidence, self._options, self._stop, self._notice = (
            settings,
            evidence,
            options,
            stop,
            notice,
        )
        self._figures = figures or RecorderFigures()
        self._group = f"{settings.topic_prefix}.recorder"
        self._rejections = Rejections(notice)
        self._clean_at = 0.0
        self._queue: deque[Message] = deque()
        """Arrived while another one was being waited for."""

    def run(self) -> None:
        require_broker(self._settings, lambda: self._stop.requested)
        partitions_of(self._settings, self._settings.topics.events)  # raises if there is no such topic
        self._watch = BrokerWatch(self._settings)
        self._client = consumer(self._settings, self._group, self._watch)
        try:
            self._client.subscribe([self._settings.topics.events])
            while not self._stop.requested:
                if not self._queue:
                    self._poll()
                self._clean()
                if not self._queue:
                    continue
                message = self._queue.popleft()
                if not self._take(message):
                    return
                self._commit(message)
        finally:
            self._figures.heartbeat.end()
            self._client.close()

    def _poll(self) -> None:
        self._figures.heartbeat.beat()
        self._rejections.report(self._settings.topics.events)
        self._watch.check(self._client)
        message = self._client.poll(0.2)
        self._figures.assigned = bool(self._client.assignment())
        if message is None:
            return
        if (error := message.error()) is None:
            self._queue.append(message)
        elif not is_retriable(error):
            topic = self._settings.topics.events
            raise KafkaError(f"topic {topic}: {reason(error, self._settings, 'Read', topic)}")

    def _wait(self, seconds: float) -> bool:
        """Sleep while polling, so that the group does not consider this member dead. True when a stop was requested."""
        until = time.monotonic() + seconds
        while not self._stop.requested and time.monotonic() < until:
            if assigned := self._client.assignment():
                self._client.pause(assigned)
            self._poll()
        if assigned := self._client.assignment():
            self._client.resume(assigned)
        return self._stop.requested

    def _commit(self, message: Message) -> None:
        try:
            self._client.commit(message=message, asynchronous=False)
        except KafkaException as failed:
            # Another recorder owns the partition now and writes the same files again; or a broker is starting, and the next
            # commit includes this one.
            if client_error(failed).code() not in _REASSIGNED and not is_retriable(client_error(failed)):
                raise KafkaError(
                    f"group {self._group}: offsets cannot be committed: "
                    f"{reason(client_error(failed), self._settings, 'Read', self._group)}"
                ) from failed

    def _take(self, message: Message) -> bool:
        """Write the evidence for a record; False if the stop came first."""
        try:
            event = decode_event(message.key(), message.value())
        except MessageError as error:
            self._rejections.add(message, error)
            return True
        if self._options.stream not in (None, event.stream):
            return True
        pause_s, notice_at, since = FIRST_PAUSE_S, 0.0, time.monotonic()
        while True:
            try:
                if not self._record(event):
                    return False
            except StorageError as error:
                self._figures.failing_since = since
                if not notice_at or time.monotonic() > notice_at + _NOTICE_EVERY_S:
                    notice_at = time.monotonic()
                    self._notice(f"{error}; retrying ({notice_at - since:.0f} s so far)")
                if self._wait(pause_s):
                    return False
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self._figures.failing_since = None
                return True

    def _record(self, event: Event) -> bool:
        """The files of an event; False if the stop came first. Raises StorageError."""
        name = evidence_name(event)
        files: list[str] = []
        missing: list[str] = []
        if event.change == "closed" and event.kind in _WITH_FILES:
            begin, end = span(event, self._options.before_s, self._options.after_s, self._options.longest_s)
            left_s = (end.ms + _PUBLISHED_WITHIN_MS) / 1000 - time.time()
            # The event has closed, so no more is left than what follows it, whatever the camera's clock says.
            left_s = min(left_s, self._options.after_s + _PUBLISHED_WITHIN_MS / 1000)
            if left_s > 0 and self._wait(left_s):
                return False
        with (
            Recording(self._settings, event.stream, lambda: self._stop.requested) as recording,
            self._evidence.storage.scratch() as scratch,
        ):
            if event.change == "opened" and event.kind == "answer":
                self._attempt(missing, lambda: self._picture(event, recording))
            if self._evidence.storage.exists(f"{name}.jpg"):
                files.append(f"{name}.jpg".rpartition("/")[2])
            if event.change == "closed" and event.kind in _WITH_FILES:
                cut = scratch / f"{name.rpartition('/')[2]}.mp4"
                self._attempt(missing, lambda: write_evidence(recording, begin, end, cut))
            if self._stop.requested:
                return False  # the recording ends with a stop, so the cut may be incomplete
            self._keep(name, sorted(scratch.glob("*.mp4")))
        files += self._evidence.clips(event)
        _, value = encode_event(event)
        document = {"stream": event.stream, **orjson.loads(value), "files": files}
        if missing:
            document["missing"] = missing
        self._evidence.storage.write(f"{name}.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        self._figures.changes["incomplete" if missing else "complete"] += 1
        self._notice(f"stream {event.stream!r}: event {event.id} {event.change}: {', '.join(files) or 'no files'}")
        return True

    def _keep(self, name: str, clips: list[Path]) -> None:
        folder = name.rpartition("/")[0]
        for clip in clips:
            self._evidence.storage.put(f"{folder}/{clip.name}", clip)

    def _attempt(self, missing: list[str], write: Callable[[], object]) -> None:
        """Unavailable evidence does not block the rest, nor does whatever a foreign picture causes."""
        try:
            write()
        except (NotThereError, SourceError) as error:
            why = one_line(str(error), 300)
        except CodecFlowError:
            raise
        except Exception as error:
            _logger.debug("evidence", exc_info=True)
            why = one_line(f"failed unexpectedly: {type(error).__name__}: {error}", 300)
        else:
            return
        missing.append(why)
        self._notice(why)

    def _picture(self, event: Event, recording: Recording) -> None:
        data = event_picture(self._settings, recording, event, self._notice)
        if data is not None:
            self._evidence.storage.write(f"{evidence_name(event)}.jpg", data)

    def _clean(self) -> None:
        if time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + _CLEAN_EVERY_S
        try:
            stored = self._evidence.clean()
        except StorageError as error:
            self._notice(f"{error}; nothing was removed")
            return
        self._figures.stored = stored
        self._figures.removed += stored.removed
        if stored.removed:
            self._notice(f"{stored.removed} events removed: older than --keep-days, or beyond --keep-bytes")


_REASSIGNED = frozenset(
    {
        ClientError.ILLEGAL_GENERATION,
        ClientError.UNKNOWN_MEMBER_ID,
        ClientError.REBALANCE_IN_PROGRESS,
        ClientError._ASSIGNMENT_LOST,
        ClientError._STATE,
    }
)

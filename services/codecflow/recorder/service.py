"""Follows events and writes what shows them. Its group's offsets move once the files are in place: whatever ends it, whoever
goes on writes the same files again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson
from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message

from codecflow.errors import CodecFlowError, KafkaError, MessageError, SourceError
from codecflow.kafka.clients import BrokerWatch, consumer, require_broker
from codecflow.kafka.failures import client_error, reason
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import Event, decode_event, encode_event
from codecflow.subscriber.evidence import AFTER_S, BEFORE_S, LONGEST_S, span, write_evidence
from codecflow.subscriber.lines import time_of_day
from codecflow.subscriber.recording import NotThereError, Recording
from codecflow.text import one_line

from .folder import EvidenceFolder
from .picture import drawn, mask_of, shown_at

_CLEAN_EVERY_S = 60.0
_PUBLISHED_WITHIN_MS = 3_000
"""How long after its capture a picture may come to packets."""
_WITH_FILES = ("answer", "camera-lost")


@dataclass(frozen=True, slots=True)
class RecorderOptions:
    """`before_s`, `after_s`, `longest_s`: of clips, see `codecflow.subscriber.evidence.span`. `stream`: only this one."""

    before_s: float = BEFORE_S
    after_s: float = AFTER_S
    longest_s: float = LONGEST_S
    stream: str | None = None


class Recorder:
    """Writes the files of events into a folder until the stop is requested. `say` is called with a line per event and for
    what is missing. Raises KafkaError, ConfigError where the folder cannot be written."""

    def __init__(
        self,
        settings: KafkaSettings,
        folder: EvidenceFolder,
        options: RecorderOptions,
        stop: GracefulStop,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._folder, self._options, self._stop, self._say = settings, folder, options, stop, say
        self._clean_at = 0.0

    def run(self) -> None:
        require_broker(self._settings, lambda: self._stop.requested)
        watch = BrokerWatch(self._settings)
        group = f"{self._settings.topic_prefix}.recorder"
        client = consumer(self._settings, group, watch)
        try:
            client.subscribe([self._settings.topics.events])
            while not self._stop.requested:
                watch.check(client)
                message = client.poll(0.2)
                self._clean()
                if message is None:
                    continue
                if (error := message.error()) is not None:
                    if not error.retriable():
                        topic = self._settings.topics.events
                        raise KafkaError(f"topic {topic}: {reason(error, self._settings, 'Read', topic)}")
                    continue
                if not self._take(message):
                    return
                try:
                    client.commit(message=message, asynchronous=False)
                except KafkaException as failed:
                    # Its partition has gone to another recorder meanwhile, which writes the same files again.
                    if client_error(failed).code() not in _TAKEN_AWAY:
                        raise KafkaError(
                            f"group {group}: offsets cannot be committed: "
                            f"{reason(client_error(failed), self._settings, 'Read', group)}"
                        ) from failed
        finally:
            client.close()

    def _take(self, message: Message) -> bool:
        """Write what a record asks for; False where the stop came first."""
        try:
            event = decode_event(message.key(), message.value())
        except MessageError as error:
            self._say(f"{message.topic()}[{message.partition()}] at offset {message.offset()}: {error}; skipped")
            return True
        if self._options.stream not in (None, event.stream):
            return True
        files: list[str] = []
        missing: list[str] = []
        with Recording(self._settings, event.stream, lambda: self._stop.requested) as recording:
            picture = self._folder.path(event, ".jpg")
            if event.change == "opened" and event.kind == "answer":
                self._attempt(missing, lambda: self._picture(event, recording))
            if picture.exists():
                files.append(picture.name)
            if event.change == "closed" and event.kind in _WITH_FILES:
                begin, end = span(event, self._options.before_s, self._options.after_s, self._options.longest_s)
                while time.time() * 1000 < end.ms + _PUBLISHED_WITHIN_MS:
                    if self._stop.wait(0.2):
                        return False
                target = self._folder.path(event, ".mp4")
                self._attempt(missing, lambda: write_evidence(recording, begin, end, target))
        if self._stop.requested:
            return False  # a recording ends then, and what was cut from it may not be whole
        clip = self._folder.path(event, "")
        files += sorted(path.name for path in clip.parent.glob(f"{clip.name}*.mp4"))
        _, value = encode_event(event)
        document = {"stream": event.stream, **orjson.loads(value), "files": files}
        if missing:
            document["missing"] = missing
        self._folder.write(self._folder.path(event, ".json"), orjson.dumps(document, option=orjson.OPT_INDENT_2))
        told = ", ".join(files) or "no files"
        self._say(f"stream {event.stream!r}: event {event.id} {event.change}: {told}")
        return True

    def _attempt(self, missing: list[str], write: Callable[[], object]) -> None:
        """Evidence that cannot be had any more does not stop the rest."""
        try:
            write()
        except (NotThereError, SourceError) as error:
            missing.append(one_line(str(error), 300))
            self._say(one_line(str(error)))

    def _picture(self, event: Event, recording: Recording) -> None:
        shown = shown_at(recording, event.at_ms)
        if shown is None:
            return
        mask = None
        try:
            mask = mask_of(self._settings, event)
        except CodecFlowError as error:
            self._say(f"stream {event.stream!r}: event {event.id} is drawn without its mask: {error}")
        words = f"{event.stream}  {time_of_day(event.at_ms)}  {event.question}: {event.label}"
        if event.probability is not None:
            words += f" ({event.probability:.2f})"
        self._folder.write(self._folder.path(event, ".jpg"), drawn(shown.rgb(), mask, one_line(words, 120)))

    def _clean(self) -> None:
        if time.monotonic() < self._clean_at:
            return
        self._clean_at = time.monotonic() + _CLEAN_EVERY_S
        if removed := self._folder.clean():
            self._say(f"{removed} events removed: older than --keep-days, or beyond --keep-bytes")


_TAKEN_AWAY = frozenset(
    {
        ClientError.ILLEGAL_GENERATION,
        ClientError.UNKNOWN_MEMBER_ID,
        ClientError.REBALANCE_IN_PROGRESS,
        ClientError._ASSIGNMENT_LOST,
        ClientError._STATE,
        # A broker is starting: what comes next commits this as well.
        ClientError.NOT_COORDINATOR,
        ClientError.COORDINATOR_NOT_AVAILABLE,
        ClientError.COORDINATOR_LOAD_IN_PROGRESS,
        ClientError.REQUEST_TIMED_OUT,
        ClientError._TIMED_OUT,
        ClientError._TRANSPORT,
        ClientError._WAIT_COORD,
    }
)

"""The page's view of all streams: recent answers, questions, keep masks, and when a camera was last seen.

Everything is read from the topics and bounded; nothing is stored when the page ends. For one event loop, unless stated
otherwise.
"""

from __future__ import annotations

import base64
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import orjson
from confluent_kafka import Message

from codecflow.errors import ConfigError, KafkaError, MessageError
from codecflow.events.syntax import rule_text
from codecflow.kafka.compacted import usable_description
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import Rejections, TopicTail
from codecflow.messages import (
    Event,
    Result,
    StreamDescription,
    WindowMasks,
    check_stream_id,
    decode_event,
    decode_masks,
    decode_result,
)

MAX_STREAMS = 10_000
HISTORY = 400
"""Results kept per stream, for drawing."""

MASKS = 4
"""Windows per stream whose masks are kept for the next viewer."""

EVENTS = 200
"""Events kept per stream, for the list."""

ANSWER = 400
"""Characters of an answer that are displayed."""

QUIET_MS = 10_000
"""After this time, a deleted stream that sends nothing is removed."""

_NEWEST = 3_000
_logger = logging.getLogger("codecflow.page")

Read = TypeVar("Read")


@dataclass(slots=True)
class StreamInfo:
    """One stream. `seen_ms`: when its newest metadata came. `latest`: the newest result of each question. `events`: the
    newest change of each by id, oldest event first. `deleted_ms`: when its description was deleted, 0 if it was not."""

    name: str
    description: StreamDescription
    seen_ms: int = 0
    latest: dict[str, dict[str, Any]] = field(default_factory=dict)
    history: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=HISTORY))
    masks: deque[str] = field(default_factory=lambda: deque(maxlen=MASKS))
    events: dict[str, dict[str, Any]] = field(default_factory=dict)
    deleted_ms: int = 0

    def document(self) -> dict[str, Any]:
        return {
            "s": self.name,
            "seen": self.seen_ms,
            "questions": questions_of(self.description),
            "zones": [{"name": z.name, "use": z.use, "polygon": z.polygon} for z in self.description.zones],
            "latest": [self.latest[q.id] for q in self.description.questions if q.id in self.latest]
            or list(self.latest.values())[-4:],
            "open": [one for one in self.events.values() if one["ch"] != "closed"][-4:],
        }


def questions_of(description: StreamDescription) -> list[dict[str, Any]]:
    return [
        {
            "id": q.id,
            "prompt": q.prompt,
            "type": q.type,
            "labels": q.labels,
            "rule": None if q.event is None else rule_text(q.event),
        }
        for q in description.questions
    ]


def result_document(result: Result) -> dict[str, Any]:
    """A result in the form that the page draws."""
    return {
        "k": "r",
        "s": result.stream,
        "e": result.epoch,
        "w": result.window,
        "t0": result.start_s,
        "t1": result.end_s,
        "c": result.captured_at_ms,
        "a": result.answered_at_ms,
        "q": result.question,
        "ty": result.type,
        "an": result.answer[:ANSWER],
        "p": result.p_yes if result.p_yes is not None else (result.label_probabilities or {}).get(result.answer),
        "kept": result.tokens.kept,
        "total": result.tokens.total,
        "flops": result.flops.vit + result.flops.llm,
        "full": result.flops.full,
        "missing": result.frames.missing,
        "skipped": result.skipped,
        "restarted": result.restarted,
        "err": None if result.error is None else f"{result.error.text} ({result.error.code})",
        "model": result.model,
        "trained": result.trained,
        "keep": result.keep,
    }


def event_document(event: Event) -> dict[str, Any]:
    """A change of an event in the form that the page lists."""
    return {
        "k": "e",
        "s": event.stream,
        "id": event.id,
        "no": event.number,
        "ch": event.change,
        "ki": event.kind,
        "q": event.question,
        "an": event.label,
        "be": event.before,
        "p": event.highest,
        "b": event.began_at_ms,
        "c": event.at_ms,
        "why": event.reason,
    }


def masks_document(masks: WindowMasks) -> dict[str, Any]:
    """Keep masks in the form that the page draws: per frame seq, presentation time, rows and columns, and the bits in
    base64."""
    return {
        "k": "m",
        "s": masks.stream,
        "e": masks.epoch,
        "w": masks.window,
        "c": masks.captured_at_ms,
        "pub": masks.pictures.published,
        "dec": masks.pictures.decoded,
        "f": [
            {
                "q": frame.seq,
                "t": frame.time_s,
                "g": frame.keep.shape,
                "b": base64.b64encode(np.packbits(frame.keep).tobytes()).decode(),
                "a": frame.anchor,
                "n": int(frame.keep.sum()),
            }
            for frame in masks.frames
        ],
    }


class Board:
    """`publish` is called with each new document, as JSON, and its stream. `failed` is called, from any thread, with the
    error that ended reading. Raises KafkaError if a topic is missing."""

    def __init__(
        self,
        settings: KafkaSettings,
        post: Callable[[Callable[[], None]], None],
        publish: Callable[[str, str, str], None],
        failed: Callable[[Exception], None],
    ) -> None:
        self.streams: dict[str, StreamInfo] = {}
        self._post, self._publish, self._failed = post, publish, failed
        self._stop = threading.Event()
        self._full = False
        topics = settings.topics
        self._seen: dict[str, int] = {}
        self._deleted: dict[str, int] = {}
        # All questions are read before any browser is served; of the rest, only what is recent enough to draw.
        self._tails = [
            (TopicTail(settings, topics.streams), self._descriptions),
            (TopicTail(settings, topics.results, newest=_NEWEST), self._results),
            (TopicTail(settings, topics.masks, newest=64), self._masks),
            (TopicTail(settings, topics.metadata, newest=400), self._metadata),
            (TopicTail(settings, topics.events, newest=_NEWEST), self._events),
        ]
        self._threads = [
            threading.Thread(target=self._follow, args=tail, name="page-board", daemon=True) for tail in self._tails
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(10)

    def _follow(self, tail: TopicTail, take: Callable[[Sequence[Message], Rejections], None]) -> None:
        """In its own thread: follows a topic."""
        rejections = Rejections(_logger.warning)
        try:
            while not self._stop.is_set():
                if messages := tail.poll(0.25):
                    take(messages, rejections)
                rejections.report(tail.topic)
        except KafkaError as error:
            self._failed(error)
        finally:
            tail.close()

    def _descriptions(self, messages: Sequence[Message], rejections: Rejections) -> None:
        def read(message: Message) -> tuple[StreamDescription, int] | None:
            described = usable_description(message, self._tails[0][0].partitions)
            if described is None:
                return None
            return described, message.timestamp()[1] if message.value() is None else 0

        found = _readable(messages, rejections, read)
        self._post(lambda: _each(self._describe, found))

    def _events(self, messages: Sequence[Message], rejections: Rejections) -> None:
        found = _readable(messages, rejections, lambda one: (event_document(decode_event(one.key(), one.value())),))
        self._post(lambda: _each(self._happened, found))

    def _results(self, messages: Sequence[Message], rejections: Rejections) -> None:
        found = _readable(messages, rejections, lambda one: (result_document(decode_result(one.key(), one.value())),))
        self._post(lambda: _each(self._answered, found))

    def _masks(self, messages: Sequence[Message], rejections: Rejections) -> None:
        def read(message: Message) -> tuple[str, str]:
            masks = decode_masks(message.key(), message.value())
            return masks.stream, orjson.dumps(masks_document(masks)).decode()

        found = _readable(messages, rejections, read)
        self._post(lambda: _each(self._masked, found))

    def _metadata(self, messages: Sequence[Message], rejections: Rejections) -> None:
        """Only their arrival matters: viewers read packets."""
        seen: dict[bytes, int] = {}
        for message in messages:
            key, (_, ms) = message.key(), message.timestamp()
            if key is not None and ms > 0:
                seen[key] = ms
        names = {}
        for key, ms in seen.items():
            try:
                names[check_stream_id(key.decode("ascii"))] = ms
            except (UnicodeDecodeError, ConfigError):
                continue  # not metadata
        self._post(lambda: _each(self._saw, names.items()))

    def info(self, stream: str) -> StreamInfo | None:
        """Information on a stream, new or known; None if there are too many."""
        found = self.streams.get(stream)
        if found is None:
            if len(self.streams) >= MAX_STREAMS:
                if not self._full:
                    _logger.warning("more than %d streams: those that come now are not shown", MAX_STREAMS)
                self._full = True
                return None
            found = self.streams[stream] = StreamInfo(stream, StreamDescription(stream))
            found.deleted_ms = self._deleted.get(stream, 0)
            self._publish(stream, "stream", orjson.dumps({"k": "s", **found.document()}).decode())
        return found

    def sweep(self) -> None:
        """Remove deleted streams that no longer send anything."""
        now_ms = time.time() * 1000
        for info in [one for one in self.streams.values() if one.deleted_ms]:
            if now_ms - max(info.seen_ms, info.deleted_ms - QUIET_MS) > QUIET_MS:
                del self.streams[info.name]
                self._seen.pop(info.name, None)
                self._full = False
                self._publish(info.name, "stream", orjson.dumps({"k": "gone", "s": info.name}).decode())

    def _describe(self, description: StreamDescription, deleted_ms: int) -> None:
        self._deleted.pop(description.stream, None)
        if deleted_ms:
            if len(self._deleted) < MAX_STREAMS:
                self._deleted[description.stream] = deleted_ms
            if description.stream not in self.streams:
                return
        if (info := self.info(description.stream)) is not None:
            info.description, info.deleted_ms = description, deleted_ms
            self._publish(info.name, "stream", orjson.dumps({"k": "s", **info.document()}).decode())

    def _answered(self, document: dict[str, Any]) -> None:
        if (info := self.info(document["s"])) is not None:
            info.latest[document["q"]] = document
            while len(info.latest) > 64:
                del info.latest[next(iter(info.latest))]
            info.history.append(document)
            self._publish(info.name, "result", orjson.dumps(document).decode())

    def _happened(self, document: dict[str, Any]) -> None:
        if (info := self.info(document["s"])) is None:
            return
        known = info.events.get(document["id"])
        if known is not None and known["no"] > document["no"]:
            return
        info.events[document["id"]] = document  # keeps its position
        while len(info.events) > EVENTS:
            del info.events[next(iter(info.events))]
        self._publish(info.name, "event", orjson.dumps(document).decode())

    def _masked(self, stream: str, text: str) -> None:
        if (info := self.info(stream)) is not None:
            info.masks.append(text)
            self._publish(stream, "masks", text)

    def _saw(self, stream: str, ms: int) -> None:
        if (info := self.info(stream)) is not None:
            before, info.seen_ms = info.seen_ms, max(info.seen_ms, ms)
            now = time.time()
            # Once per second is often enough, also for a camera of 30 pictures/s.
            if info.seen_ms - before > 900 and now - self._seen.get(stream, 0) > 0.9:
                self._seen[stream] = int(now)
                self._publish(stream, "seen", orjson.dumps({"k": "v", "s": stream, "at": info.seen_ms}).decode())


def _readable(
    messages: Sequence[Message], rejections: Rejections, read: Callable[[Message], Read | None]
) -> list[Read]:
    """What `read` makes of each record, without None. Records that raise MessageError go to `rejections`."""
    found = []
    for message in messages:
        try:
            one = read(message)
        except MessageError as error:
            rejections.add(message, error)
        else:
            if one is not None:
                found.append(one)
    return found


def _each(take: Callable[..., None], arguments: Iterable[tuple[Any, ...]]) -> None:
    for one in arguments:
        take(*one)

"""Retained results and events as rows: one per question and window, or per change of an event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any, Generic, TypeVar

import orjson

from codecflow.errors import MessageError
from codecflow.kafka.partition_reader import partitions_of
from codecflow.kafka.settings import KafkaSettings, TopicNames
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import partition_of
from codecflow.messages import Event, Result, check_stream_id, decode_event, decode_result

Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True)
class Rows(Generic[Kept]):
    """A topic's messages as rows. `columns`: names and SQL types; the first is the time by which rows are ordered. `row`:
    with times in a zone, in ISO 8601. `at_ms`: that time, as wall clock in ms."""

    topic: Callable[[TopicNames], str]
    columns: Mapping[str, str]
    decode: Callable[[bytes | None, bytes | None], Kept]
    at_ms: Callable[[Kept], int]
    row: Callable[[Kept, tzinfo | None], dict[str, Any]]


_RESULT = {
    "captured_at": "TIMESTAMPTZ",
    "stream": "VARCHAR",
    "epoch": "BIGINT",
    "window_index": "BIGINT",
    "start_s": "DOUBLE",
    "end_s": "DOUBLE",
    "question": "VARCHAR",
    "prompt": "VARCHAR",
    "type": "VARCHAR",
    "answer": "VARCHAR",
    "probability": "DOUBLE",
    "p_yes": "DOUBLE",
    "labels": "VARCHAR",
    "error": "VARCHAR",
    "error_text": "VARCHAR",
    "frames_expected": "BIGINT",
    "frames_missing": "BIGINT",
    "tokens_kept": "BIGINT",
    "tokens_total": "BIGINT",
    "answered_at": "TIMESTAMPTZ",
    "seconds": "DOUBLE",
    "model": "VARCHAR",
    "keep": "VARCHAR",
    "refresh": "VARCHAR",
    "restarted": "BOOLEAN",
    "reused_from": "BIGINT",
    "skipped": "BIGINT",
}
"""Columns of a row, with their SQL types. `captured_at`: of the window's newest picture; `probability`: of the answer, if it
has one; `labels`: probabilities by label, as JSON; `seconds`: all stages together."""

_EVENT = {
    "happened_at": "TIMESTAMPTZ",
    "stream": "VARCHAR",
    "id": "VARCHAR",
    "number": "BIGINT",
    "change": "VARCHAR",
    "kind": "VARCHAR",
    "question": "VARCHAR",
    "prompt": "VARCHAR",
    "label": "VARCHAR",
    "before": "VARCHAR",
    "probability": "DOUBLE",
    "highest": "DOUBLE",
    "reason": "VARCHAR",
    "began_at": "TIMESTAMPTZ",
    "written_at": "TIMESTAMPTZ",
    "epoch": "BIGINT",
    "window_index": "BIGINT",
    "windows": "BIGINT",
    "start_s": "DOUBLE",
    "end_s": "DOUBLE",
}

_WRITTEN_BEFORE_MS = 3_600_000
"""How far a record's clock may be behind the clock that captured its picture."""


class History(Generic[Kept]):
    """What `topic` retains of `stream` (None: of all) from `since_ms` on and before `until_ms`, wall clock in ms, at
    creation. Records of each stream are in the order in which they were written.

    `unreadable`: records that are not valid for the topic. Raises KafkaError.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        topic: Rows[Kept],
        stream: str | None,
        since_ms: int | None = None,
        until_ms: int | None = None,
    ) -> None:
        self.unreadable = 0
        self._rows = topic
        self.topic = topic.topic(settings.topics)
        partitions = None
        if stream is not None:
            partitions = [partition_of(check_stream_id(stream), partitions_of(settings, self.topic))]
        self._key = None if stream is None else stream.encode()
        self._since_ms, self._until_ms = since_ms, until_ms
        begin = None if since_ms is None else max(0, since_ms - _WRITTEN_BEFORE_MS)
        self._tail = TopicTail(settings, self.topic, partitions, since_ms=begin)

    def __iter__(self) -> Iterator[Kept]:
        try:
            for records in self._tail.to_the_end():
                for record in records:
                    key = record.key()
                    if self._key is not None and key != self._key:
                        continue
                    try:
                        one = self._rows.decode(key, record.value())
                    except MessageError:
                        self.unreadable += 1
                        continue
                    if self._within(self._rows.at_ms(one)):
                        yield one
        finally:
            self._tail.close()

    def _within(self, ms: int) -> bool:
        return (self._since_ms is None or ms >= self._since_ms) and (self._until_ms is None or ms < self._until_ms)


def changes(results: Iterable[Result]) -> Iterator[Result]:
    """Results whose answer differs from the previous one to the same question of the same stream, and the first ones. Errors
    do not count as answers."""
    last: dict[tuple[str, str, str], str] = {}
    for result in results:
        key = (result.stream, result.question, result.prompt)
        if result.error is None and last.get(key) != result.answer:
            last[key] = result.answer
            yield result


def _result_row(result: Result, zone: tzinfo | None) -> dict[str, Any]:
    labels = result.label_probabilities
    probability = None if labels is None else labels.get(result.answer)
    if result.p_yes is not None:
        probability = result.p_yes if result.answer == "yes" else 1 - result.p_yes
    error = result.error
    return {
        "captured_at": moment(result.captured_at_ms, zone),
        "stream": result.stream,
        "epoch": result.epoch,
        "window_index": result.window,
        "start_s": result.start_s,
        "end_s": result.end_s,
        "question": result.question,
        "prompt": result.prompt,
        "type": result.type,
        "answer": None if error is not None else result.answer,
        "probability": None if error is not None else probability,
        "p_yes": result.p_yes,
        "labels": None if labels is None else orjson.dumps(labels).decode(),
        "error": None if error is None else error.code,
        "error_text": None if error is None else error.text,
        "frames_expected": result.frames.expected,
        "frames_missing": result.frames.missing,
        "tokens_kept": result.tokens.kept,
        "tokens_total": result.tokens.total,
        "answered_at": moment(result.answered_at_ms, zone),
        "seconds": round(sum(result.seconds.values()), 6),
        "model": result.model,
        "keep": result.keep,
        "refresh": result.refresh,
        "restarted": result.restarted,
        "reused_from": result.reused_from,
        "skipped": result.skipped,
    }


def _event_row(event: Event, zone: tzinfo | None) -> dict[str, Any]:
    own = {
        "happened_at": moment(event.at_ms, zone),
        "began_at": moment(event.began_at_ms, zone),
        "written_at": moment(event.written_at_ms, zone),
        "window_index": event.window,
    }
    return {name: own[name] if name in own else getattr(event, name) for name in _EVENT}


def moment(ms: int, zone: tzinfo | None) -> str:
    """Wall clock in ms as ISO 8601 with the zone's offset."""
    return datetime.fromtimestamp(ms / 1000, zone or datetime.now().astimezone().tzinfo).isoformat(
        timespec="milliseconds"
    )


RESULTS = Rows(lambda topics: topics.results, _RESULT, decode_result, lambda one: one.captured_at_ms, _result_row)
EVENTS = Rows(lambda topics: topics.events, _EVENT, decode_event, lambda one: one.at_ms, _event_row)

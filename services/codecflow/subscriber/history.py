"""What the results topic still holds, as rows: one per answered question of a window."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, tzinfo
from typing import Any

import orjson

from codecflow.errors import MessageError
from codecflow.kafka.history import partitions_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import partition_of
from codecflow.messages import Result, check_stream_id, decode_result

COLUMNS = {
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
"""Of a row, with their SQL types. `captured_at`: of the window's newest picture; `probability`: of the answer, where it has
one; `labels`: probabilities by label, as JSON; `seconds`: all stages together."""

_WRITTEN_BEFORE_MS = 3_600_000
"""How far the clock of whoever wrote a result may be behind the one by which its picture was captured."""


class History:
    """Results of `stream` (None: of all) captured from `since_ms` on and before `until_ms`, wall clock in ms, that are there
    when it is made. Of each stream they come in the order of its windows.

    `unreadable`: records that were no results. Raises KafkaError.
    """

    def __init__(
        self, settings: KafkaSettings, stream: str | None, since_ms: int | None = None, until_ms: int | None = None
    ) -> None:
        self.unreadable = 0
        topic = settings.topics.results
        partitions = None
        if stream is not None:
            partitions = [partition_of(check_stream_id(stream), partitions_of(settings, topic))]
        self._key = None if stream is None else stream.encode()
        self._since_ms, self._until_ms = since_ms, until_ms
        begin = None if since_ms is None else max(0, since_ms - _WRITTEN_BEFORE_MS)
        self._tail = TopicTail(settings, topic, partitions, since_ms=begin)

    def __iter__(self) -> Iterator[Result]:
        try:
            for records in self._tail.to_the_end():
                for record in records:
                    key = record.key()
                    if self._key is not None and key != self._key:
                        continue
                    try:
                        result = decode_result(key, record.value())
                    except MessageError:
                        self.unreadable += 1
                        continue
                    if self._within(result.captured_at_ms):
                        yield result
        finally:
            self._tail.close()

    def _within(self, ms: int) -> bool:
        return (self._since_ms is None or ms >= self._since_ms) and (self._until_ms is None or ms < self._until_ms)


def changes(results: Iterable[Result]) -> Iterator[Result]:
    """Those whose answer is another than the one before to the same question of the same stream, and the first ones. Errors
    are no answers."""
    last: dict[tuple[str, str, str], str] = {}
    for result in results:
        asked = (result.stream, result.question, result.prompt)
        if result.error is None and last.get(asked) != result.answer:
            last[asked] = result.answer
            yield result


def row(result: Result, zone: tzinfo | None) -> dict[str, Any]:
    """A result by COLUMNS; times in `zone`, as ISO 8601 has them."""
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


def moment(ms: int, zone: tzinfo | None) -> str:
    """Wall clock in ms as ISO 8601 with the zone's offset."""
    return datetime.fromtimestamp(ms / 1000, zone or datetime.now().astimezone().tzinfo).isoformat(
        timespec="milliseconds"
    )

"""Current questions and zones of each stream, from codecflow.streams."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from confluent_kafka import Message

from codecflow.errors import MessageError
from codecflow.kafka.compacted import REMOVE, usable_description
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import DeadLetter, Question, Zone


class Questions:
    """Follows the descriptions of all streams, outside the worker group. The newest one applies, from the next window on.

    `default` is asked of every stream without a description. A description that cannot be read goes to `dead_letter`, with a
    line to `notice`, and the previous one stays in force. Raises KafkaError when it cannot read the topic."""

    def __init__(
        self,
        settings: KafkaSettings,
        default: Question | None = None,
        dead_letter: Callable[[DeadLetter], None] = lambda _: None,
        notice: Callable[[str], None] = lambda line: None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._topic = settings.topics.streams
        self._default = () if default is None else (default,)
        self._dead_letter, self._notice = dead_letter, notice
        self._questions: dict[str, tuple[Question, ...]] = {}
        self._zones: dict[str, tuple[Zone, ...]] = {}
        # As patient as a service: it also catches up while partitions are taken over (resume.py).
        self._within_s = settings.give_up_after_s
        self._tail = TopicTail(replace(settings, reach_within_s=self._within_s), self._topic, stopping=stopping)
        self.update(caught_up=True)

    def of(self, stream: str) -> tuple[Question, ...]:
        """A stream's questions, with the positions of the zones that they name written out."""
        return self._questions.get(stream, self._default)

    def zones(self, stream: str) -> tuple[Zone, ...]:
        return self._zones.get(stream, ())

    def update(self, *, caught_up: bool = False) -> set[str]:
        """Apply what was written since the last call; returns the streams affected. Does not wait, unless everything written
        up to now is required (`caught_up`)."""
        return self._apply(self._tail.catch_up(self._within_s) if caught_up else self._tail.poll(0.0))

    def close(self) -> None:
        self._tail.close()

    def _apply(self, records: list[Message]) -> set[str]:
        changed: set[str] = set()
        refused: dict[tuple[int | None, bytes | None], list[DeadLetter]] = {}
        for record in records:
            key, value, partition = record.key(), record.value(), record.partition()
            try:
                description = usable_description(record, self._tail.partitions)
                if description is not None:
                    stream = description.stream
                    self._questions[stream] = description.resolved_questions
                    self._zones[stream] = description.zones
                    if value is None:
                        del self._questions[stream], self._zones[stream]
                    changed.add(stream)
            except MessageError as error:
                stream, offset = DeadLetter.key_text(key), record.offset() or 0
                letter = DeadLetter(self._topic, partition or 0, offset, stream, "unreadable", str(error))
                refused.setdefault((partition, key), []).append(letter)
            else:
                refused.pop((partition, key), None)  # compaction will remove it
        letters = [letter for of_key in refused.values() for letter in of_key]
        for letter in letters:
            self._dead_letter(letter)
        if letters:
            one, more = letters[0], f" and {len(letters) - 1} more" if len(letters) > 1 else ""
            self._notice(
                f"questions that cannot be read: {one.topic}[{one.partition}] offset {one.offset}, key {one.stream[:60]!r}: "
                f"{one.reason}{more}; those before stay in force; to remove such records run: {REMOVE}"
            )
        return changed

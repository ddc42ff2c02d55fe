"""The questions of each stream, as codecflow.streams has them now."""

from __future__ import annotations

from collections.abc import Callable

from codecflow.errors import MessageError
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import DeadLetter, Question, decode_stream


class Questions:
    """Follows the descriptions of all streams, outside the worker group: the newest one rules, from the next window on.

    `default` is asked of every stream without a description. A description that cannot be read goes to `dead`, and the one
    before it stays in force. Raises KafkaError when it cannot read the topic.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        default: Question | None = None,
        dead: Callable[[DeadLetter], None] = lambda _: None,
    ) -> None:
        self._topic = settings.topics.streams
        self._default = () if default is None else (default,)
        self._dead = dead
        self._by_stream: dict[str, tuple[Question, ...]] = {}
        self._tail = TopicTail(settings, self._topic)
        self._apply(within_s=60.0)

    def of(self, stream: str) -> tuple[Question, ...]:
        return self._by_stream.get(stream, self._default)

    def update(self) -> None:
        """Take in what was written since. Does not wait."""
        self._apply()

    def close(self) -> None:
        self._tail.close()

    def _apply(self, within_s: float | None = None) -> None:
        records = self._tail.poll(0.0) if within_s is None else self._tail.catch_up(within_s)
        for record in records:
            key, value = record.key(), record.value()
            try:
                description = decode_stream(key, value)
            except MessageError as error:
                stream = DeadLetter.key_text(key)
                partition, offset = record.partition() or 0, record.offset() or 0
                self._dead(DeadLetter(self._topic, partition, offset, stream, "unreadable", str(error)))
                continue
            if value is None:
                self._by_stream.pop(description.stream, None)
            else:
                self._by_stream[description.stream] = description.questions

"""The questions of each stream, as codecflow.streams has them now."""

from __future__ import annotations

from collections.abc import Callable

from codecflow.errors import MessageError
from codecflow.kafka.compacted import REMOVE
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import DeadLetter, Question, decode_stream


class Questions:
    """Follows the descriptions of all streams, outside the worker group: the newest one rules, from the next window on.

    `default` is asked of every stream without a description. A description that cannot be read goes to `dead`, with a line
    to `say`, and the one before it stays in force. Raises KafkaError when it cannot read the topic.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        default: Question | None = None,
        dead: Callable[[DeadLetter], None] = lambda _: None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._topic = settings.topics.streams
        self._default = () if default is None else (default,)
        self._dead, self._say = dead, say
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
        refused: dict[tuple[int | None, bytes | None], list[DeadLetter]] = {}
        for record in records:
            key, value, partition = record.key(), record.value(), record.partition()
            try:
                if value is None:
                    self._by_stream.pop(DeadLetter.key_text(key), None)
                else:
                    description = decode_stream(key, value)
                    self._by_stream[description.stream] = description.questions
            except MessageError as error:
                stream, offset = DeadLetter.key_text(key), record.offset() or 0
                letter = DeadLetter(self._topic, partition or 0, offset, stream, "unreadable", str(error))
                refused.setdefault((partition, key), []).append(letter)
            else:
                refused.pop((partition, key), None)  # compaction will remove it
        letters = [letter for of_key in refused.values() for letter in of_key]
        for letter in letters:
            self._dead(letter)
        if letters:
            one, more = letters[0], f" and {len(letters) - 1} more" if len(letters) > 1 else ""
            self._say(
                f"questions that cannot be read: {one.topic}[{one.partition}] offset {one.offset}, key {one.stream[:60]!r}: "
                f"{one.reason}{more}; those before stay in force; to remove such records run: {REMOVE}"
            )

"""Dead letters that wait for a transaction, bounded in number and in rate."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from codecflow.logs import Notice
from codecflow.messages import DeadLetter

from .resume import Offsets


class DeadLetters:
    """Dead letters that wait for a transaction: at most `limit` per source and 5 x `limit` per partition within `within_s`
    seconds, and `most` in all; the excess is counted, reported and dropped. A source is a stream on a topic's partition.

    A letter about a record of `group_topics`, those that the group's offsets are about, waits for the transaction that moves
    the offset past its record. Otherwise a successor would read the record again and write a second one.

    So a producer of another version, or a topic with other content, causes a bounded number of dead letters per minute;
    offsets advance anyway, and the other streams are answered.
    """

    def __init__(
        self,
        notice: Callable[[str], None] = lambda line: None,
        group_topics: Sequence[str] = (),
        limit: int = 100,
        within_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        most: int = 5000,
    ) -> None:
        self.total = 0
        self._notice, self._limit, self._within_s, self._clock, self._most = notice, limit, within_s, clock, most
        self._topics = {topic: index for index, topic in enumerate(group_topics)}
        self._waiting: list[DeadLetter] = []
        self._since = clock()
        self._sources: Counter[tuple[str, int, str]] = Counter()
        self._partitions: Counter[tuple[str, int]] = Counter()
        self._dropped: Counter[tuple[str, int]] = Counter()

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    def ready(self, offsets: Mapping[int, Offsets]) -> tuple[DeadLetter, ...]:
        """Those that belong into a transaction after which the group's offsets are `offsets`, by partition."""
        return tuple(letter for letter in self._waiting if self._is_ready(letter, offsets))

    def _is_ready(self, letter: DeadLetter, offsets: Mapping[int, Offsets]) -> bool:
        topic = self._topics.get(letter.topic)
        if topic is None:
            return True
        return letter.partition in offsets and letter.offset < offsets[letter.partition][topic]

    def keep(self, numbers: Collection[int]) -> None:
        """Drop letters about records of all other partitions: whoever reads those records again writes the letters."""
        self._waiting = [x for x in self._waiting if x.topic not in self._topics or x.partition in numbers]

    def add(self, letter: DeadLetter) -> None:
        self.report()
        self.total += 1
        partition, source = (letter.topic, letter.partition), (letter.topic, letter.partition, letter.stream)
        too_often = self._sources[source] >= self._limit or self._partitions[partition] >= 5 * self._limit
        if too_often or len(self._waiting) >= self._most:
            if not self._dropped[partition]:
                what = (
                    f"more than {self._limit} records of {letter.stream!r} within {self._within_s:g} s cannot be used, the "
                    f"last one at offset {letter.offset}: {letter.reason}; they are skipped, further dead letters are only "
                    f"counted"
                    if too_often
                    else f"the record of {letter.stream!r} at offset {letter.offset} cannot be used: {letter.reason}; it is "
                    f"skipped and only counted, because {self._most} dead letters wait until the group's offsets move past "
                    f"their records: an older window of some stream is not committed yet"
                )
                self._notice(Notice(f"{letter.topic}[{letter.partition}]: {what}", stream=letter.stream))
            self._dropped[partition] += 1
            return
        self._sources[source] += 1
        self._partitions[partition] += 1
        self._waiting.append(letter)

    def report(self) -> None:
        """Once per period: report how many letters were dropped."""
        now = self._clock()
        if now < self._since + self._within_s:
            return
        for (topic, partition), count in self._dropped.items():
            self._notice(
                f"{topic}[{partition}]: {count} further records could not be used in the last {now - self._since:.0f} s"
            )
        self._since = now
        for counter in (self._sources, self._partitions, self._dropped):
            counter.clear()

    def sent(self, letters: tuple[DeadLetter, ...]) -> None:
        """These are committed: remove them."""
        gone = set(map(id, letters))
        self._waiting = [letter for letter in self._waiting if id(letter) not in gone]

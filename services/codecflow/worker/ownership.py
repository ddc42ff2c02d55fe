"""The partitions that a worker owns, across rebalances."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from codecflow.kafka.settings import KafkaSettings

from .feed import Offsets
from .partition import Partition
from .progress import read_states
from .stream import Sampling
from .turns import Limits, Reports


class Ownership:
    """Partitions by number, of `partitions` in all. `drop` is called with every stream of one that is given up.

    The group takes all partitions away before it hands them out again. One that comes back as it was left, with nothing
    emitted for it in between, goes on where it stood; every other one is rebuilt from what is committed.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: int,
        sampling: Sampling,
        limits: Limits,
        reports: Reports,
        drop: Callable[[str], None],
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self._settings, self._sampling, self._limits, self._reports = settings, sampling, limits, reports
        self._of, self._drop = partitions, drop
        self._suspended: dict[int, Partition] = {}
        self._sent: dict[int, Offsets] = {}

    def assigned(self, committed: dict[int, Offsets]) -> dict[int, Offsets]:
        """Take partitions in; where to begin to read them. Raises KafkaError, MessageError."""
        states = read_states(self._settings, sorted(committed))
        topics = (self._settings.topics.packets, self._settings.topics.metadata, self._of)
        for number, offsets in committed.items():
            partition = self._suspended.pop(number, None)
            if partition is None or partition.states != states[number] or self._sent.get(number) != offsets:
                self._forget(partition)
                partition = Partition(
                    number, topics, self._sampling, states[number], offsets, self._reports, self._limits
                )
            self._sent[number] = offsets
            self.partitions[number] = partition
        for partition in self._suspended.values():
            self._forget(partition)
        self._suspended.clear()
        return {number: self.partitions[number].positions for number in committed}

    def suspend(self, numbers: Iterable[int]) -> None:
        """These partitions are taken away; they may be given back at once."""
        for number in numbers:
            if (partition := self.partitions.pop(number, None)) is not None:
                self._suspended[number] = partition

    def lose(self, numbers: Iterable[int]) -> None:
        """Somebody else may have these partitions already."""
        for number in numbers:
            self._forget(self.partitions.pop(number, None))

    def moved(self) -> dict[int, Offsets]:
        """Offsets to commit, of partitions where they have changed since `sent`, with no turn taken."""
        found = {number: partition.offsets(()) for number, partition in self.partitions.items()}
        return {number: offsets for number, offsets in found.items() if self._sent.get(number) != offsets}

    def sent(self, offsets: dict[int, Offsets]) -> None:
        """These offsets are committed."""
        self._sent.update(offsets)

    def _forget(self, partition: Partition | None) -> None:
        for stream in [] if partition is None else partition.streams:
            self._drop(stream.name)

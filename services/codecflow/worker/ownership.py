"""The partitions that a worker owns across rebalances."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from codecflow.messages import StreamState

from .partition import Partition
from .resume import Offsets, States


class Ownership:
    """The partitions that a worker owns, by number.

    `states` reads the committed states of the streams of partitions; `make` starts a partition from its committed state;
    `changed` is called with the states of partitions that are started.

    The group revokes all partitions before it assigns them again. One that comes back unchanged, with nothing emitted for it
    in between, resumes where it was; all others start from what is committed (resume.py).
    """

    def __init__(
        self,
        states: Callable[[list[int]], States],
        make: Callable[[int, dict[str, StreamState], Offsets], Partition],
        changed: Callable[[list[StreamState]], None] = lambda states: None,
    ) -> None:
        self.partitions: dict[int, Partition] = {}
        self._states, self._make, self._changed = states, make, changed
        self._suspended: dict[int, Partition] = {}
        self._sent: dict[int, Offsets] = {}

    def assigned(self, committed: dict[int, Offsets]) -> dict[int, Offsets]:
        """Take over partitions; returns the offsets to read from. Raises KafkaError."""
        states = self._states(sorted(committed))
        started: list[StreamState] = []
        for number, offsets in committed.items():
            partition = self._suspended.pop(number, None)
            if partition is None or partition.states != states[number] or self._sent.get(number) != offsets:
                if partition is not None:
                    partition.forget()
                partition = self._make(number, states[number], offsets)
                started += states[number].values()
            self._sent[number] = offsets
            self.partitions[number] = partition
        for partition in self._suspended.values():
            partition.forget()
        self._suspended.clear()
        self._changed(started)
        return {number: self.partitions[number].positions for number in committed}

    def suspend(self, numbers: Iterable[int]) -> None:
        """These partitions are revoked; they may be assigned again immediately."""
        for number in numbers:
            if (partition := self.partitions.pop(number, None)) is not None:
                self._suspended[number] = partition

    def drop(self, numbers: Iterable[int]) -> None:
        """Another worker may own these partitions already."""
        for number in numbers:
            if (partition := self.partitions.pop(number, None)) is not None:
                partition.forget()

    def all(self) -> list[Partition]:
        """Partitions owned, and those that may be assigned again immediately."""
        return [*self.partitions.values(), *self._suspended.values()]

    def moved(self) -> dict[int, Offsets]:
        """Offsets to commit: those that have changed since `sent`, with no step taken."""
        found = {number: partition.offsets({}) for number, partition in self.partitions.items()}
        return {number: offsets for number, offsets in found.items() if self._sent.get(number) != offsets}

    def with_sent(self, offsets: dict[int, Offsets]) -> dict[int, Offsets]:
        """Of each partition owned, what is committed once `offsets` are."""
        sent = {number: self._sent[number] for number in self.partitions if number in self._sent}
        return {**sent, **offsets}

    def sent(self, offsets: dict[int, Offsets]) -> None:
        """These offsets are committed."""
        self._sent.update(offsets)

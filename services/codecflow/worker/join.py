"""Packets and metadata of one stream, merged: two ordered sequences with the same keys, (epoch, seq).

Each topic holds a stream's records in key order, so a key that is not above the one before it on the same topic is late or a
duplicate, and one that the other topic has passed will never come. What is decided depends on the order of each topic
alone, never on how the two were interleaved or on a clock: a replay decides the same.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from codecflow.messages import CodedPicture, EndOfEpoch, PictureMetadata

Key = tuple[int, int]
"""(epoch, seq)"""


@dataclass(frozen=True, slots=True)
class Joined:
    """One coded picture with what is known of it. One of the two may be lost, never both.

    The offsets are where a reader of either topic must begin to see this picture: its own record, or the next one.
    """

    epoch: int
    seq: int
    picture: CodedPicture | None
    metadata: PictureMetadata | None
    packets_offset: int
    metadata_offset: int


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """Nothing more will be joined of this epoch. `closed`: its producer said so; otherwise a later epoch began."""

    epoch: int
    closed: bool


Record = TypeVar("Record")


class _Side(Generic[Record]):
    """The records of one topic that wait for the other, oldest first, and what was seen of the topic so far."""

    def __init__(self, counts: Counter[str]) -> None:
        self.waiting: deque[tuple[Key, Record, int]] = deque()
        self.overtaken = False
        self._counts = counts
        self._newest: Key = (-1, -1)
        self._recent: deque[Key] = deque(maxlen=512)

    def add(self, key: Key, record: Record, offset: int) -> bool:
        """Take a record in, unless it is out of order; False when it was counted and dropped."""
        if key <= self._newest:
            if key[0] < self._newest[0]:
                self._counts["earlier-epoch"] += 1
                self.overtaken = True
            else:
                self._counts["duplicate" if key in self._recent else "late"] += 1
            return False
        self._newest = key
        self._recent.append(key)
        self.waiting.append((key, record, offset))
        return True


class StreamJoin:
    """The merge of one stream.

    `counts` is added to, by reason: duplicate, late, earlier-epoch, picture-missing, metadata-missing, no-partner.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._packets: _Side[CodedPicture] = _Side(counts)
        self._metadata: _Side[PictureMetadata | EndOfEpoch] = _Side(counts)
        self._next: Key | None = None  # the key expected next; None: nothing was joined yet
        self._open = False  # its epoch has begun and has not ended
        self._left = -1  # nothing more is joined of this epoch and those before it
        self._bytes = 0
        self._packets_end = 0

    @property
    def two_producers(self) -> bool:
        """Whether records of an earlier epoch came after those of a later one: two producers at once."""
        return self._packets.overtaken or self._metadata.overtaken

    @property
    def packets_waiting(self) -> int:
        return len(self._packets.waiting)

    @property
    def metadata_waiting(self) -> int:
        return len(self._metadata.waiting)

    @property
    def bytes_waiting(self) -> int:
        """Bytes of coded pictures that wait for their metadata."""
        return self._bytes

    @property
    def oldest_waiting(self) -> tuple[int | None, int | None]:
        """Offsets of the oldest packet and of the oldest metadata record that wait."""
        packets, metadata = self._packets.waiting, self._metadata.waiting
        return packets[0][2] if packets else None, metadata[0][2] if metadata else None

    def add_packet(self, picture: CodedPicture, offset: int) -> None:
        self._packets_end = offset + 1
        if self._packets.add((picture.epoch, picture.seq), picture, offset):
            self._bytes += len(picture.data)

    def add_metadata(self, document: PictureMetadata | EndOfEpoch, offset: int) -> None:
        # The end sorts after every picture of its epoch, whatever number of them it gives.
        seq = 1 << 62 if isinstance(document, EndOfEpoch) else document.seq
        self._metadata.add((document.epoch, seq), document, offset)

    def take(self) -> Iterator[Joined | EpochEnd]:
        """What can be joined by now, in decode order."""
        packets, metadata = self._packets.waiting, self._metadata.waiting
        while True:
            if packets and packets[0][0][0] <= self._left:
                self._drop_packet()
                continue
            if not metadata:
                return
            key, document, offset = metadata[0]
            ahead = packets[0][0] if packets else None
            if isinstance(document, EndOfEpoch):
                # Every picture with metadata is joined by now; one without it would give no frame anyway.
                metadata.popleft()
                yield from self._end(key[0], document.pictures)
            elif ahead is None:
                return
            elif ahead[0] < key[0]:
                self._left = key[0] - 1  # the metadata topic has left this epoch behind
            elif ahead < key:
                yield from self._joined(ahead, self._pop_packet(), None, offset)
            else:
                metadata.popleft()
                if key == ahead:
                    yield from self._joined(key, self._pop_packet(), document, offset)
                elif self._next is not None:  # its packet is lost; before the first one there is nothing to miss
                    yield from self._joined(key, (None, packets[0][2]), document, offset)

    def give_up(self) -> Iterator[Joined | EpochEnd]:
        """What waits will not find its partner any more: metadata go on alone, packets are counted and dropped."""
        yield from self.take()
        while self._packets.waiting:
            self._drop_packet()
        while self._metadata.waiting:
            key, document, offset = self._metadata.waiting.popleft()
            if isinstance(document, EndOfEpoch):
                yield from self._end(key[0], document.pictures)
            elif self._next is not None:
                yield from self._joined(key, (None, self._packets_end), document, offset)

    def _pop_packet(self) -> tuple[CodedPicture, int]:
        _, picture, offset = self._packets.waiting.popleft()
        self._bytes -= len(picture.data)
        return picture, offset

    def _drop_packet(self) -> None:
        self._pop_packet()
        self._counts["no-partner"] += 1

    def _joined(
        self, key: Key, packet: tuple[CodedPicture | None, int], document: PictureMetadata | None, metadata_offset: int
    ) -> Iterator[Joined | EpochEnd]:
        epoch, seq = key
        if self._next is not None:
            if self._next[0] != epoch:
                yield from self._leave()
                self._next = (epoch, 0)
            self._counts["picture-missing"] += seq - self._next[1]
        self._next, self._open = (epoch, seq + 1), True
        self._counts["picture-missing"] += packet[0] is None
        self._counts["metadata-missing"] += document is None
        yield Joined(epoch, seq, packet[0], document, packet[1], metadata_offset)

    def _end(self, epoch: int, pictures: int) -> Iterator[EpochEnd]:
        if self._next is not None and self._next[0] == epoch:
            self._counts["picture-missing"] += max(0, pictures - self._next[1])
        elif self._next is not None:
            yield from self._leave()
        self._left, self._next, self._open = epoch, (epoch, pictures), False
        yield EpochEnd(epoch, closed=True)

    def _leave(self) -> Iterator[EpochEnd]:
        if self._open and self._next is not None:
            yield EpochEnd(self._next[0], closed=False)

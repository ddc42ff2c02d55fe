"""Packets and metadata of one stream, merged: two ordered sequences with the same keys, (epoch, seq).

Each topic holds a stream's records in key order, so a key that is not above the one before it on the same topic is late or a
duplicate, and a key that the other topic has moved past will never come. Decisions depend only on the order within each
topic, never on interleaving or on a clock: a replay makes the same ones.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from codecflow.messages import CodedPicture, EndOfEpoch, PictureMetadata

from .resume import Offsets

Key = tuple[int, int]
"""(epoch, seq)"""

_MAX_REPORTED = 100
"""Limit on false ends waiting to be reported."""

_MOST_MISSING = 10_000_000
"""Pictures counted as missing in one gap: a forged number must not spoil the counter for good."""

_END = 1 << 62
"""As seq: the end of an epoch sorts after all its pictures, whatever picture count it states."""


@dataclass(frozen=True, slots=True)
class Joined:
    """One coded picture with its packet and metadata. One of the two may be lost, never both.

    The offsets are where a reader of either topic must start to see this picture: its own record, or the next one.
    """

    epoch: int
    seq: int
    picture: CodedPicture | None
    metadata: PictureMetadata | None
    packets_offset: int
    metadata_offset: int

    @property
    def offsets(self) -> Offsets:
        return self.packets_offset, self.metadata_offset


@dataclass(frozen=True, slots=True)
class EpochEnd:
    """Nothing more will be joined of this epoch. `closed`: its producer ended it; otherwise a later epoch began. `offsets`:
    after the newest record seen on either topic."""

    epoch: int
    closed: bool
    offsets: Offsets = (0, 0)


Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Record]):
    """A record that waits for its counterpart on the other topic."""

    key: Key
    record: Record
    offset: int


class _Side(Generic[Record]):
    """The records of one topic that wait for the other, oldest first, and the progress on this topic."""

    def __init__(self, counts: Counter[str]) -> None:
        self.waiting: deque[_Waiting[Record]] = deque()
        self.newest: Key = (-1, -1)
        self.behind = 0
        """Offset after the newest record."""
        self.earlier_epochs = self.late = 0
        """Records of an epoch before the newest one; records of the newest one that are out of order or duplicates."""
        self._counts = counts
        self._recent: deque[Key] = deque(maxlen=512)
        self._before_end: Key = (-1, -1)

    def add(self, key: Key, record: Record, offset: int) -> bool:
        """Add a record unless it is out of order; False when it was counted and dropped."""
        self.behind = offset + 1
        if key <= self.newest and not self.continues_after_end(key):
            if key[0] < self.newest[0]:
                self._counts["earlier-epoch"] += 1
                self.earlier_epochs += 1
            else:
                self._counts["duplicate" if key in self._recent else "late"] += 1
                self.late += 1
            return False
        if key[1] == _END:
            self._before_end = self.newest
        self.newest = key
        self._recent.append(key)
        self.waiting.append(_Waiting(key, record, offset))
        return True

    def continues_after_end(self, key: Key) -> bool:
        """Whether this picture comes after the end of its epoch, which makes that end false."""
        return key[1] < _END and self.newest == (key[0], _END) and key > self._before_end

    @property
    def oldest_offset(self) -> int | None:
        return self.waiting[0].offset if self.waiting else None


class StreamJoin:
    """Joins the records of one stream.

    The end of an epoch is accepted until the metadata topic continues with a picture of that epoch: anybody with write
    access can write an end. The end of a later epoch without metadata is not accepted while metadata of another epoch
    arrive.

    `counts` is incremented by reason: duplicate, late, earlier-epoch, picture-missing, metadata-missing, no-partner,
    false-end.
    `false_ends`: (epoch, offset) of false ends, to be taken by the owner.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._packets: _Side[CodedPicture] = _Side(counts)
        self._metadata: _Side[PictureMetadata | EndOfEpoch] = _Side(counts)
        self._next: Key | None = None  # the next expected key; None: nothing was joined yet
        self._open = False  # its epoch has begun and has not ended
        self._left: Key = (-1, -1)  # nothing more is joined up to here
        self._missing_at_end = 0
        self._end_offset = -1
        self._bytes = 0
        self.false_ends: list[tuple[int, int]] = []

    @property
    def earlier_epochs(self) -> int:
        """Records of an earlier epoch that came after those of a later one: two producers at once, or a clock set back."""
        return self._packets.earlier_epochs + self._metadata.earlier_epochs

    @property
    def late(self) -> int:
        """Records out of order or duplicates: two producers at once, or a record from another source."""
        return self._packets.late + self._metadata.late

    @property
    def newest_epoch(self) -> int:
        return max(self._packets.newest[0], self._metadata.newest[0])

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
        return self._packets.oldest_offset, self._metadata.oldest_offset

    @property
    def seen(self) -> Offsets:
        """Offsets after the newest record of either topic."""
        return self._packets.behind, self._metadata.behind

    def add_packet(self, picture: CodedPicture, offset: int) -> None:
        if self._packets.add((picture.epoch, picture.seq), picture, offset):
            self._bytes += len(picture.data)

    def add_metadata(self, document: PictureMetadata | EndOfEpoch, offset: int) -> None:
        newest = self._metadata.newest
        if isinstance(document, EndOfEpoch):
            if -1 < newest[0] < document.epoch and newest[1] < _END:
                self._metadata.behind = offset + 1
                self._false_end(document.epoch, offset)
                return
            if self._metadata.add((document.epoch, _END), document, offset):
                self._end_offset = offset
            return
        key = (document.epoch, document.seq)
        if self._metadata.continues_after_end(key):
            self._false_end(document.epoch, self._end_offset)
        self._metadata.add(key, document, offset)

    def take(self) -> Iterator[Joined | EpochEnd]:
        """What can be joined now, in decode order."""
        packets, metadata = self._packets.waiting, self._metadata.waiting
        while True:
            known = metadata[0] if metadata else None
            if known is not None and known.key <= self._left:
                self._reopen(known.key)
            if packets and packets[0].key <= self._left:
                self._drop_packet()
                continue
            if known is None:
                return
            picture = packets[0] if packets else None
            if isinstance(known.record, EndOfEpoch):
                # Every picture with metadata is joined by now; one without would give no frame anyway.
                metadata.popleft()
                yield from self._end(known.key[0], known.record.pictures)
            elif picture is None:
                return
            elif picture.key[0] < known.key[0]:
                self._left = (known.key[0] - 1, _END)  # the metadata topic has moved past this epoch
            elif picture.key < known.key:
                self._pop_packet()
                yield from self._joined(picture.key, picture.record, None, (picture.offset, known.offset))
            else:
                metadata.popleft()
                if known.key == picture.key:
                    self._pop_packet()
                    yield from self._joined(known.key, picture.record, known.record, (picture.offset, known.offset))
                elif self._next is not None:  # its packet is lost; before the first one nothing can be missing
                    yield from self._joined(known.key, None, known.record, (picture.offset, known.offset))

    def give_up(self) -> Iterator[Joined | EpochEnd]:
        """Waiting records will not find their counterparts any more: metadata continue alone, packets are counted and
        dropped."""
        yield from self.take()
        while self._packets.waiting:
            self._drop_packet()
        while self._metadata.waiting:
            known = self._metadata.waiting.popleft()
            if isinstance(known.record, EndOfEpoch):
                yield from self._end(known.key[0], known.record.pictures)
            elif self._next is not None:
                yield from self._joined(known.key, None, known.record, (self._packets.behind, known.offset))

    def drop_packets(self, count: int, max_bytes: int) -> int:
        """Drop the oldest waiting packets until at most `count` of `max_bytes` are left; returns how many were dropped."""
        dropped = 0
        while self._packets.waiting and (len(self._packets.waiting) > count or self._bytes > max_bytes):
            self._drop_packet()
            dropped += 1
        return dropped

    def drop_metadata(self, count: int) -> int:
        """Drop the oldest waiting metadata until at most `count` are left; returns how many were dropped."""
        dropped = max(0, len(self._metadata.waiting) - count)
        for _ in range(dropped):
            self._metadata.waiting.popleft()
        self._counts["no-partner"] += dropped
        return dropped

    def _pop_packet(self) -> None:
        self._bytes -= len(self._packets.waiting.popleft().record.data)

    def _drop_packet(self) -> None:
        self._pop_packet()
        self._counts["no-partner"] += 1

    def _joined(
        self, key: Key, picture: CodedPicture | None, metadata: PictureMetadata | None, offsets: Offsets
    ) -> Iterator[Joined | EpochEnd]:
        epoch, seq = key
        if self._next is not None:
            if self._next[0] != epoch:
                yield from self._leave()
                self._next = (epoch, 0)
            self._counts["picture-missing"] += min(max(0, seq - self._next[1]), _MOST_MISSING)
        self._next, self._open = (epoch, seq + 1), True
        self._counts["picture-missing"] += picture is None
        self._counts["metadata-missing"] += metadata is None
        yield Joined(epoch, seq, picture, metadata, *offsets)

    def _end(self, epoch: int, pictures: int) -> Iterator[EpochEnd]:
        self._missing_at_end = 0
        if self._next is not None and self._next[0] == epoch:
            self._missing_at_end = min(max(0, pictures - self._next[1]), _MOST_MISSING)
            self._counts["picture-missing"] += self._missing_at_end
            pictures = max(pictures, self._next[1])
        elif self._next is not None:
            yield from self._leave()
        self._left, self._next, self._open = (epoch, pictures - 1), (epoch, pictures), False
        yield EpochEnd(epoch, True, self.seen)

    def _reopen(self, key: Key) -> None:
        """Metadata continue with pictures that were given up at a false end."""
        self._left = (key[0], key[1] - 1)
        self._next = key
        self._counts["picture-missing"] -= self._missing_at_end
        self._missing_at_end = 0

    def _false_end(self, epoch: int, offset: int) -> None:
        self._counts["false-end"] += 1
        if len(self.false_ends) < _MAX_REPORTED:
            self.false_ends.append((epoch, offset))

    def _leave(self) -> Iterator[EpochEnd]:
        if self._open and self._next is not None:
            yield EpochEnd(self._next[0], False, self.seen)

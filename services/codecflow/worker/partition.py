"""One partition of packets and metadata: its streams, what they wait for, and where a worker that takes over must begin.

Knows nothing of the Kafka client: records go in as bytes with their offsets, steps come out to be answered and emitted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from codecflow.errors import MessageError
from codecflow.kafka.topics import partition_of
from codecflow.messages import (
    CodedPicture,
    DeadLetter,
    EndOfEpoch,
    Headers,
    PictureMetadata,
    StreamState,
    decode_metadata,
    decode_packet,
)

from .feed import Offsets
from .stream import Sampling, Stream
from .turns import Limits, Reports, Turn

T = TypeVar("T", CodedPicture, PictureMetadata | EndOfEpoch)

PACKETS, METADATA = 0, 1
"""The two topics, as an index of `Offsets`."""


@dataclass(slots=True)
class _Followed:
    stream: Stream
    newest_at: float
    told: set[str] = field(default_factory=set)
    parked: bool = False


class Partition:
    """The streams of one partition.

    `topics`: names of packets and metadata, and how many partitions each has. `states`: what was emitted so far, by stream.
    `positions`: offsets of the next record of both. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        number: int,
        topics: tuple[str, str, int],
        sampling: Sampling,
        states: Mapping[str, StreamState],
        positions: Offsets,
        reports: Reports,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        self.states = dict(states)
        self.positions = positions
        self._topics, self._sampling, self._reports, self._limits = topics, sampling, reports, limits
        self._clock = clock
        self._followed: dict[str, _Followed] = {}
        self._at_end = [False, False]
        self._at_end_at = [clock(), clock()]
        self._full = (False, False)
        self._full_since: float | None = None

    @property
    def streams(self) -> list[Stream]:
        return [followed.stream for followed in self._followed.values()]

    @property
    def settled(self) -> bool:
        """Whether every stream that was ever seen here has ended and is answered."""
        return all(state.ended for state in self.states.values()) and not any(
            stream.ready or stream.state is None or stream.holds(stream.state, 0) != (None, None)
            for stream in self.streams
        )

    def packet(self, key: bytes | None, value: bytes | None, headers: Headers | None, offset: int) -> None:
        """Take in a record of the packets topic. Raises ConfigError when its stream cannot serve the sampling rate."""
        picture = self._read(PACKETS, key, offset, lambda: decode_packet(key, value, headers))
        if picture is not None:
            followed = self._follow(picture.stream)
            followed.stream.packet(picture, offset)
            self._tell(followed)

    def metadata(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Take in a record of the metadata topic. Raises as `packet`."""
        document = self._read(METADATA, key, offset, lambda: decode_metadata(key, value))
        if document is not None:
            followed = self._follow(document.stream)
            followed.stream.metadata(document, offset)
            self._tell(followed)

    def caught_up(self, topic: int) -> None:
        """The topic has been read to its present end: PACKETS or METADATA."""
        self._at_end[topic] = True

    @property
    def at_end(self) -> bool:
        """Whether both topics have been read to their ends, as far as is known."""
        return all(self._at_end)

    def turns(self) -> Iterator[Turn]:
        """What may be answered and emitted next: one turn for each stream that has something. They are not taken out."""
        for stream in self.streams:
            if stream.ready:
                yield Turn.of(stream)

    def committed(self, turn: Turn) -> None:
        """The turn's results and state are there for all to see: take it out."""
        stream = turn.stream
        for _ in range(turn.steps):
            stream.ready.popleft()
        stream.state = self.states[stream.name] = turn.state
        if not stream.ready and self._followed[stream.name].parked:
            del self._followed[stream.name]

    def offsets(self, turns: Iterable[Turn]) -> Offsets:
        """Where a worker that takes over begins to read once `turns` are committed."""
        after = {turn.stream.name: turn for turn in turns}
        packets, metadata = self.positions
        for stream in self.streams:
            turn = after.get(stream.name)
            held = stream.holds(turn.state, turn.steps) if turn else stream.holds(stream.state, 0)
            packets, metadata = _least(packets, held[PACKETS]), _least(metadata, held[METADATA])
        return packets, metadata

    def full(self) -> tuple[bool, bool]:
        """Which topics must not be read on at present: packets, metadata."""
        if any(_windows(stream) >= self._limits.windows for stream in self.streams):
            self._full, self._full_since = (True, True), None
            return self._full
        # A topic that was stopped goes on at half of the limit, so that it is not stopped at every other record.
        packets, metadata = (2 if full else 1 for full in self._full)
        self._full = (
            any(
                stream.join.packets_waiting * packets >= self._limits.pictures
                or stream.join.bytes_waiting * packets >= self._limits.picture_bytes
                for stream in self.streams
            ),
            any(stream.join.metadata_waiting * metadata >= self._limits.documents for stream in self.streams),
        )
        if not all(self._full):
            self._full_since = None
        elif self._full_since is None:
            self._full_since = self._clock()
        return self._full

    def expire(self) -> None:
        """Give up what has waited for too long. To be called now and then."""
        now, limits = self._clock(), self._limits
        for topic in (PACKETS, METADATA):
            if self._at_end[topic] and not self._full[topic]:
                self._at_end_at[topic] = now
        # Both topics stopped: streams wait for each other's records, and none of them will come.
        deadlocked = self._full_since is not None and now - self._full_since > limits.partner_s
        for name, followed in list(self._followed.items()):
            stream, since = followed.stream, followed.newest_at
            waits = (stream.join.packets_waiting > 0, stream.join.metadata_waiting > 0)
            alone = (waits[PACKETS] and self._at_end_at[METADATA] > since + limits.partner_s) or (
                waits[METADATA] and self._at_end_at[PACKETS] > since + limits.partner_s
            )
            if alone or (deadlocked and any(waits)):
                stream.give_up()
            if min(self._at_end_at) > since + limits.idle_s and not stream.ready:
                stream.park()
                followed.parked = True
                if not stream.ready:
                    del self._followed[name]

    def _read(self, topic: int, key: bytes | None, offset: int, decode: Callable[[], T]) -> T | None:
        """The message in the record at `offset`, which is now read; None, with a dead letter, where it cannot be used."""
        packets, metadata = self.positions
        self.positions = (offset + 1, metadata) if topic == PACKETS else (packets, offset + 1)
        self._at_end[topic] = False
        try:
            message = decode()
        except MessageError as error:
            self._dead(topic, key, offset, "unreadable", str(error))
            return None
        return None if self._misplaced(topic, message.stream, offset) else message

    def _follow(self, name: str) -> _Followed:
        followed = self._followed.get(name)
        if followed is None or followed.parked:
            stream = Stream(name, self._sampling, self._reports.counts(name), self.states.get(name))
            followed = self._followed[name] = _Followed(stream, 0.0)
        followed.newest_at = self._clock()
        return followed

    def _tell(self, followed: _Followed) -> None:
        stream = followed.stream
        lines = [stream.trouble] if stream.trouble is not None else []
        if stream.join.two_producers:
            lines.append(
                f"stream {stream.name!r}: two producers at once; the later epoch wins, the earlier is passed over"
            )
        for line in lines:
            if line not in followed.told:
                followed.told.add(line)
                self._reports.say(line)

    def _misplaced(self, topic: int, stream: str, offset: int) -> bool:
        """Whether a record lies in a partition that is not its stream's: two workers would then answer the stream."""
        home = partition_of(stream, self._topics[2])
        if home != self.number:
            reason = f"wrong partition, expected {home}: publish with partitioner murmur2"
            self._dead(topic, stream.encode(), offset, "misplaced", reason)
        return home != self.number

    def _dead(self, topic: int, key: bytes | None, offset: int, code: str, reason: str) -> None:
        stream = DeadLetter.key_text(key)
        self._reports.dead(DeadLetter(str(self._topics[topic]), self.number, offset, stream, code, reason))


def _least(position: int, held: int | None) -> int:
    return position if held is None else min(position, held)


def _windows(stream: Stream) -> int:
    return sum(step.window is not None for step in stream.ready)

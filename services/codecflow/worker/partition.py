"""One partition of packets and metadata: its streams, what they wait for, and where a worker that takes over must begin.

Knows nothing of the Kafka client: records go in as bytes with their offsets, steps come out to be answered and emitted.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from codecflow.errors import MessageError
from codecflow.messages import DeadLetter, Headers, StreamState, decode_metadata, decode_packet

from .feed import Offsets, Window
from .stream import Sampling, Stream

PACKETS, METADATA = 0, 1
"""The two topics, as an index of `Offsets`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a worker holds of the streams that it follows, and for how long it waits.

    `windows`: closed windows of one stream that wait for the engine. `pictures`, `picture_bytes`: coded pictures of one
    stream that wait for their metadata; `documents`: metadata that wait for their pictures. A topic is paused while one of
    its streams is at a limit. `partner_s`: how long after a stream's newest record, and with the other topic read to its
    end, what waits is given up. `idle_s`: after so long without a record a stream holds its partition's offsets back no
    more; when it comes back it begins at its next keyframe, and its windows are marked as restarted.
    """

    windows: int = 2
    pictures: int = 2_000
    picture_bytes: int = 64 << 20
    documents: int = 4_000
    partner_s: float = 10.0
    idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Turn:
    """What one stream has for the next transaction: at most one window to answer, and the state once it is emitted.

    `epoch`: that of the window. `steps`: how many of the stream's steps this covers.
    """

    stream: Stream
    epoch: int
    window: Window | None
    state: StreamState
    steps: int


@dataclass(frozen=True, slots=True)
class Reports:
    """Where a partition tells what happens: a counter for each stream, records that are not of the wire contract, and lines
    for the operator."""

    counts: Callable[[str], Counter[str]]
    dead: Callable[[DeadLetter], None]
    say: Callable[[str], None]


@dataclass(slots=True)
class _Followed:
    stream: Stream
    newest_at: float
    told: set[str] = field(default_factory=set)
    parked: bool = False


class Partition:
    """The streams of one partition.

    `topics`: names of packets and metadata. `states`: what was emitted so far, by stream. `positions`: offsets of the next
    record of both. `clock`: monotonic seconds.
    """

    def __init__(
        self,
        number: int,
        topics: tuple[str, str],
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
        self._caught_up_at = [clock(), clock()]
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
        self.positions = (offset + 1, self.positions[METADATA])
        try:
            picture = decode_packet(key, value, headers)
        except MessageError as error:
            self._unreadable(PACKETS, key, offset, error)
            return
        followed = self._follow(picture.stream)
        followed.stream.packet(picture, offset)
        self._tell(followed)

    def metadata(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Take in a record of the metadata topic. Raises as `packet`."""
        self.positions = (self.positions[PACKETS], offset + 1)
        try:
            document = decode_metadata(key, value)
        except MessageError as error:
            self._unreadable(METADATA, key, offset, error)
            return
        followed = self._follow(document.stream)
        followed.stream.metadata(document, offset)
        self._tell(followed)

    def caught_up(self, topic: int) -> None:
        """The topic has been read to its present end."""
        self._caught_up_at[topic] = self._clock()

    def turns(self) -> Iterator[Turn]:
        """What may be answered and emitted next: one turn for each stream that has something. They are not taken out."""
        for stream in self.streams:
            if stream.ready:
                yield _turn(stream)

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
        # Both topics stopped: streams wait for each other's records, and none of them will come.
        deadlocked = self._full_since is not None and now - self._full_since > limits.partner_s
        for name, followed in list(self._followed.items()):
            stream, since = followed.stream, followed.newest_at
            waits = (stream.join.packets_waiting > 0, stream.join.metadata_waiting > 0)
            alone = (waits[PACKETS] and self._caught_up_at[METADATA] > since + limits.partner_s) or (
                waits[METADATA] and self._caught_up_at[PACKETS] > since + limits.partner_s
            )
            if alone or (deadlocked and any(waits)):
                stream.give_up()
            if min(self._caught_up_at) > since + limits.idle_s and not stream.ready:
                stream.park()
                followed.parked = True
                if not stream.ready:
                    del self._followed[name]

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

    def _unreadable(self, topic: int, key: bytes | None, offset: int, error: MessageError) -> None:
        stream = (key or b"").decode(errors="replace")
        letter = DeadLetter(self._topics[topic], self.number, offset, stream, "unreadable", str(error))
        self._reports.dead(letter)


def _least(position: int, held: int | None) -> int:
    return position if held is None else min(position, held)


def _windows(stream: Stream) -> int:
    return sum(step.window is not None for step in stream.ready)


def _turn(stream: Stream) -> Turn:
    """The steps up to the second window, which is another turn's."""
    window: Window | None = None
    epoch, count, last = -1, 0, stream.ready[0]
    for step in stream.ready:
        if step.window is not None:
            if window is not None:
                break
            window, epoch = step.window, step.epoch
        count, last = count + 1, step
    state = StreamState(stream.name, last.epoch, last.next_window, *last.rewind, ended=last.ended)
    return Turn(stream, epoch, window, state, count)

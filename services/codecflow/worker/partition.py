"""One partition of packets and metadata: its streams, when reading must pause, and which records a successor needs.

Independent of the Kafka client: records go in as bytes with their offsets (`record_reader`), steps come out to be answered
and emitted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from codecflow.logs import Notice
from codecflow.messages import CameraLost, Event, Headers, StreamState, Zone

from .pool import Sampled, SamplerPool
from .record_reader import RecordReader
from .reports import Reports
from .resume import METADATA, PACKETS, Offsets
from .settings import Limits, WhenBehind
from .stream import Stream
from .windows import Step

_NAMES = ("pictures", "metadata")
"""What their records hold."""

_UNPAIRED_AFTER_S = 2.0
"""How long after the other topic was read a stream at its limit keeps records without a counterpart."""
_HELD_REPORT_S = 20.0
"""After this long an open transaction that holds back records is reported."""
_AT_END_S = 5.0
"""A partition counts as read to its end if that was at most this long ago."""
_SCARCE_DOCUMENTS = 16
"""Divides the limit of metadata that wait for their pictures while room is scarce: small records are read faster."""


@dataclass(frozen=True, slots=True)
class Room:
    """A worker's room for coded pictures: `size` in bytes, and what all partitions have taken of it: pictures `queued` for
    samplers, and those `joining`, which wait for their metadata. `partitions`: how many have streams.

    A partition takes what it needs until half of the room is taken, and then an equal share of that half. So the room is
    never exceeded by much, and no partition starves because others are read first whenever something is free.
    """

    size: int
    queued: int
    joining: int
    partitions: int

    @property
    def scarce(self) -> bool:
        return self.queued >= self.size // 4

    def over(self, own: int, taken: int, paused: bool) -> bool:
        """Whether a partition has too much: `own` bytes, when all have `taken`. A `paused` one resumes at half of that."""
        factor, half = 2 if paused else 1, self.size // 2
        return taken * factor >= half and own * factor >= half // max(1, self.partitions)


@dataclass(frozen=True, slots=True)
class PartitionSettings:
    """Settings shared by all partitions of a worker. `topics`: names of packets and metadata; `partitions`: how many each
    has. `check_partitions` is called when a record is in the wrong one; it raises KafkaError if their number has changed."""

    topics: tuple[str, str]
    partitions: int
    limits: Limits
    when_behind: WhenBehind
    check_partitions: Callable[[], None] = lambda: None


class Partition:
    """The streams of one partition.

    `states`: what was emitted so far, by stream. `positions`: offsets of the next record of both topics. `drop` is called
    with the name of each stream that is released, `zones_of` with that of each stream that starts. `clock`: monotonic
    seconds; `wall_ms`: milliseconds since 1970.
    """

    def __init__(
        self,
        number: int,
        settings: PartitionSettings,
        pool: SamplerPool,
        states: Mapping[str, StreamState],
        positions: Offsets,
        reports: Reports,
        drop: Callable[[str], None] = lambda stream: None,
        clock: Callable[[], float] = time.monotonic,
        wall_ms: Callable[[], int] = lambda: int(time.time() * 1000),
        zones_of: Callable[[str], tuple[Zone, ...]] = lambda stream: (),
    ) -> None:
        self.number = number
        self.states = dict(states)
        self.positions = positions
        self.streams: dict[str, Stream] = {}
        self._settings, self._limits, self._pool, self._reports = settings, settings.limits, pool, reports
        self._drop, self._clock, self._wall_ms, self._zones_of = drop, clock, wall_ms, zones_of
        self._reader = RecordReader(
            number, settings.topics, settings.partitions, settings.check_partitions, reports, wall_ms
        )
        self._read_until = [-math.inf, -math.inf]  # everything that each topic held at this time was read
        self._newest_at = [clock(), clock()]
        self._full = (False, False)
        self._documents = self._limits.documents  # metadata of a stream that may wait for their pictures now
        self._held = [False, False]  # by an open transaction
        self._deadlock = False  # both topics are paused by records that wait for each other
        self._replaying = True

    @property
    def settled(self) -> bool:
        """Whether every stream ever seen here has ended and is answered."""
        return all(state.ended for state in self.states.values()) and all(
            stream.settled for stream in self.streams.values()
        )

    @property
    def at_end(self) -> bool:
        """Whether both topics have been read to their known ends."""
        return all(until >= newest for until, newest in zip(self._read_until, self._newest_at, strict=True))

    @property
    def replaying(self) -> bool:
        """True until both topics have been read to their ends once since the partition was taken over."""
        self._replaying = self._replaying and not (self.at_end or self.near_end)
        return self._replaying

    def packet(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None,
        offset: int,
        appended_ms: int | None = None,
    ) -> None:
        """Add a record of the packets topic. `appended_ms`: when the broker received it, if known."""
        self._passed(PACKETS, offset)
        picture = self._reader.packet(key, value, headers, offset, appended_ms)
        if picture is not None:
            stream = self._follow(picture.stream, appended_ms)
            stream.seen_at[PACKETS] = stream.newest_at
            stream.packet(picture, offset, self._wall_ms(), self.near_end)

    def metadata(self, key: bytes | None, value: bytes | None, offset: int, appended_ms: int | None = None) -> None:
        """Add a record of the metadata topic, as `packet` does."""
        self._passed(METADATA, offset)
        document = self._reader.metadata(key, value, offset, appended_ms)
        if document is not None:
            stream = self._follow(document.stream, appended_ms)
            if isinstance(document, CameraLost):
                stream.observe_lost(document)
                return
            stream.unpaired = False
            stream.seen_at[METADATA] = stream.newest_at
            stream.metadata(document, offset, self._wall_ms(), self.near_end)

    def failed(self, topic: int, key: bytes | None, offset: int, reason: str) -> None:
        """A record cannot be unpacked, or processing it failed unexpectedly: it is skipped."""
        self._passed(topic, offset)
        self._reader.dead_letter(topic, key, offset, "failed", reason)

    def hold(self, topic: int, held_s: float) -> None:
        """For how long an open transaction of another program has held back the newest records of a topic; 0: not at all.
        Until it ends, the topic does not count as read to its end: its pictures or metadata will come."""
        self._held[topic] = held_s > 0
        if held_s > _HELD_REPORT_S:
            name = f"{self._settings.topics[topic]}[{self.number}]"
            self._reports.notice_throttled(
                f"held {name}",
                f"{name}: an open transaction of another program has held back all later records for {held_s:.0f} s; find "
                f"and end it with: kafka-transactions.sh find-hanging",
            )

    def read_until(self, topic: int, at: float) -> None:
        """All records that the topic (PACKETS or METADATA) held at monotonic time `at` have been read."""
        if self._held[topic]:
            return
        self._read_until[topic] = max(self._read_until[topic], at)

    def sampled(self, sampled: Sampled) -> bool:
        """Take over a sampler's output; False if it is not of this partition."""
        stream = self.streams.get(sampled.queue.stream)
        if stream is None or not stream.owns(sampled):
            return False
        stream.sampled(sampled, self._clock())
        for fault in sampled.faults:
            self._reader.dead_letter(PACKETS, stream.name.encode(), fault.packets_offset, "failed", fault.reason)
        self._reports.trouble(stream.name, sampled.trouble)
        return True

    def take(self) -> Iterator[tuple[Stream, Step]]:
        """One step of each stream that has one, to be answered and emitted."""
        for stream in self.streams.values():
            if (step := stream.take()) is not None:
                yield stream, step

    def committed(self, stream: Stream, step: Step) -> None:
        """The step's results and state are committed."""
        stream.committed(step)
        self.states[stream.name] = step.state
        if step.last and stream.parked and not stream.taken and not stream.ready:
            self._forget(stream)

    @property
    def conditions_changed(self) -> bool:
        """Whether conditions worth an event have changed."""
        return any(stream.conditions_changed for stream in self.streams.values())

    def condition_events(
        self, now_ms: int, steps: Mapping[str, Step]
    ) -> Iterator[tuple[Stream, StreamState, list[Event]]]:
        """Events of streams that are not among `steps`."""
        for name, stream in self.streams.items():
            if name not in steps and (found := stream.condition_events(now_ms)) is not None:
                yield stream, *found

    def events_committed(self, stream: Stream, state: StreamState) -> None:
        """The stream's events are committed."""
        stream.events_committed(state)
        self.states[stream.name] = state

    def offsets(self, steps: Mapping[str, Step]) -> Offsets:
        """Where a successor starts to read once `steps`, the newest of each stream, are committed."""
        packets, metadata = self.positions
        for stream in self.streams.values():
            step = steps.get(stream.name)
            needed = stream.needed(stream.state if step is None else step.state)
            packets, metadata = _min_offset(packets, needed[PACKETS]), _min_offset(metadata, needed[METADATA])
        return packets, metadata

    @property
    def queued_bytes(self) -> int:
        """Coded pictures that wait for samplers."""
        return sum(stream.queued_bytes for stream in self.streams.values())

    @property
    def joining_bytes(self) -> int:
        """Coded pictures that wait for their metadata."""
        return sum(stream.join.bytes_waiting for stream in self.streams.values())

    def full(self, room: Room) -> tuple[bool, bool]:
        """Which topics must be paused now: packets, metadata. `room`: the worker's, for coded pictures."""
        queued = self.queued_bytes
        packets = room.over(queued + self.joining_bytes, room.queued + room.joining, self._full[PACKETS])
        everything = room.over(queued, room.queued, all(self._full))
        streams = self.streams.values()
        slow = [stream for stream in streams if stream.queue_full]
        now = self._clock()
        for stream in streams:
            # A stream whose sampler is slower than live, or whose windows have waited too long for the engine, must not hold
            # up the others: a stream that has no window ready is not in the engine's next batch.
            too_slow = stream in slow and len(slow) < len(streams)
            too_late = stream.waits_s(now) > self._settings.when_behind.after_s
            stream.overrun = stream.may_skip and (too_slow or too_late)
        unanswered = [stream for stream in streams if stream.windows_waiting >= self._limits.windows]
        if everything or any(not stream.overrun for stream in (*slow, *unanswered)):
            self._full, self._deadlock = (True, True), False  # samplers or the engine will free some
            return self._full
        # A paused topic resumes at half of the limit, so that it is not paused at every other record.
        factors = [2 if full else 1 for full in self._full]
        self._documents = documents = self._limits.documents // (_SCARCE_DOCUMENTS if room.scarce else 1)
        found = [False, False]
        for stream in streams:
            join = stream.join
            at_limit = (
                join.packets_waiting * factors[PACKETS] >= self._limits.pictures
                or join.bytes_waiting * factors[PACKETS] >= self._limits.stream_bytes,
                join.metadata_waiting * factors[METADATA] >= documents,
            )
            found[PACKETS] |= at_limit[PACKETS]
            found[METADATA] |= at_limit[METADATA]
            stream.full_since = None if not any(at_limit) else now if stream.full_since is None else stream.full_since
        self._deadlock = found[METADATA] and (found[PACKETS] or (packets and not queued))
        self._full = (found[PACKETS] or packets, found[METADATA])
        return self._full

    def relieve(self) -> None:
        """Drop the oldest records of streams at a limit whose counterparts do not come, so that they do not block the
        partition. To be called when a topic is full."""
        limits = self._limits
        for stream in self.streams.values():
            if stream.full_since is None:
                continue
            packets = stream.join.packets_waiting > 0
            other = METADATA if packets else PACKETS
            read = self._read_until[other] > stream.full_since + _UNPAIRED_AFTER_S or self._deadlock
            if not (read or stream.unpaired):
                continue
            if packets:
                count = stream.join.drop_packets((limits.pictures - 1) // 2, (limits.stream_bytes - 1) // 2)
            else:
                count = stream.join.drop_metadata((self._documents - 1) // 2)
            stream.unpaired, stream.full_since = True, None
            stream.counts["dropped-unpaired"] += count
            if count:
                self._report_unpaired(stream, f"{count} {_NAMES[METADATA - other]} dropped", other)

    def expire(self) -> None:
        """Give up what has waited for too long, release idle streams, and report. To be called periodically."""
        limits, now_ms, near_end = self._limits, self._wall_ms(), self.near_end
        for stream in list(self.streams.values()):
            since = stream.newest_at
            packets, metadata = stream.join.packets_waiting > 0, stream.join.metadata_waiting > 0
            if (packets and self._read_until[METADATA] > since + limits.partner_s) or (
                metadata and self._read_until[PACKETS] > since + limits.partner_s
            ):
                alone = PACKETS if packets else METADATA
                count = stream.join.packets_waiting or stream.join.metadata_waiting
                stream.give_up(now_ms)
                self._report_unpaired(stream, f"{count} {_NAMES[alone]} dropped", METADATA - alone)
            self._report_one_sided(stream)
            if near_end:
                stream.caught_up(now_ms)
            if (episode := stream.take_episode()) is not None:
                line = (
                    f"stream {stream.name!r}: {episode[0]:.0f} s behind live: skipped {episode[1]:.0f} s up to its newest "
                    f"keyframe (--when-behind)"
                )
                self._reports.notice(Notice(line, stream=stream.name, epoch=stream.newest_epoch))
            self._report_left_out(stream)
            self._observe(stream, now_ms, near_end)
            if min(self._read_until) > since + limits.idle_s and not stream.parked:
                stream.park(now_ms)
            elif stream.parked and stream.sampled_all and not stream.ready and not stream.taken:
                self._forget(stream)  # it holds nothing to answer: it has ended, or nothing of it was ever joined

    def _observe(self, stream: Stream, now_ms: int, near_end: bool) -> None:
        """Detect conditions that are worth an event, apart from answers."""
        stream.observe_behind(now_ms, near_end)
        # Records that a predecessor has already seen say nothing about the present.
        if not self.replaying and min(self._read_until) > stream.newest_at + self._limits.silent_s:
            stream.observe_silent(self._limits.silent_s)

    def forget(self) -> None:
        """Release all streams."""
        for stream in list(self.streams.values()):
            self._forget(stream)

    @property
    def near_end(self) -> bool:
        """Whether both topics were read to their ends a moment ago."""
        return min(self._read_until) > self._clock() - _AT_END_S

    def _forget(self, stream: Stream) -> None:
        del self.streams[stream.name]
        stream.close()
        self._drop(stream.name)

    def _passed(self, topic: int, offset: int) -> None:
        packets, metadata = self.positions
        self.positions = (offset + 1, metadata) if topic == PACKETS else (packets, offset + 1)
        self._newest_at[topic] = self._clock()

    def _follow(self, name: str, appended_ms: int | None) -> Stream:
        stream = self.streams.get(name)
        if stream is None:
            settings = self._settings
            stream = self.streams[name] = Stream(
                name,
                self._pool,
                self._limits,
                settings.when_behind,
                self._reports.counts(name),
                self.states.get(name),
                self._zones_of(name),
            )
            stream.seen_at = [self._clock()] * 2
        stream.parked = False
        stream.newest_at = self._clock()
        stream.observe_record(self._wall_ms() if appended_ms is None else appended_ms)
        return stream

    def _report_one_sided(self, stream: Stream) -> None:
        """Report a stream of which only one topic has new records."""
        waiting = stream.join.packets_waiting, stream.join.metadata_waiting
        for there, missing in ((PACKETS, METADATA), (METADATA, PACKETS)):
            since = stream.seen_at[missing]
            late = since + self._limits.partner_s
            if (
                waiting[there]
                and not waiting[missing]
                and stream.seen_at[there] > late
                and self._read_until[missing] > late
            ):
                what = f"only {_NAMES[there]} have come for {self._clock() - since:.0f} s"
                self._report_unpaired(stream, what, missing)

    def _report_unpaired(self, stream: Stream, what: str, missing: int) -> None:
        self._reports.notice_throttled(
            f"unpaired {stream.name}",
            f"stream {stream.name!r}: {what}: their {_NAMES[missing]} did not arrive ({self._settings.topics[missing]}"
            f"[{self.number}] is read to its end); see whether its producer may write to both topics",
            stream=stream.name,
            epoch=stream.newest_epoch,
        )

    def _report_left_out(self, stream: Stream) -> None:
        """Report records that violate one producer's publishing order, and false ends of epochs."""
        join = stream.join
        name = stream.name
        for which, count, why in (
            ("earlier epochs", stream.earlier_epochs, f"of an earlier epoch than {stream.newest_epoch}"),
            ("late", join.late, f"twice or out of order in epoch {stream.newest_epoch}"),
        ):
            new = count - stream.left_out_reported[which]
            if new and self._reports.notice_throttled(
                f"{which} {name}",
                f"stream {name!r}: {new} records ignored, {why}: two producers at once, one whose clock was set back, or "
                f"another program that writes to its topics; stop one of them, or restart the producer: it begins a later "
                f"epoch",
                stream=name,
                epoch=stream.newest_epoch,
            ):
                stream.left_out_reported[which] = count
        for epoch, offset in join.false_ends:
            reason = f"epoch {epoch} went on, or another one did"
            self._reader.dead_letter(METADATA, name.encode(), offset, "false-end", reason)
        stream.false_ends += len(join.false_ends)
        join.false_ends.clear()
        if stream.false_ends and self._reports.notice_throttled(
            f"false end {name}",
            f"stream {name!r}: {stream.false_ends} ends of its epoch are ignored: its pictures went on; see who else "
            f"may write to {self._settings.topics[METADATA]} (their places are in the dead letters)",
            stream=name,
            epoch=stream.newest_epoch,
        ):
            stream.false_ends = 0


def _min_offset(position: int, needed: int | None) -> int:
    return position if needed is None else min(position, needed)

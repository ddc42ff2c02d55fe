"""Take-over: where a worker starts to read, and what it must not emit again.

A partition can move from one worker to another at any moment: a worker joins, leaves, is stopped or killed. Results are
still emitted exactly once, and the keep masks of the windows after a take-over are those that the previous worker would have
made. Two things make this possible, both committed in the transaction of the results:

  offsets  of the worker group, per partition and topic: where a successor starts to read. One number for all streams
           of the partition, so it is the oldest record that any of them still needs.
  state    of each stream (codecflow.state): `epoch`, `answered_until` (presentation time up to which windows were emitted or
           left out), `plan` (under which windows), the offsets of the keyframe from which the next window can be
           rebuilt, and `ended`.

What a successor does, in order. (1) It reads the group's offsets, then the states: the previous owner of the partition has
either committed by then or cannot commit any more, since the group refuses its offsets. (2) It starts to read both topics at
the group's offsets. (3) For each stream it ignores records that lie before the state's own offsets, or that belong to an
epoch that is over (`Resume.covers`). (4) It decodes from the state's keyframe on. Frames before the next window's first slot
only rebuild the keep state; frames of windows that were emitted only fill the next window. (5) The first window that it
emits is the first one that ends after `answered_until` (`WindowPlan.open_at`). Because the state holds a time and not an
index, this also works under another plan: with another stride, window or rate a stream continues at its next boundary,
without gap or duplicate. Windows that hold frames from this replay are marked `restarted`: the keys and values of older
frames are gone. (6) Zones: it reads codecflow.streams to its end before the states. If the newest zones of a stream are
those that its state names, they are in force from the time given there; others from `answered_until` on. Earlier frames
belong to no window.

What a worker keeps for its successor. Window k needs the frames from its first slot on, and its masks depend on frames up to
`memory_s` before that; decoding starts at a keyframe. So the state written with window k-1 names the newest keyframe that is
at least `memory_s` older than window k (`Rewind`). A record is no longer needed once every stream's state is past it.
Records that a worker has read but no state covers yet exist only in its memory, so the group's offsets stay before them
(`NeededRecords`):

  where the record is                         what holds the offsets
  waits in the join for its counterpart       its own offset
  joined: in the pool, in an open window,     the stream's committed state, which is older; if there is none, or it has
  in the engine, in a running transaction     ended: the first joined record of the first epoch after it
  joined and skipped, because behind          likewise
  unreadable, late, a duplicate               nothing: it is dropped; its dead letter waits for the transaction that
                                              moves the offset past it, since until then it may be read again

A transaction may run while the next batch computes: the state that it commits is older than everything in that batch, and
covers it. If it fails because the partition now belongs to another worker, everything built on it is dropped.

After an orderly rebalance a worker often gets a partition back. If states and offsets are still those that it committed
itself, nothing was emitted in between, and it resumes where it was; otherwise it starts as a successor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from codecflow.errors import MessageError
from codecflow.kafka.compacted import REMOVE, newest, picture_ends, usable_state
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import DeadLetter, StreamState

Offsets = tuple[int, int]
"""Offsets on the packets topic and on the metadata topic."""

PACKETS, METADATA = 0, 1
"""The two topics, as an index of `Offsets`."""

States = dict[int, dict[str, StreamState]]
"""By partition, by stream."""


def read_states(
    settings: KafkaSettings,
    partitions: Sequence[int],
    count: int,
    dead_letter: Callable[[DeadLetter], None],
    notice: Callable[[str], None],
    stopping: Callable[[], bool] = lambda: False,
) -> States:
    """The committed states of the streams of `partitions`, of `count` in all. To be called after the group's offsets were
    fetched.

    Waits for transactions in progress, and for brokers as long as a service does. A state that is unreadable or impossible
    goes to `dead_letter`, with a line to `notice`; its stream starts without a state. Raises KafkaError.
    """
    states: States = {number: {} for number in partitions}
    if not partitions:
        return states
    topic = settings.topics.state
    with TopicTail(
        replace(settings, reach_within_s=settings.give_up_after_s), topic, partitions, stopping=stopping
    ) as tail:
        records = tail.catch_up(settings.give_up_after_s)
        ends = picture_ends(settings, tail)
    for record in newest(records):
        number, offset = record.partition() or 0, record.offset() or 0
        try:
            state = usable_state(record, count, ends[number])
        except MessageError as error:
            name = DeadLetter.key_text(record.key())
            dead_letter(DeadLetter(topic, number, offset, name, "unreadable", str(error)))
            notice(
                f"stream {name[:200]!r}: its state ({topic}[{number}] at offset {offset}) cannot be used: {error}; the "
                f"stream begins at the group's offset, and windows may be emitted again; its next window writes a good "
                f"state, and that of a stream which is no longer used is removed by: {REMOVE}"
            )
        else:
            states[number][state.stream] = state
    return states


class Resume:
    """How a stream's committed state affects records that are read (again)."""

    def __init__(self, state: StreamState | None) -> None:
        self.state = state

    def covers(self, epoch: int, offset: int, topic: int) -> bool:
        """Whether a record (topic 0: packets, 1: metadata) was handled by the writer of the state."""
        state = self.state
        if state is None or epoch > state.epoch:
            return False
        return self.over(epoch) or offset < (state.packets_offset, state.metadata_offset)[topic]

    def over(self, epoch: int) -> bool:
        """Whether a later epoch was answered, even only its end. An ended epoch continues if pictures of it follow its end
        (join.py)."""
        return self.state is not None and epoch < self.state.epoch

    def of(self, epoch: int) -> StreamState | None:
        """The state, if this epoch continues from it."""
        return self.state if self.state is not None and self.state.epoch == epoch else None

    def only_context(self, epoch: int, time: Fraction | None) -> bool:
        """Whether a picture shown at `time` is read again only as context for later windows."""
        state = self.of(epoch)
        return state is not None and (time is None or time < state.answered_until)


@dataclass(slots=True)
class NeededRecords:
    """Which records of one stream a successor must still be able to read. `began`: the first joined record of each epoch
    that no committed state covers yet, oldest epoch first."""

    began: deque[tuple[int, Offsets]]

    @staticmethod
    def nothing() -> NeededRecords:
        return NeededRecords(deque())

    def begin(self, epoch: int, offsets: Offsets) -> None:
        """The first record of an epoch has been joined."""
        self.began.append((epoch, offsets))

    def offsets(
        self, state: StreamState | None, waiting: tuple[int | None, int | None]
    ) -> tuple[int | None, int | None]:
        """The oldest packets and metadata records that are needed (None: none) once `state` is committed, while the oldest
        records in the join are `waiting`."""
        oldest: tuple[int | None, int | None] = (None, None)
        if state is not None and not state.ended:
            oldest = (state.packets_offset, state.metadata_offset)
        else:
            later = [offsets for epoch, offsets in self.began if state is None or epoch > state.epoch]
            if later:
                oldest = later[0]
        return min_offset(oldest[0], waiting[0]), min_offset(oldest[1], waiting[1])

    def committed(self, state: StreamState) -> None:
        """Epochs up to the state's are now covered by it."""
        while self.began and self.began[0][0] <= state.epoch:
            self.began.popleft()


class Rewind:
    """The keyframe at which a successor must start to decode; advances as windows close."""

    def __init__(self, offsets: Offsets) -> None:
        self.offsets = offsets
        self._later: deque[tuple[Fraction, Offsets]] = deque()

    def keyframe(self, time: Fraction, offsets: Offsets) -> None:
        """Another keyframe, shown at `time`."""
        self._later.append((time, offsets))

    def advance(self, needed: Fraction) -> None:
        """From now on only frames from presentation time `needed` on matter."""
        while self._later and self._later[0][0] <= needed:
            self.offsets = self._later.popleft()[1]


def min_offset(a: int | None, b: int | None) -> int | None:
    """The smaller of two offsets, either of which may be missing."""
    return a if b is None else b if a is None else min(a, b)

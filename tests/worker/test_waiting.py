"""How long a worker waits for records that do not come, and how far it reads ahead of those that do not come yet."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from codecflow.keep.config import KeepConfig
from codecflow.messages import PictureMetadata
from codecflow.worker.turns import Limits
from codecflow.worker.windows import WindowPlan

from .memory import Committed, Published, Topics, Worker, publish, slots

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_idle_stream_holds_nothing_back_and_comes_back_at_its_next_keyframe(published: Published) -> None:
    pictures, documents = published
    clock, committed, topics = Clock(), Committed(), Topics().add(pictures[:75], documents[:75])
    worker = Worker(topics, committed, PLAN, KEEP, Limits(idle_s=60), clock)
    worker.read_packets(75)
    worker.read_metadata(75)
    worker.transaction()
    worker.transaction()
    worker.transaction()
    assert max(committed.answered) == ("a", 1, 2)
    assert committed.offsets < (75, 75)
    worker.partition.caught_up(0)
    worker.partition.caught_up(1)
    clock.now = 59.0
    worker.partition.expire()
    assert not list(worker.partition.turns())
    clock.now = 61.0
    worker.partition.expire()
    worker.transaction()
    worker.transaction()
    assert committed.offsets == (75, 75)
    topics.add(pictures[75:], documents[75:])
    worker.run()
    assert committed.twice == []
    # The stream went on at the keyframe at 8 s: slots 16 on. Window 3 ended in the silence, with what had come of it.
    back = {k: list(slots(masks)) for (_, _, k), masks in committed.answered.items() if k > 2}
    assert back[4][-4:] == [16, 17, 18, 19]
    assert ("a", 1, 4) in committed.rebuilt
    assert committed.offsets == (120, 121)


def test_a_window_whose_last_frame_is_lost_closes_with_the_epoch(published: Published) -> None:
    pictures, documents = published
    last = next(d for d in documents if isinstance(d, PictureMetadata) and d.signal and d.signal.tick == 23)
    clock, committed = Clock(), Committed()
    topics = Topics().add([p for p in pictures if p.seq < last.seq], documents)
    worker = Worker(topics, committed, PLAN, KEEP, Limits(partner_s=10), clock).run()
    worker.partition.caught_up(0)
    worker.partition.caught_up(1)
    assert ("a", 1, 5) not in committed.answered
    clock.now = 11.0
    worker.partition.expire()
    worker.run()
    assert list(slots(committed.answered["a", 1, 5])) == [16, 17, 18, 19, 20, 21, 22]
    assert worker.partition.settled


def test_what_waits_for_a_lost_partner_is_given_up_once_the_other_topic_is_read(published: Published) -> None:
    pictures, documents = published
    clock, committed = Clock(), Committed()
    worker = Worker(Topics().add(pictures, documents[:50]), committed, PLAN, KEEP, Limits(partner_s=10), clock)
    worker.read_packets(len(pictures))
    worker.read_metadata(50)
    assert worker.partition.streams[0].join.packets_waiting == 70
    worker.partition.caught_up(1)
    clock.now = 5.0
    worker.partition.expire()
    assert worker.partition.streams[0].join.packets_waiting == 70
    clock.now = 11.0
    worker.partition.expire()
    assert worker.partition.streams[0].join.packets_waiting == 0
    assert worker.counts["a"]["no-partner"] == 70


def test_the_topic_that_is_ahead_is_stopped_and_goes_on_at_half(published: Published) -> None:
    worker = Worker(Topics().add(*published), Committed(), PLAN, KEEP, Limits(pictures=20, documents=30))
    worker.read_packets(20)
    assert worker.partition.full() == (True, False)
    worker.read_metadata(9)
    assert worker.partition.full() == (True, False)
    worker.read_metadata(2)
    assert worker.partition.full() == (False, False)
    worker.read_metadata(39)
    assert worker.partition.full() == (False, True)
    worker.read_packets(35)
    assert worker.partition.full() == (True, True)  # windows wait for the engine
    while list(worker.partition.turns()):
        worker.transaction()
    assert worker.partition.full() == (False, False)


def test_streams_that_wait_for_each_other_do_not_stop_their_partition_for_ever(short_clip: Path) -> None:
    """One stream's metadata and the other's packets are lost, and both topics are stopped at their limits."""
    a, b = publish(short_clip, "a"), publish(short_clip, "b")
    topics = Topics().add(a[0], []).add([], b[1]).add(b[0], a[1])
    clock = Clock()
    worker = Worker(topics, Committed(), PLAN, KEEP, Limits(pictures=100, documents=100, partner_s=10), clock)
    worker.read_packets(110)
    worker.read_metadata(110)
    assert worker.partition.full() == (True, True)
    clock.now = 11.0
    worker.partition.expire()
    assert worker.partition.full() == (False, False)

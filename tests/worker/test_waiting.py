"""How long a worker waits for records that do not come, and how far it reads ahead of those that are late."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.keep.config import KeepConfig
from codecflow.messages import PictureMetadata
from codecflow.worker.partition import Room
from codecflow.worker.settings import Limits
from codecflow.worker.window_plan import WindowPlan

from .memory import ROOMY, Committed, Published, Topics, Worker, publish, slots

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def read_to_the_end(worker: Worker, clock: Clock, *topics: int) -> None:
    """At this time there was nothing more to read on `topics`, according to the broker."""
    for topic in topics or (0, 1):
        worker.partition.read_until(topic, clock.now)


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
    clock.now = 59.0
    read_to_the_end(worker, clock)
    worker.partition.expire()
    assert not worker.ready
    clock.now = 61.0
    read_to_the_end(worker, clock)
    worker.partition.expire()
    worker.transaction()
    worker.transaction()
    assert committed.offsets == (75, 75)
    assert worker.dropped == ["a"]
    assert worker.partition.streams == {}
    topics.add(pictures[75:], documents[75:])
    worker.run()
    assert committed.twice == []
    # The stream continued at the keyframe at 8 s: slots 16 on. Window 3 ended in the silence, with the frames received so
    # far.
    back = {k: list(slots(masks)) for (_, _, k), masks in committed.answered.items() if k > 2}
    assert back[4][-4:] == [16, 17, 18, 19]
    assert ("a", 1, 4) in committed.rebuilt
    assert committed.offsets == (120, 121)


@pytest.mark.parametrize("committed_before", [False, True])
def test_a_stream_that_comes_back_while_it_is_let_go_goes_on_without_repeating_a_window(
    published: Published, committed_before: bool
) -> None:
    pictures, documents = published
    clock, committed, topics = Clock(), Committed(), Topics().add(pictures[:75], documents[:75])
    worker = Worker(topics, committed, PLAN, KEEP, Limits(idle_s=60), clock)
    worker.read_packets(75)
    worker.read_metadata(75)
    clock.now = 61.0
    read_to_the_end(worker, clock)
    worker.partition.expire()  # its last step waits for windows that are not answered yet
    worker.take()
    if committed_before:
        worker.submit()
        worker.commit()
    topics.add(pictures[75:], documents[75:])
    worker.read_all()
    worker.run()
    assert committed.twice == []
    assert {k for _, _, k in committed.answered} == {0, 1, 2, 4, 5} | ({3} & {k for _, _, k in committed.answered})
    assert committed.offsets == (120, 121)


def test_a_window_whose_last_frame_is_lost_closes_with_the_epoch(published: Published) -> None:
    pictures, documents = published
    last = next(d for d in documents if isinstance(d, PictureMetadata) and d.signal and d.signal.tick == 23)
    clock, committed = Clock(), Committed()
    topics = Topics().add([p for p in pictures if p.seq < last.seq], documents)
    worker = Worker(topics, committed, PLAN, KEEP, Limits(partner_s=10), clock)
    worker.read_all()
    while worker.ready:
        worker.transaction()
    assert ("a", 1, 5) not in committed.answered
    clock.now = 11.0
    read_to_the_end(worker, clock)
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
    join = worker.partition.streams["a"].join
    assert join.packets_waiting == 70
    clock.now = 5.0
    read_to_the_end(worker, clock, 1)
    worker.partition.expire()
    assert join.packets_waiting == 70
    clock.now = 11.0
    worker.partition.expire()
    assert join.packets_waiting == 70  # there may be unread metadata
    read_to_the_end(worker, clock, 1)
    worker.partition.expire()
    assert join.packets_waiting == 0
    assert worker.counts["a"]["no-partner"] == 70
    (line,) = worker.said
    assert line.startswith(
        "stream 'a': 70 pictures dropped: their metadata did not arrive (metadata[0] is read to its end)"
    )


def test_a_topic_that_an_open_transaction_holds_back_is_not_read_to_its_end(published: Published) -> None:
    pictures, documents = published
    clock, committed = Clock(), Committed()
    topics = Topics().add(pictures[:50], documents)
    worker = Worker(topics, committed, PLAN, KEEP, Limits(partner_s=10), clock)
    worker.read_packets(50)
    worker.read_metadata(len(documents))
    for clock.now in range(0, 40, 5):
        worker.partition.hold(0, clock.now)
        read_to_the_end(worker, clock)
        worker.partition.expire()
    assert worker.said == [
        "packets[0]: an open transaction of another program has held back all later records for 25 s; find and end it with: "
        "kafka-transactions.sh find-hanging"
    ]
    worker.partition.hold(0, 0.0)
    topics.add(pictures[50:], [])
    worker.run()
    assert {k for _, _, k in committed.answered} == set(range(6))
    assert worker.counts["a"]["picture-missing"] == 0


@pytest.mark.parametrize("there", [0, 1])
def test_a_stream_of_which_only_one_topic_has_records_is_reported_once_a_minute(
    published: Published, there: int
) -> None:
    """Though it is far from any limit, and its records go on."""
    pictures, documents = published
    only = Topics().add(*((pictures, []) if there == 0 else ([], documents[:120])))
    clock = Clock()
    worker = Worker(only, Committed(), PLAN, KEEP, Limits(partner_s=10), clock)
    for _ in range(120):
        clock.now += 1.0
        worker.read_packets(1)
        worker.read_metadata(1)
        read_to_the_end(worker, clock, 1 - there)
        worker.partition.expire()
    there_what, missing = ("pictures", "metadata") if there == 0 else ("metadata", "pictures")
    lines = [line for line in worker.said if f"'a': only {there_what} have come for" in line]
    assert len(lines) == 2
    assert f"their {missing} did not arrive" in lines[0]


def test_the_topic_that_is_ahead_is_stopped_and_goes_on_at_half(published: Published) -> None:
    worker = Worker(Topics().add(*published), Committed(), PLAN, KEEP, Limits(pictures=20, documents=30))
    worker.read_packets(20)
    assert worker.partition.full(ROOMY) == (True, False)
    worker.partition.relieve()  # the metadata are unread: nothing is dropped
    assert worker.partition.full(ROOMY) == (True, False)
    worker.read_metadata(9)
    assert worker.partition.full(ROOMY) == (True, False)
    worker.read_metadata(2)
    assert worker.partition.full(ROOMY) == (False, False)
    worker.read_metadata(39)
    assert worker.partition.full(ROOMY) == (False, True)
    worker.read_packets(35)
    assert worker.partition.full(ROOMY) == (True, True)  # windows wait for the engine
    while worker.ready:
        worker.transaction()
    assert worker.partition.full(ROOMY) == (False, False)
    worker.read_packets(5)
    waiting = worker.partition.joining_bytes
    assert worker.partition.full(Room(2 * waiting, 0, waiting, 1)) == (True, False)
    assert worker.partition.full(Room(0, 0, waiting, 1)) == (True, True)


def test_a_partition_goes_on_until_it_has_its_share_of_the_room(published: Published) -> None:
    """Otherwise those that are read first take all that becomes free, again and again."""
    worker = Worker(Topics().add(*published), Committed(), PLAN, KEEP)
    worker.read_packets(20)
    own = worker.partition.joining_bytes
    assert worker.partition.full(Room(100 * own, 0, 49 * own, 10)) == (False, False), "enough is free"
    assert worker.partition.full(Room(100 * own, 0, 99 * own, 10)) == (False, False), "others have taken it"
    assert worker.partition.full(Room(16 * own, 0, 99 * own, 8)) == (True, False)
    assert worker.partition.full(Room(30 * own, 0, 99 * own, 8)) == (True, False), "it resumes at half of its share"
    assert worker.partition.full(Room(34 * own, 0, 99 * own, 8)) == (False, False)


def test_where_room_is_scarce_metadata_are_not_read_far_ahead(published: Published) -> None:
    """Small records come faster than pictures, and would fill the memory that the pictures may not."""
    worker = Worker(Topics().add(*published), Committed(), PLAN, KEEP, Limits(documents=320))
    worker.read_metadata(30)
    assert worker.partition.full(Room(1 << 20, 1 << 17, 0, 1)) == (False, False)
    assert worker.partition.full(Room(1 << 20, 1 << 18, 0, 1)) == (False, True)
    assert worker.partition.full(Room(1 << 20, 1 << 17, 0, 1)) == (False, False)


def test_metadata_that_are_ahead_of_a_slow_engine_are_kept(published: Published) -> None:
    """As when catching up: both topics are paused, but what waits for the engine pauses the packets."""
    worker = Worker(Topics().add(*published), Committed(), PLAN, KEEP, Limits(documents=30))
    worker.read_metadata(100)
    worker.read_packets(20)
    assert worker.partition.full(ROOMY) == (False, True)
    worker.read_packets(40)
    assert worker.partition.full(ROOMY) == (True, True)
    worker.partition.relieve()
    assert worker.partition.streams["a"].join.metadata_waiting >= 30
    assert worker.partition.full(Room(0, 0, 0, 1)) == (True, True)
    worker.partition.relieve()
    worker.run()
    assert not worker.counts["a"]["dropped-unpaired"]
    assert {window.index for window in worker.windows} == set(range(6))


def test_streams_that_wait_for_each_other_do_not_stop_their_partition(short_clip: Path) -> None:
    """One stream's metadata and the other's packets are lost, and both topics are paused at their limits."""
    a, b = publish(short_clip, "a"), publish(short_clip, "b")
    topics = Topics().add(a[0], []).add([], b[1]).add(b[0], a[1])
    worker = Worker(topics, Committed(), PLAN, KEEP, Limits(pictures=100, documents=100))
    worker.read_packets(110)
    worker.read_metadata(110)
    assert worker.partition.full(ROOMY) == (True, True)
    worker.partition.relieve()
    assert worker.partition.full(ROOMY) == (False, False)


def test_a_stream_whose_metadata_never_come_does_not_stop_the_other_of_its_partition(short_clip: Path) -> None:
    pictures, _ = publish(short_clip, "lonely")
    good = publish(short_clip, "good")
    clock, committed, topics = Clock(), Committed(), Topics()
    for n in range(0, 120, 10):  # many times as many pictures as the good stream has, which continues all the time
        again = [replace(p, seq=p.seq + 120 * (n // 10)) for p in pictures]
        topics.add([*again, *good[0][n : n + 10]], good[1][n : n + 10])
    topics.add([], good[1][120:])
    limits = Limits(pictures=100, stream_bytes=1 << 30)
    worker = Worker(topics, committed, PLAN, KEEP, limits, clock)
    stopped, limit = 0, 0
    while not worker.at_end:
        packets, metadata = worker.partition.full(ROOMY)
        if packets:
            worker.partition.relieve()
            packets, metadata = worker.partition.full(ROOMY)
        stopped += packets
        if not packets:
            worker.read_packets(10)
        if not metadata and worker.partition.positions[1] < worker.partition.positions[0] // 12:
            worker.read_metadata(1)
        worker.transaction()
        clock.now += 0.1
        read_to_the_end(worker, clock, 1)
        limit = max(limit, worker.partition.streams["lonely"].join.packets_waiting)
        assert clock.now < 1000
    worker.run()
    assert {k for name, _, k in committed.answered if name == "good"} == set(range(6))
    assert limit <= 110
    assert stopped <= 25  # two seconds, the first time: dropping then shows that its metadata does not arrive
    assert worker.counts["lonely"]["dropped-unpaired"] > 1000
    lines = [line for line in worker.said if "'lonely'" in line]
    assert lines
    assert "pictures dropped: their metadata did not arrive (metadata[0] is read to its end)" in lines[0]
    assert len(lines) <= 1 + clock.now // 60


def test_metadata_without_pictures_do_not_stop_other_streams_where_room_is_scarce(published: Published) -> None:
    """A producer whose metadata arrive, but no pictures; other partitions keep the samplers busy."""
    topics, committed = Topics(), Committed()
    for picture, document in zip(*published, strict=False):
        topics.add([picture], [document])
        topics.add([], [replace(document, stream="b")])
    worker = Worker(topics, committed, PLAN, KEEP, Limits(documents=320))
    room = Room(2_400, 1 << 20, 0, 2)  # a share of some six small pictures
    for _ in range(3 * len(published[1])):
        if any(full := worker.partition.full(room)):
            worker.partition.relieve()
            full = worker.partition.full(room)
        for paused, read in zip(full, (worker.read_packets, worker.read_metadata), strict=True):
            if not paused and not worker.at_end:
                read(1)
        while worker.ready:
            worker.transaction()
    assert worker.at_end
    assert {window for stream, _, window in committed.answered if stream == "a"} >= set(range(5))

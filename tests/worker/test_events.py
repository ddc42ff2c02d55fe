"""Events of a stream's condition: each once, also if a successor reads earlier records again."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from codecflow.keep.config import KeepConfig
from codecflow.messages import CameraLost, Event, encode_metadata
from codecflow.worker.settings import Limits, WhenBehind
from codecflow.worker.window_plan import WindowPlan

from .memory import Committed, Published, Topics, Worker, publish

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))


class Place:
    """Topics with time, and workers on them."""

    def __init__(self, when_behind: WhenBehind) -> None:
        self.now = 0.0
        self.topics, self.committed = Topics(), Committed()
        self._when_behind = when_behind

    def worker(self) -> Worker:
        return Worker(
            self.topics,
            self.committed,
            PLAN,
            KEEP,
            Limits(silent_s=30.0, idle_s=100.0),
            lambda: self.now,
            when_behind=self._when_behind,
            wall_ms=lambda: 1000 + int(1000 * self.now),
        )

    def read(self, worker: Worker, *, appended_s: float | None = None) -> None:
        """All existing records, received by the broker at `appended_s`, answered as far as possible."""
        appended_ms = None if appended_s is None else 1000 + int(1000 * appended_s)
        for topic, records in enumerate((self.topics.packets, self.topics.metadata)):
            for offset in range(worker.partition.positions[topic], len(records)):
                record = records[offset]
                assert record is not None
                take = worker.partition.metadata if topic else worker.partition.packet
                take(*record, offset, appended_ms)  # type: ignore[arg-type]
        worker.collect()
        for _ in range(10):
            worker.transaction()

    def at_end(self, worker: Worker) -> None:
        for topic in (0, 1):
            worker.partition.read_until(topic, self.now)

    def events(self, worker: Worker) -> list[tuple[str, str]]:
        """New events, once the worker has checked its streams."""
        before = len(self.committed.events)
        worker.partition.expire()
        worker.condition_events()
        return [(event.kind, event.change) for event in self.committed.events[before:] if event.kind != "answer"]


def whole(events: list[Event]) -> bool:
    """Whether each (id, number) occurs once."""
    return len({(event.id, event.number) for event in events}) == len(events)


def test_a_stream_that_is_silent_is_reported_once_whoever_reads_it(published: Published) -> None:
    pictures, documents = published
    place = Place(WhenBehind())
    place.topics.add(pictures[:75], documents[:75])
    first = place.worker()
    place.read(first, appended_s=0.0)
    place.at_end(first)
    assert place.events(first) == []
    place.now = 31.0
    place.at_end(first)
    assert place.events(first) == [("silent", "opened")]
    place.now = 40.0
    place.at_end(first)
    assert place.events(first) == []
    # Another worker reads again what the open window needs.
    second = place.worker()
    place.read(second, appended_s=0.0)
    place.at_end(second)
    assert second.partition.streams
    assert place.events(second) == []
    place.now = 90.0
    place.at_end(second)
    assert place.events(second) == []
    place.topics.add(pictures[75:80], documents[75:80])
    place.read(second, appended_s=90.0)
    assert place.events(second) == []  # with the step of these pictures, or now
    silent = [event for event in place.committed.events if event.kind == "silent"]
    assert [(event.change, event.number) for event in silent] == [("opened", 0), ("closed", 1)]
    assert {event.began_at_ms for event in silent} == {32_000}
    assert whole(place.committed.events)


def test_a_stream_that_ends_is_not_silent_and_what_was_open_closes(published: Published) -> None:
    place = Place(WhenBehind())
    place.topics.add(*published)
    worker = place.worker()
    worker.read_packets(1000)
    worker.read_metadata(1000)
    worker.transaction()  # its end is read, but not answered
    place.at_end(worker)
    place.now = 50.0
    place.at_end(worker)
    assert place.events(worker) == []
    place.read(worker)
    place.now = 1000.0
    place.at_end(worker)
    assert place.events(worker) == []
    open_ids = {event.id for event in place.committed.events if event.change == "opened"}
    assert open_ids
    assert open_ids == {event.id for event in place.committed.events if event.change == "closed"}
    assert all(state.open is None for state in place.committed.states["a"].events.rules)


def test_a_stream_that_is_left_closes_what_was_open(published: Published) -> None:
    pictures, documents = published
    place = Place(WhenBehind())
    place.topics.add(pictures[:75], documents[:75])
    worker = place.worker()
    place.read(worker)
    place.now = 101.0
    place.at_end(worker)
    worker.partition.expire()
    for _ in range(4):
        worker.transaction()
    opened = {event.id for event in place.committed.events if event.change == "opened" and event.kind == "answer"}
    closed = [event for event in place.committed.events if event.change == "closed" and event.kind == "answer"]
    assert opened == {event.id for event in closed}
    assert closed[-1].reason == "nothing comes any more"
    assert (closed[-1].window, closed[-1].probability) == (None, None)


def test_a_worker_behind_live_says_so_and_when_it_has_caught_up(published: Published) -> None:
    pictures, documents = published
    live = [replace(picture, live=True, captured_at_ms=1000 + 100 * n) for n, picture in enumerate(pictures)]
    place = Place(WhenBehind("wait"))
    place.topics.add(live[:75], documents[:75])
    worker = place.worker()
    place.now = 5.0
    place.read(worker)
    assert place.events(worker) == []
    place.now = 120.0
    place.topics.add(live[75:90], documents[75:90])
    place.read(worker)
    assert place.events(worker) == [("behind", "opened")]
    assert place.committed.events[-1].reason == "it is answered 111 s late"
    place.at_end(worker)
    assert place.events(worker) == [("behind", "closed")]
    assert whole(place.committed.events)


def test_a_lost_camera_is_reported_once_until_it_is_back(published: Published, short_clip: Path) -> None:
    pictures, documents = published
    place = Place(WhenBehind())
    place.topics.add(pictures[:75], documents[:75])
    worker = place.worker()
    place.read(worker, appended_s=0.0)
    place.topics.metadata.append(encode_metadata(CameraLost("a", 1, "timeout")))
    place.read(worker, appended_s=1.0)
    place.at_end(worker)
    assert place.events(worker) == [("camera-lost", "opened")]
    assert place.committed.events[-1].reason == "the producer has lost the camera (timeout)"
    place.now = 40.0
    worker = place.worker()
    place.read(worker, appended_s=1.0)
    place.at_end(worker)
    place.now = 80.0
    place.at_end(worker)
    assert place.events(worker) == []  # and not silent as well
    place.topics.add(*publish(short_clip, "a", epoch=2))
    place.read(worker, appended_s=80.0)
    lost = [event for event in place.committed.events if event.kind == "camera-lost"]
    assert [(event.change, event.number) for event in lost] == [("opened", 0), ("closed", 1)]
    assert whole(place.committed.events)

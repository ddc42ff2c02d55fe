"""Zones in a worker: ignored areas never reach the model's input, changes take effect at window boundaries, replays
agree."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from codecflow import subscriber
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.keep.config import KeepConfig
from codecflow.keep.zones import BLANK
from codecflow.messages import PictureMetadata, Question, Zone, decode_masks, decode_state
from codecflow.vlm.families import Family
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Window

from .memory import Committed, Topics, Worker, encode_clip, publish
from .running import Running, results, send, until

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(4))
STREET = (Zone("street", "ignore", ((0.0, 0.0), (0.5, 0.0), (0.5, 0.5), (0.0, 0.5))),)
GATE = (Zone("gate", "only", ((0.6, 0.6), (0.95, 0.6), (0.95, 0.95), (0.6, 0.95))),)
LEFT = np.zeros((6, 8), bool)
LEFT[:4, :5] = True  # tokens that the street's samples touch, with a margin of two


def lossless(path: Path, inside: int) -> Path:
    """A noise picture, with other noise in its upper left quarter, decoded sample for sample."""
    rng, other = np.random.default_rng(1), np.random.default_rng(inside)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0", "g": "1", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 128, 96, "yuv420p"
        for _ in range(60):
            picture = rng.integers(20, 220, (144, 128), np.uint8)
            picture[:48, :64] = other.integers(20, 220, (48, 64), np.uint8)
            chroma = picture[96:].reshape(2, 24, 128)
            chroma[:, :12] = 128  # the samples of the upper half
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="yuv420p")))
        container.mux(stream.encode(None))
    return path


def windows_of(topics: Topics, zones: tuple[Zone, ...], keep: KeepConfig = KEEP) -> list[Window]:
    return Worker(topics, Committed(), PLAN, keep, zones=zones).run().windows


@pytest.mark.parametrize("policy", ["all", "replenish"])
def test_nothing_of_an_ignored_zone_reaches_the_models_input(policy: str, tmp_path: Path) -> None:
    """Whatever the zone contains, the input is the same, bit for bit, anchors included."""
    keep = KeepConfig(policy, period_s=Fraction(4))
    one, other = (
        windows_of(Topics().add(*publish(lossless(tmp_path / f"{n}.mp4", n), "gate")), STREET, keep) for n in (2, 3)
    )
    assert len(one) == len(other) == 3
    for mine, theirs in zip(one, other, strict=True):
        for a, b in zip(mine.frames, theirs.frames, strict=True):
            assert not (a.keep.reshape(6, 8) & LEFT).any()
            assert not (b.keep.reshape(6, 8) & LEFT).any()
            if a.patches is not None and b.patches is not None:
                assert (a.patches[:48, :64] == BLANK).all()
                assert (a.patches == b.patches).all()
            assert policy != "all" or (a.patches is not None and b.patches is not None)
    assert one[0].frames[0].anchor
    assert (one[0].frames[0].keep.reshape(6, 8) == ~LEFT).all()


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Topics:
    return Topics().add(*publish(encode_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 16), "a"))


def test_other_zones_are_in_force_from_the_next_window_boundary_on(topics: Topics) -> None:
    worker = Worker(topics, Committed(), PLAN, KEEP)
    changed = None
    while not worker.at_end:
        worker.read_packets(3)
        worker.read_metadata(3)
        worker.transaction()
        if changed is None and len(worker.windows) == 3:
            changed = worker.windows[-1].index
            worker.partition.streams["a"].set_zones(GATE)
    windows = worker.run().windows
    assert [window.index for window in windows] == list(range(8)), "none is left out, none comes twice"
    assert changed is not None
    begin = PLAN.end(changed + 1)
    for window in windows:
        for frame in window.frames:
            shown = frame.keep.reshape(6, 8)
            if frame.index >= begin:
                assert not shown[:3].any()
                assert not shown[:, :4].any()
        assert window.since == (begin if PLAN.end(window.index) > begin else 0)
    first = next(window for window in windows if window.since)
    assert first.frames[0].index == begin
    assert first.frames[0].anchor
    assert first.expected == 4, "frames from before are not missing in it"


def test_whoever_takes_over_decides_alike_before_and_after_zones_are_changed(topics: Topics) -> None:
    def until(committed: Committed, zones: tuple[Zone, ...], windows: int) -> Worker:
        worker = Worker(topics, committed, PLAN, KEEP, zones=zones)
        while len(committed.answered) < windows:
            worker.read_packets(3)
            worker.read_metadata(3)
            worker.transaction()
        return worker

    def change(worker: Worker) -> Worker:
        worker.partition.streams["a"].set_zones(GATE)
        return worker

    expected = Committed()
    change(until(expected, STREET, 3)).run()
    disturbed = Committed()
    worker = change(until(disturbed, STREET, 3))
    while len(disturbed.answered) < 5:  # under the new zones
        worker.read_packets(3)
        worker.read_metadata(3)
        worker.transaction()
    state = disturbed.states["a"]
    assert state.zones is not None
    assert state.zones.since == Fraction(8)
    for windows in (6, 7):
        until(disturbed, GATE, windows)
    Worker(topics, disturbed, PLAN, KEEP, zones=GATE).run()
    assert disturbed.twice == []
    assert disturbed.answered == expected.answered
    assert list(expected.answered.values())[4][0][0] == 16, "nothing from before 8 s is held"


def test_zones_that_were_changed_while_nobody_worked_begin_where_nothing_is_answered(topics: Topics) -> None:
    committed = Committed()
    worker = Worker(topics, committed, PLAN, KEEP)
    while len(committed.answered) < 3:
        worker.read_packets(3)
        worker.read_metadata(3)
        worker.transaction()
    windows = Worker(topics, committed, PLAN, KEEP, zones=STREET).run().windows
    assert committed.twice == []
    assert [window.index for window in windows] == [3, 4, 5, 6, 7]
    assert {window.since for window in windows} == {PLAN.end(2)}
    assert not any((frame.keep.reshape(6, 8) & LEFT).any() for window in windows for frame in window.frames)
    assert committed.states["a"].zones is not None


def test_zones_that_leave_nothing_are_an_error_of_the_stream_until_they_are_changed(topics: Topics) -> None:
    everything = (Zone("all", "ignore", ((0, 0), (1, 0), (1, 1), (0, 1))),)
    worker = Worker(topics, Committed(), PLAN, KEEP, zones=everything)
    while not any(window.error for window in worker.windows):
        worker.read_packets(3)
        worker.read_metadata(3)
        worker.transaction()
    assert worker.windows[0].error is not None
    assert worker.windows[0].error.code == "zones"
    worker.partition.streams["a"].set_zones(())
    windows = worker.run().windows
    assert windows[-1].error is None
    assert windows[-1].frames


def test_zones_are_set_while_a_worker_runs(kafka_settings: KafkaSettings, family: Family, clip: Path) -> None:
    """Through Kafka, with a model: results, masks and state of a stream whose zones are set after its first windows."""
    place = Zone("yard", "place", STREET[0].polygon)
    subscriber.ask(kafka_settings, "a", Question("car", "Is a car in the zone yard?", "yes-no"))
    subscriber.set_zones(kafka_settings, "a", (place,))
    pictures, documents = publish(clip, "a")
    early = [document for document in documents if isinstance(document, PictureMetadata) and document.seq < 90]
    send(kafka_settings, (pictures[:90], [*early]))
    running = Running(kafka_settings, family)
    until(lambda: len(results(kafka_settings)) >= 3, what="the first windows")
    subscriber.set_zones(kafka_settings, "a", GATE)
    other = subscriber.ask(kafka_settings, "b", Question("x", "What is there?"))
    assert other.zones == ()
    seen = len(results(kafka_settings))
    send(kafka_settings, (pictures[90:], documents[len(early) :]))
    running.join()
    found = sorted(results(kafka_settings), key=lambda result: result.window)
    assert [result.window for result in found] == list(range(10))
    assert not any(result.error for result in found)
    assert found[0].prompt.startswith(
        "Is a car in the zone yard? The zone yard is at the top left of the picture: 0 to 50 %"
    )
    assert found[-1].prompt == "Is a car in the zone yard?"
    with TopicTail(kafka_settings, kafka_settings.topics.masks) as tail:
        masks = [decode_masks(r.key(), r.value()) for r in tail.catch_up()]
    last = [frame for one in masks if one.window == 9 for frame in one.frames]
    assert not any(frame.keep[:2].any() or frame.keep[:, :2].any() for frame in last)
    first = [frame for one in masks if one.window == 0 for frame in one.frames]
    assert first[0].keep.all()
    with TopicTail(kafka_settings, kafka_settings.topics.state) as tail:
        state = [decode_state(r.key(), r.value()) for r in tail.catch_up()][-1]
    assert state.zones is not None
    assert state.zones.since % 2 == 0
    begun = next(result for result in found if result.end_s > state.zones.since)
    assert begun.window >= seen
    assert begun.start_s == state.zones.since

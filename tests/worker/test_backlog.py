"""Live streams that are read late: wait, skip to the newest keyframe, or thin; files and re-read context never."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.errors import ConfigError
from codecflow.keep.config import KeepConfig
from codecflow.messages import EndOfEpoch
from codecflow.worker.settings import Limits, WhenBehind
from codecflow.worker.window_plan import WindowPlan

from .memory import ROOMY, Committed, Published, Topics, Worker, encode_clip, publish, slots, undisturbed

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))
BEGAN_MS = 1_700_000_000_000
SECONDS = 120


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Two minutes, keyframes every 2 s, played in real time."""
    clip = encode_clip(tmp_path_factory.mktemp("clip") / "live.mp4", SECONDS, fps=4, gop=8)
    return captured(publish(clip, "a"), live=True)


def captured(published: Published, live: bool) -> Published:
    pictures, documents = published
    at = [BEGAN_MS + int(p.pts * p.time_base * 1000) for p in pictures]
    return [replace(p, live=live, captured_at_ms=ms) for p, ms in zip(pictures, at, strict=True)], documents


class Wall:
    """The worker's wall clock, in seconds after the camera began."""

    now = 0.0
    began_ms = BEGAN_MS

    def __call__(self) -> int:
        return self.began_ms + int(self.now * 1000)


def worker_of(
    published: Published, policy: str, wall: Wall, committed: Committed | None = None, topics: Topics | None = None
) -> Worker:
    return Worker(
        topics or Topics().add(*published),
        committed if committed is not None else Committed(),
        PLAN,
        KEEP,
        when_behind=WhenBehind.parse(policy),
        wall_ms=wall,
        clock=lambda: wall.now,
    )


def read_to_the_end(worker: Worker, wall: Wall) -> None:
    worker.read_all()
    for topic in (0, 1):
        worker.partition.read_until(topic, wall.now)
    worker.partition.expire()
    worker.collect()


def answered(worker: Worker) -> list[int]:
    while worker.ready:
        worker.transaction()
    return [window.index for window in worker.windows]


def test_a_stream_that_has_ended_is_not_behind_however_late_it_was_read(camera: Published) -> None:
    wall = Wall()
    wall.now = 4 * 3600.0
    worker = worker_of(camera, "skip=60", wall)
    worker.read_all()
    (stream,) = worker.partition.streams.values()
    assert stream.behind_s(wall(), at_end=False) is None
    answered(worker)
    unended = worker_of((camera[0], camera[1][:-1]), "skip=60", wall)
    unended.read_all()
    (stream,) = unended.partition.streams.values()
    assert (stream.behind_s(wall(), at_end=False) or 0.0) > 3 * 3600


def test_waiting_answers_everything(camera: Published) -> None:
    wall = Wall()
    wall.now = 500.0
    worker = worker_of(camera, "wait", wall)
    read_to_the_end(worker, wall)
    assert answered(worker) == list(range(SECONDS // 2))
    assert worker.said == []


def test_a_file_published_faster_than_real_time_is_never_skipped(camera: Published) -> None:
    for policy in ("skip=30", "thin=30"):
        wall = Wall()
        wall.now = 500.0
        worker = worker_of(captured(camera, live=False), policy, wall)
        read_to_the_end(worker, wall)
        assert answered(worker) == list(range(SECONDS // 2))


def test_skipping_goes_to_the_newest_keyframe_counts_and_says_so_once(camera: Published) -> None:
    pictures, documents = camera
    wall = Wall()
    wall.now = 100.0  # the worker starts when the camera has run for this long
    topics = Topics().add(pictures[:400], documents[:400])
    worker = worker_of(camera, "skip=30", wall, topics=topics)
    read_to_the_end(worker, wall)
    # What was captured at most 15 s ago is fresh: the first keyframe of that.
    topics.add(pictures[400:], documents[400:])
    wall.now = 120.0
    read_to_the_end(worker, wall)
    indices = answered(worker)
    start = documents[0].start_pts  # type: ignore[union-attr]
    keyframe = next(p for p in pictures if p.keyframe and p.captured_at_ms > BEGAN_MS + 85_000)
    slot = PLAN.slot_at((keyframe.pts - start) * keyframe.time_base)
    began = PLAN.window_of(slot)
    assert indices == list(range(began, SECONDS // 2))
    first = worker.windows[0]
    assert (first.skipped, [window.skipped for window in worker.windows[1:]]) == (began, [0] * (len(indices) - 1))
    assert first.frames[0].index == slot
    assert first.frames[0].anchor
    assert worker.counts["a"]["windows-behind"] == began
    assert worker.counts["a"]["windows-skipped"] == 0
    assert len(worker.said) == 1
    assert worker.said[0].startswith("stream 'a': 100 s behind live: skipped 8")
    # A successor also starts at that keyframe.
    assert worker.committed.twice == []
    assert worker.committed.offsets > (340, 340)


def test_with_a_camera_clock_that_is_behind_the_end_of_the_topic_is_live(camera: Published) -> None:
    """Its pictures seem 10 minutes old: they are skipped only while newer ones exist."""
    pictures, documents = camera
    wall = Wall()
    topics = Topics()
    worker = worker_of(camera, "skip=30", wall, topics=topics)
    for second in range(SECONDS):
        wall.now = 600.0 + second
        topics.add(pictures[4 * second : 4 * second + 4], documents[4 * second : 4 * second + 4])
        read_to_the_end(worker, wall)
    topics.add([], documents[4 * SECONDS :])
    read_to_the_end(worker, wall)
    assert answered(worker)[-1] == SECONDS // 2 - 1
    assert len(worker.windows) >= SECONDS // 2 - 2  # the first second, before it was known that the topic ends there
    # Then the worker pauses for a minute: what came meanwhile is skipped, up to the newest keyframe.
    again = captured(publish_again(camera), live=True)
    topics.add(*again)
    wall.now += 60.0
    before = len(worker.windows)
    read_to_the_end(worker, wall)
    answered(worker)
    assert len(worker.windows) - before <= 1
    assert len([line for line in worker.said if "behind live" in line]) <= 2


def publish_again(published: Published) -> Published:
    """As a second epoch."""
    pictures, documents = published
    return [replace(p, epoch=2) for p in pictures], [replace(d, epoch=2) for d in documents if not is_end(d)]


def is_end(document: object) -> bool:
    return isinstance(document, EndOfEpoch)


def test_a_successor_does_not_skip_what_it_only_reads_again(camera: Published) -> None:
    """The previous worker was not late. Its successor reads up to 6 s again, which are older than 4 s."""
    pictures, documents = camera
    wall, committed, topics = Wall(), Committed(), Topics()
    first = worker_of(camera, "skip=4", wall, committed, topics)
    for second in range(61):
        wall.now = float(second)
        topics.add(pictures[4 * second : 4 * second + 4], documents[4 * second : 4 * second + 4])
        read_to_the_end(first, wall)
        answered(first)
    assert max(k for _, _, k in committed.answered) >= 28
    second_worker = worker_of(camera, "skip=4", wall, committed, topics)
    read_to_the_end(second_worker, wall)
    topics.add(pictures[244:], documents[244:])
    wall.now = 62.0
    for topic in (0, 1):
        second_worker.partition.read_until(topic, wall.now)
    second_worker.run()
    assert committed.twice == []
    assert committed.answered == undisturbed(Topics().add(*camera), PLAN, KEEP).answered
    assert not [line for line in second_worker.said if "behind" in line]


def test_a_successor_says_what_was_skipped_before_it(camera: Published) -> None:
    pictures, documents = camera
    wall = Wall()
    wall.now = 100.0
    newest = next(n for n, p in enumerate(pictures) if p.keyframe and p.captured_at_ms > BEGAN_MS + 85_000)
    topics = Topics().add(pictures[: newest + 1], documents[: newest + 1])
    worker = worker_of(camera, "skip=30", wall, topics=topics)
    read_to_the_end(worker, wall)
    assert answered(worker) == [], "its first window is still open"
    assert worker.committed.states["a"].skipped > 0
    topics.add(pictures[newest + 1 :], documents[newest + 1 :])
    wall.now = 120.0
    successor = worker_of(camera, "skip=30", wall, worker.committed, topics)
    read_to_the_end(successor, wall)
    indices = answered(successor)
    assert indices == list(range(indices[0], SECONDS // 2))
    assert [window.skipped for window in successor.windows] == [indices[0]] + [0] * (len(indices) - 1)


def test_thinning_takes_every_second_frame_and_window_while_behind(camera: Published) -> None:
    pictures, documents = camera
    wall = Wall()
    wall.now = 60.0
    topics = Topics().add(pictures[:240], documents[:240])
    worker = worker_of(camera, "thin=10", wall, topics=topics)
    read_to_the_end(worker, wall)
    for second in range(60, SECONDS):
        wall.now = float(second + 1)
        topics.add(pictures[4 * second : 4 * second + 4], documents[4 * second : 4 * second + 4])
        read_to_the_end(worker, wall)
    topics.add([], documents[4 * SECONDS :])
    read_to_the_end(worker, wall)
    indices = answered(worker)
    thinned = [k for k in indices if k < 24]
    assert thinned == list(range(0, 24, 2))
    assert [k for k in indices if k >= 31] == list(range(31, SECONDS // 2))
    for window in worker.windows:
        if window.index in range(2, 24):
            assert window.skipped == 1
            assert {frame.index % 2 for frame in window.frames} == {0}
            # Both strides' frames come together.
            assert len(window.frames) == 4
            assert window.expected == 8
    assert worker.counts["a"]["windows-behind"] == sum(window.skipped for window in worker.windows)
    masks = worker.committed.answered["a", 1, 50]
    assert list(slots(masks)) == list(range(196, 204))


@pytest.mark.parametrize(
    ("text", "policy", "after_s"),
    [
        ("wait", "wait", 60),
        ("skip", "skip", 60),
        ("skip=5", "skip", 5),
        ("thin", "thin", 10),
        ("thin=1/2", "thin", 0.5),
    ],
)
def test_policies_by_name(text: str, policy: str, after_s: float) -> None:
    found = WhenBehind.parse(text)
    assert (found.policy, found.after_s) == (policy, after_s)


@pytest.mark.parametrize("text", ["", "drop", "skip=", "skip=0", "thin=-1", "wait=3", "skip=often"])
def test_other_policies_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="--when-behind"):
        WhenBehind.parse(text)


def test_an_hour_long_gop_is_not_held_without_bound(tmp_path: Path) -> None:
    clip = encode_clip(tmp_path / "gop.mp4", 60, fps=4, gop=10_000)
    published = captured(publish(clip, "a"), live=True)
    wall = Wall()
    wall.now = 500.0
    worker = worker_of(published, "skip=30", wall)
    backlog = worker.partition
    backlog._limits = replace(backlog._limits, stream_bytes=10_000)
    worker.read_all()
    assert worker.partition.streams["a"].coded_bytes < 30_000


@pytest.mark.parametrize("policy", ["skip=600", "wait"])
def test_a_live_stream_that_is_slower_than_live_does_not_hold_up_its_partition(
    camera: Published, published: Published, policy: str
) -> None:
    """Samplers are paused. The good stream has few pictures, the other fills its queue."""
    pictures = [replace(p, stream="slow") for p in camera[0]]
    documents = [replace(d, stream="slow") for d in camera[1]]
    wall, topics = Wall(), Topics()
    for n in range(0, 480, 40):
        topics.add([*pictures[n : n + 40], *published[0][n // 4 : n // 4 + 10]], documents[n : n + 40])
        topics.add([], published[1][n // 4 : n // 4 + 10])
    topics.add([], [documents[480], published[1][120]])
    worker = Worker(
        topics,
        Committed(),
        PLAN,
        KEEP,
        Limits(stream_bytes=150_000, windows=1000),
        when_behind=WhenBehind.parse(policy),
        wall_ms=wall,
        clock=lambda: wall.now,
    )
    worker.hold_samplers()
    stopped = 0
    while not worker.at_end:
        wall.now += 1.0
        if worker.partition.full(ROOMY) == (False, False):
            worker.read_packets(20)
            worker.read_metadata(20)
        else:
            stopped += 1
            worker.sample()
    slow = worker.partition.streams["slow"]
    if policy == "wait":
        assert stopped
        worker.run()
        assert len(worker.windows) == SECONDS // 2 + 6
        return
    assert not stopped
    assert slow.overrun
    assert slow.coded_bytes < 180_000
    worker.sample()
    assert worker.partition.full(ROOMY) == (False, False)
    assert not slow.overrun
    worker.run()
    assert {k for stream, _, k in worker.committed.answered if stream == "a"} == set(range(6))
    went_on = {k for stream, _, k in worker.committed.answered if stream == "slow"}
    assert went_on >= set(range(20))
    assert len(went_on) + worker.counts["slow"]["windows-behind"] >= SECONDS // 2 - 1


@pytest.mark.parametrize("policy", ["skip=20", "skip=600", "wait"])
def test_live_windows_that_wait_too_long_for_the_engine_do_not_hold_up_other_streams(
    camera: Published, policy: str
) -> None:
    """An engine that is behind: stream a is read first and has two windows; b would miss the engine's next batch."""
    b = [replace(p, stream="b") for p in camera[0]], [replace(d, stream="b") for d in camera[1]]
    wall, topics = Wall(), Topics()
    topics.add(camera[0][:120], camera[1][:120])
    for n in range(0, 480, 4):
        topics.add(b[0][n : n + 4], b[1][n : n + 4])
        if n >= 120:
            topics.add(camera[0][n : n + 4], camera[1][n : n + 4])
    worker = worker_of(camera, policy, wall, topics=topics)
    wall.now = 5.0
    while worker.partition.full(ROOMY) == (False, False):
        worker.read_packets(1)
        worker.read_metadata(1)
    a = worker.partition.streams["a"]
    assert a.windows_waiting == 2
    began, wall.began_ms = wall.began_ms, wall.began_ms + 7_200_000
    worker.partition.full(ROOMY)
    assert not a.overrun, "the camera's clock is two hours behind the worker's, or that one was set"
    wall.began_ms = began
    wall.now = 30.0
    if policy != "skip=20":
        assert worker.partition.full(ROOMY) == (True, True)
        assert not a.overrun
        return
    assert worker.partition.full(ROOMY) == (False, False)
    assert a.overrun
    while "b" not in worker.partition.streams or worker.partition.streams["b"].windows_waiting < 2:
        worker.read_packets(4)
        worker.read_metadata(4)
        wall.now += 0.1
    assert a.windows_waiting == 2, "it is skipped meanwhile"
    assert a.coded_bytes < 20_000
    for _ in range(2):
        worker.transaction()
    assert worker.partition.full(ROOMY) == (False, False)
    assert not a.overrun

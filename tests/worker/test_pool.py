"""The sampler pool: the same windows, bit for bit, with any number of processes; memory bounded by its gate."""

from __future__ import annotations

import hashlib
import time
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from codecflow.keep.config import KeepConfig
from codecflow.messages import PictureMetadata, decode_metadata
from codecflow.worker.sampler_process import Gate
from codecflow.worker.settings import Limits
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Window

from .memory import ROOMY, Committed, Topics, Worker, encode_clip, publish
from .running import until

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(4))


@pytest.fixture(scope="module")
def seven_streams(tmp_path_factory: pytest.TempPathFactory) -> Topics:
    folder = tmp_path_factory.mktemp("clips")
    sizes = [(64, 48), (128, 96), (98, 130), (320, 240), (64, 48), (66, 34), (160, 120)]
    published = [
        publish(encode_clip(folder / f"{n}.mp4", 6, size=size, gop=10 + 5 * n), f"camera-{n}")
        for n, size in enumerate(sizes)
    ]
    topics = Topics()
    for first in range(0, 70, 10):
        for pictures, documents in published:
            topics.add(pictures[first : first + 10], documents[first : first + 10])
    return topics


def content(window: Window) -> tuple[object, ...]:
    """All of a window except its timings."""
    frames = [
        (f.index, f.time_s, f.keep.tobytes(), f.anchor, f.size, None if f.patches is None else digest(f.patches))
        for f in window.frames
    ]
    return window.stream, window.epoch, window.index, window.captured_at_ms, window.expected, window.restarted, frames


def digest(patches: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(patches.tobytes()).hexdigest()


def windows(topics: Topics, samplers: int) -> tuple[list[tuple[object, ...]], Worker]:
    worker = Worker(topics, Committed(), PLAN, KEEP, samplers=samplers).run()
    return sorted((content(window) for window in worker.windows), key=lambda one: one[:3]), worker


def test_windows_are_the_same_bit_for_bit_with_any_number_of_processes(seven_streams: Topics) -> None:
    expected, alone = windows(seven_streams, 0)
    assert len(expected) == 7 * 3
    for samplers in (1, 3):
        found, worker = windows(seven_streams, samplers)
        assert found == expected
        assert worker.counts == alone.counts
        assert worker.committed.states == alone.committed.states
        assert not worker.said
        assert (worker.pool.queued_bytes, worker.pool.held_bytes) == (0, 0)
        assert {(s.coded_bytes, s.frame_bytes) for s in worker.partition.streams.values()} == {(0, 0)}


def test_what_is_queued_and_held_is_counted_and_given_back(seven_streams: Topics) -> None:
    worker = Worker(seven_streams, Committed(), PLAN, KEEP, Limits(stream_bytes=20_000, windows=1000))
    worker.hold_samplers()
    worker.read_packets(len(seven_streams.packets))
    waiting = sum(s.coded_bytes for s in worker.partition.streams.values())
    assert waiting == sum(len(record[1]) for record in seven_streams.packets if record)
    assert worker.pool.queued_bytes == 0
    worker.read_metadata(len(seven_streams.metadata))
    documents = [decode_metadata(*record) for record in seven_streams.metadata if record]
    grids = sum(one.signal.nbytes for one in documents if isinstance(one, PictureMetadata) and one.signal)
    assert worker.pool.queued_bytes == sum(s.coded_bytes for s in worker.partition.streams.values())
    assert worker.pool.queued_bytes >= waiting + grids > waiting
    assert worker.partition.full(ROOMY) == (True, True)  # the large stream has enough to do
    worker.sample()
    assert worker.pool.queued_bytes == 0
    assert worker.partition.full(ROOMY) == (False, False)
    assert sum(s.closed_bytes for s in worker.partition.streams.values()) > 0
    worker.partition.forget()
    assert (worker.pool.queued_bytes, worker.pool.held_bytes) == (0, 0)


@pytest.mark.parametrize("samplers", [0, 2])
def test_with_memory_full_of_open_windows_the_one_nearest_to_closing_goes_on(
    seven_streams: Topics, samplers: int
) -> None:
    worker = Worker(seven_streams, Committed(), PLAN, KEEP, samplers=samplers)
    worker.read_packets(10 * 7)
    worker.read_metadata(10 * 7)
    until(lambda: worker.idle, what="ten pictures of each stream")
    worker.pool.gate(Gate.CLOSED)
    worker.read_all()
    time.sleep(0.2)
    assert not any_window(worker)
    held = {name: stream.frame_bytes for name, stream in worker.partition.streams.items()}
    worker.pool.gate(Gate.ONE)
    until(lambda: any_window(worker), what="a window")
    assert worker.partition.streams[max(held, key=lambda name: held[name])].windows_waiting >= 1
    worker.pool.gate(Gate.OPEN)
    until(lambda: worker.idle, what="all windows")
    assert len(worker.run().windows) == 7 * 3


def any_window(worker: Worker) -> bool:
    worker.collect()
    return any(stream.windows_waiting for stream in worker.partition.streams.values())


def test_a_dropped_stream_gives_nothing_more(seven_streams: Topics) -> None:
    worker = Worker(seven_streams, Committed(), PLAN, KEEP, samplers=2)
    worker.read_packets(200)
    worker.read_metadata(200)
    worker.partition.forget()
    assert (worker.pool.queued_bytes, worker.pool.queued, worker.pool.held_bytes) == (0, 0, 0)
    again = worker.pool.open("camera-0", None)  # its output comes after the rest
    worker.pool.drop(again)
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        assert worker.pool.take() == []
    worker.pool.close()

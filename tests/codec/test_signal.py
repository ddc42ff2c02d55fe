"""The codec signal against a slow, obvious reference, and what it promises whatever the pictures are."""

from __future__ import annotations

from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from av.codec.context import Flags2
from av.video.frame import PictureType
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.codec.blocks import block_change
from codecflow.codec.pictures import luma
from codecflow.codec.signal import SignalExtractor, merge_signals, ticks_per_sample
from codecflow.codec.source import Source
from codecflow.errors import ConfigError
from codecflow.messages import (
    CHANGE_LEVELS,
    MOTION_LEVELS,
    NO_BOUND,
    PictureMetadata,
    Signal,
    decode_metadata,
    encode_metadata,
)

from .clips import encode

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"
HALF = Fraction(1, 2)
Grid64 = npt.NDArray[np.int64]


def metadata(path: Path, interval: Fraction = HALF, pictures: int = 10**9) -> list[PictureMetadata]:
    """A file's metadata as it comes out of the extractor."""
    extractor, documents = SignalExtractor(interval), []
    with Source(str(path)) as source:
        for picture in source.pictures("gate", 7):
            if picture.seq == pictures:
                break
            documents += extractor.push(picture)
    assert not extractor.take_lost()
    return documents + extractor.flush()


def block_means(difference: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    rows, columns = -(-difference.shape[0] // 16), -(-difference.shape[1] // 16)
    means = [
        [difference[16 * r : 16 * r + 16, 16 * c : 16 * c + 16].mean() for c in range(columns)] for r in range(rows)
    ]
    return np.array(means)


def reference(
    path: Path, interval: Fraction, frames: int | None = None
) -> list[tuple[int, int, Grid64, Grid64, Grid64]]:
    """(pts, tick, change, motion, intra) of each signal picture, one block and one vector at a time."""
    signals, before, last = [], None, -1
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        track.codec_context.flags2 |= Flags2.export_mvs
        track.codec_context.thread_count = 1
        for frame in islice(container.decode(track), frames):
            now = luma(frame).astype(np.int64)
            if before is None:
                start = frame.pts
                motion = intra = np.zeros_like(block_means(now), np.int64)
            motion, intra = with_vectors(frame, motion, intra)
            tick = int((frame.pts - start) * track.time_base / interval)
            if tick > last:
                change = np.full(motion.shape, 255) if before is None else np.ceil(8 * block_means(abs(now - before)))
                signals.append((frame.pts, tick, change.astype(np.int64), motion, intra))
                before, last = now, tick
                motion = intra = np.zeros_like(motion)
    return signals


def with_vectors(frame: av.VideoFrame, motion: Grid64, intra: Grid64) -> tuple[Grid64, Grid64]:
    """The grids with one more picture in them."""
    if frame.pict_type == PictureType.I:
        return motion, intra
    motion, covered = motion.copy(), np.zeros(motion.shape, bool)
    for vector in frame.side_data.get("MOTION_VECTORS") or []:
        length = int(np.hypot(vector.motion_x, vector.motion_y) * 4 / vector.motion_scale)
        x, y = vector.dst_x - vector.w // 2, vector.dst_y - vector.h // 2
        for row in range(y // 16, (y + vector.h - 1) // 16 + 1):
            for column in range(x // 16, (x + vector.w - 1) // 16 + 1):
                if row < motion.shape[0] and column < motion.shape[1]:
                    motion[row, column] = max(motion[row, column], min(length, 255))
                    covered[row, column] = True
    return motion, intra | ~covered


def level(levels: tuple[int, ...], values: Grid64) -> Grid64:
    """The lowest level that is not below each value; the highest where all are."""
    return np.vectorize(lambda value: min((one for one in levels if one >= value), default=levels[-1]))(values)


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg4-avi", "msmpeg4", "hevc", "vp9", "mjpeg"])
@pytest.mark.parametrize("interval", [HALF, Fraction(1, 5)])
def test_the_signal_is_the_references(codec: str, interval: Fraction, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", codec, 40, (120, 88))  # neither side a whole number of blocks
    documents = {document.pts: document for document in metadata(path, interval)}
    assert [document.seq for document in documents.values()] == list(range(40))
    wanted = reference(path, interval)
    assert {pts for pts, document in documents.items() if document.signal} == {pts for pts, *_ in wanted}
    for pts, tick, change, motion, intra in wanted:
        signal = documents[pts].signal
        assert signal is not None
        assert (signal.tick, signal.interval) == (tick, interval)
        assert np.array_equal(signal.change, level(CHANGE_LEVELS, change))
        if codec in ("hevc", "vp9", "mjpeg"):
            assert signal.motion is None
            assert signal.intra is None
        else:
            assert np.array_equal(signal.intra, intra)
            assert np.array_equal(signal.motion, np.where(intra > 0, 255, level(MOTION_LEVELS, motion)))


def test_the_signal_of_a_real_clip_is_the_references() -> None:
    documents = {document.pts: document for document in metadata(CLIP, pictures=60)}
    wanted = [one for one in reference(CLIP, HALF, frames=55) if one[0] in documents]
    assert len(wanted) >= 10
    for pts, tick, change, motion, intra in wanted:
        signal = documents[pts].signal
        assert signal is not None
        assert signal.motion is not None
        assert signal.tick == tick
        assert np.array_equal(signal.change, level(CHANGE_LEVELS, change))
        assert np.array_equal(signal.motion, np.where(intra > 0, 255, level(MOTION_LEVELS, motion)))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_change_is_the_exact_mean_rounded_up(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 300)), data.draw(st.integers(1, 70))
    padding = data.draw(st.integers(0, 40))  # rows of a decoder's picture are longer than the picture
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    now = random.integers(0, 256, (height, width + padding), dtype=np.uint8)[:, :width]
    near = np.clip(now + random.integers(-3, 4, now.shape), 0, 255).astype(np.uint8)
    before = data.draw(st.sampled_from([now.copy(), near, np.zeros_like(now), 255 - now]))
    change = block_change(now, before)
    for (row, column), value in np.ndenumerate(change):
        block = np.s_[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        difference = np.abs(now[block].astype(int) - before[block])
        assert value == min(NO_BOUND, -(-8 * int(difference.sum()) // difference.size))


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_change_bounds_what_happened_between_any_two_signal_pictures(codec: str, tmp_path: Path) -> None:
    """What a keep policy rests on: added up, changes are never below the difference itself."""
    path = encode(tmp_path / "clip", codec, 60, (100, 76), seed=3)
    pixels = {}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            pixels[frame.pts] = luma(frame).astype(np.int64)
    shown = sorted((d for d in metadata(path) if d.signal), key=lambda document: document.pts)
    assert len(shown) == 12
    for first in range(len(shown)):
        merged: Signal | None = None
        for later in range(first + 1, len(shown)):
            signal = shown[later].signal
            assert signal is not None
            merged = signal if merged is None else merge_signals(merged, signal)
            eighths = 8 * block_means(abs(pixels[shown[later].pts] - pixels[shown[first].pts]))
            bounded = merged.change < NO_BOUND
            assert (eighths[bounded] <= merged.change[bounded]).all()
            if later == first + 1:
                assert bounded.mean() > 0.5


def test_metadata_goes_over_the_wire_as_it_is(tmp_path: Path) -> None:
    for document in metadata(encode(tmp_path / "clip")):
        back = decode_metadata(*encode_metadata(document))
        assert isinstance(back, PictureMetadata)
        assert (back.seq, back.pts, back.picture_type) == (document.seq, document.pts, document.picture_type)
        if document.signal is None:
            assert back.signal is None
        else:
            assert back.signal is not None
            for name in ("change", "motion", "intra"):
                assert np.array_equal(getattr(back.signal, name), getattr(document.signal, name))


def test_a_change_of_size_leaves_no_bound(tmp_path: Path) -> None:
    parts = [encode(tmp_path / str(n), "h264-raw", 20, size) for n, size in enumerate([(96, 80), (160, 128)])]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    documents = metadata(both)
    assert len(documents) == 40
    signals = [document.signal for document in documents if document.signal]
    assert [signal.change.shape for signal in signals] == [(5, 6)] * 4 + [(8, 10)] * 4
    assert [bool((signal.change == NO_BOUND).all()) for signal in signals] == [True] + [False] * 3 + [True] + [
        False
    ] * 3


def test_merging_across_a_gap_leaves_no_bound() -> None:
    def signal(tick: int, change: int) -> Signal:
        grid = np.full((2, 2), change, np.uint8)
        return Signal(tick, HALF, grid, grid, grid, since=tick - 1)

    assert (merge_signals(signal(1, 100), signal(2, 100)).change == 200).all()
    assert (merge_signals(signal(1, 200), signal(2, 200)).change == NO_BOUND).all()
    assert (merge_signals(signal(1, 3), signal(3, 3)).change == NO_BOUND).all()
    assert (merge_signals(signal(1, 3), signal(2, 5)).motion == 5).all()


def test_a_rate_that_the_signal_cannot_serve() -> None:
    assert ticks_per_sample(Fraction(2), HALF, "gate") == 1
    assert ticks_per_sample(Fraction(1, 2), HALF, "gate") == 4
    with pytest.raises(ConfigError, match=r"stream gate: .*cannot serve 3 frames/s"):
        ticks_per_sample(Fraction(3), HALF, "gate")
    with pytest.raises(ConfigError, match="cannot serve 4 frames/s"):
        ticks_per_sample(Fraction(4), HALF, "gate")

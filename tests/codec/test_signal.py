"""The codec signal against a slow, obvious reference, and its guarantees for any pictures."""

from __future__ import annotations

import zlib
from dataclasses import replace
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

from codecflow.codec.pictures import luma
from codecflow.codec.signal import SignalExtractor, ticks_per_sample
from codecflow.codec.source import Source
from codecflow.codec.tiles import Luma, block_bounds, cell_step, tile_areas, tile_sums
from codecflow.errors import ConfigError
from codecflow.messages import (
    CHANGE_LEVELS,
    MOTION_LEVELS,
    NO_BOUND,
    UNCHANGED,
    Exposure,
    PictureMetadata,
    Signal,
    decode_metadata,
    encode_metadata,
)
from tests.keep.random_pictures import cell_changes

from .clips import encode

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"
HALF = Fraction(1, 2)
Grid64 = npt.NDArray[np.int64]


def metadata(path: Path, interval: Fraction = HALF, pictures: int = 10**9) -> list[PictureMetadata]:
    """A file's metadata, as returned by the extractor."""
    extractor, documents = SignalExtractor(interval), []
    with Source(str(path)) as source:
        for picture in source.pictures("gate", 7):
            if picture.seq == pictures:
                break
            documents += extractor.push(picture)
    assert not extractor.take_lost()
    return documents + extractor.flush()


@pytest.fixture
def plenty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams large enough to pay for everything that a signal can contain."""
    monkeypatch.setattr("codecflow.codec.allowance.SHARE", 1e6)


def reference(path: Path, interval: Fraction, frames: int | None = None) -> list[tuple[int, int, Luma, Grid64, Grid64]]:
    """(pts, tick, luma, motion, intra) of each signal picture of a clip of less than 8 s, one block and one vector at a
    time: the first is the reference of all others."""
    signals, first, last, keyframe_before = [], None, -1, True
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        track.codec_context.flags2 |= Flags2.export_mvs
        track.codec_context.thread_count = 1
        for frame in islice(container.decode(track), frames):
            now = luma(frame).copy()
            if first is None:
                start, first = frame.pts, now
                motion = intra = np.zeros([-(-length // 16) for length in now.shape], np.int64)
            motion, intra = with_vectors(frame, motion, intra)
            place = (frame.pts - start) * track.time_base / interval
            tick = int(place)
            if frame.key_frame and not keyframe_before and 0 < tick + 1 - place <= Fraction(1, 2):
                tick += 1
            keyframe_before = frame.key_frame
            if tick > last:
                signals.append((frame.pts, tick, now, motion, intra))
                last = tick
                motion = intra = np.zeros_like(motion)
    return signals


def change_of(signal: Signal, now: Luma, first: Luma) -> Grid64:
    """The expected signal of a picture whose reference is `first`."""
    if signal.since is None:
        return np.full((signal.rows, signal.columns), 255)
    return level(CHANGE_LEVELS, cell_changes(now, first, signal.exposure))


def with_vectors(frame: av.VideoFrame, motion: Grid64, intra: Grid64) -> tuple[Grid64, Grid64]:
    """The grids after one more picture."""
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
    """The lowest level that is not below each value; the highest if all are."""
    return np.vectorize(lambda value: min((one for one in levels if one >= value), default=levels[-1]))(values)


@pytest.mark.parametrize("codec", ["h264", "mpeg4", "mpeg4-avi", "msmpeg4", "hevc", "vp9", "mjpeg"])
@pytest.mark.parametrize("interval", [HALF, Fraction(1, 5)])
@pytest.mark.usefixtures("plenty")
def test_the_signal_is_the_references(codec: str, interval: Fraction, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", codec, 40, (120, 88))  # neither side is a whole number of blocks
    documents = {document.pts: document for document in metadata(path, interval)}
    assert [document.seq for document in documents.values()] == list(range(40))
    wanted = reference(path, interval)
    assert {pts for pts, document in documents.items() if document.signal} == {pts for pts, *_ in wanted}
    for index, (pts, tick, now, motion, intra) in enumerate(wanted):
        signal = documents[pts].signal
        assert signal is not None
        assert (signal.tick, signal.interval) == (tick, interval)
        assert (signal.since, signal.reference) == ((0, False) if index else (None, True))
        assert signal.previous == (wanted[index - 1][1] if index else None)
        assert np.array_equal(signal.change, change_of(signal, now, wanted[0][2]))
        if codec in ("hevc", "vp9", "mjpeg"):
            assert signal.motion is None
            assert signal.intra is None
        else:
            assert np.array_equal(signal.intra, intra)
            assert np.array_equal(signal.motion, np.where(intra > 0, 255, level(MOTION_LEVELS, motion)))


@pytest.mark.usefixtures("plenty")
def test_the_signal_of_a_real_clip_is_the_references() -> None:
    documents = {document.pts: document for document in metadata(CLIP, pictures=60)}
    wanted = [one for one in reference(CLIP, HALF, frames=55) if one[0] in documents]
    assert len(wanted) >= 10
    for pts, tick, now, motion, intra in wanted:
        signal = documents[pts].signal
        assert signal is not None
        assert signal.motion is not None
        assert signal.tick == tick
        assert np.array_equal(signal.change, change_of(signal, now, wanted[0][2]))
        assert np.array_equal(signal.motion, np.where(intra > 0, 255, level(MOTION_LEVELS, motion)))


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_change_is_the_exact_mean_rounded_up(data: st.DataObject) -> None:
    height, width = data.draw(st.integers(1, 150)), data.draw(st.integers(1, 70))
    padding = data.draw(st.integers(0, 40))  # a decoder's rows are longer than the picture
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    now = random.integers(0, 256, (height, width + padding), dtype=np.uint8)[:, :width]
    near = np.clip(now + random.integers(-3, 4, now.shape), 0, 255).astype(np.uint8)
    before = data.draw(st.sampled_from([now.copy(), near, np.zeros_like(now), 255 - now]))
    exposure = data.draw(st.sampled_from([UNCHANGED, Exposure(200, 77), Exposure(512, -512), Exposure(128, 0)]))
    tiles, then = tile_sums(now), tile_sums(before)
    found = block_bounds(tiles, then, tile_areas(height, width), exposure=exposure)
    assert np.array_equal(found, cell_changes(now, before, exposure))


def test_change_of_a_large_picture_is_that_of_larger_cells() -> None:
    random = np.random.default_rng(0)
    now, before = (random.integers(0, 256, (721, 1290), dtype=np.uint8) for _ in range(2))
    step = cell_step(*now.shape)
    found = block_bounds(tile_sums(now), tile_sums(before), tile_areas(*now.shape), step, Exposure(240, 30))
    assert step == 8
    assert np.array_equal(found, cell_changes(now, before, Exposure(240, 30)))


def test_sums_hold_the_largest_picture() -> None:
    white = tile_sums(np.full((8192, 8000), 255, np.uint8))
    assert int(white.sum()) == 255 * 8192 * 8000


@pytest.mark.parametrize("share", [1e6, 0.07, 0.02])
@pytest.mark.parametrize("codec", ["h264", "hevc", "h264-open"])
def test_change_bounds_the_distance_to_the_reference(
    codec: str, share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guarantee that keep policies rely on, however few bytes are available; also across renewed references."""
    monkeypatch.setattr("codecflow.codec.allowance.SHARE", share)
    monkeypatch.setattr("codecflow.codec.signal.REFERENCE_S", 2)
    path = encode(tmp_path / "clip", codec, 60, (100, 76), seed=3)
    pixels = {}
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        for frame in container.decode(video=0):
            pixels[frame.pts] = luma(frame).copy()
    shown = sorted((d for d in metadata(path) if d.signal), key=lambda document: document.pts)
    assert len(shown) == 12
    references, bounded = {}, 0.0
    for document in shown:
        signal = document.signal
        assert signal is not None
        if signal.since is not None:
            exact = cell_changes(pixels[document.pts], references[signal.since], signal.exposure)
            known = signal.change < NO_BOUND
            assert (exact <= signal.change)[known].all()
            bounded += known.mean()
        if signal.reference:
            references[signal.tick] = pixels[document.pts]
    assert len(references) == 3
    if share > 1:
        assert bounded > 5


@pytest.mark.parametrize(("rate", "ticks"), [(Fraction(10), [0, 1, 2, 3]), (Fraction(25), [0, 1, 2, 3])])
def test_a_keyframe_takes_the_place_of_the_nearest_tick(rate: Fraction, ticks: list[int], tmp_path: Path) -> None:
    """Keyframes one picture less than 1 s apart: just before a tick."""
    path = encode(tmp_path / "clip", "h264-plain", int(2 * rate), fps=rate * Fraction(10, 9) if rate == 10 else rate)
    documents = [document for document in metadata(path) if document.signal]
    assert [document.signal.tick for document in documents if document.signal] == ticks
    for document in documents:
        assert document.signal is not None
        early = document.signal.tick * HALF - (document.pts - document.start_pts) * document.time_base
        assert early <= HALF / 2
        assert early <= 0 or document.picture_type == "I"


def test_without_keyframes_the_reference_is_renewed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecflow.codec.signal.REFERENCE_S", 1)
    path = encode(tmp_path / "clip", "h264-plain", 60)
    extractor, documents = SignalExtractor(), []
    with Source(str(path)) as source:
        for picture in source.pictures("gate", 7):
            documents += extractor.push(replace(picture, keyframe=picture.seq == 0))
    ticks = [d.signal.tick for d in documents if d.signal and d.signal.reference]
    assert ticks == [0, 4, 6, 8, 10]


@pytest.mark.parametrize("codec", ["h264", "h264-plain", "mpeg4", "hevc"])
def test_metadata_take_less_than_8_percent_however_few_bytes_a_stream_has(codec: str, tmp_path: Path) -> None:
    """Estimated as the brokers would store it, over seconds with and without motion."""
    path = encode(tmp_path / "clip", codec, 300, (320, 240), fps=20)
    documents = metadata(path)
    coded = sum(document.size for document in documents)
    batches = [documents[start : start + 30] for start in range(0, len(documents), 30)]
    texts = [b"".join(encode_metadata(document)[1] for document in batch) for batch in batches]
    assert sum(len(zlib.compress(text, 9)) for text in texts) < 0.08 * coded


def test_metadata_goes_over_the_wire_as_it_is(tmp_path: Path) -> None:
    for document in metadata(encode(tmp_path / "clip")):
        back = decode_metadata(*encode_metadata(document))
        assert isinstance(back, PictureMetadata)
        assert (back.seq, back.pts, back.picture_type) == (document.seq, document.pts, document.picture_type)
        if document.signal is None:
            assert back.signal is None
        else:
            assert back.signal is not None
            assert (back.signal.exposure, back.signal.noise) == (document.signal.exposure, document.signal.noise)
            for name in ("change", "motion", "intra"):
                assert np.array_equal(getattr(back.signal, name), getattr(document.signal, name))


@pytest.mark.usefixtures("plenty")
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


def test_a_rate_that_the_signal_cannot_serve() -> None:
    assert ticks_per_sample(Fraction(2), HALF, "gate") == 1
    assert ticks_per_sample(Fraction(1, 2), HALF, "gate") == 4
    with pytest.raises(ConfigError, match=r"stream gate: .*cannot serve 3 frames/s"):
        ticks_per_sample(Fraction(3), HALF, "gate")
    with pytest.raises(ConfigError, match="cannot serve 4 frames/s"):
        ticks_per_sample(Fraction(4), HALF, "gate")

"""Decoding on demand gives the same pictures as decoding everything, and decodes little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.lazy import LazyDecoder
from codecflow.codec.pictures import DecodedPicture, PictureDecoder
from codecflow.codec.references import ReferenceMarks
from codecflow.codec.samples import Sample, SampleTrack
from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.messages import CodedPicture

from .clips import CODECS, Luma, encode

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"


def coded(path: Path) -> list[CodedPicture]:
    """A file's pictures as published."""
    marks = ReferenceMarks()
    with Source(str(path)) as source:
        return [marks.mark(picture) for picture in source.pictures("gate", 1)]


def eager(pictures: Sequence[CodedPicture]) -> dict[int, Luma]:
    """Luma of every picture that is shown, by seq."""
    decoder = Decoder()
    shown = [one for picture in pictures for one in decoder.push(picture)]
    return {one.seq: one.luma().copy() for one in [*shown, *decoder.flush()]}


def lazy(
    pictures: Sequence[CodedPicture], sampled: set[int], asked: Callable[[int], bool], max_bytes: int = 16 << 20
) -> tuple[dict[int, ShownPicture | None], LazyDecoder]:
    """The outcome for the `sampled` pictures that were `asked` for, in the order in which they were returned."""
    decoder = LazyDecoder(max_bytes)
    seen: dict[int, ShownPicture | None] = {}

    def take(ready: list) -> None:
        for one in ready:
            seq = one.picture.seq
            assert seq not in seen
            seen[seq] = one.decode() if asked(seq) else None

    for picture in pictures:
        take(decoder.push(picture, picture.seq in sampled))
    take(decoder.flush())
    return seen, decoder


def same(seen: dict[int, ShownPicture | None], shown: dict[int, Luma]) -> None:
    for seq, one in seen.items():
        if one is not None:
            assert one.seq == seq
            assert np.array_equal(one.luma(), shown[seq]), f"picture {seq}"


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_every_picture_is_what_a_decoder_of_everything_shows(codec: str, tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", codec, 60))
    shown = eager(pictures)
    pts = {picture.seq: picture.pts for picture in pictures}
    rng = np.random.default_rng(len(codec))
    for share in (1.0, 0.5, 0.15):
        # Elementary streams have decoding times only, so the first reordered picture is not expected.
        sampled = {seq for seq in pts if rng.random() < 0.7 and (seq >= 10 or not codec.endswith("raw"))}
        wanted = {seq for seq in sampled if rng.random() < share}
        seen, decoder = lazy(pictures, sampled, wanted.__contains__)
        assert [pts[seq] for seq in seen] == sorted(pts[seq] for seq in seen)
        assert set(seen) == sampled & set(shown)
        assert {seq for seq, one in seen.items() if one is not None} == wanted & set(shown)
        same(seen, shown)
        assert decoder.published == len(pictures)
        assert decoder.lost == 0


@pytest.mark.parametrize("codec", ["h264", "h264-plain", "h264-open", "hevc", "hevc-open", "mpeg4", "vp9", "av1"])
def test_of_what_nobody_asks_for_nothing_is_decoded(codec: str, tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", codec, 60))
    seen, decoder = lazy(pictures, set(range(0, 60, 3)), lambda _: False)
    assert len(seen) == 20
    assert decoder.decoded == 0
    assert decoder.held_bytes <= sum(len(picture.data) for picture in pictures) / 2


@pytest.mark.parametrize("codec", ["h264", "h264-plain", "h264-open", "hevc", "hevc-open", "mpeg4", "av1", "mjpeg"])
def test_a_keyframe_is_decoded_by_itself(codec: str, tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", codec, 60))
    keyframes = {picture.seq for picture in pictures if picture.keyframe}
    seen, decoder = lazy(pictures, set(range(60)), keyframes.__contains__)
    same(seen, eager(pictures))
    assert all(seen[seq] is not None for seq in keyframes)
    assert decoder.decoded == len(keyframes)


def test_a_group_is_decoded_no_further_than_needed(tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", "h264-plain", 60))
    third = {picture.seq + 3 for picture in pictures if picture.keyframe}
    seen, decoder = lazy(pictures, set(range(60)), third.__contains__)
    assert len(third) == 6
    assert decoder.decoded == 4 * 6
    same(seen, eager(pictures))


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4"])
def test_pictures_that_nothing_refers_to_are_left_out(
    codec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = coded(encode(tmp_path / "clip", codec, 60))
    wanted = [picture.seq for picture in pictures if picture.seq % 10 == 7]
    fed: set[int] = set()
    push = PictureDecoder.push

    def spy(self: PictureDecoder, picture: CodedPicture) -> list[DecodedPicture]:
        fed.add(picture.seq)
        return push(self, picture)

    monkeypatch.setattr(PictureDecoder, "push", spy)
    seen, _ = lazy(pictures, set(wanted), lambda _: True)
    monkeypatch.undo()
    same(seen, eager(pictures))
    begins = [max(k.seq for k in pictures if k.keyframe and k.seq <= seq) for seq in wanted]
    before = [pictures[seq] for begin, end in zip(begins, wanted, strict=True) for seq in range(begin, end)]
    assert fed.issuperset(picture.seq for picture in before if not picture.disposable)
    assert fed.isdisjoint(picture.seq for picture in before if picture.disposable)
    assert any(picture.disposable for picture in before)


@pytest.mark.parametrize("codec", ["h264", "h264-plain", "h264-open", "hevc-open", "mpeg4"])
def test_gaps(codec: str, tmp_path: Path) -> None:
    """After missing pictures nothing is shown up to the next keyframe, as when everything is decoded."""
    whole = coded(encode(tmp_path / "clip", codec, 60))
    for first, last in ((3, 4), (13, 25), (29, 31), (40, 41)):
        pictures = [picture for picture in whole if not first <= picture.seq < last]
        shown = eager(pictures)
        seen, decoder = lazy(pictures, set(range(60)), lambda seq: seq % 3 != 1)
        same(seen, shown)
        assert set(seen) - set(shown) <= {seq for seq, one in seen.items() if one is None}
        assert set(shown) <= set(seen)
        assert decoder.lost >= sum(not picture.keyframe for picture in pictures if picture.seq == last)


def test_joined_in_mid_stream(tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", "h264-open", 60))[5:]
    shown = eager(pictures)
    seen, _ = lazy(pictures, set(range(60)), lambda _: True)
    assert set(seen) == set(shown)
    same(seen, shown)


def test_pictures_that_are_not_to_be_shown(tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", "h264-plain", 30))
    pictures = [replace(picture, discard=picture.seq < 4) for picture in pictures]
    seen, _ = lazy(pictures, set(range(30)), lambda _: True)
    assert sorted(seen) == list(range(4, 30))
    same(seen, eager(pictures))


def test_a_damaged_picture_is_none_and_so_is_what_follows_it(tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", "h264-plain", 30, (320, 240)))
    broken = pictures[13].data[:30] + bytes(60) + pictures[13].data[90:]
    pictures[13] = replace(pictures[13], data=broken)
    shown = eager(pictures)
    assert 13 not in shown
    seen, decoder = lazy(pictures, set(range(30)), lambda _: True)
    assert {seq for seq, one in seen.items() if one is not None} == set(shown)
    same(seen, shown)
    assert decoder.lost > 0


def test_a_change_of_size(tmp_path: Path) -> None:
    parts = [encode(tmp_path / str(n), "h264-raw", 20, size) for n, size in enumerate([(96, 80), (160, 128)])]
    both = tmp_path / "both.h264"
    both.write_bytes(b"".join(part.read_bytes() for part in parts))
    pictures = coded(both)
    seen, _ = lazy(pictures, set(range(0, 40, 3)), lambda seq: seq % 2 == 0)
    same(seen, eager(pictures))
    assert {one.luma().shape for one in seen.values() if one is not None} == {(80, 96), (128, 160)}


@pytest.mark.parametrize("codec", ["h264", "h264-plain", "h264-open", "hevc"])
def test_a_group_too_long_to_be_held_is_decoded_as_it_comes(codec: str, tmp_path: Path) -> None:
    pictures = coded(encode(tmp_path / "clip", codec, 60))
    limit = max(len(picture.data) for picture in pictures) + 1000
    shown = eager(pictures)
    seen, decoder = lazy(pictures, set(range(0, 60, 2)), lambda seq: seq % 3 == 0, limit)
    assert {seq for seq, one in seen.items() if one is not None} == set(range(0, 60, 6))
    same(seen, shown)
    assert decoder.held_bytes <= 2 * limit
    assert decoder.decoded <= 2 * 60


def samples_of(path: Path, fps: Fraction, pictures: int = 10**9) -> tuple[list[Sample], SampleTrack]:
    track, extractor, marks = SampleTrack(fps, "gate"), SignalExtractor(), ReferenceMarks()
    waiting: dict[int, CodedPicture] = {}
    found: list[Sample] = []
    with Source(str(path)) as source:
        for picture in source.pictures("gate", 1):
            if picture.seq == pictures:
                break
            waiting[picture.seq] = marks.mark(picture)
            for document in extractor.push(picture):
                found += track.push(waiting.pop(document.seq), document)
    for document in extractor.flush():
        found += track.push(waiting.pop(document.seq), document)
    return found + track.flush(), track


@pytest.mark.parametrize(
    ("rate", "fps", "slots"),
    [
        (Fraction(1), "1", list(range(12))),
        (Fraction(1), "2", list(range(0, 24, 2))),
        (Fraction(1), "1/2", list(range(6))),
        (Fraction(1, 3), "1", list(range(0, 36, 3))),
        (Fraction(2, 3), "1", [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16]),
        (Fraction(60), "2", [0]),
        (Fraction(120), "2", [0]),
    ],
)
def test_slow_and_odd_rates(rate: Fraction, fps: str, slots: list[int], tmp_path: Path) -> None:
    """Every picture of a slow camera is sampled, in its slot, and measured against an existing reference."""
    path = encode(tmp_path / "clip", "h264-plain", 12, fps=rate)
    samples, _ = samples_of(path, Fraction(fps))
    assert [sample.slot for sample in samples] == slots
    ticks = [signal.tick for sample in samples for signal in sample.signals]
    for sample in samples[1:]:
        assert sample.signals[-1].since in ticks
        assert sample.signals[-1].previous in ticks


def test_references_and_anchors_of_a_real_clip_are_keyframes() -> None:
    samples, track = samples_of(CLIP, Fraction(2), 300)
    references = [sample for sample in samples if sample.signals[-1].reference]
    assert [float(sample.slot / 2) for sample in references] == [0, 8, 16, 24]
    assert all(sample.picture.alone for sample in references)
    assert track.decoder.decoded == 0

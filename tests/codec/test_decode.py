"""The worker's side: frames from any keyframe on, and only valid ones, whatever happened to the pictures in transmission."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture

from .clips import CODECS, encode

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"


def pictures_of(path: Path, count: int | None = None) -> list[CodedPicture]:
    with Source(str(path)) as source:
        return list(source.pictures("gate", 7))[:count]


def decoded(pictures: Iterable[CodedPicture], decoder: Decoder | None = None) -> list[ShownPicture]:
    decoder = decoder or Decoder()
    return [shown for picture in pictures for shown in decoder.push(picture)] + decoder.flush()


def assert_same(ours: list[ShownPicture], theirs: list[ShownPicture]) -> None:
    assert [one.seq for one in ours] == [one.seq for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert np.array_equal(one.luma(), other.luma()), f"picture {one.seq} differs"


@pytest.fixture(scope="module")
def real() -> list[CodedPicture]:
    return pictures_of(CLIP, 120)


@pytest.mark.parametrize("codec", CODECS)
def test_a_reader_can_start_at_any_keyframe(codec: str, tmp_path: Path) -> None:
    """From the keyframe on, in presentation order, the frames are those of the whole stream."""
    pictures = pictures_of(encode(tmp_path / "clip", codec))
    whole = decoded(pictures)
    for start in (picture for picture in pictures if picture.keyframe):
        wanted = [shown for shown in whole if shown.pts >= start.pts]
        assert_same(decoded(pictures[start.seq :]), wanted)


def test_a_start_between_keyframes_waits_for_the_next(real: list[CodedPicture]) -> None:
    decoder = Decoder()
    shown = decoded(real[3:], decoder)
    first = next(picture for picture in real[3:] if picture.keyframe)
    assert decoder.lost == first.seq - 3
    assert_same(shown, [one for one in decoded(real) if one.pts >= first.pts])


def test_pictures_that_are_missing_cost_the_rest_of_their_group(real: list[CodedPicture]) -> None:
    gone = 44
    rest = [picture for picture in real if picture.seq != gone]
    decoder = Decoder()
    shown = decoded(rest, decoder)
    following = next(picture for picture in real if picture.keyframe and picture.seq > gone)
    assert decoder.lost == following.seq - gone - 1
    assert_same(shown, [one for one in decoded(real) if one.seq < gone or one.seq >= following.seq])


@pytest.mark.parametrize("codec", ["h264", "hevc-open", "mpeg4", "vp9", "av1", "mjpeg"])
def test_garbage_never_crashes_and_sound_groups_survive(codec: str, tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", codec))
    whole = decoded(pictures)
    random = np.random.default_rng(0)
    broken = 13
    garbage = random.integers(0, 256, len(pictures[broken].data), dtype=np.uint8).tobytes()
    decoder = Decoder()
    shown = decoded([replace(p, data=garbage) if p.seq == broken else p for p in pictures], decoder)
    following = next(picture.seq for picture in pictures if picture.keyframe and picture.seq > broken)
    start = pictures[following].pts
    assert broken not in [one.seq for one in shown]
    assert_same([o for o in shown if o.seq < broken], [o for o in whole if o.seq < broken])
    assert_same([o for o in shown if o.pts >= start], [o for o in whole if o.pts >= start])
    assert decoder.lost == following - broken


def test_the_extractor_gives_up_the_same_pictures(real: list[CodedPicture]) -> None:
    """Invalid pictures are not published: a reader of the rest gets the same frames."""
    flipped = bytearray(real[57].data)
    flipped[len(flipped) // 2 :] = bytes(len(flipped) - len(flipped) // 2)
    pictures = [replace(p, data=bytes(flipped)) if p.seq == 57 else p for p in real]
    extractor = SignalExtractor()
    documents = [document for picture in pictures for document in extractor.push(picture)] + extractor.flush()
    lost = extractor.take_lost()
    assert lost == [(57, "corrupt"), (58, "after a corrupt one"), (59, "after a corrupt one")]
    lost = [seq for seq, _ in lost]
    assert [document.seq for document in documents] == [p.seq for p in real if p.seq not in lost]
    sound = [picture for picture in pictures if picture.seq not in lost]
    shown = {one.seq for one in decoded(sound)}
    assert {document.seq for document in documents if document.signal} <= shown
    assert_same(decoded(sound), [one for one in decoded(real) if one.seq not in lost])


def test_frames_as_pixels(real: list[CodedPicture]) -> None:
    shown = decoded(real[:20])
    with av.open(str(CLIP)) as container:
        frame = next(container.decode(video=0))
    assert (shown[0].width, shown[0].height) == (768, 432)
    assert shown[0].luma().shape == (432, 768)
    assert shown[0].rgb().dtype == np.uint8
    assert np.array_equal(shown[0].rgb(), frame.to_ndarray(format="rgb24"))
    assert [one.pts for one in shown] == sorted(one.pts for one in shown)
    with pytest.raises(ValueError, match="read-only"):
        shown[0].luma()[0, 0] = 1


def test_pictures_are_shown_no_later_than_the_codec_needs(real: list[CodedPicture]) -> None:
    """With two B-pictures between others a frame waits for at most a few pictures, so a camera's answers are not late."""
    decoder, shown = Decoder(), 0
    for pushed, picture in enumerate(real, 1):
        shown += len(decoder.push(picture))
        assert pushed - shown <= 5


def test_a_codec_without_decoder_is_one_clear_line(real: list[CodedPicture]) -> None:
    with pytest.raises(SourceError, match=r"stream gate: no decoder for codec 'h2645'"):
        Decoder().push(replace(real[0], codec="h2645"))

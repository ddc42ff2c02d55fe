"""Coded pictures as MP4 fragments: FFmpeg reads what was put in, with the same times."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from codecflow.codec.decode import Decoder
from codecflow.codec.mp4 import Fragment, Fragmenter, Init
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture
from codecflow.orientation import ORIENTATIONS, upright

from .clips import encode

MIMES = {
    "h264": "avc1.",
    "h264-open": "avc1.",
    "h264-ts": "avc1.",
    "hevc": "hev1.1.6.L",
    "hevc-open": "hev1.1.6.L",
    "hevc-10-bit": "hev1.2.4.L",
    "vp9": "vp09.00.",
    "av1": "av01.0.",
}


def pictures_of(path: Path, epoch: int = 1) -> list[CodedPicture]:
    """As published by a producer, with the size of their frames."""
    with Source(str(path)) as source:
        return [replace(p, width=p.width or 96, height=p.height or 80) for p in source.pictures("gate", epoch)]


def fragmented(pictures: Iterable[CodedPicture]) -> tuple[list[Init], list[Fragment]]:
    fragmenter = Fragmenter()
    parts = [part for picture in pictures for part in fragmenter.push(picture)]
    return [p for p in parts if isinstance(p, Init)], [p for p in parts if isinstance(p, Fragment)]


def played(init: Init, fragments: Iterable[Fragment]) -> list[tuple[float, av.VideoFrame]]:
    """(media time, frame) of FFmpeg's output for it."""
    data = init.data + b"".join(fragment.data for fragment in fragments)
    with av.open(io.BytesIO(data), format="mp4") as container:
        return [(float(f.pts * f.time_base), f) for f in container.decode(video=0) if f.pts is not None and f.time_base]


@pytest.mark.parametrize("codec", MIMES)
def test_every_picture_is_shown_at_its_own_time(codec: str, tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", codec))
    (init,), fragments = fragmented(pictures)
    assert MIMES[codec] in init.mime
    assert (init.size, init.epoch) == ((96, 80), 1)
    assert [fragment.seq for fragment in fragments] == [picture.seq for picture in pictures]
    decoder = Decoder()
    wanted = [shown for picture in pictures for shown in decoder.push(picture)] + decoder.flush()
    times = [float(one.pts * one.picture.time_base) + init.shift_s for one in wanted]
    by_seq = {fragment.seq: fragment.time_s for fragment in fragments}
    assert [by_seq[one.seq] for one in wanted] == pytest.approx(times, abs=1e-6)
    found = played(init, fragments)
    assert [time for time, _ in found] == pytest.approx(times, abs=1e-6)
    for (_, frame), one in zip(found, wanted, strict=True):
        assert np.array_equal(frame.to_ndarray(format="gray"), one.frame.to_ndarray(format="gray"))


def test_it_begins_at_a_keyframe_and_again_after_a_gap(tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", "h264-open"))
    kept = pictures[5:22] + pictures[25:]
    (init,), fragments = fragmented(kept)
    keys = [picture.seq for picture in pictures if picture.keyframe]
    assert fragments[0].seq == keys[1]
    assert not {fragment.seq for fragment in fragments} & set(range(22, pictures[25].seq))
    assert len(played(init, [f for f in fragments if f.seq < 22])) == len([f for f in fragments if f.seq < 22])
    # Pictures of the open GOP that are shown before its keyframe refer to missing ones.
    first = next(picture for picture in pictures if picture.seq == fragments[0].seq)
    leading = [p.seq for p in pictures[first.seq + 1 : 20] if p.pts < first.pts]
    assert leading
    assert not set(leading) & {fragment.seq for fragment in fragments}


def test_a_new_size_or_epoch_has_a_description_of_its_own(tmp_path: Path) -> None:
    small, large = (
        pictures_of(encode(tmp_path / f"{width}", "h264", size=(width, height)))
        for width, height in ((96, 80), (130, 66))
    )
    resized = [
        replace(picture, seq=picture.seq + 30, pts=picture.pts + 30 * small[0].duration, width=130, height=66)
        for picture in large
    ]
    inits, fragments = fragmented([*small, *resized, *(replace(picture, epoch=2) for picture in small)])
    assert [(init.size, init.epoch) for init in inits] == [((96, 80), 1), ((130, 66), 1), ((96, 80), 2)]
    assert len(fragments) == 90


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_upright(orientation: int, tmp_path: Path) -> None:
    pictures = [replace(p, orientation=orientation) for p in pictures_of(encode(tmp_path / "clip", pictures=1))]
    (init,), fragments = fragmented(pictures)
    ((_, frame),) = played(init, fragments)
    coded = np.arange(96 * 80).reshape(80, 96)
    assert init.size == upright(coded, orientation).shape[::-1]
    a, b, c, d = (int(x) for x in _matrix(init.data))
    x, y = np.meshgrid(np.arange(96), np.arange(80))
    shown = np.empty(init.size[::-1], int)
    shown[_placed(b * x + d * y), _placed(a * x + c * y)] = coded
    assert np.array_equal(shown, upright(coded, orientation))
    assert frame.width == 96


def _placed(places: np.ndarray) -> np.ndarray:
    return places - places.min()


def _matrix(data: bytes) -> list[float]:
    at = data.index(b"tkhd") + 44
    fixed = np.frombuffer(data[at : at + 36], ">i4")
    assert fixed[8] == 1 << 30
    return [fixed[0] / 65536, fixed[1] / 65536, fixed[3] / 65536, fixed[4] / 65536]


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({"dts": None, "duration": 0}, 30),
        ({"duration": 0}, 30),
    ],
    ids=["no decoding times", "no durations"],
)
def test_decoding_times_follow_each_other_as_a_player_needs_it(
    change: dict[str, None], count: int, tmp_path: Path
) -> None:
    """A player waits for a keyframe if a decoding time is more than twice a picture's duration after the previous one. The
    camera stops for 5 s and then sends half as many pictures."""
    pictures = pictures_of(encode(tmp_path / "clip", "h264"))
    step = pictures[0].duration
    slower = [
        replace(p, pts=p.pts + max(0, p.pts // step - 12) * step + (50 * step if p.pts > 12 * step else 0), **change)
        for p in pictures
    ]
    (init,), fragments = fragmented(slower)
    assert len(fragments) == count
    times = [_decoding(fragment.data) for fragment in fragments]
    for (before, duration), (dts, _) in pairwise(times):
        assert before < dts <= before + 2 * duration
    assert len(played(init, fragments)) == count


def _decoding(data: bytes) -> tuple[int, int]:
    """(decoding time, duration) of a fragment."""
    time, run = data.index(b"tfdt") + 8, data.index(b"trun") + 16
    return int.from_bytes(data[time : time + 8]), int.from_bytes(data[run : run + 4])


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4"])
def test_what_no_browser_plays_is_refused(codec: str, tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=f"stream gate: its {codec} cannot be put into fragments: no browser plays it"
    ):
        fragmented(pictures_of(encode(tmp_path / "clip", codec, pictures=2)))


@pytest.mark.parametrize("data", [b"\0\0\1\x67", b"\0\0\0\1\x65" + bytes(50), b"no picture at all"])
def test_a_keyframe_that_describes_nothing_is_refused(data: bytes, tmp_path: Path) -> None:
    (picture,) = pictures_of(encode(tmp_path / "clip", pictures=1))
    with pytest.raises(SourceError, match="cannot be put into fragments"):
        fragmented([replace(picture, data=data)])

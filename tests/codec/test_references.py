"""References between pictures according to their headers: checked by leaving pictures out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codecflow.codec.decode import Decoder
from codecflow.codec.references import ReferenceMarks, clean_start, references
from codecflow.codec.source import Source
from codecflow.messages import CodedPicture

from .clips import CODECS, encode


def marked(path: Path) -> list[CodedPicture]:
    marks = ReferenceMarks()
    with Source(str(path)) as source:
        return [marks.mark(picture) for picture in source.pictures("gate", 1)]


@pytest.mark.parametrize(
    ("codec", "least"), [("h264", 10), ("h264-open", 10), ("hevc", 10), ("mpeg4", 15), ("mpeg2", 15), ("h264-plain", 0)]
)
def test_what_is_marked_is_missed_by_no_other_picture(codec: str, least: int, tmp_path: Path) -> None:
    """Unmarked pictures decode the same without the marked ones. Some codecs mark none."""
    pictures = marked(encode(tmp_path / "clip", codec, 60))
    assert sum(picture.disposable for picture in pictures) >= least
    whole, thinned = Decoder(), Decoder()
    expected = {one.seq: one.luma().copy() for picture in pictures for one in whole.push(picture)}
    expected |= {one.seq: one.luma().copy() for one in whole.flush()}
    rest = [picture for picture in pictures if not picture.disposable]
    shown = []
    for picture in pictures:
        if picture.disposable:
            thinned._pictures.skip(picture)
        else:
            shown += thinned.push(picture)
    shown += thinned.flush()
    assert [one.seq for one in sorted(shown, key=lambda one: one.seq)] == [picture.seq for picture in rest]
    for one in shown:
        assert np.array_equal(one.luma(), expected[one.seq])


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_decoding_may_begin_at_every_keyframe_of_an_encoder(codec: str, tmp_path: Path) -> None:
    pictures = marked(encode(tmp_path / "clip", codec, 60))
    assert [clean_start(picture) for picture in pictures] == [picture.keyframe for picture in pictures]
    assert not any(picture.disposable for picture in pictures if picture.keyframe)


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1", "vp9", "mpeg4", "mpeg2video", "vc1"])
def test_whatever_the_bytes_are_nothing_is_disposable_by_chance(codec: str) -> None:
    rng = np.random.default_rng(5)
    for length in (0, 1, 2, 3, 5, 9, 40, 300):
        for _ in range(30):
            data = rng.bytes(length)
            assert references(codec).disposable(data) in (False, True)
        assert not references(codec).disposable(bytes(length))

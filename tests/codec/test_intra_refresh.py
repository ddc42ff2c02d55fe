"""Streams without further keyframes: joined, and joined again after damage, at recovery points."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

from codecflow.codec.annexb import recovery_point
from codecflow.codec.signal import SignalExtractor
from codecflow.messages import CodedPicture

from .published import checksums, pictures_of, published, renumbered, x264


@pytest.fixture
def refreshed(tmp_path: Path) -> list[CodedPicture]:
    """Intra refresh: one IDR picture, then only recovery points, from each of which samples are correct a period later."""
    return pictures_of(x264(tmp_path / "refresh.ts", "bframes=0:intra-refresh=1"))


def test_a_stream_without_further_keyframes_is_joined_at_a_recovery_point(refreshed: list[CodedPicture]) -> None:
    points = [picture.seq for picture in refreshed if picture.keyframe]
    assert len(points) > 3
    right = checksums(refreshed)
    joined = [picture for picture in refreshed if picture.seq >= points[1]]
    ours = checksums(joined)
    assert min(ours) <= points[2], "a period later at the latest"
    assert ours == {seq: value for seq, value in right.items() if seq >= min(ours)}
    extractor = SignalExtractor()
    documents = [document for picture in joined for document in extractor.push(picture)] + extractor.flush()
    assert [document.seq for document in documents] == [picture.seq for picture in joined]
    assert extractor.not_shown == min(ours) - points[1]
    assert [d.picture_type for d in documents].count("?") == extractor.not_shown


def test_a_stream_without_further_keyframes_recovers_from_damage(refreshed: list[CodedPicture]) -> None:
    right = checksums(refreshed)
    points = [picture.seq for picture in refreshed if picture.keyframe]
    gone = points[1] + 3
    sent, _, lost = published(renumbered(p for p in refreshed if p.seq != gone))
    assert lost == {"corrupt": 1, "after a corrupt one": points[2] - gone - 2}
    ours = set(checksums(sent).values())
    assert ours <= set(right.values())
    assert right[59] in ours


def test_recovery_points_are_keyframes_where_the_container_says_otherwise(
    refreshed: list[CodedPicture], tmp_path: Path
) -> None:
    path = tmp_path / "refresh.mp4"
    with av.open(str(tmp_path / "refresh.ts")) as source, av.open(str(path), "w") as target:
        track = source.streams.video[0]
        copy = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is not None:
                packet.stream, packet.is_keyframe = copy, packet.dts == packet.pts == 0
                target.mux(packet)
    assert [p.keyframe for p in pictures_of(path)] == [p.keyframe for p in refreshed]


def test_only_a_whole_recovery_point_is_one() -> None:
    assert recovery_point(b"\x06\x06\x01\xc4\x80") == [b"\x06\x06\x01\xc4\x80"]
    assert recovery_point(b"\x06\x05\x02ab\x06\x01\xc4\x80") == [b"\x06\x06\x01\xc4\x80"]
    for faulty in (b"\x06", b"\x06\x06", b"\x06\x06\x09\xc4\x80", b"\x06\xff\xff", b"\x06\x05\xa2ab\x06\x01\xc4\x80"):
        assert recovery_point(faulty) == []

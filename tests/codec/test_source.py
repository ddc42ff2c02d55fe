"""Files as coded pictures: published pictures decode to the file's frames, for any codec and container."""

from __future__ import annotations

import shutil
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from codecflow.codec.annexb import nal_type, split_annex_b
from codecflow.codec.decode import Decoder
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture, decode_packet, encode_packet

from .clips import CODECS, Luma, encode, plainly_decoded

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"
WITHOUT_PTS = ("h264-avi", "h264-raw", "hevc-raw")


def published(path: Path) -> tuple[list[CodedPicture], Counter[str]]:
    """The pictures of a file as a reader of the topic gets them, and what was dropped."""
    with Source(str(path)) as source:
        pictures = [decode_packet(*encode_packet(picture)) for picture in source.pictures("gate", 7)]
        return pictures, source.dropped


def decoded(pictures: list[CodedPicture]) -> list[tuple[int, Luma]]:
    decoder = Decoder()
    shown = [one for picture in pictures for one in decoder.push(picture)] + decoder.flush()
    return [(one.pts, one.luma().copy()) for one in shown]


def same(ours: list[tuple[int, Luma]], theirs: list[tuple[int | None, Luma]]) -> bool:
    return len(ours) == len(theirs) and all(np.array_equal(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("codec", CODECS)
def test_published_pictures_decode_to_the_files_own_frames(codec: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", codec)
    pictures, dropped = published(path)
    ours, theirs = decoded(pictures), plainly_decoded(path)
    assert same(ours, theirs)
    assert [picture.seq for picture in pictures] == list(range(30))
    assert not dropped
    times = [pts for pts, _ in ours]
    if codec in WITHOUT_PTS:  # the container has none: one frame apart, in presentation order
        assert times == [index * pictures[0].duration for index in range(30)]
    else:
        assert times == [pts for pts, _ in theirs]


def test_a_real_clip_decodes_to_its_own_frames() -> None:
    pictures, dropped = published(CLIP)
    ours, theirs = decoded(pictures[:200]), plainly_decoded(CLIP)
    assert same(ours, theirs[: len(ours)])
    assert len(ours) == 200
    assert len(pictures) == 1394
    assert not dropped


@pytest.mark.parametrize("codec", ["h264", "h264-ts", "h264-raw", "hevc", "hevc-raw"])
def test_keyframes_carry_their_parameter_sets(codec: str, tmp_path: Path) -> None:
    pictures, _ = published(encode(tmp_path / "clip", codec))
    wanted = {7, 8} if codec.startswith("h264") else {32, 33, 34}
    keyframes = [picture for picture in pictures if picture.keyframe]
    assert len(keyframes) >= 3
    for picture in keyframes:
        kinds = [nal_type(unit, picture.codec) for unit in split_annex_b(picture.data)]
        assert wanted <= set(kinds)
        assert max(kinds.count(kind) for kind in wanted) == 1, "repeated where it was there already"


@pytest.mark.parametrize("codec", ["av1", "vp9", "mpeg4"])
def test_keyframes_of_other_codecs_carry_extradata(codec: str, tmp_path: Path) -> None:
    pictures, _ = published(encode(tmp_path / "clip", codec))
    assert {picture.extradata is None for picture in pictures if not picture.keyframe} == {True}
    has = {picture.extradata is not None for picture in pictures if picture.keyframe}
    assert has == {codec != "vp9"}


def test_pictures_before_the_first_keyframe_are_dropped_and_counted(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "h264-raw")
    data, units = path.read_bytes(), list(split_annex_b(path.read_bytes()))
    first_slice = next(index for index, unit in enumerate(units) if nal_type(unit, "h264") == 5)
    path.write_bytes(data[data.find(units[first_slice + 3]) - 4 :])  # the keyframe and two more pictures are gone
    pictures, dropped = published(path)
    assert pictures[0].keyframe
    assert pictures[0].seq == 0
    assert dropped == {"before the first keyframe": 7}
    assert same(decoded(pictures), plainly_decoded(path)[-20:])


def test_a_change_of_resolution_is_followed(tmp_path: Path) -> None:
    small = encode(tmp_path / "small", "h264-raw", 20, (96, 80))
    large = encode(tmp_path / "large", "h264-raw", 20, (160, 128))
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    pictures, _ = published(both)
    shown = decoded(pictures)
    assert [luma.shape for _, luma in shown] == [(80, 96)] * 20 + [(128, 160)] * 20
    assert same(shown, [*plainly_decoded(small), *plainly_decoded(large)])


def test_a_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    whole = encode(tmp_path / "whole", "h264-ts", 60)
    cut = tmp_path / "cut.ts"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    shown = decoded(published(cut)[0])
    assert 20 <= len(shown) < 60
    assert same(shown[:20], plainly_decoded(whole)[:20])


def test_an_mp4_cut_off_in_its_middle_gives_what_is_there(tmp_path: Path) -> None:
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(CLIP.read_bytes()[:1_500_000])  # its index comes first
    shown = decoded(published(cut)[0])
    assert len(shown) > 500
    theirs = plainly_decoded(CLIP)[: len(shown)]
    assert same(shown[:500], theirs[:500])


def test_an_edit_list_marks_pictures_that_are_not_shown(tmp_path: Path) -> None:
    """MP4 can specify that playing starts after the first keyframe: earlier pictures are decoded, but not shown."""
    path = encode(tmp_path / "clip", "h264", 30)
    import av

    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(path)) as source, av.open(str(trimmed), "w") as target:
        track = source.streams.video[0]
        copy = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.dts is None:
                continue
            packet.pts -= 5 * 1024
            packet.dts -= 5 * 1024
            packet.stream = copy
            target.mux(packet)
    pictures, _ = published(trimmed)
    assert sum(picture.discard for picture in pictures) > 0
    assert same(decoded(pictures), plainly_decoded(trimmed))


@pytest.mark.parametrize(
    ("name", "content", "code", "says"),
    [
        ("missing.mp4", None, "missing", "no such file"),
        ("text.mp4", b"not a video at all\n" * 100, "codec", "not a video"),
        ("empty.mp4", b"", "codec", "not a video"),
    ],
)
def test_what_is_no_video_is_one_clear_line(
    name: str, content: bytes | None, code: str, says: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=says) as refused:
        Source(str(path))
    assert refused.value.code == code
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_and_a_file_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not a file"):
        Source(str(tmp_path))
    sound = tmp_path / "sound.wav"
    with wave.open(str(sound), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    with pytest.raises(SourceError, match="no video track") as refused:
        Source(str(sound))
    assert refused.value.code == "codec"


def test_an_mp4_without_its_index_is_refused(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "h264")
    cut = shutil.copy(path, tmp_path / "cut.mp4")
    Path(cut).write_bytes(path.read_bytes()[: path.stat().st_size // 2])  # the encoder wrote the index last
    with pytest.raises(SourceError, match="cut off before its index"):
        Source(str(cut))


def test_times_go_on_where_they_jump(tmp_path: Path) -> None:
    """Two recordings in one file: the second starts at its own zero."""
    clip, joined = encode(tmp_path / "clip", "h264-ts", 40), tmp_path / "joined.ts"
    joined.write_bytes(clip.read_bytes() * 2)
    pictures, _ = published(joined)
    shown = decoded(pictures)
    assert len(shown) == 80
    frame = pictures[0].duration
    steps = np.diff([pts for pts, _ in shown])
    assert (steps > 0).all()
    assert (steps == frame).sum() >= 77, "all but the joint"
    assert steps.max() <= 5 * frame
    assert same(shown[40:], plainly_decoded(clip))

"""Which track is the video: never a cover, a thumbnail or a poster, and a notice when there are several."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image

from codecflow.codec.annexb import START_CODE, nal_type, split_annex_b
from codecflow.codec.decode import Decoder
from codecflow.codec.opening import SourceOptions
from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.codec.transmission import Transmission
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture

from .clips import CODECS, encode, plainly_decoded, scene
from .turned import jpeg


def tracks(
    path: Path,
    sizes: Sequence[tuple[int, int]],
    pictures: Sequence[int],
    disposition: Sequence[Disposition] | None = None,
    codecs: Sequence[str] | None = None,
) -> Path:
    """A file with several video tracks, of `sizes`, with `pictures` pictures each, interleaved."""
    with av.open(str(path), "w") as container:
        videos = []
        for index, size in enumerate(sizes):
            encoder, _, pixels, options = CODECS[codecs[index] if codecs else "h264-plain"]
            track = container.add_stream(encoder, rate=10, options=options)
            track.width, track.height, track.pix_fmt = *size, pixels
            if disposition:
                track.disposition = disposition[index]
            videos.append(track)
        for number in range(max(pictures)):
            for track, count in zip(videos, pictures, strict=True):
                if number < count:
                    picture = scene(number, track.width, track.height)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=track.pix_fmt)
                    frame.pts, frame.time_base = number, Fraction(1, 10)
                    container.mux(track.encode(frame))
        for track in videos:
            container.mux(track.encode(None))
    return path


def taken(path: Path, track: int | None = None) -> tuple[list[CodedPicture], list[str]]:
    """The pictures of a source, and the notices about it."""
    notices: list[str] = []
    with Source(str(path), SourceOptions(track=track), notice=notices.append) as source:
        return list(source.pictures("gate", 1)), notices


def test_one_of_several_tracks(tmp_path: Path) -> None:
    path = tracks(tmp_path / "two.mp4", [(96, 80), (160, 128)], [20, 20])
    pictures, notices = taken(path)
    assert {(one.width, one.height) for one in pictures} == {(96, 80)}
    assert len(pictures) == 20
    assert notices == [
        f"source {path}: 2 video tracks: 1 h264 96x80, 2 h264 160x128; taking 1, --track N takes another"
    ]
    for number, size in ((1, (96, 80)), (2, (160, 128))):
        pictures, notices = taken(path, number)
        assert {(one.width, one.height) for one in pictures} == {size}
        assert len(pictures) == 20
        assert not notices, "the one who chose knows"
    with pytest.raises(SourceError, match="no track 3: it has 2 video tracks: 1 h264 96x80, 2 h264 160x128") as refused:
        taken(path, 3)
    assert refused.value.code == "codec"


def test_a_cover_before_the_film(tmp_path: Path) -> None:
    """A tagger's cover is FFmpeg's first stream, although the film was there before it."""
    path = with_cover(encode(tmp_path / "clip", "h264-plain"))
    with av.open(str(path)) as container:
        assert [video.codec_context.name for video in container.streams.video] == ["mjpeg", "h264"], "as in the field"
    pictures, notices = taken(path)
    assert len(pictures) == 30
    assert {one.codec for one in pictures} == {"h264"}
    assert not notices, "a cover is no track that anybody would choose"
    assert len(taken(path, 1)[0]) == 30
    with pytest.raises(SourceError, match="it has 1 video track: 1 h264 96x80"):
        taken(path, 2)


def with_cover(clip: Path) -> Path:
    """An MP4 whose index comes last, with cover art added (iTunes metadata: moov/udta/meta/ilst/covr)."""

    def atom(name: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return struct.pack(">I", 8 + len(body)) + name + body

    data = clip.read_bytes()
    at = data.rfind(b"moov") - 4
    assert at + struct.unpack(">I", data[at : at + 4])[0] == len(data)
    cover = atom(b"covr", atom(b"data", struct.pack(">II", 13, 0), jpeg(scene(0, 64, 64), None)))
    handler = atom(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    tags = atom(b"udta", atom(b"meta", bytes(4), handler, atom(b"ilst", cover)))
    moov, position, kept = data[at + 8 :], 0, b""
    while position < len(moov):
        size = struct.unpack(">I", moov[position : position + 4])[0]
        if moov[position + 4 : position + 8] != b"udta":
            kept += moov[position : position + size]
        position += size
    path = clip.with_name("cover.mp4")
    path.write_bytes(data[:at] + atom(b"moov", tags, kept))
    return path


@pytest.mark.parametrize(
    "kind", [Disposition.attached_pic, Disposition.timed_thumbnails | Disposition.attached_pic, Disposition.still_image]
)
def test_pictures_that_are_no_film(kind: Disposition, tmp_path: Path) -> None:
    """Matroska keeps the order of tracks and their dispositions."""
    path = tmp_path / "clip.mp4"
    tracks(path, [(64, 48), (96, 80)], [1, 20], [kind, Disposition.default], ["mjpeg", "h264-plain"])
    pictures, notices = taken(path)
    assert {one.codec for one in pictures} == {"h264"}
    assert len(pictures) == 20
    assert not notices


def test_a_poster_beside_a_film(tmp_path: Path) -> None:
    """One picture, whatever the container calls it."""
    path = tracks(tmp_path / "clip.mp4", [(64, 48), (96, 80)], [1, 20])
    pictures, notices = taken(path)
    assert (len(pictures), notices) == (20, [])


def test_a_track_that_cannot_be_published_beside_one_that_can(tmp_path: Path) -> None:
    CODECS["raw"] = ("rawvideo", "mkv", "yuv420p", {})
    try:
        path = tracks(tmp_path / "clip.mkv", [(64, 48), (96, 80)], [20, 20], None, ["raw", "h264-plain"])
    finally:
        del CODECS["raw"]
    pictures, notices = taken(path)
    assert {one.codec for one in pictures} == {"h264"}
    assert "1 rawvideo 64x48, 2 h264 96x80; taking 2" in notices[0]
    with pytest.raises(SourceError, match="rawvideo, a codec that is not supported; convert it"):
        taken(path, 1)


@pytest.mark.parametrize(
    ("codec", "pixels", "ending"),
    [
        ("rawvideo", "bgr24", "avi"),
        ("rawvideo", "yuv420p", "mkv"),
        ("utvideo", "yuv420p", "avi"),
        ("qtrle", "rgb24", "mov"),
        ("speedhq", "yuv422p", "nut"),
        ("v210", "yuv422p10le", "mov"),
    ],
)
def test_codecs_that_are_not_published_are_named(codec: str, pixels: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"clip.{ending}"
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=10)
        track.width, track.height, track.pix_fmt = 96, 80, pixels
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with pytest.raises(
        SourceError, match=f"its video is {codec}, a codec that is not supported; convert it"
    ) as refused:
        Source(str(path))
    assert refused.value.code == "codec"


def test_uncompressed_y4m_is_named(tmp_path: Path) -> None:
    path = tmp_path / "raw.y4m"
    path.write_bytes(b"YUV4MPEG2 W96 H80 F10:1 Ip A1:1 C420jpeg\n" + 3 * (b"FRAME\n" + bytes(96 * 80 * 3 // 2)))
    with pytest.raises(SourceError, match="its video is rawvideo"):
        Source(str(path))


def layered(data: bytes, codec: str) -> bytes:
    """A picture with an additional layer, as scalable and multi-view video has in the same track: NAL units that only a
    decoder of the extension reads (H.264 annexes G and H: types 15 and 20; H.265 annexes F and G: nuh_layer_id)."""
    if codec == "h264":
        return data + b"".join(START_CODE + bytes([kind, 0x40, 0x80, 0x0D, *range(3, 90)]) for kind in (0x6F, 0x74))
    units = [unit for unit in split_annex_b(data) if nal_type(unit, codec) < 32]
    return data + b"".join(START_CODE + bytes([unit[0], unit[1] | 8]) + unit[2:] for unit in units)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_layers_beside_the_base_video_cost_nothing(codec: str, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", codec)
    path = tmp_path / f"layers.{codec}"
    with Source(str(clip)) as source:
        path.write_bytes(b"".join(layered(picture.data, codec) for picture in source.pictures("clip", 0)))
    decoder, extractor = Decoder(), SignalExtractor(Fraction(1, 2))
    shown, published = [], 0
    with Source(str(path)) as source:
        for picture in source.pictures("gate", 1):
            published += len(extractor.push(picture))
            shown += [one.luma().copy() for one in decoder.push(picture)]
        assert not source.dropped
    shown += [one.luma().copy() for one in decoder.flush()]
    published += len(extractor.flush())
    theirs = [luma for _, luma in plainly_decoded(clip)]
    assert published == 30
    assert len(shown) == 30
    assert all(np.array_equal(one, other) for one, other in zip(shown, theirs, strict=True))


def test_sound_and_data_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        track = container.add_stream("libx264", rate=10, options={"x264-params": "scenecut=0"})
        track.width, track.height, track.pix_fmt = 96, 80, "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(track.encode(frame))
            heard = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 8000, 800 * index, Fraction(1, 8000)
            container.mux(sound.encode(heard))
        container.mux(track.encode(None))
    pictures, notices = taken(path)
    assert (len(pictures), notices) == (20, [])


def test_a_track_that_begins_later_is_ignored(tmp_path: Path) -> None:
    """As in a recording of MPEG-TS to which sound was added: PyAV reads beyond its list of tracks at the end."""
    path = tracks(tmp_path / "one.ts", [(96, 80)], [20])
    more = tracks(tmp_path / "two.ts", [(96, 80)] * 4, [20] * 4)
    path.write_bytes(path.read_bytes() + more.read_bytes())
    assert len(taken(path)[0]) >= 20

    def demuxed() -> Iterator[av.Packet]:
        yield from ()
        raise IndexError("list index out of range")

    assert list(Transmission(rtp=False).packets("mpegts", demuxed())) == []


@pytest.mark.parametrize("kind", ["jpg", "png", "bmp", "webp", "tif"])
def test_still_pictures_are_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"still.{kind}"
    Image.fromarray(scene(0, 96, 80)).save(path)
    with pytest.raises(SourceError, match="a still picture, not a video"):
        Source(str(path))


@pytest.mark.parametrize("thumbnails", [False, True])
def test_a_recording_of_jpegs_is_a_video(thumbnails: bool, tmp_path: Path) -> None:
    path = tmp_path / "clip.mjpeg"
    small = jpeg(scene(0, 32, 24), None) if thumbnails else b""
    exif = b"\xff\xe1" + (len(small) + 8).to_bytes(2) + b"Exif\0\0" + small
    whole = [jpeg(scene(index, 96, 80), None) for index in range(20)]
    path.write_bytes(b"".join(one[:2] + exif + one[2:] for one in whole))
    pictures, _ = taken(path)
    assert len(pictures) == 20

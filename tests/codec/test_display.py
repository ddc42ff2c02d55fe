"""Orientation: what container and pictures state is on the wire, and the model sees upright pictures."""

from __future__ import annotations

from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import av
import numpy as np
import pytest

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.display import exif_orientation, frame_matrix, sei_orientation
from codecflow.codec.source import Source
from codecflow.codec.transcode import Transcode, Transcoder
from codecflow.errors import SourceError
from codecflow.messages import decode_packet, encode_packet
from codecflow.orientation import ORIENTATIONS, Nearest

from .cameras import camera
from .clips import scene
from .turned import MATRICES, exif, exif_clip, jpeg, lying, matrix_clip, sei, sei_clip


def shown(path: Path, notices: list[str] | None = None) -> list[ShownPicture]:
    """A file's shown pictures, after a round trip over the wire."""
    decoder = Decoder()
    with Source(str(path), notice=[].append if notices is None else notices.append) as source:
        pictures = [decode_packet(*encode_packet(one)) for one in source.pictures("gate", 1)]
    return [one for picture in pictures for one in decoder.push(picture)] + decoder.flush()


def assert_upright(pictures: list[ShownPicture]) -> None:
    """Lossy, but correct: no other orientation is nearly as close."""
    assert len(pictures) >= 8
    for index, picture in enumerate(pictures):
        assert picture.size == (96, 64)
        assert np.abs(picture.rgb().astype(int) - scene(index, 96, 64)).mean() < 12, index


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_the_matrix_of_a_container(orientation: int, tmp_path: Path) -> None:
    pictures = shown(matrix_clip(tmp_path / "clip", MATRICES[orientation], orientation))
    assert {one.picture.orientation for one in pictures} == {orientation}
    assert_upright(pictures)
    assert pictures[0].luma().shape == lying(0, orientation).shape[:2], "the codec's picture stays as it is"


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_exif_in_pictures(orientation: int, tmp_path: Path) -> None:
    pictures = shown(exif_clip(tmp_path / "clip", [orientation] * 8))
    assert {one.picture.orientation for one in pictures} == {orientation}
    assert_upright(pictures)


def test_exif_may_change_from_picture_to_picture(tmp_path: Path) -> None:
    orientations = [6, 6, 8, None, 3, 6, 5, 7]  # a camera that is rotated while it records
    pictures = shown(exif_clip(tmp_path / "clip", orientations))
    assert [one.picture.orientation for one in pictures] == [one or 1 for one in orientations]
    assert_upright(pictures)


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_messages_in_the_video(codec: str, orientation: int, tmp_path: Path) -> None:
    clip = sei_clip(tmp_path / "clip", codec, [orientation, orientation])
    pictures = shown(clip)
    assert {one.picture.orientation for one in pictures} == {orientation}
    assert_upright(pictures)
    with av.open(str(clip)) as container:
        matrices = {frame_matrix(frame) for frame in container.decode(video=0) if frame.key_frame}
    assert matrices == {None if orientation == 1 else Nearest(orientation, 0.0)}, "as FFmpeg has it"


def test_a_message_holds_until_the_next_keyframe(tmp_path: Path) -> None:
    pictures = shown(sei_clip(tmp_path / "clip", "h264", [8, None, 3]))
    assert [one.picture.orientation for one in pictures] == [8] * 10 + [1] * 10 + [3] * 10


@pytest.mark.parametrize("codec", ["h264", "hevc"])
def test_a_message_may_be_cancelled(codec: str) -> None:
    assert sei_orientation(sei(6, codec), codec) == Nearest(6, 0.0)
    assert sei_orientation(sei(6, codec, cancel=True), codec) == Nearest(1, 0.0)
    assert sei_orientation(b"", codec) is None


def test_exif_outranks_the_container(tmp_path: Path) -> None:
    """As in FFmpeg. A picture without EXIF is shown as the container says."""
    path = tmp_path / "clip.mov"
    with av.open(str(path), "w") as container:
        track = container.add_stream("mjpeg", rate=10)
        track.width, track.height, track.pix_fmt = 64, 96, "yuvj444p"
        track.set_display_matrix([0, 65536, 0, -65536, 0, 0, 0, 0, 1 << 30])
        for index in range(8):
            packet = av.Packet(jpeg(lying(index, 6 if index < 4 else 8), None if index < 4 else 8))
            packet.stream, packet.time_base = track, Fraction(1, 10)
            packet.pts = packet.dts = index
            packet.is_keyframe = True
            container.mux(packet)
    pictures = shown(path)
    assert [one.picture.orientation for one in pictures] == [6] * 4 + [8] * 4
    assert_upright(pictures)


def test_an_odd_angle_is_shown_by_the_nearest_quarter_turn_and_reported_once(tmp_path: Path) -> None:
    notices: list[str] = []
    matrix = (0.5, 0.866, -0.866, 0.5)  # 60 degrees clockwise
    pictures = shown(matrix_clip(tmp_path / "clip", matrix, 6), notices)
    assert {one.picture.orientation for one in pictures} == {6}
    assert len(notices) == 1
    assert "not a multiple of 90 degrees" in notices[0]
    assert "30 degrees off" in notices[0]


@pytest.mark.parametrize("codec", ["hevc", "av1", "mpeg4"])
def test_the_matrix_with_other_codecs(codec: str, tmp_path: Path) -> None:
    pictures = shown(matrix_clip(tmp_path / "clip", MATRICES[8], 8, codec=codec))
    assert {one.picture.orientation for one in pictures} == {8}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xe1",
        b"\xff\xd8\xff\xe1\0\x02",
        b"\xff\xd8" + exif(0),
        b"\xff\xd8" + exif(9),
        b"\xff\xd8" + exif(6)[:-20],
        b"\xff\xd8\xff\xda" + exif(6),
        b"no jpeg at all" * 10,
    ],
)
def test_exif_that_says_nothing(data: bytes) -> None:
    assert exif_orientation(data) == 1


def test_exif_behind_padding() -> None:
    assert exif_orientation(b"\xff\xd8\xff" + exif(6, "<")) == 6


@pytest.mark.parametrize("codec", ["h264-open", "vp9", "mpeg4"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_the_matrix_of_other_containers(codec: str, orientation: int, tmp_path: Path) -> None:
    """Matroska and WebM store an angle instead of a matrix."""
    pictures = shown(matrix_clip(tmp_path / "clip", MATRICES[orientation], orientation, codec=codec))
    assert {one.picture.orientation for one in pictures} == {orientation}


def test_encoding_again_keeps_the_orientation(tmp_path: Path) -> None:
    clip = matrix_clip(tmp_path / "clip", MATRICES[6], 6, pictures=20)
    transcoder, decoder = Transcoder(Transcode(Fraction(5))), Decoder()
    with Source(str(clip)) as source:
        coded = [one for picture in source.pictures("gate", 1) for one in transcoder.push(picture)] + transcoder.flush()
    pictures = [one for picture in coded for one in decoder.push(picture)] + decoder.flush()
    assert len(pictures) == 10
    assert {one.orientation for one in pictures} == {6}
    assert {one.size for one in pictures} == {(96, 64)}
    for index, picture in enumerate(pictures):
        assert np.abs(picture.rgb().astype(int) - scene(2 * index, 96, 64)).mean() < 16


def test_a_camera_whose_jpegs_are_turned(tmp_path: Path) -> None:
    """MJPEG over HTTP, as phones and doorbells send it."""

    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace;boundary=picture")
        request.send_header("Content-Length", "9999999")  # as some cameras send it
        request.end_headers()
        for index in range(12):
            data = jpeg(lying(index, 6), 6)
            head = f"--picture\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            request.wfile.write(head.encode() + data + b"\r\n")

    decoder, pictures = Decoder(), list[ShownPicture]()
    with camera(behave) as address, Source(f"http://{address}/video") as source:
        assert source.codec == "mjpeg"
        assert source.live
        with pytest.raises(SourceError, match="gone"):
            pictures.extend(one for picture in source.pictures("gate", 1) for one in decoder.push(picture))
    assert {one.orientation for one in pictures} == {6}
    assert_upright(pictures)

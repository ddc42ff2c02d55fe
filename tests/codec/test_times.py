"""Times of real files and cameras: when a viewer with a clock would see pictures, and what is reported about corrected
ones."""

from __future__ import annotations

import io
import socketserver
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from codecflow.codec.decode import Decoder
from codecflow.codec.opening import SourceOptions
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture

from .cameras import camera
from .clips import encode, plainly_decoded, scene
from .elementary import without_timing
from .rtsp import rtsp_camera
from .serving import quiet_server, serving


@dataclass
class Seen:
    """The output for a source: `times` of shown pictures in seconds, in the order of the decoder."""

    pictures: list[CodedPicture]
    times: list[float]
    luma: list[np.ndarray]
    corrected: dict[str, int]
    notices: list[str]

    @property
    def steps(self) -> list[float]:
        return [round(after - before, 4) for before, after in pairwise(self.times)]


def see(source: Path | str, reads_after_s: float = 0.0, timeout_s: float = 10.0) -> Seen:
    pictures: list[CodedPicture] = []
    notices: list[str] = []
    with Source(str(source), SourceOptions(timeout_s=timeout_s), notice=notices.append) as opened:
        time.sleep(reads_after_s)  # for example while the topics are looked up
        try:
            pictures.extend(opened.pictures("gate", 1))
        except SourceError:
            assert opened.live, "a camera that hangs up"
        assert not opened.dropped
    decoder = Decoder()
    shown = [one for picture in pictures for one in decoder.push(picture)] + decoder.flush()
    times = [float(one.pts * pictures[0].time_base) for one in shown]
    assert all(before < after for before, after in pairwise(times)), "in the order in which they are shown"
    decoding = [picture.dts for picture in pictures if picture.dts is not None]
    assert decoding == sorted(decoding)
    assert all(picture.dts <= picture.pts for picture in pictures if picture.dts is not None)
    luma = [one.luma().copy() for one in shown]
    return Seen(pictures, times, luma, dict(opened.corrected), [notice.split(": ", 1)[1] for notice in notices])


def film(path: Path, times: list[float], b_pictures: int, time_base: Fraction = Fraction(1, 90_000)) -> Path:
    """H.264 with pictures at given times, a keyframe every 10; the container is chosen by the path's ending."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "bf": str(b_pictures)})
        track.width, track.height, track.pix_fmt = 96, 80, "yuv420p"
        track.codec_context.time_base = track.time_base = time_base
        track.codec_context.gop_size, track.codec_context.thread_count = 10, 1
        for index, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(at / time_base), time_base
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


def raw(path: Path, pictures: int, b_pictures: int) -> Path:
    """An H.264 elementary stream without timing, as a Raspberry Pi writes it."""
    whole = path.with_suffix(".264")
    with av.open(str(whole), "w", format="h264") as container:
        options = {"preset": "veryfast", "bf": str(b_pictures), "profile": "main"}
        track = container.add_stream("libx264", rate=25, options=options)
        track.width, track.height, track.pix_fmt = 96, 80, "yuv420p"
        track.codec_context.gop_size, track.codec_context.thread_count = 10, 1
        for index in range(pictures):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    path.write_bytes(without_timing(whole.read_bytes()))
    return path


@pytest.mark.parametrize("b_pictures", [0, 2, 3])
def test_a_file_without_any_time_has_the_assumed_rate(b_pictures: int, tmp_path: Path) -> None:
    path = raw(tmp_path / "pi.h264", 100, b_pictures)
    seen = see(path)
    assert seen.times == pytest.approx([index / 25 for index in range(100)])
    assert seen.notices == [
        "neither its pictures nor its stream say when pictures are shown; 25 pictures/s are assumed"
    ]
    assert {picture.duration * picture.time_base for picture in seen.pictures} == {Fraction(1, 25)}


@pytest.mark.parametrize("ending", ["h264-raw", "hevc-raw", "h264-avi"])
def test_a_rate_that_is_stated_is_not_announced(ending: str, tmp_path: Path) -> None:
    seen = see(encode(tmp_path / "clip", ending, 60, fps=5))
    assert seen.times == pytest.approx([index / 5 for index in range(60)])
    assert not seen.notices


@pytest.mark.parametrize("b_pictures", [0, 2])
@pytest.mark.parametrize("ending", ["mkv", "mp4", "asf"])
def test_gaps_of_a_file_with_one_timeline_are_real(ending: str, b_pictures: int, tmp_path: Path) -> None:
    times = [100 * part + index / 30 for part in range(3) for index in range(40)]
    seen = see(film(tmp_path / f"gap.{ending}", times, b_pictures))
    assert [time - seen.times[0] for time in seen.times] == pytest.approx(times, abs=0.002)
    assert not seen.corrected


@pytest.mark.parametrize("b_pictures", [0, 2])
@pytest.mark.parametrize("jump_s", [7200, -30])
def test_a_clock_that_was_set_in_a_transport_stream(jump_s: int, b_pictures: int, tmp_path: Path) -> None:
    parts = [
        film(tmp_path / f"{at}.ts", [at + index / 30 for index in range(40)], b_pictures) for at in (60, 60 + jump_s)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    with Source(str(joined)) as source:
        pictures = list(source.pictures("gate", 1))
        assert source.corrected == {"clock jumps": 1}
    times = sorted(float(picture.pts * picture.time_base) for picture in pictures)
    assert max(after - before for before, after in pairwise(times)) <= 4 / 30
    assert times[-1] - times[0] == pytest.approx(79 / 30, abs=4 / 30)


@pytest.mark.parametrize("b_pictures", [0, 2])
def test_a_single_wrong_stamp(b_pictures: int, tmp_path: Path) -> None:
    clip, path = film(tmp_path / "clip.mkv", [index / 10 for index in range(60)], b_pictures), tmp_path / "wrong.mkv"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(source.streams.video[0])):
            if packet.size:
                packet.stream = copy
                if index in (25, 41):
                    packet.pts += 30_000
                packet.dts = index - 10
                target.mux(packet)
    seen = see(path)
    assert seen.times == pytest.approx([index / 10 for index in range(60)], abs=0.06)
    assert seen.corrected == {"wrong times": 2}
    assert len(seen.notices) == 1


def test_stamps_at_keyframes_alone(tmp_path: Path) -> None:
    """MPEG-TS may omit the times of pictures (ISO/IEC 13818-1, 2.7.4)."""
    clip, sparse = encode(tmp_path / "clip", "h264-ts", 60), tmp_path / "sparse.ts"
    data = bytearray(clip.read_bytes())
    for at in range(0, len(data), 188):
        adaptation = data[at + 4] + 1 if data[at + 3] & 0x20 else 0
        random_access = adaptation > 1 and data[at + 5] & 0x40
        pes = at + 4 + adaptation
        if data[at + 1] & 0x40 and data[pes : pes + 4] == b"\0\0\1\xe0" and not random_access:
            length = data[pes + 8]
            data[pes + 7] &= 0x3F
            data[pes + 9 : pes + 9 + length] = b"\xff" * length
    sparse.write_bytes(data)
    seen = see(sparse)
    assert seen.steps == [0.1] * 59
    assert seen.corrected == {"missing times": 54}
    assert all(np.array_equal(one, other) for one, (_, other) in zip(seen.luma, plainly_decoded(clip), strict=True))


def test_packed_b_pictures_of_an_avi(tmp_path: Path) -> None:
    """Each chunk with a P-picture also holds the B-picture before it, and an empty picture follows, as DivX 5 wrote them."""
    plain = tmp_path / "plain.avi"
    with av.open(str(plain), "w") as container:
        track = container.add_stream("mpeg4", rate=10, options={"bf": "1", "sc_threshold": "1000000000"})
        track.width, track.height, track.pix_fmt = 96, 80, "yuv420p"
        track.codec_context.gop_size = 12
        for index in range(41):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").reformat(format="yuv420p")
            frame.pts = index
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with av.open(str(plain)) as container:
        track = container.streams.video[0]
        coded = [(bytes(packet), packet.is_keyframe) for packet in container.demux(track) if packet.size]
    start = b"\0\0\1\xb6"
    kinds = [data[data.rfind(start) + 4] >> 6 for data, _ in coded]
    chunks: list[tuple[bytes, bool]] = []
    for index, (picture, keyframe) in enumerate(coded):
        data = picture.replace(start, b"\0\0\1\xb2DivX503b1393p" + start) if keyframe else picture
        if kinds[index] == 2:
            chunks[-1] = (chunks[-1][0] + data, chunks[-1][1])
            chunks.append((start + b"\x40\0\x7f", False))
        else:
            chunks.append((data, keyframe))
    packed = tmp_path / "packed.avi"
    with av.open(str(packed), "w") as container:
        track = container.add_stream("mpeg4", rate=10)
        track.width, track.height, track.pix_fmt = 96, 80, "yuv420p"
        for index, (data, keyframe) in enumerate(chunks):
            packet = av.Packet(data)
            packet.pts = packet.dts = index
            packet.time_base, packet.is_keyframe, packet.stream = Fraction(1, 10), keyframe, track
            container.mux(packet)
    assert 2 in kinds
    seen, theirs = see(packed), plainly_decoded(plain)
    assert seen.times == pytest.approx([index / 10 for index in range(len(theirs))])
    assert all(np.array_equal(one, other) for one, (_, other) in zip(seen.luma, theirs, strict=True))


@pytest.mark.parametrize("rate", [Fraction(1, 5), Fraction(1), Fraction(60), Fraction(120)])
@pytest.mark.parametrize("ending", ["mp4", "ts"])
def test_slow_and_fast_files(rate: Fraction, ending: str, tmp_path: Path) -> None:
    times = [float(index / rate) for index in range(50)]
    seen = see(film(tmp_path / f"clip.{ending}", times, 2))
    assert [time - seen.times[0] for time in seen.times] == pytest.approx(times, abs=0.0002)
    assert not seen.corrected


def test_a_rate_that_changes_by_twenty(tmp_path: Path) -> None:
    times = [index / 25 for index in range(50)] + [2 + index / 1.25 for index in range(20)]
    times += [18 + index / 25 for index in range(50)]
    seen = see(film(tmp_path / "clip.mkv", times, 2))
    assert seen.times == pytest.approx(times, abs=0.001)
    assert not seen.corrected


CLOCKS: dict[str, Callable[[CodedPicture], float]] = {
    "two hours ahead": lambda picture: 7200.0 * (picture.seq >= 25),
    "two hours back": lambda picture: -7200.0 * (picture.seq >= 25),
    "wrong stamps": lambda picture: 37_600.0 * (picture.seq % 12 == 11),
}


@pytest.mark.parametrize("codec", ["h264", "h264-plain"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_the_clock_of_an_rtsp_camera_is_set(clock: str, codec: str, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", codec, 60)
    with rtsp_camera(clip, clock=CLOCKS[clock]) as address:
        seen = see(f"rtsp://{address}/stream1")
    assert len(seen.times) >= 55
    # Ten times real time: a jump is only as long as the wall clock says, whatever the stamps.
    assert seen.times[-1] - seen.times[0] == pytest.approx((len(seen.times) - 1) / 10, abs=0.5)
    # The clock is set while a group of B-pictures is sent: the picture after them still has the old time.
    assert ("wrong times" if clock == "wrong stamps" else "clock jumps") in seen.corrected
    assert len(seen.notices) == len(seen.corrected)


def test_the_counter_of_an_rtsp_camera_wraps(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264", 60)
    with rtsp_camera(clip, clock=lambda picture: 2**32 / 90_000 - 2.5) as address:
        seen = see(f"rtsp://{address}/stream1")
    assert len(seen.times) >= 55
    assert {round(step, 3) for step in seen.steps} == {0.1}
    assert not seen.corrected


def access_units(path: Path) -> list[bytes]:
    with Source(str(path)) as source:
        return [picture.data for picture in source.pictures("gate", 1)]


@pytest.mark.parametrize("b_pictures", [0, 2])
def test_raw_video_over_tcp_has_the_time_at_which_it_arrives(b_pictures: int, tmp_path: Path) -> None:
    units, rate, seconds = access_units(raw(tmp_path / "pi.h264", 80, b_pictures)), 20, list[float]()

    class Camera(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            began = time.monotonic()
            for index, unit in enumerate(units):
                time.sleep(max(0.0, began + index / rate - time.monotonic()))
                self.wfile.write(unit)
            seconds.append(time.monotonic() - began)

    with serving(quiet_server(Camera)) as address:
        seen = see(f"tcp://{address}", reads_after_s=b_pictures / 2)
    assert len(seen.times) == 80
    assert seen.times[-1] - seen.times[0] == pytest.approx(seconds[0], abs=1.0)
    captured_s = (max(one.captured_at_ms for one in seen.pictures) - seen.pictures[0].captured_at_ms) / 1000
    assert captured_s == pytest.approx(seconds[0], abs=1.0)
    assert seen.notices == ["its pictures have no times; the time at which they arrive is used"]


def jpeg(index: int) -> bytes:
    data = io.BytesIO()
    av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").to_image().save(data, "jpeg")
    return data.getvalue()


@contextmanager
def multipart(
    rate: int,
    pictures: int,
    part: Callable[[bytes], bytes],
    sent: list[float],
    kind: str = "multipart/x-mixed-replace; boundary=frame",
) -> Iterator[str]:
    """Address of a camera that sends JPEG pictures over HTTP, `part` each, then hangs up. `sent`: when, is added to."""

    def behave(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.end_headers()
        for index in range(pictures):
            request.wfile.write(part(jpeg(index)))
            sent.append(time.monotonic())
            time.sleep(1 / rate)

    with camera(behave) as address:
        yield f"http://{address}/stream"


def usual(data: bytes) -> bytes:
    return b"\r\n--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data) + data


@pytest.mark.parametrize("rate", [2, 60])
def test_jpegs_over_http_have_the_time_at_which_they_arrive(rate: int) -> None:
    sent: list[float] = []
    with multipart(rate, 3 * rate, usual, sent) as address:
        seen = see(address)
    assert len(seen.times) >= 3 * rate - 2
    assert seen.times[-1] - seen.times[0] == pytest.approx(sent[-1] - sent[0], abs=0.5 + 2 / rate)
    assert seen.notices == ["its pictures have no times; the time at which they arrive is used"]


MULTIPARTS: dict[str, Callable[[bytes], bytes]] = {
    "length that is too large": lambda data: usual(data + b"7 bytes")[:-7],
    "boundary without dashes": lambda data: b"frame\r\nContent-Type: image/jpeg\r\n\r\n" + data + b"\r\n",
}


@pytest.mark.parametrize("kind", MULTIPARTS)
def test_jpegs_over_http_in_odd_parts(kind: str) -> None:
    with multipart(40, 50, MULTIPARTS[kind], []) as address:
        seen = see(address)
    assert len(seen.times) >= 48, "it is opened again, and sends all again"
    assert seen.notices == ["its pictures have no times; the time at which they arrive is used"]


SLOW_TO_RECOGNIZE: dict[str, Callable[[bytes], bytes]] = {
    "lines that end with LF alone, no length": lambda data: b"--frame\nContent-Type: image/jpeg\n\n" + data + b"\n",
    "no multipart": lambda data: data,
}


@pytest.mark.parametrize("kind", SLOW_TO_RECOGNIZE)
def test_jpegs_over_http_that_ffmpeg_would_wait_for_until_the_time_out(kind: str) -> None:
    stated = "image/jpeg" if kind == "no multipart" else "multipart/x-mixed-replace; boundary=frame"
    with multipart(20, 60, SLOW_TO_RECOGNIZE[kind], [], stated) as address:
        seen = see(address, timeout_s=2.0)
    assert len(seen.times) >= 57, "it is opened again, and sends all again"
    assert seen.notices == ["its pictures have no times; the time at which they arrive is used"]

"""Files from the field, each of a kind that was reported for some video program, and what is published of them.

Times, sizes and pictures are compared with how the file was made. Kinds that need a server, damage, rotation, tracks and
adjusted times have modules of their own.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from codecflow.codec.pictures import PictureDecoder, luma_checksum
from codecflow.codec.signal import DEFAULT_INTERVAL
from codecflow.codec.source import Source
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import CodedPicture, decode_packet
from codecflow.producer.epoch import EpochPublisher
from codecflow.producer.summary import Summary

from .clips import encode, luma, plainly_decoded, scene


class _Records(list[Record]):
    def send(self, record: Record) -> None:
        self.append(record)

    def flush(self) -> None:
        pass


@dataclass
class Seen:
    """The output for a file. `times`: of shown pictures, in s after the first, in order."""

    pictures: list[CodedPicture]
    times: list[float]
    start: float
    corrected: dict[str, int]
    dropped: dict[str, int]
    notices: list[str]

    @property
    def steps(self) -> list[float]:
        return [round(after - before, 6) for before, after in pairwise(self.times)]


def see(path: Path) -> Seen:
    """`path` as published by the producer."""
    packets, metadata, notices, summary = _Records(), _Records(), [], Summary("s", str(path))
    with Source(str(path), notice=notices.append) as source:
        publisher = EpochPublisher(
            "s", 1, DEFAULT_INTERVAL, (packets, metadata), KafkaSettings("none:1").topics, 1 << 30, summary
        )
        for picture in source.pictures("s", 1):
            publisher.push(picture)
        publisher.finish()
        dropped, corrected = summary.dropped + source.dropped, source.corrected
    pictures = [decode_packet(record.key, record.value, record.headers) for record in packets]
    assert all(picture.dts is None or picture.dts <= picture.pts for picture in pictures)
    times = sorted(float(picture.pts * picture.time_base) for picture in pictures if not picture.discard)
    assert all(before < after for before, after in pairwise(times))
    return Seen(pictures, [time - times[0] for time in times], times[0], dict(corrected), dict(dropped), notices)


def film(
    path: Path,
    times: Sequence[float],
    b_pictures: int = 0,
    encoder: str = "libx264",
    unit: Fraction = Fraction(1, 90_000),
    **options: str,
) -> Path:
    """A clip with a picture at each of `times`, in s."""
    pixels = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
    with av.open(str(path), "w", options=options) as container:
        more = {"preset": "veryfast", "bf": str(b_pictures)} if encoder == "libx264" else {}
        track = container.add_stream(encoder, rate=10, options=more)
        track.width, track.height, track.pix_fmt = 96, 64, pixels
        track.codec_context.time_base = unit
        track.codec_context.gop_size = 20
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 64), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = round(time / unit), unit
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


b_pictures = pytest.mark.parametrize("b_pictures", [0, 3])
TENTHS = [index / 10 for index in range(60)]


@b_pictures
@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "ts", "flv", "nut"])
def test_pictures_at_any_distance(ending: str, b_pictures: int, tmp_path: Path) -> None:
    """As phones record: a rate that varies from picture to picture."""
    noise, times = random.Random(1), [0.0]
    for _ in range(80):
        times.append(times[-1] + noise.choice([1 / 60, 1 / 30, 1 / 15, 0.12]))
    seen = see(film(tmp_path / f"clip.{ending}", times, b_pictures))
    assert seen.times == pytest.approx(times, abs=0.002)
    assert not seen.corrected
    assert not seen.notices


@b_pictures
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_times_since_1970(ending: str, b_pictures: int, tmp_path: Path) -> None:
    seen = see(film(tmp_path / f"clip.{ending}", [1.7e9 + time for time in TENTHS], b_pictures))
    assert seen.times == pytest.approx(TENTHS, abs=0.002)
    assert seen.start == pytest.approx(1.7e9)
    assert not seen.corrected


@b_pictures
@pytest.mark.parametrize("before_s", [-0.05, 0.3, 3.0])
def test_the_clock_of_a_transport_stream_wraps(before_s: float, b_pictures: int, tmp_path: Path) -> None:
    offset = (1 << 33) / 90_000 - before_s
    seen = see(film(tmp_path / "clip.ts", TENTHS, b_pictures, output_ts_offset=f"{offset:.3f}"))
    assert seen.times == pytest.approx(TENTHS, abs=0.002)
    assert not seen.corrected


@b_pictures
def test_an_edit_that_begins_with_nothing(b_pictures: int, tmp_path: Path) -> None:
    seen = see(film(tmp_path / "clip.mp4", [5 + time for time in TENTHS], b_pictures))
    assert seen.start == pytest.approx(5, abs=0.3)
    assert seen.times == pytest.approx(TENTHS, abs=0.002)
    assert not seen.corrected


@pytest.mark.parametrize(("encoder", "b_pictures"), [("mjpeg", 0), ("mpeg4", 0), ("libx264", 0), ("libx264", 2)])
def test_an_avi_that_skips_pictures(encoder: str, b_pictures: int, tmp_path: Path) -> None:
    """As written by recorders with a constant rate: an empty chunk where a picture is missing."""
    times = [*TENTHS[:20], *(time + 3 for time in TENTHS[:20]), *(time + 8 for time in TENTHS[:10])]
    seen = see(film(tmp_path / "clip.avi", times, b_pictures, encoder, Fraction(1, 10)))
    # AVI numbers pictures in decode order, so with B-pictures a gap is as many pictures later as they reorder.
    assert sorted(seen.steps) == pytest.approx(sorted(after - before for before, after in pairwise(times)), abs=0.002)
    if not b_pictures:
        assert seen.times == pytest.approx(times, abs=0.002)
    assert not seen.dropped


@pytest.mark.parametrize("ending", ["mkv", "ts", "flv"])
def test_one_time_for_all_pictures(ending: str, tmp_path: Path) -> None:
    clip, path = encode(tmp_path / "clip", "h264-plain"), tmp_path / f"still.{ending}"
    with av.open(str(clip)) as source, av.open(str(path), "w") as container:
        track = source.streams.video[0]
        copy = container.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.size:
                packet.stream, packet.pts, packet.dts = copy, 0, 0
                container.mux(packet)
    seen = see(path)
    assert len(seen.times) == 30
    assert seen.times[-1] == pytest.approx(2.9, abs=0.1)
    assert seen.corrected == {"missing times": 29}
    assert len(seen.notices) == 1
    assert "pace of those before" in seen.notices[0]


def test_a_rate_that_is_only_the_unit_of_the_times_is_none(tmp_path: Path) -> None:
    path = tmp_path / "clip.mkv"
    with av.open(str(encode(tmp_path / "clip", "h264-plain"))) as source, av.open(str(path), "w") as container:
        track = source.streams.video[0]
        encoder = container.add_stream("mjpeg", rate=1000)
        encoder.width, encoder.height, encoder.pix_fmt = track.width, track.height, "yuvj420p"
        for frame in source.decode(track):
            for packet in encoder.encode(frame.reformat(format="yuvj420p")):
                packet.pts = packet.dts = 0
                container.mux(packet)
    seen = see(path)
    assert seen.times[-1] == pytest.approx(29 / 25, abs=0.05)


@pytest.mark.parametrize("ending", ["h264-ts", "h264-raw", "hevc-raw"])
def test_recordings_of_two_sizes_that_were_joined(ending: str, tmp_path: Path) -> None:
    small, large = encode(tmp_path / "a", ending, size=(96, 64)), encode(tmp_path / "b", ending, size=(160, 96))
    joined = tmp_path / f"joined{small.suffix}"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    seen = see(joined)
    assert [(picture.width, picture.height) for picture in seen.pictures] == 30 * [(96, 64)] + 30 * [(160, 96)]
    assert seen.steps == pytest.approx(59 * [0.1], abs=0.001)
    assert seen.corrected == ({"clock jumps": 1} if ending == "h264-ts" else {})


def test_jpegs_of_two_sizes(tmp_path: Path) -> None:
    path = tmp_path / "clip.mjpeg"
    with path.open("wb") as file:
        for index in range(40):
            size = (96, 64) if index % 2 else (160, 96)
            encoder = av.CodecContext.create("mjpeg", "w")
            encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = *size, "yuvj420p", Fraction(1, 25)
            frame = av.VideoFrame.from_ndarray(scene(index, *size), format="rgb24").reformat(format="yuvj420p")
            for packet in encoder.encode(frame):
                file.write(bytes(packet))
    seen = see(path)
    assert {(picture.width, picture.height) for picture in seen.pictures} == {(96, 64), (160, 96)}
    assert len(seen.pictures) == 40
    assert seen.steps == pytest.approx(39 * [0.04])
    assert "25 pictures/s are assumed" in seen.notices[0]


@pytest.mark.parametrize("size", [(98, 82), (102, 50), (66, 34)])
@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "mpeg4"])
def test_sizes_that_are_no_multiple_of_a_block(codec: str, size: tuple[int, int], tmp_path: Path) -> None:
    seen = see(encode(tmp_path / "clip", codec, pictures=12, size=size))
    assert {(picture.width, picture.height) for picture in seen.pictures} == {size}


@pytest.mark.parametrize("codec", ["h264", "h264-ts", "h264-avi", "h264-raw", "hevc", "vp9", "mpeg4", "mjpeg"])
def test_a_file_of_one_picture(codec: str, tmp_path: Path) -> None:
    seen = see(encode(tmp_path / "clip", codec, pictures=1))
    assert len(seen.pictures) == 1
    assert not seen.dropped


@pytest.mark.parametrize("codec", ["h264-open", "h264-ts", "h264-avi", "h264-raw", "hevc-open", "mjpeg", "mpeg4-avi"])
@pytest.mark.parametrize("part", [0.6, 0.8, 0.95])
def test_a_recording_that_was_cut_off(codec: str, part: float, tmp_path: Path) -> None:
    """Pictures of the whole recording are published, sample for sample, without a gap before its end."""
    clip = encode(tmp_path / "clip", codec, pictures=60, size=(160, 96))
    whole = [luma_checksum(samples) for _, samples in plainly_decoded(clip)]
    cut = tmp_path / f"cut{clip.suffix}"
    cut.write_bytes(clip.read_bytes()[: int(part * clip.stat().st_size)])
    seen = see(cut)
    decoder = PictureDecoder()
    frames = [one for picture in seen.pictures for one in decoder.push(picture)] + decoder.flush()
    shown = [luma_checksum(luma(one.frame)) for one in frames if one.shown]
    assert len(shown) > 5
    assert set(shown) <= set(whole)
    assert sum(seen.dropped.values()) <= 10, "the rest of a group at most"

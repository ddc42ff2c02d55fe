"""Presentation order, read from headers, agrees with the order of times."""

from __future__ import annotations

import random
from fractions import Fraction
from pathlib import Path

import av
import pytest

from codecflow.codec.annexb import AnnexB
from codecflow.codec.clock import Rules
from codecflow.codec.order import Key, shown_order
from codecflow.codec.presentation import Timeline

from .clips import CODECS, ONE_THREAD, encode, scene

FAR = 60 * 90_000


def read(path: Path) -> tuple[list[Key | None], list[int], int | None]:
    """Keys and times of a file's pictures in decode order, and its stated reordering."""
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        context = track.codec_context
        codec = context.codec.canonical_name
        annex_b = AnnexB(codec, context.extradata) if codec in ("h264", "hevc") else None
        order = shown_order(codec, context.reorder_depth, FAR)
        keys, times = [], []
        for packet in container.demux(track):
            if packet.size:
                data = annex_b.convert(bytes(packet), packet.is_keyframe)[0] if annex_b else bytes(packet)
                keys.append(order.key(data, packet.pts))
                times.append(packet.pts)
        return keys, times, order.depth


def check(path: Path, *, reorders: bool) -> None:
    keys, times, depth = read(path)
    assert None not in keys
    assert len(set(keys)) == len(keys)
    by_key = sorted(range(len(keys)), key=lambda index: keys[index])
    assert [times[index] for index in by_key] == sorted(times)
    assert (by_key != list(range(len(keys)))) == reorders
    before = max(sum(other > key for other in keys[:index]) for index, key in enumerate(keys))
    assert depth is not None
    assert depth >= before


REORDERS = ("h264", "h264-open", "h264-ts", "hevc", "hevc-open", "hevc-10-bit", "mpeg4")
HRD = "hrd=1:vbv-maxrate=500:vbv-bufsize=500"


@pytest.mark.parametrize("codec", [*REORDERS, "h264-plain"])
def test_codecs_that_reorder(codec: str, tmp_path: Path) -> None:
    check(encode(tmp_path / "clip", codec, 60), reorders=codec != "h264-plain")


@pytest.mark.parametrize("codec", sorted(set(CODECS) & {"vp9", "av1", "msmpeg4", "mjpeg"}))
def test_codecs_that_do_not(codec: str, tmp_path: Path) -> None:
    keys, _, depth = read(encode(tmp_path / "clip", codec, 30))
    assert keys == sorted(key for key in keys if key is not None)
    assert depth == 0


@pytest.mark.parametrize(
    ("encoder", "ending", "pixels", "options"),
    [
        ("mpeg2video", "ts", "yuv420p", {"bf": "2"}),
        ("mpeg1video", "mkv", "yuv420p", {"bf": "1"}),
        ("libx264", "mkv", "yuv420p", {"x264-params": "interlaced=1:bframes=3"}),
        ("libx264", "mkv", "yuv444p", {"x264-params": "bframes=3:b-pyramid=normal:cqm=jvt"}),
        ("libx264", "mkv", "yuv420p", {"x264-params": "bframes=2:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500"}),
        (
            "libx265",
            "mkv",
            "yuv420p",
            {"x265-params": f"log-level=none:{ONE_THREAD}:bframes=4:temporal-layers=1:{HRD}"},
        ),
    ],
)
def test_other_headers(encoder: str, ending: str, pixels: str, options: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / f"clip.{ending}"
    with av.open(str(path), "w") as container:
        track = container.add_stream(encoder, rate=25, options=options)
        track.width, track.height, track.pix_fmt = 96, 80, pixels
        track.codec_context.gop_size, track.codec_context.thread_count = 20, 1
        for index in range(60):
            frame = av.VideoFrame.from_ndarray(scene(index, 96, 80), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, Fraction(1, 25)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    check(path, reorders=True)


def test_codecs_whose_headers_are_not_read_are_ordered_by_their_times() -> None:
    order = shown_order("vc1", 1, FAR)
    times = [0, 3, 1, 2, 6, 4, 5, FAR * 2, FAR * 2 - 1]
    keys = [order.key(b"", time) for time in times]
    assert [times[index] for index in sorted(range(len(times)), key=lambda index: keys[index])] == sorted(times)


@pytest.mark.parametrize("codec", ["h264", "hevc", "mpeg4", "mpeg2video"])
def test_what_cannot_be_read_has_no_place(codec: str) -> None:
    order = shown_order(codec, 2, FAR)
    for data in (b"", b"\0\0\1", b"\0\0\1\x65", b"\0\0\1\x41\x9a\x02", b"\0\0\1\x02\x01\xd0", b"\0\0\1\x67" + bytes(3)):
        assert order.key(data, 0) is None


@pytest.mark.parametrize("codec", [*REORDERS, "h264-plain"])
@pytest.mark.parametrize("live", [False, True])
def test_lost_pictures_leave_the_times_of_others_as_they_are(codec: str, live: bool, tmp_path: Path) -> None:
    """Pictures after a loss, up to the next keyframe, cannot be decoded and are left out."""
    path = encode(tmp_path / "clip", codec, 80)
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        context = track.codec_context
        extradata, depth, name = context.extradata, context.reorder_depth, context.codec.canonical_name
        packets = [(bytes(p), p.is_keyframe, p.pts, p.dts) for p in container.demux(track) if p.size]
        unit, frame = Fraction(track.time_base or 1), round(1 / (10 * (track.time_base or 1)))
    for seed in range(20):
        noise = random.Random(seed)
        rate = noise.choice([0.02, 0.1, 0.4])
        annex_b = AnnexB(name, extradata) if name in ("h264", "hevc") else None
        order = shown_order(name, depth, FAR)
        timeline: Timeline[int] = Timeline(Rules(unit, frame, live=live, paced=live), depth)
        kept, timed, decodable = [], [], True
        for index, (data, keyframe, pts, dts) in enumerate(packets):
            if index and noise.random() < rate:
                order.lost()
                decodable = False
                continue
            decodable = decodable or keyframe
            if not decodable:
                continue
            kept.append(pts)
            plain = annex_b.convert(data, keyframe)[0] if annex_b else data
            at_s = index / 10
            timed += timeline.push(index, order.key(plain, pts), order.depth, pts, dts, arrived_s=at_s, waited_s=at_s)
        timed += timeline.flush()
        assert [one.pts for one in timed] == kept
        assert not timeline.corrected

"""Clips that tests encode themselves, and the plain way to decode them, as a reference for ours."""

from __future__ import annotations

import os
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from codecflow.codec.pictures import luma

Luma = npt.NDArray[np.uint8]

ONE_THREAD = "pools=none:frame-threads=1"
"""x265's: with its pool it hung once in eleven runs of all tests."""

# By name: (encoder, file ending, pixel format, encoder options). Keyframes every 10 pictures.
CODECS = {
    "h264": ("libx264", "mp4", "yuv420p", {"bf": "2", "x264-params": "scenecut=0:b-pyramid=normal"}),
    "h264-plain": ("libx264", "mp4", "yuv420p", {"bf": "0", "x264-params": "scenecut=0"}),
    "h264-open": ("libx264", "mkv", "yuv420p", {"x264-params": "open-gop=1:bframes=3:scenecut=0:keyint=10"}),
    "h264-ts": ("libx264", "ts", "yuv420p", {"bf": "2"}),
    "h264-avi": ("libx264", "avi", "yuv420p", {"bf": "2"}),
    "h264-raw": ("libx264", "h264", "yuv420p", {"bf": "2"}),
    "hevc": (
        "libx265",
        "mp4",
        "yuv420p",
        {"x265-params": "log-level=none:keyint=10:min-keyint=10:bframes=3:open-gop=0"},
    ),
    "hevc-open": (
        "libx265",
        "mkv",
        "yuv420p",
        {"x265-params": "log-level=none:keyint=10:min-keyint=10:bframes=3:open-gop=1"},
    ),
    "hevc-raw": ("libx265", "hevc", "yuv420p", {"x265-params": "log-level=none:keyint=10:min-keyint=10:bframes=3"}),
    "hevc-10-bit": ("libx265", "mp4", "yuv420p10le", {"x265-params": "log-level=none:keyint=10:bframes=2"}),
    "mpeg4": ("mpeg4", "mp4", "yuv420p", {"bf": "2"}),
    "mpeg4-avi": ("mpeg4", "avi", "yuv420p", {}),
    "msmpeg4": ("msmpeg4v2", "avi", "yuv420p", {}),
    "vp9": (
        "libvpx-vp9",
        "webm",
        "yuv420p",
        {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "5", "auto-alt-ref": "1"},
    ),
    "av1": ("libsvtav1", "mp4", "yuv420p", {"preset": "12", "svtav1-params": "keyint=10"}),
    "mpeg2": ("mpeg2video", "ts", "yuv420p", {"bf": "2"}),
    "mjpeg": ("mjpeg", "avi", "yuvj420p", {}),
}


def scene(index: int, width: int, height: int, seed: int = 0) -> Luma:
    """(height, width, 3) uint8: a still texture with a moving square, and some noise that is new in each picture."""
    still = np.random.default_rng(seed).integers(60, 180, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    picture = still.repeat(8, 0).repeat(8, 1)[:height, :width].copy()
    x, y = (5 * index) % max(1, width - 24), (3 * index) % max(1, height - 24)
    picture[y : y + 24, x : x + 24] = (230, 40, 40)
    noise = np.random.default_rng(1000 * seed + index).integers(0, 6, (height // 2, width, 1), dtype=np.uint8)
    picture[: height // 2] += noise
    return picture


def encode(
    path: Path,
    codec: str = "h264",
    pictures: int = 30,
    size: tuple[int, int] = (96, 80),
    fps: int | Fraction = 10,
    seed: int = 0,
    loud: int | None = None,
) -> Path:
    """A clip of `pictures` pictures of `scene`; returns its path. Picture `loud` is pure noise."""
    encoder, ending, pixels, options = CODECS[codec]
    path = path.with_suffix(f".{ending}")
    if encoder == "libx265":
        # With fewer pictures than it could reorder, decode times are what its memory held before.
        short = ":bframes=0" if pictures < 3 else ""
        options = {"x265-params": options["x265-params"] + f":{ONE_THREAD}" + short}
    with av.open(str(path), "w") as container:
        track = container.add_stream(encoder, rate=fps, options=options)
        track.width, track.height, track.pix_fmt = *size, pixels
        track.codec_context.gop_size = 10
        track.codec_context.thread_count = 1
        for index in range(pictures):
            picture = scene(index, *size, seed)
            if index == loud:
                picture = np.random.default_rng(seed).integers(0, 256, picture.shape, dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = index, 1 / Fraction(fps)
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
    if encoder == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # As root, SVT-AV1 leaves the calling thread at real-time priority 99: nothing else on the machine would run.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def plainly_decoded(path: Path, frames: int | None = None) -> list[tuple[int | None, Luma]]:
    """(pts, luma) of the first `frames` frames of a file, or all, as shown by FFmpeg alone."""
    with av.open(str(path)) as container:
        track = container.streams.video[0]
        track.codec_context.thread_count = 1
        return [(frame.pts, luma(frame).copy()) for frame in islice(container.decode(track), frames)]

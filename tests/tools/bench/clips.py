"""Clips for the benchmarks: the bundled one, and small ones encoded on demand."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.codec.clips import ONE_THREAD

CLIP = Path(__file__).parents[2] / "data" / "intel_one-by-one-person-detection.mp4"


def encode(path: Path, codec: str, width: int, height: int, pictures: int, rate: int = 10) -> Path:
    """A clip with noise, in which a square moves over a still background."""
    rng = np.random.default_rng(1)
    background = rng.integers(60, 120, (height, width, 3)).astype(np.uint8)
    with av.open(str(path), "w") as container:
        options = {"x265-params": f"log-level=none:{ONE_THREAD}"} if codec == "libx265" else {}
        track = container.add_stream(codec, rate=rate, options=options)
        track.width, track.height = width, height
        track.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        track.time_base = Fraction(1, rate)
        for index in range(pictures):
            pixels = background.copy()
            x = index * 4 % (width - 20)
            pixels[height // 2 : height // 2 + 20, x : x + 20] = 240
            container.mux(track.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(track.encode(None))
    return path

"""A small clip for the cameras of a chaos run."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np


def moving_square(path: Path, seconds: int = 20, fps: int = 10) -> Path:
    """A square that alternately moves and rests for two seconds each, on a fixed texture; H.264, 96x80."""
    width, height = 96, 80
    texture = np.random.default_rng(7).integers(60, 120, (height, width, 1), np.uint8).repeat(3, axis=2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"bf": "2", "g": str(fps), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        at = 0
        for number in range(seconds * fps):
            at += (number // (2 * fps)) % 2 == 0
            picture = texture.copy()
            x, y = at * 2 % (width - 16), at % (height - 16)
            picture[y : y + 16, x : x + 16] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path

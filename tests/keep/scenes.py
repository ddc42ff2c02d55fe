"""Small scenes, drawn, encoded and read back as by a worker, with the masks of the default policy."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepState
from codecflow.tools.bench.sampling import sampled_frames

Picture = npt.NDArray[np.uint8]
Draw = Callable[[int], npt.NDArray[np.float64]]

WIDTH, HEIGHT, SIDE = 448, 256, 8
"""Tokens are 56x32 samples, cells 16x8."""


def street(seed: int = 0) -> npt.NDArray[np.float64]:
    """A still scene: surfaces of several greys with edges between them."""
    rng = np.random.default_rng(seed)
    greys = rng.integers(50, 200, (HEIGHT // 32, WIDTH // 32)).astype(np.float64)
    return greys.repeat(32, 0).repeat(32, 1)


def masks(
    path: Path, frames: int, draw: Draw, *, options: dict[str, str] | None = None, keyframes: int = 8
) -> list[npt.NDArray[np.bool_]]:
    """The kept tokens of each of `frames` pictures, 2 per second: (SIDE, SIDE) bool. `draw`: the picture's grey levels."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2, options=options or {"crf": "14", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = WIDTH, HEIGHT, "yuv420p", keyframes
        stream.codec_context.max_b_frames = 0
        for index in range(frames):
            luma = np.clip(np.rint(draw(index)), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(
                np.concatenate([luma, np.full((HEIGHT // 2, WIDTH), 128, np.uint8)]), format="yuv420p"
            )
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    state = KeepState(TokenGrid.regular(SIDE, SIDE, WIDTH, HEIGHT), KeepConfig(period_s=Fraction(10_000)))
    return [frame.decide(state).keep.reshape(SIDE, SIDE) for frame in sampled_frames(path, Fraction(2))]


def tokens_under(x: int, y: int, width: int, height: int, least: float = 0.5) -> npt.NDArray[np.bool_]:
    """(SIDE, SIDE) bool: tokens of which a rectangle covers at least a share."""
    inside = np.zeros((HEIGHT, WIDTH))
    inside[max(0, y) : y + height, max(0, x) : x + width] = 1
    return np.asarray(inside.reshape(SIDE, HEIGHT // SIDE, SIDE, WIDTH // SIDE).mean((1, 3)) >= least)

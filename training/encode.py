"""A worker process's part of making a bank: real H.264, and from it what the product's worker would see and keep."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from maker import BACKGROUND_S, FPS, RENDER, SIDE, TOKENS
from torch.nn.functional import interpolate

from codecflow.codec.conditions import NoiseMeter, exposure_of
from codecflow.codec.pictures import luma
from codecflow.codec.signal import REFERENCE_S
from codecflow.codec.tiles import grid_shape, tile_sums
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.keep.keep_state import KeepState
from codecflow.messages import NO_BOUND, UNCHANGED, Signal

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "medium")
PRESET_SHARES = (0.5, 0.22, 0.22, 0.04, 0.02)
"""Mostly the quick ones, as cameras have: a core encodes, decodes and looks at 140 frames a second."""
KEYINTS = (2, 4, 8, 16, 50, 250)
PERIODS_S = (4, 8, 8, 8, 20, 40, BACKGROUND_S, BACKGROUND_S, BACKGROUND_S)

Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Coding:
    """How a clip is encoded, and how its masks are taken: an anchor every `period_s` seconds, the first frame in slot
    `phase`. `rate`: bits a second; 0: constant quality `crf`."""

    preset: str
    crf: int
    rate: int
    keyint: int
    bframes: int
    period_s: int
    phase: int

    @staticmethod
    def random(rng: np.random.Generator, frames: int) -> Coding:
        period_s = int(rng.choice(PERIODS_S))
        return Coding(
            preset=str(rng.choice(PRESETS, p=PRESET_SHARES)),
            crf=int(rng.integers(16, 42)),
            rate=int(30_000 * 16 ** rng.random()) if frames > 4 and rng.random() < 0.3 else 0,
            keyint=int(rng.choice(KEYINTS)),
            bframes=int(rng.integers(4)),
            period_s=period_s,
            phase=int(rng.integers(period_s * FPS)),
        )


@dataclass(frozen=True)
class Clip:
    """`at`: of its first picture, in the input; `start`: of its first frame, in the bank. `video`: a file for its bits."""

    at: int
    start: int
    frames: int
    coding: Coding
    video: Path | None = None


@dataclass(frozen=True)
class Job:
    """Clips whose pictures lie in the file `source`, (any, RENDER * 3 // 2, RENDER) uint8, for the bank in `folder`."""

    folder: Path
    source: Path
    clips: tuple[Clip, ...]


_banks: dict[Path, tuple[Any, Any]] = {}


def set_up() -> None:
    torch.set_num_threads(1)


def work(job: Job) -> int:
    """Puts frames and masks of the job's clips into the bank. Returns how many frames."""
    if job.folder not in _banks:
        _banks[job.folder] = tuple(np.load(job.folder / f"{name}.npy", mmap_mode="r+") for name in ("frames", "keep"))
    frames, keep = _banks[job.folder]
    source = np.memmap(job.source, np.uint8, "r").reshape(-1, RENDER * 3 // 2, RENDER)
    for clip in job.clips:
        video = encode(source[clip.at : clip.at + clip.frames], clip.coding)
        if clip.video:
            clip.video.write_bytes(video)
        count = 0
        for count, (picture, mask) in enumerate(watch(video, clip.coding), 1):
            frames[clip.start + count - 1], keep[clip.start + count - 1] = picture, mask
        if count != clip.frames:
            raise RuntimeError(f"{clip}: {count} frames decoded")
    return sum(clip.frames for clip in job.clips)


def encode(planes: Bytes, coding: Coding) -> bytes:
    """(t, RENDER * 3 // 2, RENDER) uint8 yuv420p pictures, FPS a second -> an MP4 file."""
    options = {
        "preset": coding.preset,
        "g": str(coding.keyint),
        "bf": str(min(coding.bframes, len(planes) - 1)),
        "threads": "1",
        **({} if coding.rate else {"crf": str(coding.crf)}),
    }
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width = stream.height = RENDER
        stream.pix_fmt = "yuv420p"
        if coding.rate:
            stream.bit_rate = coding.rate
        for i, pixels in enumerate(planes):
            picture = av.VideoFrame.from_ndarray(pixels, format="yuv420p")
            picture.pts, picture.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return file.getvalue()


def watch(video: bytes, coding: Coding) -> Iterator[tuple[Bytes, npt.NDArray[np.bool_]]]:
    """What the product's worker makes of each picture: ((3, SIDE, SIDE) uint8 RGB, (TOKENS^2,) bool what it keeps)."""
    keeping = Keeping(RENDER, RENDER, coding.period_s)
    with av.open(io.BytesIO(video), "r") as container:
        container.streams.video[0].thread_count = 1
        for slot, picture in enumerate(container.decode(video=0), coding.phase):
            yield squeeze(picture.to_ndarray(format="rgb24")), keeping.of(slot, picture)


class Keeping:
    """The masks of a stream of `width` x `height` pictures, sampled FPS a second, a whole frame every `period_s` seconds.

    What the product's producer measures of a picture counts, noise and exposure, but not its bounds: those decide which
    pictures need not be decoded, not what is kept.
    """

    def __init__(self, width: int, height: int, period_s: int) -> None:
        grid = TokenGrid.regular(TOKENS, TOKENS, width, height)
        self._state = KeepState(grid, KeepConfig(fps=Fraction(FPS), period_s=Fraction(period_s)))
        self._noise = NoiseMeter(1 / FPS)
        self._unbounded = np.full(grid_shape(height, width), NO_BOUND, np.uint8)
        self._reference: tuple[int, Any] | None = None
        self._period = -1
        self._exposure = UNCHANGED
        self._first: int | None = None
        self._previous: int | None = None

    def of(self, slot: int, picture: av.VideoFrame) -> npt.NDArray[np.bool_]:
        """(TOKENS^2,) bool, of the picture in `slot`."""
        pixels = luma(picture)
        tiles = tile_sums(pixels)
        if self._reference is not None:
            self._exposure = exposure_of(tiles, self._reference[1], self._exposure)
        self._first = slot if self._first is None else self._first
        tick = slot - self._first
        # As codec/signal.py chooses its reference pictures.
        period = tick // (REFERENCE_S * FPS) - (0 if picture.key_frame or self._reference is None else 1)
        renew = self._reference is None or period > self._period
        signal = Signal(
            tick=tick,
            interval=Fraction(1, FPS),
            change=self._unbounded,
            motion=None,
            intra=None,
            since=None if self._reference is None else self._reference[0],
            previous=self._previous,
            reference=renew,
            exposure=self._exposure,
            noise=self._noise.add(tiles),
        )
        self._previous = tick
        if renew:
            self._reference, self._period, self._exposure = (tick, tiles), period, UNCHANGED
        self._state.observe(signal)
        return self._state.step(slot, lambda: pixels, keyframe=bool(picture.key_frame)).keep


def squeeze(rgb: npt.NDArray[Any]) -> Bytes:
    """(height, width, 3) uint8 -> (3, SIDE, SIDE): the resize of the product's InternVL family (vlm/preprocessing.py)."""
    picture = torch.from_numpy(rgb).permute(2, 0, 1)[None].contiguous()
    return interpolate(picture, (SIDE, SIDE), mode="bicubic", antialias=True)[0].numpy()

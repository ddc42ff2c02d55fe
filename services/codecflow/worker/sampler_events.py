"""A sampler's input (settings, then events in order), and what it returns besides steps: faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt

from codecflow.codec.lazy import MAX_BYTES
from codecflow.codec.pictures import MAX_PIXELS
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.messages import ResultError, Zone

from .join import EpochEnd, Joined
from .resume import Offsets
from .window_plan import WindowPlan


@dataclass(frozen=True, slots=True)
class Sampling:
    """Settings shared by all streams of a worker and sent to sampler processes: windows, keep policy, the model's token grid
    for a shown picture (width, height), the patches that a mask needs, from a picture's RGB (height, width, 3) and the mask
    (`ModelInput.patches`), whether to decode on the GPU (`nvdec`), the largest picture that is decoded, and the
    coded bytes of one stream that may wait for a decision (`gop_bytes`)."""

    plan: WindowPlan
    keep: KeepConfig
    grid_of: Callable[[int, int], TokenGrid]
    patches_of: Callable[[npt.NDArray[np.uint8], npt.NDArray[np.bool_]], npt.NDArray[np.uint8]]
    nvdec: bool = False
    max_pixels: int = MAX_PIXELS
    gop_bytes: int = MAX_BYTES


@dataclass(frozen=True, slots=True)
class Leave:
    """No records have come for long: the stream is suspended, and continues at `offsets` when records return."""

    offsets: Offsets


@dataclass(frozen=True, slots=True)
class Skipped:
    """The worker is behind: pictures were skipped up to the keyframe at `offsets`, which is next (None: up to the epoch's
    end)."""

    offsets: Offsets | None


@dataclass(frozen=True, slots=True)
class Thin:
    """From now on (until `on` is False) only every second frame and window."""

    on: bool


@dataclass(frozen=True, slots=True)
class Restart:
    """The engine has lost this stream's window: the next sampled frame is kept whole."""


@dataclass(frozen=True, slots=True)
class SetZones:
    """The stream's zones, from the next window boundary on."""

    zones: tuple[Zone, ...]


Event = Joined | EpochEnd | Leave | Skipped | Thin | Restart | SetZones


@dataclass(frozen=True, slots=True)
class Fault:
    """A picture whose handling failed: the coordinates of its packet, and the reason."""

    packets_offset: int
    reason: str


@dataclass(frozen=True, slots=True)
class Recovery:
    """A sampler replaces one that ended with its process, and starts at the next keyframe.

    `thin`: as in the newest Thin. With `error`, one of the stream's pictures was the cause: everything up to `aside_s`
    seconds of presentation time after the picture `seq` is left out.
    """

    thin: bool = False
    seq: int = 0
    aside_s: Fraction = Fraction(0)
    error: ResultError | None = None

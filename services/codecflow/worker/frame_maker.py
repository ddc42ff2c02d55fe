"""Makes frames: which tokens of a sampled picture are kept, and their patches of the model's input.

Where the keep policy can decide from the codec's signals alone, no pixels are needed. A picture is decoded when luma must be
compared, and converted to RGB and resized when one of its tokens is kept. No other patches leave the sampler.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from codecflow.codec.samples import PictureLostError, Sample
from codecflow.errors import ModelError
from codecflow.keep.keep_state import KeepState
from codecflow.keep.zones import ZoneView, view_of
from codecflow.messages import BLOCK, ResultError, Zone
from codecflow.orientation import shown_size
from codecflow.vlm.work import Frame

from .sampler_events import Sampling


class FrameMaker:
    """Makes the frames of one epoch. `zones`: those in force."""

    def __init__(self, sampling: Sampling, zones: tuple[Zone, ...] = ()) -> None:
        self.zones = zones
        self._counts: Counter[str] = Counter()
        self._seconds = {"decode": 0.0, "keep": 0.0}
        self._sampling = sampling
        self._keep: KeepState | None = None
        self._shape: tuple[tuple[int, int], int] | None = None  # coded size and orientation of the current state
        self._view: ZoneView | None = None  # the part of such a picture that zones leave visible

    @property
    def ready(self) -> bool:
        """Whether a frame can be made of the picture observed last."""
        return self._keep is not None

    def restart(self) -> None:
        """The next frame is kept whole."""
        self._keep = None

    def change_zones(self, zones: tuple[Zone, ...]) -> None:
        self.zones, self._keep, self._view = zones, None, None

    def observe(self, sample: Sample) -> ResultError | None:
        """Update the keep state with the codec signal of a sampled picture, wanted or not; a change of size starts a new
        state.

        Returns why no frame can be made of it, or None.
        """
        coded, picture = sample.picture.coded_size, sample.picture.picture
        if self._keep is None or self._shape != (coded, picture.orientation):
            if self._shape != (coded, picture.orientation):
                self._keep, self._view, self._shape = None, None, (coded, picture.orientation)
            if min(coded) < BLOCK:
                text = f"pictures of {coded[0]}x{coded[1]} are too small: at least {BLOCK}x{BLOCK} is needed"
                return ResultError("picture-size", text)
            try:
                grid = self._sampling.grid_of(*shown_size(*coded, picture.orientation))
            except ModelError as error:
                return ResultError("picture-size", str(error))
            self._view = view = self._view or view_of(self.zones, grid)
            if view.hidden.all():
                return ResultError(
                    "zones", "its zones hide the whole picture: make an `only` zone larger, or remove one"
                )
            self._keep = KeepState(grid.oriented(picture.orientation), self._sampling.keep, view.hidden)
        blocks = tuple(-(-length // BLOCK) for length in coded)
        for signal in sample.signals:
            if (signal.columns, signal.rows) == blocks:
                self._keep.observe(signal)
        return None

    def make(self, sample: Sample, time_s: float) -> Frame | None:
        """The frame of the picture observed last, at `time_s` of presentation time. None if it cannot be decoded. Only if
        `ready`."""
        keep, view = self._keep, self._view
        assert keep is not None

        def differs() -> None:
            self._counts["samples-differ"] += 1
            keep.invalidate()

        def luma() -> npt.NDArray[np.uint8]:
            with self._timed("decode"):
                return sample.luma(differs)

        before = self._seconds["decode"]
        try:
            with self._timed("keep"):
                decision = keep.step(sample.slot, luma, keyframe=sample.picture.alone)
        except PictureLostError:
            return None
        finally:
            self._seconds["keep"] -= self._seconds["decode"] - before
        kept, shown = int(decision.keep.sum()), sample.picture.decode() if decision.keep.any() else None
        with self._timed("keep"):
            rgb = None if shown is None else shown.rgb()
            if rgb is not None and view is not None:
                rgb = view.blanked(rgb)
            patches = None if rgb is None else self._sampling.patches_of(rgb, decision.keep)
        self._counts.update({"frames": 1, "tokens-kept": kept, "tokens-total": decision.keep.size})
        picture = sample.picture.picture
        size = shown_size(*sample.picture.coded_size, picture.orientation)
        grid = (keep.grid.rows, keep.grid.columns)
        return Frame(sample.slot, time_s, decision.keep, patches, size, decision.anchor, picture.seq, grid)

    def take_counts(self) -> Counter[str]:
        """Since the last call: frames, tokens-kept, tokens-total, and samples-differ (frames whose samples are not those
        that the producer saw)."""
        taken, self._counts = self._counts, Counter()
        return taken

    def take_seconds(self) -> dict[str, float]:
        """Seconds spent on "decode" and "keep" since the last call."""
        taken, self._seconds = self._seconds, dict.fromkeys(self._seconds, 0.0)
        return taken

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[stage] += time.perf_counter() - start

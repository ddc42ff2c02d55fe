"""What changes in a picture although nothing happens in the scene: the camera's exposure, and noise.

Both are measured by the producer and published with the signal, so that whoever reads the stream takes the same decisions.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from codecflow.messages import MAX_NOISE, UNCHANGED, Exposure

from .tiles import PER_BLOCK, TILE, Sums

_EXPLAINED = 2.0
"""Grey levels: an exposure explains a block whose mean it predicts to within this."""

_LEAST_SHARE, _LEAST_GAIN = 0.5, 0.1
"""Share of the blocks that an exposure must explain, and by how much more than no change at all does."""

_STAYING = 0.3
"""The same, once there is one: to and fro would renew everything each time."""

_DARKEST, _BRIGHTEST = 6, 249
"""Means between which a block tells of the exposure: beyond, samples are cut off."""

_FEWEST = 16
"""Blocks, below which nothing is said."""

_STEPS = 6

_NOISE_S = 8
"""Seconds over which noise is measured."""


def exposure_of(now: Sums, then: Sums, before: Exposure = UNCHANGED) -> Exposure:
    """The gain and offset that turn picture `then` into `now`, where most of the blocks have changed by just that; otherwise
    UNCHANGED. Both are sums over the tiles of pictures of one size; `before`: what was found of the signal picture before,
    to the same `then`.

    Least squares over means of blocks, again and again over those that it explained best, so that things that came or went
    do not count.
    """
    y, x = _block_means(now), _block_means(then)
    clear = (x > _DARKEST) & (x < _BRIGHTEST) & (y > _DARKEST) & (y < _BRIGHTEST)
    x, y = x[clear], y[clear]
    if len(x) < _FEWEST:
        return UNCHANGED
    gain, offset = 1.0, float(np.median(y - x))
    for _ in range(_STEPS):
        off = np.abs(y - gain * x - offset)
        best = off <= max(1.0, 2 * float(np.median(off)))
        mean_x, mean_y = float(x[best].mean()), float(y[best].mean())
        spread = float(((x[best] - mean_x) ** 2).mean())
        if spread > _EXPLAINED**2:
            gain = float(((x[best] - mean_x) * (y[best] - mean_y)).mean()) / spread
        gain = min(max(gain, Exposure.MIN_GAIN / Exposure.GAIN_UNIT), Exposure.MAX_GAIN / Exposure.GAIN_UNIT)
        offset = mean_y - gain * mean_x
    if abs(offset) * Exposure.OFFSET_UNIT > Exposure.MAX_OFFSET:
        return UNCHANGED
    found = Exposure(round(gain * Exposure.GAIN_UNIT), round(offset * Exposure.OFFSET_UNIT))
    share = float(np.mean(np.abs(y - found.of(x)) <= _EXPLAINED))
    alone = float(np.mean(np.abs(y - x) <= _EXPLAINED))
    least = _LEAST_SHARE if before == UNCHANGED else _STAYING
    return found if share >= max(least, alone + _LEAST_GAIN) else UNCHANGED


def _block_means(tiles: Sums) -> npt.NDArray[np.float64]:
    """Of whole blocks, all in a row. Those that a picture's edge cuts look dark, and alike in both."""
    rows, columns = tiles.shape
    sums = tiles.reshape(rows // PER_BLOCK, PER_BLOCK, columns // PER_BLOCK, PER_BLOCK).sum((1, 3))
    return np.asarray(sums / (PER_BLOCK * TILE) ** 2, np.float64).ravel()


class NoiseMeter:
    """The noise of one stream: by how much means of 8x8 samples differ from one signal picture to the next, one standard
    deviation of it, in eighths of a grey level, where nothing moves.

    Of each pair of pictures the median over the picture counts, so what moves in less than half of it does not; of four
    neighbours what they do not have in common, so that light does not; and of the pairs of the last 8 s the median.
    """

    def __init__(self, interval_s: float) -> None:
        self._before: npt.NDArray[np.int64] | None = None
        self._newest: deque[float] = deque(maxlen=max(3, min(64, round(_NOISE_S / interval_s))))

    def add(self, tiles: Sums) -> int:
        """The noise, with the next signal picture, given its sums over tiles."""
        rows, columns = tiles.shape
        now = tiles.reshape(rows // 2, 2, columns // 2, 2).sum((1, 3))
        before, self._before = self._before, now
        if before is not None and before.shape == now.shape:
            across = np.diff(now - before, axis=1)
            both = np.abs(np.diff(across, axis=0))
            # Four of a deviation each make two; a normal distribution has it at 1.48 medians.
            self._newest.append(float(np.median(both)) / 2 * 1.48 / (2 * TILE) ** 2 if both.size else 0.0)
        if not self._newest:
            return 0
        return min(MAX_NOISE, round(8 * float(np.median(self._newest))))

"""Changes in a picture while nothing happens in the scene: the camera's exposure, and noise.

Both are measured by the producer and published with the signal, so that all readers of the stream make the same decisions.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from codecflow.messages import MAX_NOISE, UNCHANGED, Exposure

from .tiles import PER_BLOCK, TILE, Sums

_EXPLAINED = 2.0
"""Grey levels: an exposure explains a block if it predicts the mean to within this."""

_MIN_SHARE, _MIN_GAIN = 0.5, 0.1
"""Share of the blocks that an exposure must explain, and by how much it must beat no change at all."""

_STAYING = 0.3
"""The same, once there is one: hysteresis, since every switch would renew everything."""

_DARKEST, _BRIGHTEST = 6, 249
"""Range of means in which a block is used to estimate exposure: beyond, samples are clipped."""

_FEWEST = 16
"""Minimum number of blocks for an estimate."""

_STEPS = 6

_NOISE_S = 8
"""Seconds over which noise is measured."""


def exposure_of(now: Sums, then: Sums, before: Exposure = UNCHANGED) -> Exposure:
    """The gain and offset that turn picture `then` into `now`, if most of the blocks have changed by exactly that; otherwise
    UNCHANGED. Both are sums over the tiles of pictures of one size; `before`: the result for the previous signal picture,
    relative to the same `then`.

    Least squares over block means, iterated over the blocks that it explained best, so that objects that appeared or left do
    not count.
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
    least = _MIN_SHARE if before == UNCHANGED else _STAYING
    return found if share >= max(least, alone + _MIN_GAIN) else UNCHANGED


def _block_means(tiles: Sums) -> npt.NDArray[np.float64]:
    """Means of whole blocks, flattened. Blocks cut by the picture's edge look dark, and alike in both."""
    rows, columns = tiles.shape
    sums = tiles.reshape(rows // PER_BLOCK, PER_BLOCK, columns // PER_BLOCK, PER_BLOCK).sum((1, 3))
    return np.asarray(sums / (PER_BLOCK * TILE) ** 2, np.float64).ravel()


class NoiseMeter:
    """The noise of one stream: by how much means of 8x8 samples differ from one signal picture to the next where nothing
    moves, one standard deviation, in eighths of a grey level.

    For each pair of pictures the median over the picture is taken, so motion in less than half of it does not count; four
    neighbours are differenced, so that light does not count; of the pairs of the last 8 s the median is used.
    """

    def __init__(self, interval_s: float) -> None:
        self._before: npt.NDArray[np.int64] | None = None
        self._newest: deque[float] = deque(maxlen=max(3, min(64, round(_NOISE_S / interval_s))))

    def add(self, tiles: Sums) -> int:
        """The noise including the next signal picture, given its sums over tiles."""
        rows, columns = tiles.shape
        now = tiles.reshape(rows // 2, 2, columns // 2, 2).sum((1, 3))
        before, self._before = self._before, now
        if before is not None and before.shape == now.shape:
            across = np.diff(now - before, axis=1)
            both = np.abs(np.diff(across, axis=0))
            # Four samples combined double the deviation; a normal distribution's is 1.48 medians.
            self._newest.append(float(np.median(both)) / 2 * 1.48 / (2 * TILE) ** 2 if both.size else 0.0)
        if not self._newest:
            return 0
        return min(MAX_NOISE, round(8 * float(np.median(self._newest))))

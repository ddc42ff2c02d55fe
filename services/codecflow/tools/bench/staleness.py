"""Staleness of dropped tokens, measured from pictures and masks alone, without any of the policies' code.

Everything is in the picture as it is resized for the model, where a square of 7x7 pixels has the same size in every clip.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from codecflow.codec.decode import ShownPicture
from codecflow.orientation import upright

STALE = 16.0
"""Grey levels: a dropped token is stale if the mean over some square whose centre it contains has changed by more than this
since it was last kept. The mean is signed, so that noise, which the model need not see, cancels out."""

_PARTS = 4
"""Number of such squares along a token's side: 7x7 pixels of a token of 28x28."""

_EXPLAINED = 4.0
"""Grey levels: an exposure explains a token if it predicts its mean to within this."""

Pixels = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


def model_picture(picture: ShownPicture, side: int) -> Pixels:
    """(side, side) int32: the luma of a shown picture, resized like the families' processors do (bicubic, antialiased)."""
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture.luma()), format="gray")
    resized = frame.reformat(side, side, interpolation="BICUBIC").to_ndarray()
    return np.asarray(upright(resized, picture.orientation), np.int32)


class LastKept:
    """The picture that the model last saw, composed of the tokens as they were kept.

    `tokens`: how many there are along each side of the picture, whose side is a multiple of it.
    """

    def __init__(self, tokens: int, side: int) -> None:
        self._tokens, self._token = tokens, side // tokens
        self._seen = np.zeros((side, side), np.int32)
        self._kept_in = np.zeros((tokens, tokens), np.int64)  # frame number
        self._means: dict[int, Floats] = {}  # of the frames that tokens are from
        self._frames = 0

    def stale(self, picture: Pixels, keep: Mask) -> tuple[int, int]:
        """Stores the kept tokens, (tokens,) row by row, of a frame (`model_picture`).

        Returns how many of the others are stale, and how many more would be without compensation for a global gain and
        offset of the picture.
        """
        keep = keep.reshape(self._kept_in.shape)
        means = self._of_tokens(picture).mean((1, 3))
        self._frames += 1
        self._kept_in[keep] = self._frames
        numbers, place = np.unique(self._kept_in, return_inverse=True)
        self._means = {number: self._means.get(number, means) for number in numbers.tolist()}
        np.copyto(self._seen, picture, where=self._pixels(keep))
        beyond = (self._largest(picture - self._seen) > STALE) & ~keep
        if not beyond.any():
            return 0, 0
        gains, offsets = _exposures(
            np.stack([self._means[number].ravel() for number in numbers.tolist()]), means.ravel()
        )
        place = place.reshape(keep.shape)
        expected = self._pixels(gains[place]) * self._seen + self._pixels(offsets[place])
        stale = int(((self._largest(picture - expected) > STALE) & beyond).sum())
        return stale, int(beyond.sum()) - stale

    def _of_tokens(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(rows, token's side, columns, token's side)"""
        return pixels.reshape(self._tokens, self._token, self._tokens, self._token)

    def _pixels(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Each token's value at each of its pixels."""
        return values.repeat(self._token, 0).repeat(self._token, 1)

    def _largest(self, difference: npt.NDArray[Any]) -> Floats:
        """(rows, columns): the largest |mean| over a square that lies in the picture and has its centre in the token."""
        square = max(1, round(self._token / _PARTS))
        sums = np.abs(_sums(_sums(difference, square).T, square).T)
        centred = np.zeros(difference.shape)
        begin = square // 2
        centred[begin : begin + len(sums), begin : begin + len(sums)] = sums
        return np.asarray(self._of_tokens(centred).max((1, 3)) / square**2)


def _sums(values: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Sums over every `count` consecutive rows."""
    rows = len(values) - count + 1
    total = values[:rows].copy()
    for shift in range(1, count):
        total += values[shift : shift + rows]
    return total


def _exposures(then: Floats, now: Floats) -> tuple[Floats, Floats]:
    """For each frame of `then` (frames, tokens) the gain and offset that explain how most of the tokens' means have become
    `now` (tokens,); 1 and 0 if there is no such change."""
    gain, offset = np.ones(len(then)), np.median(now - then, axis=1)
    for _ in range(4):
        off = np.abs(now - gain[:, None] * then - offset[:, None])
        fits = off <= np.maximum(1.0, 2 * np.median(off, axis=1))[:, None]
        count = np.maximum(fits.sum(1), 1)
        mean_then, mean_now = (then * fits).sum(1) / count, (now * fits).sum(1) / count
        from_mean = (then - mean_then[:, None]) * fits
        spread = (from_mean**2).sum(1) / count
        fitted = (count >= 3) & (spread > 1)
        slope = (from_mean * now).sum(1) / count / np.where(fitted, spread, 1.0)
        gain, offset = np.where(fitted, slope, gain), np.where(fitted, mean_now - slope * mean_then, offset)
    explained = (np.abs(now - gain[:, None] * then - offset[:, None]) <= _EXPLAINED).mean(1) >= 0.5
    return np.where(explained, gain, 1.0), np.where(explained, offset, 0.0)

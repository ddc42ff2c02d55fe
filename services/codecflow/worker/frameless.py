"""Why a stream gives no frames, although its pictures come."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from codecflow.messages import CodedPicture, ResultError

NO_FRAME_MS, NO_SAMPLE_MS = 30_000, 150_000
"""A stream is in trouble after this long without a frame although there are sampled pictures, and without a sampled picture:
signals are up to 60 s apart."""

_PICTURES = 64
"""Fewer pictures say nothing: a sampled one is decoded up to MAX_DELAY pictures later, and cameras may send few."""

_LOST = 4
"""Likewise, sampled pictures that could not be decoded."""


@dataclass(slots=True)
class Frameless:
    """The pictures that have come since the last one that gave a frame, or was not needed. `since`: capture time in ms and
    presentation time of the first of them. `lost`: sampled ones that could not be decoded; `mistimed`: those whose time is
    not that of their metadata."""

    since: tuple[int, Fraction | None] | None = None
    pictures: int = 0
    lost: int = 0
    mistimed: int = 0

    def add(self, picture: CodedPicture, at: Fraction | None) -> None:
        """`at`: its presentation time."""
        self.since = self.since or (picture.captured_at_ms, at)
        self.pictures += 1

    def trouble(self, newest: CodedPicture, at: Fraction | None, fps: Fraction) -> ResultError | None:
        """Why there are no frames; None while that is not for long enough. `newest`: the picture added last, and its
        presentation time; `fps`: frames that are sampled per second."""
        if self.pictures < _PICTURES:
            return None
        mistimed, lost = self.mistimed > self.pictures // 2, self.lost >= _LOST
        lasts_ms = self._lasts_ms(newest.captured_at_ms, at)
        if lasts_ms <= (NO_FRAME_MS if lost or mistimed else max(NO_SAMPLE_MS, float(3000 / fps))):
            return None
        if mistimed:
            code, why = "mismatch", "the times of its pictures have not been those of their metadata"
        elif lost:
            what = f"{newest.codec} of {newest.width}x{newest.height}"
            code, why = "undecodable", f"none of its pictures could be decoded: they are damaged, or not {what}"
        else:
            code, why = "no-signal", "none of its pictures could be sampled: no signals, or times that run backwards"
        return ResultError(
            code, f"for {lasts_ms / 1000:.0f} s {why}; see what its camera sends, and restart its producer"
        )

    def _lasts_ms(self, captured_at_ms: int, at: Fraction | None) -> float:
        """From the first to a picture of these times. Files are published faster than they play."""
        if self.since is None:
            return 0
        played = 0 if at is None or self.since[1] is None else 1000 * (at - self.since[1])
        return max(captured_at_ms - self.since[0], float(played))

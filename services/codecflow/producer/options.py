"""How a source is published."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from codecflow.codec.opening import SourceOptions
from codecflow.codec.pictures import MAX_PIXELS
from codecflow.codec.signal import DEFAULT_INTERVAL
from codecflow.codec.transcode import Transcode
from codecflow.errors import ConfigError
from codecflow.messages import MAX_INTERVAL, MIN_INTERVAL


@dataclass(frozen=True, slots=True)
class ProduceOptions:
    """User options.

    `fast`: as fast as the brokers accept it, not in real time (files only; cameras keep their own pace). `loop`: play a file
    repeatedly, in the same epoch. `interval`: seconds of presentation time from one signal picture to the next; None: half a
    second, or one re-encoded picture. `transcode`: re-encode at the sampling rate; None: publish the coded pictures
    unchanged. `source`: how it is opened. `max_pixels`: larger pictures are refused.
    """

    fast: bool = False
    loop: bool = False
    interval: Fraction | None = None
    transcode: Transcode | None = None
    source: SourceOptions = field(default_factory=SourceOptions)
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if not MIN_INTERVAL <= self.signal_interval <= MAX_INTERVAL:
            raise ConfigError(
                f"signal interval {float(self.signal_interval):g} s: use {float(MIN_INTERVAL):g} to {MAX_INTERVAL} s"
            )
        if self.transcode and (self.signal_interval * self.transcode.fps).denominator != 1:
            raise ConfigError(
                f"signal interval {float(self.signal_interval):g} s: at {float(self.transcode.fps):g} re-encoded pictures/s "
                f"use a whole multiple of {float(1 / self.transcode.fps):g} s"
            )

    @property
    def signal_interval(self) -> Fraction:
        """The effective interval."""
        if self.interval is not None:
            return self.interval
        return 1 / self.transcode.fps if self.transcode else DEFAULT_INTERVAL

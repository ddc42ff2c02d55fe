"""Sampled frames of a clip, as the producer would publish them and a worker would sample them, without Kafka in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from codecflow.codec.pictures import DecodedPicture, PictureDecoder, luma, matches
from codecflow.codec.signal import DEFAULT_INTERVAL, SignalExtractor
from codecflow.codec.source import Source
from codecflow.codec.vectors import VectorGrid
from codecflow.errors import ConfigError, SourceError
from codecflow.messages import PictureMetadata, Signal
from codecflow.orientation import shown_size, upright
from codecflow.worker.sampler import SignalTrack


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """One sampled frame.

    `signal`: what changed since the sampled frame before; None where that is not known. `own`: the same with the vectors of
    this picture alone. `orientation`: what turns the coded picture, which `frame`, `luma` and the signals are of, upright.
    """

    slot: int
    time_s: float
    signal: Signal | None
    own: Signal | None
    frame: VideoFrame
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the picture as it is shown."""
        return shown_size(self.frame.width, self.frame.height, self.orientation)

    def rgb(self) -> npt.NDArray[np.uint8]:
        """(height, width, 3) uint8 of the picture as it is shown."""
        return np.ascontiguousarray(upright(cast(Any, self.frame.to_ndarray(format="rgb24")), self.orientation))

    @property
    def luma(self) -> npt.NDArray[np.uint8]:
        """(height, width) uint8."""
        return luma(self.frame)


def sampled_frames(clip: Path, fps: Fraction, seconds: float | None = None) -> Iterator[SampledFrame]:
    """The frames of `clip` at `fps` frames/s, up to `seconds` of presentation time.

    The signal comes every half second, as a producer's does, or once a frame where that does not fit. Raises SourceError
    when the clip cannot be read, or holds no picture that can be shown.
    """
    if fps <= 0:
        raise ConfigError(f"fps {fps}: must be above 0")
    ticks_per_slot = 1 / (fps * DEFAULT_INTERVAL)
    interval = DEFAULT_INTERVAL if ticks_per_slot.denominator == 1 else 1 / fps
    track = SignalTrack()
    frames = 0
    for document, signal, picture in _signal_pictures(clip, interval):
        if seconds is not None and document.time_s >= seconds:
            break
        track.add(signal)
        slot = signal.tick * interval * fps
        if slot.denominator == 1:
            merged = track.take(signal.tick, partial(matches, picture.frame))
            own = merged and _own(merged, picture.frame)
            yield SampledFrame(int(slot), document.time_s, merged, own, picture.frame, picture.picture.orientation)
            frames += 1
    if not frames:
        raise SourceError(f"source {clip}: no picture of it can be decoded; give a sound video file")


def _own(signal: Signal, frame: VideoFrame) -> Signal:
    if signal.motion is None:
        return signal
    vectors = VectorGrid(signal.rows, signal.columns)
    vectors.add(frame)
    motion, intra = vectors.grids()
    return replace(signal, motion=motion, intra=intra)


def _signal_pictures(clip: Path, interval: Fraction) -> Iterator[tuple[PictureMetadata, Signal, DecodedPicture]]:
    """Signal pictures, in presentation order."""
    extractor, decoder = SignalExtractor(interval), PictureDecoder(vectors=True)
    documents: dict[int, PictureMetadata] = {}
    shown: deque[DecodedPicture] = deque()

    def matched(ended: bool) -> Iterator[tuple[PictureMetadata, Signal, DecodedPicture]]:
        while shown and (ended or shown[0].picture.seq in documents):
            one = shown.popleft()
            document = documents.pop(one.picture.seq, None)
            if document is not None and document.signal is not None:
                yield document, document.signal, one

    with Source(str(clip)) as source:
        for picture in source.pictures(stream=clip.name, epoch=0):
            documents.update((document.seq, document) for document in extractor.push(picture))
            shown += [one for one in decoder.push(picture) if one.shown]
            yield from matched(ended=False)
        documents.update((document.seq, document) for document in extractor.flush())
        shown += [one for one in decoder.flush() if one.shown]
        yield from matched(ended=True)

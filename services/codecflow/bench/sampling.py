"""Sampled frames of a clip, as the producer would publish them and a worker would sample them, without Kafka in between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from codecflow.codec.blocks import grid_shape
from codecflow.codec.pictures import DecodedPicture, PictureDecoder, luma
from codecflow.codec.signal import DEFAULT_INTERVAL, SignalExtractor, merge_signals
from codecflow.codec.source import Source
from codecflow.codec.vectors import VectorGrid
from codecflow.errors import ConfigError, SourceError
from codecflow.messages import NO_BOUND, PictureMetadata, Signal


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """One sampled frame.

    `signal`: what changed since the sampled frame before; None for the first frame and after a change of size. `own`: the
    same with the vectors of this picture alone.
    """

    slot: int
    time_s: float
    signal: Signal | None
    own: Signal | None
    frame: VideoFrame

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
    ticks = 1 / (fps * DEFAULT_INTERVAL)
    interval = DEFAULT_INTERVAL if ticks.denominator == 1 else 1 / fps
    ticks_per_slot = int(1 / (fps * interval))
    merged: Signal | None = None
    shape: tuple[int, int] | None = None
    for metadata, frame in _signal_pictures(clip, interval):
        assert metadata.signal is not None
        if seconds is not None and metadata.time_s >= seconds:
            return
        signal = metadata.signal
        merged = merge_signals(merged, signal) if merged is not None else signal
        if signal.tick % ticks_per_slot:
            continue
        known = shape == grid_shape(frame.height, frame.width)
        shape = grid_shape(frame.height, frame.width)
        slot = signal.tick // ticks_per_slot
        yield SampledFrame(
            slot, metadata.time_s, merged if known else None, _own(signal, frame) if known else None, frame
        )
        merged = None
    if shape is None:
        raise SourceError(f"source {clip}: no picture of it can be decoded; give a sound video file")


def _own(signal: Signal, frame: VideoFrame) -> Signal:
    if signal.motion is None:
        return signal
    vectors = VectorGrid(signal.rows, signal.columns)
    vectors.add(frame)
    return replace(signal, motion=vectors.motion(), intra=vectors.intra())


def _signal_pictures(clip: Path, interval: Fraction) -> Iterator[tuple[PictureMetadata, VideoFrame]]:
    """Signal pictures in presentation order. A tick that is missing before one leaves its `change` no bound."""
    extractor, decoder = SignalExtractor(interval), PictureDecoder(vectors=True)
    documents: dict[int, PictureMetadata] = {}
    shown: list[DecodedPicture] = []
    tick = -1

    def ready(last: bool) -> Iterator[tuple[PictureMetadata, VideoFrame]]:
        nonlocal tick
        while shown and (last or shown[0].picture.seq in documents):
            one = shown.pop(0)
            document = documents.pop(one.picture.seq, None)
            if document is None or document.signal is None:
                continue
            if document.signal.tick != tick + 1:
                unbounded = np.full_like(document.signal.change, NO_BOUND)
                document = replace(document, signal=replace(document.signal, change=unbounded))
            assert document.signal is not None
            tick = document.signal.tick
            yield document, one.frame

    with Source(str(clip)) as source:
        for picture in source.pictures(stream=clip.name, epoch=0):
            documents.update((document.seq, document) for document in extractor.push(picture))
            shown += [one for one in decoder.push(picture) if one.shown]
            yield from ready(last=False)
        documents.update((document.seq, document) for document in extractor.flush())
        shown += [one for one in decoder.flush() if one.shown]
        yield from ready(last=True)

"""Sampled frames of a clip, as the producer would publish them and a worker would sample them, without Kafka."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path

from av.video.frame import VideoFrame

from codecflow.codec.decode import ShownPicture
from codecflow.codec.pictures import matches
from codecflow.codec.references import ReferenceMarks
from codecflow.codec.samples import PictureLostError, Sample, SampleTrack
from codecflow.codec.signal import DEFAULT_INTERVAL, SignalExtractor
from codecflow.codec.source import Source
from codecflow.codec.vectors import VectorGrid
from codecflow.errors import ConfigError, SourceError
from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepDecision, KeepState
from codecflow.keep.zones import view_of
from codecflow.messages import CodedPicture, PictureMetadata, Signal, Zone
from codecflow.orientation import shown_size

Published = tuple[CodedPicture, PictureMetadata]


@dataclass(frozen=True, slots=True)
class SampledFrame:
    """One sampled frame, decoded.

    `signals`: those of every signal picture since the previous sampled frame, its own last. `own`: its own, with the vectors
    of this picture alone. `alone`: the picture can be decoded independently.
    """

    slot: int
    time_s: float
    signals: tuple[Signal, ...]
    own: Signal
    picture: ShownPicture
    alone: bool

    @property
    def signal(self) -> Signal:
        return self.signals[-1]

    def decide(self, state: KeepState) -> KeepDecision:
        """The decision of `state` for this frame."""
        for signal in self.signals:
            state.observe(signal)
        if not matches(self.picture.frame, self.signal):
            state.invalidate()
        return state.step(self.slot, self.picture.luma, keyframe=self.alone)


def signal_interval(fps: Fraction) -> Fraction:
    """Seconds between signal pictures: half a second, as in a producer, or the frame period if that does not fit."""
    if fps <= 0:
        raise ConfigError(f"fps {fps}: must be above 0")
    return DEFAULT_INTERVAL if (1 / (fps * DEFAULT_INTERVAL)).denominator == 1 else 1 / fps


def published(clip: Path, fps: Fraction, seconds: float | None = None) -> Iterator[Published]:
    """What a producer would publish of a clip, up to `seconds` of presentation time, in decode order.

    Raises SourceError when the clip cannot be read, or contains no picture that can be shown.
    """
    extractor, marks = SignalExtractor(signal_interval(fps)), ReferenceMarks()
    waiting: dict[int, CodedPicture] = {}
    count = 0

    def complete(documents: list[PictureMetadata]) -> Iterator[Published]:
        for seq, _ in extractor.take_lost():
            del waiting[seq]
        for document in documents:
            yield waiting.pop(document.seq), document

    with Source(str(clip)) as source:
        for picture in source.pictures(stream=clip.name, epoch=0):
            waiting[picture.seq] = marks.mark(picture)
            for one in complete(extractor.push(picture)):
                if seconds is not None and one[1].time_s >= seconds:
                    return
                count += 1
                yield one
    for one in complete(extractor.flush()):
        count += 1
        yield one
    if not count:
        raise SourceError(f"source {clip}: no picture of it can be decoded; give an intact video file")


def samples(track: SampleTrack, pictures: Iterable[Published]) -> Iterator[Sample]:
    """The sampled frames of published pictures. Each is valid until the next one is read."""
    for picture, document in pictures:
        yield from track.push(picture, document)
    yield from track.flush()


def sampled_frames(clip: Path, fps: Fraction, seconds: float | None = None) -> Iterator[SampledFrame]:
    """The frames of `clip` at `fps` frames/s, up to `seconds` of presentation time, all decoded.

    Raises SourceError when the clip cannot be read, or contains no picture that can be shown.
    """
    return decoded_frames(published(clip, fps, seconds), fps)


def decoded_frames(pictures: Iterable[Published], fps: Fraction) -> Iterator[SampledFrame]:
    """The frames of published pictures at `fps` frames/s, all decoded."""
    track = SampleTrack(fps, "clip", vectors=True)
    start: float | None = None
    for sample in samples(track, pictures):
        shown = sample.picture.decode()
        if shown is None:
            continue
        at = float(shown.pts * shown.picture.time_base)
        start = at if start is None else start
        own = _own(sample.signals[-1], shown.frame)
        yield SampledFrame(sample.slot, at - start, sample.signals, own, shown, sample.picture.alone)


@dataclass(frozen=True, slots=True)
class Gop:
    """A group of pictures, from one keyframe to the next. `decoded`: a sampled frame in it was decoded."""

    start_s: float
    end_s: float
    decoded: bool


@dataclass(frozen=True, slots=True)
class Decoding:
    """What a worker decodes of a clip. `published`, `decoded`: pictures. `seconds`: total processor time."""

    published: int
    decoded: int
    seconds: float
    gops: tuple[Gop, ...]

    @property
    def gops_decoded(self) -> int:
        return sum(gop.decoded for gop in self.gops)


def keep_state(picture: CodedPicture, tokens: int, config: KeepConfig, zones: Sequence[Zone] = ()) -> KeepState:
    """The state for the frames of a stream that begins with `picture`, with `tokens` along each side of the grid."""
    grid = TokenGrid.regular(tokens, tokens, *shown_size(picture.width, picture.height, picture.orientation))
    return KeepState(grid.oriented(picture.orientation), config, view_of(zones, grid).hidden)


def decoding(pictures: Sequence[Published], fps: Fraction, begin: Callable[[CodedPicture], KeepState]) -> Decoding:
    """Decodes published pictures like a worker: only frames whose decision needs pixels, or that keep tokens. `begin`:
    returns the state for a picture."""
    track = SampleTrack(fps, pictures[0][0].stream)
    state: KeepState | None = None
    size: tuple[int, int] | None = None
    keyframes = [picture.seq for picture, _ in pictures if picture.keyframe]
    starts = [document.time_s for picture, document in pictures if picture.keyframe]
    touched: set[int] = set()
    began = time.process_time()
    for sample in samples(track, pictures):
        before = track.decoder.decoded
        if state is None or size != sample.picture.coded_size:
            size = sample.picture.coded_size
            state = begin(sample.picture.picture)
        for signal in sample.signals:
            state.observe(signal)
        try:
            kept = state.step(
                sample.slot, partial(sample.luma, state.invalidate), keyframe=sample.picture.alone
            ).keep.any()
        except PictureLostError:
            continue
        if kept:
            sample.picture.decode()
        if track.decoder.decoded > before:
            touched.add(bisect_right(keyframes, sample.picture.picture.seq))
    seconds = time.process_time() - began
    ends = [*starts[1:], max(document.time_s for _, document in pictures)]
    gops = tuple(
        Gop(start_s, end_s, number in touched)
        for number, (start_s, end_s) in enumerate(zip(starts, ends, strict=True), start=1)
    )
    return Decoding(track.decoder.published, track.decoder.decoded, seconds, gops)


def _own(signal: Signal, frame: VideoFrame) -> Signal:
    if signal.motion is None:
        return signal
    vectors = VectorGrid(signal.rows, signal.columns)
    vectors.add(frame)
    motion, intra = vectors.grids()
    return replace(signal, motion=motion, intra=intra)

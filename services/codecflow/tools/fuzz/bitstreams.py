"""Fuzzing of coded video: damaged files through producer and worker, and damaged records through the worker alone."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import numpy as np
from av.video.frame import VideoFrame

from codecflow.codec.source import Source
from codecflow.errors import MessageError, SourceError
from codecflow.grid import TokenGrid
from codecflow.kafka.settings import TopicNames
from codecflow.keep.config import KeepConfig
from codecflow.messages import (
    VIDEO_CODECS,
    CameraLost,
    CodedPicture,
    EndOfEpoch,
    PictureMetadata,
    decode_metadata,
    decode_packet,
    encode_metadata,
)
from codecflow.producer.epoch import EpochPublisher, RecordCollector
from codecflow.producer.summary import Summary
from codecflow.tools.bench.damage import CODECS, Codec, encode
from codecflow.worker.join import EpochEnd, StreamJoin
from codecflow.worker.sampler import Sampler
from codecflow.worker.sampler_events import Sampling
from codecflow.worker.window_plan import WindowPlan

from .mutations import mutated_bytes, mutated_json

FUZZED = {
    **{name: CODECS[name] for name in ("h264", "h264-open-gop", "hevc", "mpeg4", "vp9", "av1", "mjpeg", "mpeg2")},
    "vp8": Codec("libvpx", "matroska", {"deadline": "realtime", "cpu-used": "8", "b": "{kbit}k"}),
}

_SIZE, _PICTURES, _RATE = (96, 80), 24, Fraction(8)
_SAMPLING = Sampling(
    WindowPlan.of(2, 1, 2),
    KeepConfig("replenish", period_s=Fraction(2)),
    lambda width, height: TokenGrid.regular(4, 4, width, height),
    lambda rgb, keep: np.ascontiguousarray(rgb[:8, :8]),
)


class BitstreamCases:
    """Bitstream cases by number. Even numbers damage a file, odd ones the records of an intact file.

    `counts`: pictures published and sampled, sampled frames whose samples differ from those of the producer's signal
    (`samples-differ`), and pictures lost.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.counts: Counter[str] = Counter()
        self._seed, self._folder = seed, folder
        frames = [_frame(number) for number in range(_PICTURES)]
        self._clips = {name: encode(frames, _RATE, codec, folder / name) for name, codec in FUZZED.items()}
        self._files = {name: clip.read_bytes() for name, clip in self._clips.items()}
        self._sound: dict[str, tuple[list[CodedPicture], list[PictureMetadata | EndOfEpoch]]] = {}

    def run(self, number: int) -> bool:
        """Whether the case resulted in a window. Raises what no input may cause."""
        chance, name = self._of(number)
        if number % 2 == 0:
            path = self._folder / f"damaged{self._clips[name].suffix}"
            path.write_bytes(mutated_bytes(self._files[name], chance, list(self._files.values()), most=30))
            pictures, documents = self._published(path)
        else:
            pictures, documents = self._damaged_records(name, chance)
        return self._sampled(pictures, documents)

    def describe(self, number: int) -> str:
        """A description of the case."""
        return f"{self._of(number)[1]}, {'a damaged file' if number % 2 == 0 else 'damaged records'}"

    def _of(self, number: int) -> tuple[Random, str]:
        return Random(f"{self._seed} {number}"), list(FUZZED)[number // 2 % len(FUZZED)]

    def _published(self, path: Path) -> tuple[list[CodedPicture], list[PictureMetadata | EndOfEpoch]]:
        """What a producer publishes of a file."""
        packets, metadata = RecordCollector(), RecordCollector()
        publisher = EpochPublisher(
            "fuzz", 1, Fraction(1, 2), (packets, metadata), TopicNames("fuzz"), 2**31, Summary("fuzz", "file")
        )
        try:
            with Source(str(path)) as source:
                for picture in source.pictures("fuzz", 1):
                    publisher.push(picture)
            publisher.close()
        except SourceError:
            pass  # a file that cannot be opened, or not read any further
        self.counts["published"] += len(packets.records)
        documents = [decode_metadata(one.key, one.value) for one in metadata.records]
        return (
            [decode_packet(one.key, one.value, one.headers) for one in packets.records],
            [one for one in documents if not isinstance(one, CameraLost)],
        )

    def _damaged_records(
        self, name: str, chance: Random
    ) -> tuple[list[CodedPicture], list[PictureMetadata | EndOfEpoch]]:
        """What a malicious writer could put on the topics."""
        if name not in self._sound:
            self._sound[name] = self._published(self._clips[name])
        pictures, documents = self._sound[name]
        others = [one.data for one in pictures]
        changed = [_damaged(one, chance, others) if chance.random() < 0.15 else one for one in pictures]
        return changed, [one for document in documents for one in _mutated(document, chance)]

    def _sampled(self, pictures: list[CodedPicture], documents: list[PictureMetadata | EndOfEpoch]) -> bool:
        """Processes the records like a worker."""
        counts: Counter[str] = Counter()
        join, sampler = StreamJoin(counts), Sampler("fuzz", _SAMPLING)
        windows = 0
        for offset, document in enumerate(documents):
            join.add_metadata(document, offset)
        for offset, picture in enumerate(pictures):
            join.add_packet(picture, offset)
        for event in [*join.take(), *join.give_up(), EpochEnd(1, True, (0, 0))]:
            windows += sum(step.window is not None for step in sampler.push(event))
        self.counts.update(sampler.counts)
        if sampler.faults:
            raise AssertionError(f"a picture's handling failed: {sampler.faults[0].reason}")
        return windows > 0


@contextmanager
def bitstream_cases(seed: int) -> Iterator[BitstreamCases]:
    with tempfile.TemporaryDirectory(prefix="codecflow-fuzz-") as folder:
        yield BitstreamCases(seed, Path(folder))


def _damaged(picture: CodedPicture, chance: Random, others: list[bytes]) -> CodedPicture:
    match chance.randrange(6):
        case 0:
            return replace(picture, codec=chance.choice(sorted(VIDEO_CODECS)), keyframe=chance.random() < 0.7)
        case 1:
            width, height = (chance.choice((0, 1, 16, 640, 8192)) for _ in range(2))
            return replace(picture, width=width, height=height)
        case 2:
            extradata = mutated_bytes(picture.extradata or picture.data[:64], chance)
            return replace(picture, extradata=extradata, keyframe=True)
        case 3:
            pts = chance.choice((0, -(2**62), 2**62, picture.pts * 1000, chance.randrange(10**6)))
            return replace(picture, pts=pts, dts=chance.choice((None, pts, -pts)))
    return replace(picture, data=mutated_bytes(picture.data, chance, others) or b"\0")


def _mutated(document: PictureMetadata | EndOfEpoch, chance: Random) -> Iterator[PictureMetadata | EndOfEpoch]:
    """The document, or a mutation as decoded by a reader: nothing if it is rejected."""
    if chance.random() < 0.85:
        yield document
        return
    if isinstance(document, PictureMetadata) and chance.random() < 0.3:
        ticks = round(chance.choice((-10, 5, 3600, 10**6, 2 * 10**9)) / document.time_base)
        document = replace(document, pts=document.pts + ticks)
        if document.signal is not None and chance.random() < 0.5:
            tick = document.signal.tick + chance.choice((1, 1000, 10**9))
            document = replace(document, signal=replace(document.signal, tick=tick))
    key, value = encode_metadata(document)
    try:
        read = decode_metadata(key, value if chance.random() < 0.3 else mutated_json(value, chance))
        if not isinstance(read, CameraLost):
            yield read
    except MessageError:
        return


def _frame(number: int) -> VideoFrame:
    """A still texture and a square that moves over it."""
    width, height = _SIZE
    picture = np.random.default_rng(0).integers(90, 120, (height, width, 3), dtype=np.uint8)
    x, y = 3 * number % (width - 16), 2 * number % (height - 16)
    picture[y : y + 16, x : x + 16] = 230
    return VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")

"""The two topics of one partition as lists, and a worker's bookkeeping on them: a crash leaves what was committed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import torch

from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.messages import (
    CodedPicture,
    DeadLetter,
    EndOfEpoch,
    Headers,
    PictureMetadata,
    StreamState,
    encode_metadata,
    encode_packet,
)
from codecflow.vlm.work import Frame
from codecflow.worker.feed import Offsets
from codecflow.worker.partition import Partition
from codecflow.worker.stream import Sampling
from codecflow.worker.turns import Limits, Reports, Turn
from codecflow.worker.windows import WindowPlan

Published = tuple[list[CodedPicture], list[PictureMetadata | EndOfEpoch]]
"""What a producer publishes: pictures and documents, topic by topic."""
Packet = tuple[bytes, bytes, Headers]
Document = tuple[bytes, bytes]


def encode_clip(
    path: Path,
    seconds: float,
    *,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    gop: int = 10,
    moving: bool = True,
) -> Path:
    """A small clip: a square that moves for two seconds and rests for two, over and over, on a fixed texture."""
    width, height = size
    texture = np.random.default_rng(7).integers(60, 120, (height, width), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"bf": "2", "g": str(gop), "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        at = 0
        for n in range(int(seconds * fps)):
            at += moving and (n // (2 * fps)) % 2 == 0
            picture = np.repeat(texture[:, :, None], 3, axis=2)
            x, y = at * 2 % (width - 16), at % (height - 16)
            picture[y : y + 16, x : x + 16] = 230
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def publish(clip: Path, stream: str, epoch: int = 1, interval: Fraction = Fraction(1, 2)) -> Published:
    """What a producer publishes of a clip, topic by topic."""
    extractor = SignalExtractor(interval)
    pictures: list[CodedPicture] = []
    documents: list[PictureMetadata | EndOfEpoch] = []
    with Source(str(clip)) as source:
        for picture in source.pictures(stream, epoch):
            pictures.append(picture)
            documents += extractor.push(picture)
    documents += extractor.flush()
    documents.append(EndOfEpoch(stream, epoch, len(pictures)))
    return pictures, documents


def publish_two_sizes(folder: Path, stream: str) -> Published:
    """Five seconds of 64x48, then five of 98x130 in the same epoch: a camera whose settings are changed."""
    first, _ = publish(encode_clip(folder / "first.mp4", 5), stream)
    second, _ = publish(encode_clip(folder / "second.mp4", 5, size=(98, 130)), stream)
    shift = 50 * first[0].duration
    pictures = first + [
        replace(p, seq=p.seq + 50, pts=p.pts + shift, dts=None if p.dts is None else p.dts + shift) for p in second
    ]
    extractor = SignalExtractor()
    documents: list[PictureMetadata | EndOfEpoch] = []
    for picture in pictures:
        documents += extractor.push(picture)
    return pictures, [*documents, *extractor.flush(), EndOfEpoch(stream, 1, 100)]


@dataclass(repr=False)
class Topics:
    """Records of one partition of packets and metadata; None where retention or a cut has taken one away."""

    packets: list[Packet | None] = field(default_factory=list)
    metadata: list[Document | None] = field(default_factory=list)

    def add(self, pictures: Iterable[CodedPicture], documents: Iterable[PictureMetadata | EndOfEpoch]) -> Topics:
        self.packets += [encode_packet(picture) for picture in pictures]
        self.metadata += [encode_metadata(document) for document in documents]
        return self


Answered = tuple[str, int, int]
"""(stream, epoch, window)"""
Mask = tuple[int, bytes]
"""(slot, keep mask)"""


@dataclass
class Committed:
    """What readers of committed records see, and what a worker that takes over finds."""

    states: dict[str, StreamState] = field(default_factory=dict)
    offsets: Offsets = (0, 0)
    answered: dict[Answered, list[Mask]] = field(default_factory=dict)
    rebuilt: set[Answered] = field(default_factory=set)
    twice: list[Answered] = field(default_factory=list)


LIMITS = Limits()


def _planes(rgb: npt.NDArray[np.uint8]) -> torch.Tensor:
    """In place of a model's input: the picture as it is."""
    return torch.from_numpy(rgb).permute(2, 0, 1)


class Worker:
    """A worker's bookkeeping on one partition, with a window that is only remembered in place of a model."""

    def __init__(
        self,
        topics: Topics,
        committed: Committed,
        plan: WindowPlan,
        keep: KeepConfig,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.topics, self.committed, self.plan = topics, committed, plan
        self.counts: dict[str, Counter[str]] = {}
        self.dead: list[DeadLetter] = []
        self.said: list[str] = []
        self._held: dict[str, tuple[int, list[Frame]]] = {}
        sampling = Sampling(plan, keep, lambda width, height: TokenGrid.regular(6, 8, width, height), _planes)
        reports = Reports(lambda stream: self.counts.setdefault(stream, Counter()), self.dead.append, self.said.append)
        self.partition = Partition(
            0, ("packets", "metadata", 1), sampling, committed.states, committed.offsets, reports, limits, clock
        )

    def read_packets(self, count: int = 1) -> None:
        for _ in range(count):
            offset = self.partition.positions[0]
            if offset < len(self.topics.packets):
                record = self.topics.packets[offset]
                self.partition.packet(*(record or (b"x", None, None)), offset)

    def read_metadata(self, count: int = 1) -> None:
        for _ in range(count):
            offset = self.partition.positions[1]
            if offset < len(self.topics.metadata):
                record = self.topics.metadata[offset]
                self.partition.metadata(*(record or (b"x", None)), offset)

    @property
    def at_end(self) -> bool:
        return self.partition.positions == (len(self.topics.packets), len(self.topics.metadata))

    def transaction(self) -> None:
        """Answer and commit the next turn of every stream."""
        turns = list(self.partition.turns())
        self.committed.offsets = self.partition.offsets(turns)
        for turn in turns:
            self.committed.states[turn.stream.name] = turn.state
            self._answer(turn)
            self.partition.committed(turn)

    def _answer(self, turn: Turn) -> None:
        if turn.window is None:
            return
        name, index = turn.stream.name, turn.window.index
        epoch, held = self._held.get(name, (turn.epoch, []))
        held = [] if epoch != turn.epoch else [frame for frame in held if frame.index >= self.plan.first(index)]
        held = [*held, *turn.window.frames]
        self._held[name] = (turn.epoch, held)
        answered = (name, turn.epoch, index)
        if answered in self.committed.answered:
            self.committed.twice.append(answered)
        self.committed.answered[answered] = [(frame.index, frame.keep.tobytes()) for frame in held]
        if turn.window.rebuilt:
            self.committed.rebuilt.add(answered)

    def run(self) -> Worker:
        """Read both topics to their ends and commit everything."""
        while not self.at_end:
            self.read_packets(7)
            self.read_metadata(5)
            self.transaction()
        while any(True for _ in self.partition.turns()):
            self.transaction()
        return self


def undisturbed(topics: Topics, plan: WindowPlan, keep: KeepConfig) -> Committed:
    committed = Committed()
    Worker(topics, committed, plan, keep).run()
    return committed


def slots(masks: Iterable[Mask]) -> Iterator[int]:
    return (slot for slot, _ in masks)

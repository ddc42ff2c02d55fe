"""The two topics of one partition as lists, and a worker's bookkeeping on them: after a crash, what was committed
remains."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.messages import (
    CodedPicture,
    DeadLetter,
    EndOfEpoch,
    Event,
    EventRule,
    Headers,
    PictureMetadata,
    Question,
    StreamState,
    Zone,
    decode_state,
    encode_metadata,
    encode_packet,
    encode_state,
)
from codecflow.vlm.work import Frame
from codecflow.worker.answering import Answered as Outcome
from codecflow.worker.partition import Partition, PartitionSettings, Room
from codecflow.worker.pool import SamplerPool
from codecflow.worker.reports import Reports
from codecflow.worker.resume import Offsets
from codecflow.worker.sampler_events import Sampling
from codecflow.worker.sampler_process import Gate
from codecflow.worker.settings import Limits, WhenBehind
from codecflow.worker.stream import Stream
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Step, Window
from tests.subscriber.example_results import RESULT

from .picture_inputs import grid, planes

DEFAULT = WhenBehind()
ROOMY = Room(1 << 30, 0, 0, 1)
"""More room than any test fills."""

Published = tuple[list[CodedPicture], list[PictureMetadata | EndOfEpoch]]
"""A producer's output: pictures and documents, topic by topic."""
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
    """A small clip: a square on a fixed texture that alternately moves for two seconds and rests for two."""
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
    """A producer's output for a clip, topic by topic."""
    extractor = SignalExtractor(interval)
    pictures: list[CodedPicture] = []
    documents: list[PictureMetadata | EndOfEpoch] = []
    with Source(str(clip)) as source:
        for picture in source.pictures(stream, epoch):
            pictures.append(picture)
            documents += extractor.push(picture)
    documents += extractor.flush()
    documents.append(EndOfEpoch(stream, epoch, len(pictures)))
    sizes = [extractor.take_size(picture.seq) or (picture.width, picture.height) for picture in pictures]
    return [replace(p, width=size[0], height=size[1]) for p, size in zip(pictures, sizes, strict=True)], documents


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
    """Records of one partition of packets and metadata; None if retention or truncation has removed one."""

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
    """What readers of committed records see, and what a successor finds."""

    states: dict[str, StreamState] = field(default_factory=dict)
    offsets: Offsets = (0, 0)
    answered: dict[Answered, list[Mask]] = field(default_factory=dict)
    rebuilt: set[Answered] = field(default_factory=set)
    twice: list[Answered] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)


LIMITS = Limits()


QUESTIONS = (
    Question("person", "Is a person in view?", "yes-no", event=EventRule("yes", 0.6, 0.4, cooldown_s=4.0)),
    Question("any", "Is anything in view?", "yes-no", event=EventRule("yes", 0.3, windows=(2, 3), for_s=2.0)),
)


def outcome(step: Step, plan: WindowPlan) -> Outcome:
    """Replaces a model: a function of the window."""
    window = step.window
    if window is None or window.error is not None:
        return Outcome(step, [], None if window is None else window.error)
    seed = int.from_bytes(f"{window.stream} {window.epoch} {window.index}".encode())
    answers = [
        replace(
            RESULT,
            stream=window.stream,
            epoch=window.epoch,
            window=window.index,
            end_s=float(plan.time(plan.end(window.index))),
            captured_at_ms=window.captured_at_ms,
            question=question.id,
            p_yes=float(np.random.default_rng(seed + n).random()),
        )
        for n, question in enumerate(QUESTIONS)
    ]
    return Outcome(step, answers)


Batch = list[tuple[Stream, Outcome]]


class Worker:
    """A worker's bookkeeping on one partition, which only records windows instead of running a model.

    `read_packets` and `read_metadata` read and sample; with `hold_samplers` what is read waits for `sample`. A batch takes
    three calls: `take` (to the engine), `submit` (offsets are fixed, the transaction runs) and `commit`.
    """

    def __init__(
        self,
        topics: Topics,
        committed: Committed,
        plan: WindowPlan,
        keep: KeepConfig,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = lambda: 0.0,
        *,
        samplers: int = 0,
        when_behind: WhenBehind = DEFAULT,
        wall_ms: Callable[[], int] = lambda: 0,
        grid: Callable[[int, int], TokenGrid] = grid,
        stuck_after_s: float = 180.0,
        zones: tuple[Zone, ...] = (),
    ) -> None:
        self.topics, self.committed, self.plan = topics, committed, plan
        self.counts: dict[str, Counter[str]] = {}
        self.dead: list[DeadLetter] = []
        self.said: list[str] = []
        self.windows: list[Window] = []
        self.dropped: list[str] = []
        self._taken: deque[list[tuple[Stream, Step]]] = deque()
        self._submitted: tuple[Batch, Offsets] | None = None
        self._held: dict[str, tuple[int, list[Frame]]] = {}
        self._background, self._wall_ms = keep.background, wall_ms
        self._apart = samplers > 0
        sampling = Sampling(plan, keep, grid, planes)
        reports = Reports(
            lambda stream: self.counts.setdefault(stream, Counter()), self.dead.append, self.said.append, clock
        )
        self.pool = SamplerPool(sampling, samplers, self.said.append, stuck_after_s)
        self.partition = Partition(
            0,
            PartitionSettings(("packets", "metadata"), 1, limits, when_behind),
            self.pool,
            committed.states,
            committed.offsets,
            reports,
            self.dropped.append,
            clock,
            wall_ms,
            zones_of=lambda stream: zones,
        )

    def read_packets(self, count: int = 1) -> None:
        for _ in range(count):
            offset = self.partition.positions[0]
            if offset < len(self.topics.packets):
                record = self.topics.packets[offset]
                self.partition.packet(*(record or (b"x", None, None)), offset)
        self.collect()

    def read_metadata(self, count: int = 1) -> None:
        for _ in range(count):
            offset = self.partition.positions[1]
            if offset < len(self.topics.metadata):
                record = self.topics.metadata[offset]
                self.partition.metadata(*(record or (b"x", None)), offset)
        self.collect()

    def hold_samplers(self) -> None:
        self.pool.gate(Gate.CLOSED)

    def sample(self) -> None:
        """Process what was held; continues to hold."""
        self.pool.gate(Gate.OPEN)
        self.hold_samplers()
        self.collect()

    def collect(self) -> None:
        for sampled in self.pool.take():
            assert self.partition.sampled(sampled)

    @property
    def at_end(self) -> bool:
        return self.partition.positions == (len(self.topics.packets), len(self.topics.metadata))

    @property
    def ready(self) -> bool:
        """Whether there is something to emit."""
        self.collect()
        return any(stream.ready for stream in self.partition.streams.values())

    @property
    def idle(self) -> bool:
        """Whether the samplers are done."""
        self.collect()
        return all(stream.sampled_all for stream in self.partition.streams.values())

    def take(self) -> None:
        """The next step of each stream to the engine."""
        self.collect()
        self._taken.append(list(self.partition.take()))

    def submit(self) -> None:
        """The oldest batch is answered, its transaction starts."""
        if self._taken and self._submitted is None:
            batch = [
                (stream, stream.decide(outcome(step, self.plan), QUESTIONS, self._wall_ms()))
                for stream, step in self._taken.popleft()
            ]
            self._submitted = (batch, self.partition.offsets({stream.name: one.step for stream, one in batch}))

    def commit(self) -> None:
        """The transaction ends."""
        if self._submitted is None:
            return
        (batch, self.committed.offsets), self._submitted = self._submitted, None
        for stream, one in batch:
            _, written = encode_state(one.step.state)
            self.committed.states[stream.name] = decode_state(stream.name.encode(), written)
            self.committed.events += one.events
            self._answer(one.step.window)
            self.partition.committed(stream, one.step)

    def transaction(self) -> None:
        """All three steps for what there is: the next step of every stream."""
        self.commit()
        while self._taken:
            self.submit()
            self.commit()
        self.take()
        self.submit()
        self.commit()

    def condition_events(self) -> None:
        """Events of conditions, in a separate transaction."""
        for stream, state, events in list(self.partition.condition_events(self._wall_ms(), {})):
            self.committed.states[stream.name] = state
            self.committed.events += events
            self.partition.events_committed(stream, state)

    def _answer(self, window: Window | None) -> None:
        if window is None:
            return
        self.windows.append(window)
        name, index = window.stream, window.index
        epoch, held = self._held.get(name, (window.epoch, []))
        first = max(self.plan.first(index), window.since)
        held = [
            frame for frame in (*(held if epoch == window.epoch else []), *window.frames) if frame.index >= window.since
        ]
        if self._background:  # tokens that have left matter as long as they are the newest of their cell
            covered = np.zeros(held[0].keep.size, bool) if held else np.zeros(0, bool)
            still: list[Frame] = []
            for frame in reversed(held):
                keep = frame.keep if frame.index >= first else frame.keep & ~covered
                covered |= frame.keep
                still += [replace(frame, keep=keep)] if keep.any() or frame.index >= first else []
            assert covered.all(), f"{name}: a cell without a token in window {index}"
            held = still[::-1]
        else:
            held = [frame for frame in held if frame.index >= first]
        self._held[name] = (window.epoch, held)
        answered = (name, window.epoch, index)
        if answered in self.committed.answered:
            self.committed.twice.append(answered)
        self.committed.answered[answered] = [(frame.index, frame.keep.tobytes()) for frame in held]
        if window.restarted:
            self.committed.rebuilt.add(answered)

    def read_all(self) -> None:
        """Read both topics to their ends."""
        while not self.at_end:
            self.read_packets(7)
            self.read_metadata(5)

    def run(self) -> Worker:
        """Read both topics to their ends and commit everything."""
        self.pool.gate(Gate.OPEN)
        while not self.at_end:
            self.read_packets(7)
            self.read_metadata(5)
            self.transaction()
        while not self.idle or self.ready or self._taken or self._submitted:
            self.transaction()
            time.sleep(0.002 * self._apart)
        self.pool.close()
        return self


def undisturbed(topics: Topics, plan: WindowPlan, keep: KeepConfig) -> Committed:
    committed = Committed()
    Worker(topics, committed, plan, keep).run()
    return committed


def slots(masks: Iterable[Mask]) -> Iterator[int]:
    return (slot for slot, _ in masks)

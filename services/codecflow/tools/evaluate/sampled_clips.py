"""Runs a clip through producer, wire format, join and worker to windows: the product's code, with a list instead of
Kafka."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from codecflow.codec.source import Source
from codecflow.codec.transcode import Transcode, Transcoder
from codecflow.errors import ModelError, SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import TopicNames
from codecflow.messages import CameraLost, Question, decode_metadata, decode_packet
from codecflow.producer.epoch import EpochPublisher, RecordCollector
from codecflow.producer.options import ProduceOptions
from codecflow.producer.summary import Summary
from codecflow.worker.join import StreamJoin
from codecflow.worker.sampler import Sampler
from codecflow.worker.sampler_events import Event, Sampling
from codecflow.worker.windows import Step

TOPICS = TopicNames("eval")
_LARGEST_RECORD = 2**31


@dataclass(frozen=True, slots=True)
class Published:
    """A clip as a producer sends it, coded. `number`: its index in the spec; `lost`: number of damaged pictures."""

    number: int
    file: Path
    questions: tuple[Question, ...]
    records: list[Record]
    lost: int

    @property
    def stream(self) -> str:
        return f"clip-{self.number}"


def signal_interval(fps: Fraction, transcode: Transcode | None) -> Fraction:
    """A producer's default, or the sampling period if the default does not suit `fps`."""
    interval = ProduceOptions(transcode=transcode).signal_interval
    return interval if (1 / (fps * interval)).denominator == 1 else 1 / fps


def publish(
    number: int, file: Path, questions: tuple[Question, ...], fps: Fraction, transcode: Transcode | None = None
) -> Published:
    """What a producer would send of a file. Raises SourceError when it cannot be read."""
    sent, stream, epoch = RecordCollector(), f"clip-{number}", 1
    summary = Summary(stream, str(file))
    publisher = EpochPublisher(
        stream, epoch, signal_interval(fps, transcode), (sent, sent), TOPICS, _LARGEST_RECORD, summary
    )
    transcoder = Transcoder(transcode) if transcode else None
    with Source(str(file)) as source:
        for picture in source.pictures(stream, epoch):
            for coded in transcoder.push(picture) if transcoder else [picture]:
                publisher.push(coded)
        summary.dropped.update(source.dropped)
    for coded in transcoder.flush() if transcoder else ():
        publisher.push(coded)
    publisher.close()
    if not summary.pictures:
        raise SourceError(f"source {file}: no picture of it can be decoded; give an intact video file")
    return Published(number, file, questions, sent.records, summary.lost)


class Sampled:
    """A clip's windows under one keep policy, as a worker passes them to its engine.

    Decoded pictures are cached for contenders that take the same tokens, up to `limit` bytes; above it, they are decoded
    again each time.
    """

    def __init__(self, clip: Published, sampling: Sampling, limit: int) -> None:
        self.clip = clip
        self._sampling, self._limit = sampling, limit
        self._held: list[Step] | None = None

    def windows(self) -> Iterator[Step]:
        """Steps that have a window, in order. Raises ModelError when the model does not accept such pictures."""
        if self._held is not None:
            yield from self._held
            return
        steps, size = [], 0
        for step in self._decoded():
            assert step.window is not None
            size += step.window.nbytes
            if size <= self._limit:
                steps.append(step)
            else:
                steps.clear()
            yield step
        if size <= self._limit:
            self._held = steps

    def _decoded(self) -> Iterator[Step]:
        join = StreamJoin(Counter())
        sampler = Sampler(self.clip.stream, self._sampling)
        for offset, record in enumerate(self.clip.records):
            if record.topic == TOPICS.packets:
                join.add_packet(decode_packet(record.key, record.value, record.headers), offset)
            else:
                document = decode_metadata(record.key, record.value)
                assert not isinstance(document, CameraLost)  # only cameras have these
                join.add_metadata(document, offset)
            yield from self._taken(sampler, join.take())
        yield from self._taken(sampler, join.give_up())

    def _taken(self, sampler: Sampler, events: Iterable[Event]) -> Iterator[Step]:
        for event in events:
            for step in sampler.push(event):
                if step.window is not None and step.window.error is not None:
                    raise ModelError(f"{self.clip.file}: {step.window.error.text}")
                if step.window is not None:
                    yield step

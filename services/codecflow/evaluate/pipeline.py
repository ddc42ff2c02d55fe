"""A clip through producer, wire format, join, worker and engine: the product's code, with a list where Kafka would be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from codecflow.codec.source import Source
from codecflow.codec.transcode import Transcode, Transcoder
from codecflow.errors import ModelError, SourceError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import TopicNames
from codecflow.messages import Question, Result, decode_metadata, decode_packet
from codecflow.producer.epoch import EpochPublisher
from codecflow.producer.options import ProduceOptions
from codecflow.producer.summary import Summary
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.worker.answering import Answering, Described
from codecflow.worker.stream import Sampling, Stream
from codecflow.worker.turns import Turn

from .contenders import Contender

TOPICS = TopicNames("eval")
_LARGEST_RECORD = 2**31


class _Records:
    """Takes the records of both topics in, in the order in which a producer sends them."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def send(self, record: Record) -> None:
        self.records.append(record)

    def flush(self) -> None:
        """There is nobody to wait for."""


def signal_interval(fps: Fraction, transcode: Transcode | None) -> Fraction:
    """A producer's default, or the sampling period where the default cannot serve `fps`."""
    interval = ProduceOptions(transcode=transcode).signal_interval
    return interval if (1 / (fps * interval)).denominator == 1 else 1 / fps


def publish(file: Path, stream: str, fps: Fraction, transcode: Transcode | None = None) -> tuple[list[Record], Summary]:
    """What a producer would send of a file, and what it would say of it. Raises SourceError when it cannot be read."""
    sent = _Records()
    summary = Summary(stream, str(file))
    epoch = 1
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
        raise SourceError(f"source {file}: no picture of it can be decoded; give a sound video file")
    return sent.records, summary


class Lane:
    """One contender's worker: its own streams, engine and KV, one clip after another."""

    def __init__(self, contender: Contender, family: Family, model: str) -> None:
        self.contender = contender
        self._sampling = Sampling(contender.plan, contender.keep, family.grid)
        self._engine = Engine(family, window_frames=contender.plan.window_slots, refresh=contender.refresh)
        self._refusals: list[str] = []
        self._answering = Answering(
            self._engine, contender.plan, Described(contender.name, model, family.trained), self._refusals.append
        )

    def close(self) -> None:
        self._answering.close()

    def answers(
        self, records: Sequence[Record], stream: str, questions: tuple[Question, ...]
    ) -> Iterator[list[Result]]:
        """The results of each window in turn. Raises ModelError when one does not fit or the model takes no such picture."""
        counts: Counter[str] = Counter()
        follower = Stream(stream, self._sampling, counts)
        for offset, record in enumerate(records):
            if record.topic == TOPICS.packets:
                follower.packet(decode_packet(record.key, record.value, record.headers), offset)
            else:
                follower.metadata(decode_metadata(record.key, record.value), offset)
            yield from self._answer(follower, questions)
        follower.give_up()
        yield from self._answer(follower, questions)
        self._answering.drop(stream)
        if follower.trouble is not None and not counts["frames"]:
            raise ModelError(f"{self.contender.name}: {follower.trouble}")

    def _answer(self, follower: Stream, questions: tuple[Question, ...]) -> Iterator[list[Result]]:
        while follower.ready:
            turn = self._thinned(Turn.of(follower))
            for _ in range(turn.steps):
                follower.ready.popleft()
            (answered,) = self._answering.begin([turn], lambda _: questions).result()
            if answered.refused:
                raise ModelError(f"{self.contender.name}: {self._refusals[-1]}; use a shorter window")
            if answered.results:
                yield answered.results

    def _thinned(self, turn: Turn) -> Turn:
        thin = self.contender.thin
        if turn.window is None or thin is None:
            return turn
        return replace(turn, window=replace(turn.window, frames=tuple(thin(frame) for frame in turn.window.frames)))

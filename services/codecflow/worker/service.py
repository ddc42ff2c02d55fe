"""The worker service: one loop that reads, decodes, hands windows to the engine, and commits what it answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from codecflow.errors import MessageError
from codecflow.kafka.failures import FencedError
from codecflow.kafka.records import headers_of
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import check_topics
from codecflow.lifecycle import GracefulStop
from codecflow.vlm.engine import Engine

from .answering import Answered, Answering, Described, wait
from .deadletters import DeadLetters
from .emit import Emission
from .intake import REVOKE_WITHIN_S, Intake
from .ownership import Ownership
from .partition import PACKETS, Partition
from .questions import Questions
from .settings import WorkerSettings
from .stream import Sampling
from .stuck import StuckDetector
from .summary import Summary
from .turns import Reports, Turn

_POLL_S = 0.05
_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class _Round:
    """Turns under way in the engine, each with its partition."""

    turns: list[tuple[Partition, Turn]]
    future: Future[list[Answered]]


class Worker:
    """Answers the streams of the partitions that its group gives it.

    `progress` is called about twice a second with the figures so far, `notice`, from any thread, with a line for people.
    Raises KafkaError when the brokers or topics are not as they must be.
    """

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: WorkerSettings,
        engine: Engine,
        described: Described,
        stop: GracefulStop,
        progress: Callable[[Summary], None] = lambda summary: None,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        partitions = check_topics(kafka)
        self._settings, self._stop, self._progress, self._notice = settings, stop, progress, notice
        self._summary = Summary()
        self._letters = DeadLetters()
        self._round: _Round | None = None
        self._next_chores = 0.0
        self._questions = Questions(kafka, settings.question, self._letters.add)
        self._emission = Emission(kafka)
        self._answering = Answering(engine, settings.plan, described, notice)
        self._owned = Ownership(
            kafka,
            partitions,
            Sampling(settings.plan, settings.keep, engine.family.grid, engine.family.model_pixels),
            settings.limits,
            Reports(self._summary.counts, self._letters.add, notice),
            self._answering.drop,
        )
        self._intake = Intake(kafka, self._owned.assigned, self._revoked)

    def run(self) -> Summary:
        """Until the stop is requested or, with `until_end`, every stream has ended; what was done.

        What the engine has under way is finished and emitted, and the group is left in good order. Raises ConfigError when a
        stream's signal cannot serve the sampling rate, MessageError when too many records are not of the wire contract,
        KafkaError when the brokers are gone.
        """
        try:
            with StuckDetector(self._settings.stuck_after_s, self._notice) as stuck:
                while not (self._stop.requested or (self._settings.until_end and self._all_ended())):
                    stuck.beat()
                    self._read()
                    self._turn()
                    self._chores()
            if self._round is not None:
                self._finish(self._round)
        except MessageError:
            self._emission.emit((), self._letters.waiting, (), self._intake.group)  # to say why, and move nothing
            raise
        finally:
            self._close()
        self._progress(self._summary)
        return self._summary

    def _read(self) -> None:
        for arrival in self._intake.poll(_POLL_S):
            partition = self._owned.partitions.get(arrival.partition)
            if partition is None:
                continue
            if (message := arrival.message) is None:
                partition.caught_up(arrival.topic)
                continue
            key, value, offset = message.key(), message.value(), message.offset()
            assert offset is not None
            if arrival.topic == PACKETS:
                partition.packet(key, value, headers_of(message), offset)
            else:
                partition.metadata(key, value, offset)
        for partition in self._owned.partitions.values():
            self._intake.pause(partition.number, partition.full())

    def _turn(self) -> None:
        """Commit what the engine is done with, and give it what has come together since: all streams as one batch."""
        if self._round is not None:
            if not self._round.future.done():
                return
            self._finish(self._round)
        turns = [(partition, turn) for partition in self._owned.partitions.values() for turn in partition.turns()]
        if turns:
            self._questions.update()
            future = self._answering.begin([turn for _, turn in turns], self._questions.of)
            self._round = _Round(turns, future)

    def _finish(self, round_: _Round) -> None:
        """Waits for the engine, then emits. A round whose partitions are somebody else's by now is dropped."""
        self._round = None
        self._emit(round_.turns, round_.future.result())

    def _emit(self, turns: list[tuple[Partition, Turn]], answered: list[Answered]) -> None:
        offsets = self._owned.moved()
        for partition in {id(partition): partition for partition, _ in turns}.values():
            offsets[partition.number] = partition.offsets(turn for owner, turn in turns if owner is partition)
        places = [place for number, both in offsets.items() for place in self._intake.offsets(number, both)]
        letters = self._letters.waiting
        try:
            self._emission.emit(answered, letters, places, self._intake.group)
        except FencedError as error:
            self._owned.lose(list(self._owned.partitions))
            if error.fatal:
                raise
            self._notice(f"{error}; dropping what was not emitted: another worker goes on from there")
            return
        self._letters.sent(letters)
        self._owned.sent(offsets)
        for (partition, turn), one in zip(turns, answered, strict=True):
            partition.committed(turn)
            self._count(one)

    def _count(self, answered: Answered) -> None:
        if answered.turn.window is not None:
            self._summary.windows += not answered.refused
            self._summary.refused += answered.refused
            self._summary.unasked += not (answered.refused or answered.results)
        self._summary.add(answered.results)

    def _revoked(self, numbers: list[int], lost: bool) -> None:
        """Within `Intake.poll`: the group waits until this returns."""
        round_, self._round = self._round, None
        in_time = round_ is None or (not lost and wait(round_.future, REVOKE_WITHIN_S))
        if round_ is not None and in_time:
            self._finish(round_)
        if in_time and not lost:
            self._owned.suspend(numbers)
        else:
            self._owned.lose(numbers)

    def _chores(self) -> None:
        now = time.monotonic()
        if now < self._next_chores:
            return
        self._next_chores = now + _EVERY_S
        partitions = self._owned.partitions
        for partition in partitions.values():
            partition.expire()
        if self._letters.waiting and self._round is None:
            self._emit([], [])
        self._summary.dead_letters = self._letters.total
        self._summary.partitions = len(partitions)
        self._summary.lag = self._intake.lag({n: partition.positions for n, partition in partitions.items()})
        self._progress(self._summary)

    def _all_ended(self) -> bool:
        partitions = self._owned.partitions.values()
        return (
            self._round is None
            and any(partition.states for partition in partitions)
            and all(partition.at_end and partition.settled for partition in partitions)
        )

    def _close(self) -> None:
        self._round = None
        self._intake.close()
        self._questions.close()
        self._answering.close()
        self._emission.close()

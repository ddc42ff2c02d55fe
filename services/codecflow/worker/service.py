"""The worker service: the main loop, which moves records, events, windows and results from one stage to the next.

    consumer ─▶ join ─▶ sampler pool ─▶ engine ─▶ committer
    (main thread)       (N processes)   (thread)  (thread)

The main thread owns partitions and streams and never computes; no other thread touches them. It waits for another stage only
when partitions are revoked.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import compress
from typing import Any

from codecflow.codec.lazy import MAX_BYTES
from codecflow.errors import CodecFlowError
from codecflow.kafka.failures import FencedError
from codecflow.kafka.records import appended_ms, headers_of
from codecflow.lifecycle import GracefulStop
from codecflow.messages import DeadLetter, Question, StreamState

from .answering import Answered, Answering, Provenance, WindowEngine
from .committer import Committer, StreamEvents
from .consumer import REVOKE_WITHIN_S, Arrival, Unreadable
from .dead_letter_queue import DeadLetters
from .ownership import Ownership
from .partition import Partition, PartitionSettings, Room
from .pool import SamplerPool
from .reports import Reports
from .resume import PACKETS, Offsets, States
from .sampler_events import Sampling
from .sampler_process import Gate
from .settings import WorkerSettings
from .stream import Stream
from .stuck import StuckDetector
from .summary import BusyTime, StageFigures, StreamFigures, Summary
from .transport import Transport
from .windows import Step

_logger = logging.getLogger("codecflow.worker")

_POLL_S = 0.02
_BACKPRESSURE_EVERY_S = 0.04
_PERIODIC_EVERY_S = 0.5
_COMMIT_EVERY_S = 5.0


@dataclass(frozen=True, slots=True)
class _Batch:
    """Steps in progress together, each with its partition and stream, and the questions of each stream."""

    steps: list[tuple[Partition, Stream, Step]]
    questions: Mapping[str, tuple[Question, ...]]
    answers: Future[list[Answered]]


@dataclass(frozen=True, slots=True)
class _Commit:
    """A transaction in progress. `stream_events`: streams with events but without a step. `partitions`: those that the
    worker owned when it began."""

    steps: list[tuple[Partition, Stream]]
    answered: list[Answered]
    stream_events: list[tuple[Partition, Stream, StreamEvents]]
    letters: tuple[DeadLetter, ...]
    offsets: dict[int, Offsets]
    partitions: dict[int, Partition]
    done: Future[None]


class Worker:
    """Answers the streams of the partitions that its group assigns to it.

    `progress` is called about twice per second with the figures so far, `notice`, from any thread, with a line for people.
    `summary`: holds the figures, available also after an error. Raises KafkaError when the brokers' setup is wrong.
    """

    def __init__(
        self,
        transport: Transport,
        settings: WorkerSettings,
        engine: WindowEngine,
        provenance: Provenance,
        stop: GracefulStop,
        progress: Callable[[Summary], None] = lambda summary: None,
        notice: Callable[[str], None] = lambda line: None,
        summary: Summary | None = None,
    ) -> None:
        self._transport, self._settings, self._stop = transport, settings, stop
        self._progress, self._notice = progress, notice
        self._summary = Summary() if summary is None else summary
        self._letters = DeadLetters(notice, (transport.topics.packets, transport.topics.metadata))
        self._reports = Reports(self._summary.counts, self._letters.add, notice)
        self._batch: _Batch | None = None
        self._commit: _Commit | None = None
        self._next_backpressure = self._next_periodic = self._next_commit = 0.0
        self._consumer_time, self._time = BusyTime(), BusyTime()
        self._questions = transport.questions(settings.question, self._letters.add, notice)
        self._committer = Committer(transport.emitter(), transport.topics, provenance.keep, notice)
        self._answering = Answering(engine, settings.plan, provenance, notice, reuse_slots=settings.reuse_slots)
        model_input = engine.family.input
        sampling = Sampling(
            settings.plan,
            settings.keep,
            model_input.grid,
            model_input.patches,
            settings.nvdec,
            settings.max_pixels,
            min(MAX_BYTES, settings.limits.stream_bytes // 4),
        )
        self._pool = SamplerPool(sampling, settings.samplers, notice, settings.stuck_after_s)
        self._partition_settings = PartitionSettings(
            (transport.topics.packets, transport.topics.metadata),
            transport.partitions,
            settings.limits,
            settings.when_behind,
            transport.check_partitions,
        )
        self._read_progress = transport.progress()
        self._owned = Ownership(self._states, self._begin, self._report_plans)
        self._consumer = transport.consumer(self._owned.assigned, self._revoked, notice)

    def run(self) -> Summary:
        """Run until a stop is requested or, with `until_end`, every stream has ended; returns the summary.

        The batch in the engine is finished and emitted, and the worker leaves its group. Raises KafkaError when the brokers
        are down for too long.
        """
        try:
            health = self._summary.health
            with StuckDetector(self._settings.stuck_after_s, self._notice, self._busy, health) as stuck:
                while not (self._stop.requested or (self._settings.until_end and self._all_ended())):
                    stuck.beat()
                    with self._consumer_time:
                        arrivals = self._consumer.poll(_POLL_S)
                    with self._time:
                        self._read(arrivals)
                        self._collect()
                        self._advance()
                        self._do_periodic_work()
            self._drain()
            self._submit(None)
            self._drain()
        finally:
            self._close()
        self._figures()
        self._progress(self._summary)
        return self._summary

    def _read(self, arrivals: list[Arrival]) -> None:
        """Dispatch records to their streams."""
        for arrival in arrivals:
            partition = self._owned.partitions.get(arrival.partition)
            if partition is None:
                continue
            if (message := arrival.message) is None:
                partition.read_until(arrival.topic, time.monotonic())
                continue
            if isinstance(message, Unreadable):
                partition.failed(arrival.topic, None, message.offset, message.reason)
                continue
            key, value, offset = message.key(), message.value(), message.offset()
            assert offset is not None
            try:
                at_ms = appended_ms(message)
                if arrival.topic == PACKETS:
                    partition.packet(key, value, headers_of(message), offset, at_ms)
                else:
                    partition.metadata(key, value, offset, at_ms)
            except CodecFlowError:
                raise
            except Exception as error:  # noqa: BLE001  # one record must not stop the worker, and every worker after it
                partition.failed(arrival.topic, key, offset, f"{type(error).__name__}: {error}")
        self._apply_backpressure()

    def _apply_backpressure(self) -> None:
        """Pause reading where enough waits already, and sampling where enough is sampled. Polling continues."""
        now = time.monotonic()
        if now < self._next_backpressure:
            return
        self._next_backpressure = now + _BACKPRESSURE_EVERY_S
        half = self._settings.limits.buffer_bytes // 2
        partitions = self._owned.partitions.values()
        closed = sum(stream.closed_bytes for partition in partitions for stream in partition.streams.values())
        if self._pool.held_bytes + closed < half:
            self._pool.gate(Gate.OPEN)
        else:
            self._pool.gate(Gate.CLOSED if closed else Gate.ONE)
        room = Room(
            half,
            self._pool.queued_bytes,
            sum(partition.joining_bytes for partition in partitions),
            sum(bool(partition.streams) for partition in partitions),
        )
        for partition in partitions:
            full = partition.full(room)
            if any(full):
                partition.relieve()
                full = partition.full(room)
            self._consumer.pause(partition.number, full)

    def _collect(self) -> None:
        """Dispatch the samplers' output to its streams."""
        for sampled in self._pool.take():
            for partition in self._owned.all():
                if partition.sampled(sampled):
                    break

    def _advance(self) -> None:
        """Take over what is committed and answered, commit it, and give the engine the next batch: all streams with a step
        ready."""
        if self._commit is not None and self._commit.done.done():
            self._committed()
        if self._batch is not None and self._batch.answers.done() and self._commit is None:
            self._submit(self._batch)
        if self._batch is None:
            steps = [
                (partition, stream, step)
                for partition in self._owned.partitions.values()
                for stream, step in partition.take()
            ]
            if steps:
                self._take_settings()
                questions = {stream.name: self._questions.of(stream.name) for _, stream, _ in steps}
                answers = self._answering.begin([step for _, _, step in steps], questions.__getitem__)
                self._batch = _Batch(steps, questions, answers)

    def _submit(self, batch: _Batch | None) -> None:
        """Begin the transaction of an answered batch, or of dead letters and offsets only."""
        self._batch = None
        steps = [] if batch is None else batch.steps
        answered = [] if batch is None else batch.answers.result()
        # Partitions may have been lost during computation.
        kept = [self._owned.partitions.get(partition.number) is partition for partition, _, _ in steps]
        steps, answered = list(compress(steps, kept)), list(compress(answered, kept))
        now_ms = int(time.time() * 1000)
        if batch is not None:
            answered = [
                stream.decide(one, batch.questions[stream.name], now_ms)
                for (_, stream, _), one in zip(steps, answered, strict=True)
            ]
        lost = self._answering.take_lost()
        for partition in self._owned.all() if lost else ():
            for name in lost & partition.streams.keys():
                partition.streams[name].restart()
        offsets = self._owned.moved()
        by_partition: dict[int, dict[str, Step]] = {}
        for (partition, stream, _), one in zip(steps, answered, strict=True):
            by_partition.setdefault(partition.number, {})[stream.name] = one.step
        stream_events = [
            (partition, stream, StreamEvents(state, tuple(events)))
            for partition in self._owned.partitions.values()
            for stream, state, events in partition.condition_events(now_ms, by_partition.get(partition.number, {}))
        ]
        for number, newest in by_partition.items():
            offsets[number] = self._owned.partitions[number].offsets(newest)
        places = [place for number, both in offsets.items() for place in self._consumer.offsets(number, both)]
        letters = self._letters.ready(self._owned.with_sent(offsets))
        if not (answered or stream_events or letters or places):
            return
        done = self._committer.submit(
            answered, [one for _, _, one in stream_events], letters, places, self._consumer.group()
        )
        taken = [(partition, stream) for partition, stream, _ in steps]
        self._commit = _Commit(taken, answered, stream_events, letters, offsets, dict(self._owned.partitions), done)
        self._next_commit = time.monotonic() + _COMMIT_EVERY_S

    def _committed(self) -> None:
        """The transaction in progress is over. If it failed because the partitions have moved to another worker, everything
        built on it is dropped."""
        commit, self._commit = self._commit, None
        assert commit is not None
        try:
            commit.done.result()
        except FencedError as error:
            self._summary.fenced += 1
            owned = self._owned.partitions
            # What began since, after an outage longer than the session, belongs to a newer membership.
            lost = [number for number, partition in commit.partitions.items() if owned.get(number) is partition]
            self._drop_partitions(lost)
            self._notice(f"{error}; dropping what was not emitted: another worker continues from there")
            return
        self._summary.transactions += 1
        self._letters.sent(commit.letters)
        self._owned.sent(commit.offsets)
        for partition, stream, stream_events in commit.stream_events:
            partition.events_committed(stream, stream_events.state)
            self._summary.events += len(stream_events.events)
        for (partition, stream), one in zip(commit.steps, commit.answered, strict=True):
            partition.committed(stream, one.step)
            self._summary.events += len(one.events)
            self._count(one)
            if stream.live:
                self._summary.committed(one.results, time.time())

    def _count(self, answered: Answered) -> None:
        if (window := answered.step.window) is not None:
            if _logger.isEnabledFor(logging.INFO):
                about = {"stream": window.stream, "epoch": window.epoch, "window": window.index}
                what = f"{len(answered.results)} results"
                what += "" if answered.error is None else f", no answer: {answered.error.text} ({answered.error.code})"
                text = "stream %r, epoch %d, window %d: %s committed"
                _logger.info(text, *about.values(), what, extra={"about": about})
            self._summary.windows += answered.error is None
            self._summary.refused += answered.error is not None and answered.error.code == "no-room"
            self._summary.without_questions += answered.error is None and not answered.results
        self._summary.add(answered.results)

    def _drain(self, within_s: float | None = None) -> bool:
        """Wait for the engine and commit its answers; False if that takes longer than `within_s` seconds."""
        deadline = None if within_s is None else time.monotonic() + within_s
        for _ in range(2):  # the transaction in progress, then that of the batch in the engine
            if self._commit is not None:
                if not _done(self._commit.done, deadline):
                    return False
                self._committed()
            if self._batch is not None:
                if not _done(self._batch.answers, deadline):
                    return False
                self._submit(self._batch)
        return True

    def _revoked(self, numbers: list[int], lost: bool) -> None:
        """Called within `GroupConsumer.poll`: the group waits until this returns."""
        self._summary.rebalances += 1
        if lost:
            # Another worker may own them already; the group then refuses what is not committed yet.
            self._batch = None
            if self._commit is not None and _done(self._commit.done, time.monotonic() + REVOKE_WITHIN_S):
                self._committed()
            self._drop_partitions(numbers)
        elif self._drain(REVOKE_WITHIN_S):
            self._owned.suspend(numbers)
            self._read_progress.forget(numbers)
        else:
            # Too slow: the group must not wait longer. None of it will be emitted, whatever its outcome.
            self._batch = None
            self._drop_partitions(numbers)

    def _drop_partitions(self, numbers: list[int]) -> None:
        self._owned.drop(numbers)
        self._letters.keep({partition.number for partition in self._owned.all()})
        self._read_progress.forget(numbers)

    def _do_periodic_work(self) -> None:
        now = time.monotonic()
        if now < self._next_periodic:
            return
        self._next_periodic = now + _PERIODIC_EVERY_S
        partitions = self._owned.partitions
        self._take_settings()
        self._read_progress.update(partitions)
        for partition in partitions.values():
            partition.expire()
        self._letters.report()
        due = (
            (self._letters.waiting and self._letters.ready(self._owned.with_sent(self._owned.moved())))
            or now >= self._next_commit
            or any(p.conditions_changed for p in partitions.values())
        )
        if self._batch is None and self._commit is None and due:
            self._submit(None)
        self._figures()
        self._progress(self._summary)

    def _figures(self) -> None:
        summary = self._summary
        summary.dead_letters = self._letters.total
        summary.partitions = len(self._owned.partitions)
        summary.lag = self._read_progress.lag
        summary.records_expired = self._consumer.records_expired
        now_ms = int(time.time() * 1000)
        replaying = any(partition.replaying for partition in self._owned.partitions.values())
        summary.health.ready = summary.health.started and not replaying
        held = {
            stream.name: StreamFigures(
                self._answering.kv_bytes.get(stream.name, 0),
                stream.coded_bytes,
                stream.frame_bytes,
                stream.behind_s(now_ms, partition.near_end),
            )
            for partition in self._owned.partitions.values()
            for stream in partition.streams.values()
        }
        for name, kv_bytes in self._answering.kv_bytes.items():
            held.setdefault(name, StreamFigures(kv_bytes))
        summary.set_held(held)
        summary.batches = self._answering.batches
        summary.sampler_deaths, summary.sampler_bytes = self._pool.deaths, self._pool.memory
        summary.stages = self._stages()

    def _stages(self) -> dict[str, StageFigures]:
        streams = [stream for partition in self._owned.partitions.values() for stream in partition.streams.values()]
        records = sum(stream.join.packets_waiting + stream.join.metadata_waiting for stream in streams)
        windows = sum(stream.windows_waiting for stream in streams)
        if self._batch is not None:
            windows += sum(step.window is not None for _, _, step in self._batch.steps)
        answered = 0 if self._commit is None else sum(one.step.window is not None for one in self._commit.answered)
        cpu_s = (self._consumer_time.cpu_s,)
        pool = self._pool
        return {
            "consumer": StageFigures(cpu_s, cpu_s, self._read_progress.lag),
            "join": StageFigures.of([self._time], records, sum(stream.join.bytes_waiting for stream in streams)),
            "sampler": StageFigures(tuple(pool.busy_s), tuple(pool.cpu_s), pool.queued, pool.queued_bytes),
            "engine": StageFigures.of([self._answering.time], windows, sum(stream.closed_bytes for stream in streams)),
            "committer": StageFigures.of([self._committer.time], answered, 0),
        }

    def _busy(self) -> list[tuple[str, float]]:
        """What the other threads are doing, and since when."""
        # Transactions are not listed: they abort by themselves when brokers have been down for too long.
        pace = self._answering.pace
        since = pace.at
        # A slow engine is not stuck: one forward may be as large as several earlier ones.
        if since is None or time.monotonic() - since < 5 * pace.longest_s:
            return []
        return [("a forward of the engine", since)]

    def _all_ended(self) -> bool:
        partitions = self._owned.partitions.values()
        return (
            self._batch is None
            and self._commit is None
            and any(partition.states for partition in partitions)
            and all(partition.at_end and partition.settled for partition in partitions)
        )

    def _states(self, numbers: list[int]) -> States:
        """States of partitions that were just assigned."""
        self._summary.rebalances += 1
        self._summary.health.started = True
        self._take_settings(caught_up=True)  # the previous owner may have known newer zones, which states refer to
        return self._transport.states(numbers, self._letters.add, self._notice)

    def _begin(self, number: int, states: dict[str, StreamState], positions: Offsets) -> Partition:
        self._letters.keep({partition.number for partition in self._owned.all()} - {number})
        return Partition(
            number,
            self._partition_settings,
            self._pool,
            states,
            positions,
            self._reports,
            self._answering.drop,
            zones_of=self._questions.zones,
        )

    def _take_settings(self, *, caught_up: bool = False) -> None:
        """Apply stream settings written since the last call; with `caught_up`, all written up to now."""
        for name in self._questions.update(caught_up=caught_up):
            for partition in self._owned.all():
                if (stream := partition.streams.get(name)) is not None:
                    stream.set_zones(self._questions.zones(name))

    def _report_plans(self, states: list[StreamState]) -> None:
        """Report streams that were answered under another plan."""
        plan = self._settings.plan
        others = [state for state in states if not state.ended and state.plan != plan.grid]
        if others:
            old = others[0].plan
            names = ", ".join(repr(state.stream) for state in others[:3]) + (", ..." if len(others) > 3 else "")
            self._notice(
                f"{len(others)} streams ({names}) were answered with --window {float(old.window_slots / old.fps):g} "
                f"--stride {float(old.stride_slots / old.fps):g} --fps {float(old.fps):g}; "
                "they continue at their next window"
            )

    def _close(self) -> None:
        self._batch = self._commit = None
        with ExitStack() as last_first:
            for part in (self._committer, self._answering, self._pool, self._questions, self._consumer):
                last_first.callback(part.close)


def _done(future: Future[Any], deadline: float | None) -> bool:
    timeout = None if deadline is None else max(0.0, deadline - time.monotonic())
    return bool(wait_for([future], timeout).done)

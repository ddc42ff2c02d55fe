"""One run of the whole worker under the load of N cameras: latency of each answer, and figures for each stage."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import mean
from typing import Any, Protocol

import torch
from confluent_kafka import TopicPartition

from codecflow.errors import KafkaError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings, TopicNames
from codecflow.kafka.topics import create_topics
from codecflow.lifecycle import GracefulStop
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.files import BrokerFiles
from codecflow.messages import Question, Result, decode_result
from codecflow.tools.bench.camera_load import CameraProcess, Load
from codecflow.tools.bench.replay_transport import ReplayTransport
from codecflow.worker.answering import Provenance, WindowEngine
from codecflow.worker.resume import States
from codecflow.worker.service import Worker
from codecflow.worker.settings import WorkerSettings
from codecflow.worker.summary import StageFigures, Summary
from codecflow.worker.transport import (
    Assigned,
    DeadLetterHandler,
    Emitter,
    KafkaTransport,
    NoticeHandler,
    QuestionSource,
    ReadProgress,
    RecordConsumer,
    Revoked,
)
from codecflow.worker.transport import Transport as WorkerTransport

_SAMPLE_S = 0.5
_READY_S = 90.0
_STOP_S = 120.0
_HZ = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")

RSS_GROWTH, RSS_SLACK = 0.03, 64 << 20
QUEUE_GROWTH, QUEUE_SLACK = 1.5, 256 << 10
"""Memory is flat if, from the first to the last quarter of the measured time, the mean of resident memory (without keys and
values, on a CPU) grows by at most 3 % + 64 MiB, and that of queues by at most half + 256 KiB per stream."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `warm_up`: from the time at which all cameras run until windows count; `measured`: from then on.
    `stop_early`: stop at the first window that makes the run unsustained."""

    warm_up: float
    measured: float
    stop_early: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """An answered window: when its newest frame was captured and when its result was committed, in seconds since 1970."""

    stream: str
    index: int
    captured_s: float
    committed_s: float
    result: Result

    @property
    def delay_s(self) -> float:
        return self.committed_s - self.captured_s


@dataclass(frozen=True, slots=True)
class Sample:
    """Measurements at one moment (`at`: monotonic). CPU seconds of this process, of the Kafka client's threads in it, of the
    cameras, of the broker, of the whole machine. `rss` (including sampler processes), `vram`, `kv`, `waiting` (coded
    pictures and frames): bytes. `lag`: records."""

    at: float
    stages: dict[str, StageFigures]
    cpu_s: float
    client_cpu_s: float
    rss: int
    vram: int
    kv: int
    waiting: int
    lag: int
    batches: int
    counts: Counter[str]
    cameras_cpu_s: float
    cameras_late_s: float
    broker_cpu_s: float
    machine_busy_s: float


@dataclass(slots=True)
class Outcome:
    """`windows`: those captured within the measured time. `reasons`: why it was not sustained, empty if it was."""

    streams: int
    windows: list[Window]
    samples: list[Sample]
    reasons: list[str]
    notices: list[str] = field(default_factory=list)

    @property
    def sustained(self) -> bool:
        return not self.reasons

    @property
    def longest_gaps(self) -> list[float]:
        """For each stream with answers, the longest time between two of them, in seconds, ascending."""
        times: dict[str, list[float]] = defaultdict(list)
        for window in self.windows:
            times[window.stream].append(window.committed_s)
        return sorted(max(b - a for a, b in pairwise(sorted(one))) for one in times.values() if len(one) > 1)


class Place(Protocol):
    """Where runs exchange records: brokers, or memory."""

    def begin(self, load: Load) -> tuple[WorkerTransport, CameraProcess]: ...

    def end(self) -> None: ...

    def broker_cpu_s(self) -> float: ...


class KafkaPlace:
    """A local broker, with new topics for each run."""

    def __init__(self, broker: LocalKafka, partitions: int) -> None:
        self._broker, self._partitions, self._runs = broker, partitions, 0

    def begin(self, load: Load) -> tuple[WorkerTransport, CameraProcess]:
        self._runs += 1
        settings = KafkaSettings(self._broker.bootstrap_servers, f"bench-{os.getpid()}-{self._runs}")
        create_topics(settings, self._partitions)
        return KafkaTransport(settings), CameraProcess(load, settings)

    def end(self) -> None:
        pass

    def broker_cpu_s(self) -> float:
        return sum(_process_cpu_s(pid) for pid in BrokerFiles(self._broker.data_dir).running_pids())


class ReplayPlace:
    """No broker."""

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._transport: ReplayTransport | None = None

    def begin(self, load: Load) -> tuple[WorkerTransport, CameraProcess]:
        self._transport = ReplayTransport(self._partitions)
        return self._transport, CameraProcess(load, (self._transport.pipe, self._partitions))

    def end(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def broker_cpu_s(self) -> float:
        return 0.0


class _Watched:
    """A transport that stores committed results, each with its commit time."""

    def __init__(self, inner: WorkerTransport) -> None:
        self._inner = inner
        self.topics: TopicNames = inner.topics
        self.partitions = inner.partitions
        self.committed: list[tuple[float, bytes, bytes]] = []

    def consumer(self, assigned: Assigned, revoked: Revoked, notice: NoticeHandler) -> RecordConsumer:
        return self._inner.consumer(assigned, revoked, notice)

    def questions(
        self, default: Question | None, dead_letter: DeadLetterHandler, notice: NoticeHandler
    ) -> QuestionSource:
        return self._inner.questions(default, dead_letter, notice)

    def states(self, numbers: Sequence[int], dead_letter: DeadLetterHandler, notice: NoticeHandler) -> States:
        return self._inner.states(numbers, dead_letter, notice)

    def progress(self) -> ReadProgress:
        return self._inner.progress()

    def emitter(self) -> Emitter:
        return _WatchedEmitter(self._inner.emitter(), self.topics.results, self.committed)


class _WatchedEmitter:
    def __init__(self, inner: Emitter, topic: str, committed: list[tuple[float, bytes, bytes]]) -> None:
        self._inner, self._topic, self._committed = inner, topic, committed

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        self._inner.emit(records, offsets, group)
        now = time.time()
        self._committed += [(now, one.key, one.value or b"") for one in records if one.topic == self._topic]

    def close(self) -> None:
        self._inner.close()


class _Running:
    """A worker in a thread of this process."""

    def __init__(
        self, transport: _Watched, settings: WorkerSettings, engine: WindowEngine, provenance: Provenance
    ) -> None:
        self.summary = Summary()
        self.notices: list[str] = []
        self._stop = GracefulStop()
        worker = Worker(transport, settings, engine, provenance, self._stop, self._progress, self.notices.append)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="worker")
        self._done = self._pool.submit(worker.run)

    def check(self) -> None:
        """Raises the error that ended the worker."""
        if self._done.done():
            self._done.result()
            raise KafkaError("the worker has ended by itself")

    def assigned(self, partitions: int) -> None:
        deadline = time.monotonic() + _READY_S
        while self.summary.partitions < partitions:
            self.check()
            if time.monotonic() > deadline:
                raise KafkaError(f"the worker was not given its partitions within {_READY_S:g} s")
            time.sleep(0.05)

    def stop(self) -> None:
        self._stop.request()
        with suppress(TimeoutError):
            self._done.result(_STOP_S)
        self._pool.shutdown(wait=False)

    def _progress(self, summary: Summary) -> None:
        self.summary = summary


def measure(
    place: Place,
    load: Load,
    settings: WorkerSettings,
    engine: WindowEngine,
    provenance: Provenance,
    timing: Timing,
    notice: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Runs `load` through a worker. Raises KafkaError when brokers, cameras or the worker fail."""
    for stream in list(engine.memory_by_stream):
        engine.drop(stream)
    with _place(place, load) as (transport, cameras):
        watched = _Watched(transport)
        worker = _Running(watched, settings, engine, provenance)
        try:
            worker.assigned(transport.partitions)
            cameras.ready()
            began = time.monotonic() + 0.2
            cameras.start(began)
            since_1970 = time.time() - time.monotonic()
            first = began + load.stride_s + timing.warm_up
            last = first + timing.measured
            judge = _Judge(load, first + since_1970, last + since_1970)
            samples: list[Sample] = []
            while (now := time.monotonic()) < last + load.stride_s:
                worker.check()
                if now >= first - _SAMPLE_S:
                    samples.append(_sample(worker.summary, cameras, place, engine))
                else:
                    cameras.update()
                judge.take(watched.committed)
                if timing.stop_early and judge.failed(now + since_1970):
                    notice("stopped early")
                    break
                time.sleep(max(0.0, now + _SAMPLE_S - time.monotonic()))
            samples = [one for one in samples if one.at < last + _SAMPLE_S] or samples
            if not samples:
                samples = [_sample(worker.summary, cameras, place, engine)] * 2
        finally:
            worker.stop()
    judge.take(watched.committed)
    reasons = judge.reasons(min(time.time(), last + since_1970 + load.stride_s))
    if dead_letter := worker.summary.dead_letters:
        reasons.append(f"{dead_letter} records could not be used")
    reasons += [] if timing.stop_early and reasons else _growth(samples, load.count, engine.family.device.type == "cpu")
    return Outcome(load.count, judge.within, samples, reasons, worker.notices)


@contextmanager
def _place(place: Place, load: Load) -> Iterator[tuple[WorkerTransport, CameraProcess]]:
    transport, cameras = place.begin(load)
    try:
        yield transport, cameras
    finally:
        cameras.stop()
        place.end()


class _Judge:
    """Whether every window captured from `first_s` to `last_s` (since 1970) is answered before the next one is due."""

    def __init__(self, load: Load, first_s: float, last_s: float) -> None:
        self.within: list[Window] = []
        self._load, self._first_s, self._last_s = load, first_s, last_s
        self._newest: dict[str, float] = {}  # capture time of a stream's newest answered window
        self._taken = 0

    def take(self, committed: Sequence[tuple[float, bytes, bytes]]) -> None:
        for at, key, value in committed[self._taken :]:
            self._taken += 1
            result = decode_result(key, value)
            captured_s = result.captured_at_ms / 1000
            self._newest[result.stream] = max(self._newest.get(result.stream, 0.0), captured_s)
            if self._first_s <= captured_s < self._last_s:
                self.within.append(Window(result.stream, result.window, captured_s, at, result))

    def failed(self, now_s: float) -> bool:
        """Whether it is already certain that the run is not sustained."""
        return now_s > self._first_s and bool(self.reasons(now_s))

    def reasons(self, now_s: float) -> list[str]:
        """Why the run is not sustained, as far as known at `now_s`."""
        stride_s = self._load.stride_s
        found = []
        by_stream: dict[str, list[Window]] = defaultdict(list)
        for window in self.within:
            by_stream[window.stream].append(window)
        missing = sum(
            len(range(windows[0].index, windows[-1].index + 1)) - len({window.index for window in windows})
            for windows in by_stream.values()
        )
        # One is captured every stride, and must be answered within the next stride.
        late = late_windows = 0
        for number in range(self._load.count):
            newest = max(self._newest.get(f"camera-{number}", 0.0), self._first_s - stride_s)
            overdue = (min(now_s - stride_s, self._last_s) - newest) / stride_s
            if overdue > 1.25:
                late += 1
                late_windows += int(overdue)
        if missing:
            found.append(f"{missing} windows were left out")
        if late:
            found.append(f"{late_windows} windows of {late} streams were not answered in time")
        slow = [window.delay_s for window in self.within if window.delay_s >= stride_s]
        if slow:
            found.append(
                f"{len(slow)} of {len(self.within)} windows were answered {max(slow):.1f} s after capture; the next one is "
                f"due after {stride_s:g} s"
            )
        errors = Counter(window.result.error.code for window in self.within if window.result.error is not None)
        found += [f"{count} windows have the error {code}" for code, count in errors.items()]
        if restarted := sum(window.result.restarted for window in self.within):
            found.append(f"{restarted} windows were restarted")
        return found


def _growth(samples: Sequence[Sample], streams: int, on_cpu: bool) -> list[str]:
    """What has grown from the first to the last quarter of the measured time."""
    quarter = max(1, len(samples) // 4)
    begin, end = samples[:quarter], samples[-quarter:]

    def resident(some: Sequence[Sample]) -> float:
        return mean(one.rss - (one.kv if on_cpu else 0) for one in some)

    def waiting(some: Sequence[Sample]) -> float:
        return mean(one.waiting for one in some)

    found = []
    if resident(end) > (1 + RSS_GROWTH) * resident(begin) + RSS_SLACK:
        found.append(f"memory grows: {resident(begin) / 2**20:.0f} MiB, then {resident(end) / 2**20:.0f} MiB")
    if waiting(end) > QUEUE_GROWTH * waiting(begin) + QUEUE_SLACK * streams:
        found.append(f"queues grow: {waiting(begin) / 2**20:.0f} MiB, then {waiting(end) / 2**20:.0f} MiB")
    return found


def _sample(summary: Summary, cameras: CameraProcess, place: Place, engine: WindowEngine) -> Sample:
    load = cameras.update()
    counts: Counter[str] = Counter()
    for stream in list(summary.streams.values()):
        counts.update(stream)
    device = engine.family.device
    now = time.monotonic()
    return Sample(
        at=now,
        stages=summary.stages,
        cpu_s=time.process_time(),
        client_cpu_s=_client_cpu_s(),
        rss=int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE + summary.sampler_bytes,
        vram=torch.cuda.memory_reserved(device) if device.type == "cuda" else 0,
        kv=summary.kv_bytes,
        waiting=summary.queue_bytes + summary.frame_bytes,
        lag=summary.lag,
        batches=summary.batches,
        counts=counts,
        cameras_cpu_s=load.cpu_s,
        cameras_late_s=load.late_s,
        broker_cpu_s=place.broker_cpu_s(),
        machine_busy_s=_machine_busy_s(),
    )


def _client_cpu_s() -> float:
    """CPU seconds of the Kafka client's own threads."""
    found = 0.0
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            text = (task / "stat").read_text()
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            if name.startswith("rdk:"):
                found += (int(rest[11]) + int(rest[12])) / _HZ
    return found


def _process_cpu_s(pid: int) -> float:
    with suppress(OSError):
        text = Path(f"/proc/{pid}/stat").read_text()
        rest = text[text.rindex(")") + 2 :].split()
        return (int(rest[11]) + int(rest[12])) / _HZ
    return 0.0


def _machine_busy_s() -> float:
    """CPU seconds of everything that runs on this machine, all cores together."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / _HZ

"""One run of the whole worker under the load of N cameras: latency of each answer, and figures for each stage."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise

from codecflow.errors import KafkaError
from codecflow.lifecycle import GracefulStop
from codecflow.tools.bench.camera_load import CameraProcess, Load
from codecflow.tools.bench.pipeline_places import Place, WatchedTransport
from codecflow.tools.bench.pipeline_samples import Sample, growth, take_sample
from codecflow.tools.bench.pipeline_verdict import Judge, Window
from codecflow.worker.answering import Provenance, WindowEngine
from codecflow.worker.service import Worker
from codecflow.worker.settings import WorkerSettings
from codecflow.worker.summary import Summary
from codecflow.worker.transport import Transport

_SAMPLE_S = 0.5
_READY_S = 90.0
_STOP_S = 120.0


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds. `warm_up`: from the time at which all cameras run until windows count; `measured`: from then on.
    `stop_early`: stop at the first window that makes the run unsustained."""

    warm_up: float
    measured: float
    stop_early: bool = False


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


class _Running:
    """A worker in a thread of this process."""

    def __init__(
        self, transport: WatchedTransport, settings: WorkerSettings, engine: WindowEngine, provenance: Provenance
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
        watched = WatchedTransport(transport)
        worker = _Running(watched, settings, engine, provenance)
        try:
            worker.assigned(transport.partitions)
            cameras.ready()
            began = time.monotonic() + 0.2
            cameras.start(began)
            since_1970 = time.time() - time.monotonic()
            first = began + load.stride_s + timing.warm_up
            last = first + timing.measured
            judge = Judge(load, first + since_1970, last + since_1970)
            samples: list[Sample] = []
            while (now := time.monotonic()) < last + load.stride_s:
                worker.check()
                if now >= first - _SAMPLE_S:
                    samples.append(take_sample(worker.summary, cameras, place, engine))
                else:
                    cameras.update()
                judge.take(watched.committed)
                if timing.stop_early and judge.failed(now + since_1970):
                    notice("stopped early")
                    break
                time.sleep(max(0.0, now + _SAMPLE_S - time.monotonic()))
            samples = [one for one in samples if one.at < last + _SAMPLE_S] or samples
            if not samples:
                samples = [take_sample(worker.summary, cameras, place, engine)] * 2
        finally:
            worker.stop()
    judge.take(watched.committed)
    reasons = judge.reasons(min(time.time(), last + since_1970 + load.stride_s))
    if dead_letter := worker.summary.dead_letters:
        reasons.append(f"{dead_letter} records could not be used")
    reasons += [] if timing.stop_early and reasons else growth(samples, load.count, engine.family.device.type == "cpu")
    return Outcome(load.count, judge.within, samples, reasons, worker.notices)


@contextmanager
def _place(place: Place, load: Load) -> Iterator[tuple[Transport, CameraProcess]]:
    transport, cameras = place.begin(load)
    try:
        yield transport, cameras
    finally:
        cameras.stop()
        place.end()

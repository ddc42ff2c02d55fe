"""A run: services that answer streams, one fault after another, and a check of every window."""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from codecflow import subscriber
from codecflow.errors import CodecFlowError, ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.messages import Result
from codecflow.tools.report.table import print_json, print_table

from .cluster import Cluster
from .faults import BASE, KINDS, SESSION_S, STRIDES, Stage
from .services import Service
from .synthetic_clip import moving_square
from .verify import Verdict, copy, place, results, verify
from .watch import Watch

PARTITIONS = 3
WINDOW_S = "6"
_TICK_S = 0.1
_RECOVER_WITHIN_S = 180.0
_FIRST_ANSWERS_WITHIN_S = 300.0
_PREFIX = "chaos"


class ChaosError(CodecFlowError):
    """A result was lost, duplicated or different, or a service did not behave as expected."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class ChaosOptions:
    """`minutes` of faults; `seed`: which, when and where; `clips`: what producers play in a loop, by default a small
    generated clip. `kinds`: of faults; by default all, shuffled. `keep`: folder for logs, instead of a temporary one."""

    minutes: float = 1.0
    seed: int = 0
    brokers: int = 1
    streams: int = 4
    workers: int = 2
    clips: Sequence[Path] = ()
    kinds: Sequence[str] = ()
    keep: Path | None = None


@dataclass(slots=True)
class Log:
    """Recovery time of each fault, by kind: seconds from its end until pictures of every stream captured after it are
    answered. `stuck`: faults without recovery."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    stuck: list[str] = field(default_factory=list)


def run(options: ChaosOptions, notice: Callable[[str], None]) -> None:
    """Prints a table and one JSON line. `notice` is called with progress lines. Raises ChaosError, ConfigError."""
    unknown = [kind for kind in options.kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(f"--faults {unknown[0]}: use some of {', '.join(KINDS)}")
    if options.brokers not in (1, 3):
        raise ConfigError("--brokers: use 1 or 3")
    with ExitStack() as exits:
        folder = options.keep or Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="codecflow-chaos-")))
        folder.mkdir(parents=True, exist_ok=True)
        cluster = exits.enter_context(Cluster(folder, options.brokers, notice))
        _Run(options, folder, cluster, notice).run()


class _Run:
    def __init__(self, options: ChaosOptions, folder: Path, cluster: Cluster, notice: Callable[[str], None]) -> None:
        self._options, self._folder, self._cluster, self._notice = options, folder, cluster, notice
        self._began = time.monotonic()
        self._direct = KafkaSettings(cluster.direct, _PREFIX, reach_within_s=60.0)
        streams = [f"camera-{number}" for number in range(options.streams)]
        self._model = _tiny_model(folder)
        clips = list(options.clips) or [moving_square(folder / "clip.mp4")]
        self._stage = Stage(
            random.Random(options.seed),
            cluster,
            self._direct,
            folder,
            streams,
            [self._worker(f"worker-{n}", STRIDES[0], cluster.disturbed, _PREFIX) for n in range(options.workers)],
            [self._producer(stream, clips[n % len(clips)]) for n, stream in enumerate(streams)],
        )
        self._stage.all_services += [*self._stage.workers, *self._stage.producers]
        self._log = Log()

    def run(self) -> None:
        stage = self._stage
        try:
            create_topics(self._direct, PARTITIONS, replication=self._options.brokers)
            for stream in stage.streams:
                subscriber.ask(self._direct, stream, BASE)
            with Watch(self._direct) as watch:
                for service in stage.all_services:
                    service.start()
                self._until(lambda: watch.answered_since(stage.streams, 0.0), _FIRST_ANSWERS_WITHIN_S, "first answers")
                self._faults(watch)
                if watch.error is not None:
                    raise watch.error
            for camera in stage.producers:
                stage.end(camera)
            self._notice("producers have ended; computing the answers of one undisturbed worker")
            expected = {stride: self._undisturbed(stride) for stride in dict.fromkeys(stage.strides)}
            self._until_answered(expected)
            for worker in stage.workers:
                stage.end(worker)
            verdict = verify(self._direct, expected, stage.poison)
        finally:
            for service in stage.all_services:
                service.close()
        self._report(verdict)

    def _faults(self, watch: Watch) -> None:
        deck: list[str] = []
        until = time.monotonic() + 60 * self._options.minutes
        with ThreadPoolExecutor(1) as pool:
            while time.monotonic() < until:
                if not deck:
                    deck = list(self._options.kinds or KINDS)
                    if not self._options.kinds:
                        self._stage.rng.shuffle(deck)
                kind = deck.pop(0)
                began = time.monotonic()
                self._wait_for(pool.submit(KINDS[kind], self._stage))
                self._recover(kind, began, watch)
                pause = time.monotonic() + self._stage.rng.uniform(0.5, 3.0)
                while time.monotonic() < pause:
                    self._tick()

    def _recover(self, kind: str, began: float, watch: Watch) -> None:
        ended, ended_at = time.monotonic(), time.time()
        while not watch.answered_since(self._stage.streams, ended_at):
            self._tick()
            if time.monotonic() > ended + _RECOVER_WITHIN_S:
                self._log.stuck.append(f"{kind}: not every stream was answered within {_RECOVER_WITHIN_S:.0f} s")
                break
        took_s = time.monotonic() - ended
        self._log.seconds.setdefault(kind, []).append(took_s)
        count = sum(map(len, self._log.seconds.values()))
        minutes = (time.monotonic() - self._began) / 60
        self._notice(
            f"{minutes:.1f} min, fault {count}: {kind}, {ended - began:.1f} s; streams answered {took_s:.1f} s later; "
            f"{watch.results} results"
        )

    def _wait_for(self, fault: Future[None]) -> None:
        while not fault.done():
            self._tick()
        fault.result()

    def _tick(self) -> None:
        for service in self._stage.all_services:
            service.watch()
        time.sleep(_TICK_S)

    def _until(self, condition: Callable[[], bool], within_s: float, what: str) -> None:
        deadline = time.monotonic() + within_s
        while not condition():
            self._tick()
            if time.monotonic() > deadline or any(len(service.failures) > 2 for service in self._stage.all_services):
                words = {service.name: service.last_words() for service in self._stage.all_services}
                raise ChaosError(f"no {what} within {within_s:.0f} s, or services fail; last words: {words}")

    def _undisturbed(self, stride: str) -> list[Result]:
        """Runs one worker on a copy of the topics, without a proxy."""
        settings = replace(self._direct, topic_prefix=f"{_PREFIX}.undisturbed-{stride}")
        create_topics(settings, PARTITIONS, replication=self._options.brokers)
        copy(self._direct, settings)
        for stream in self._stage.streams:
            subscriber.ask(settings, stream, BASE)
        name = f"undisturbed-{stride}"
        worker = self._worker(name, stride, self._cluster.direct, settings.topic_prefix, "--until-end")
        self._stage.all_services.append(worker)
        worker.start()
        while worker.running:
            self._tick()
        worker.terminate()
        return results(settings)

    def _until_answered(self, expected: dict[str, list[Result]]) -> None:
        """Waits, as the workers may still be catching up."""
        last: dict[tuple[str, int], float] = {}
        for result in expected[self._stage.strides[-1]]:
            epoch = (result.stream, result.epoch)
            last[epoch] = max(last.get(epoch, 0.0), result.end_s)
        # If strides were changed, an epoch may have ended under another one.
        slack = max(map(float, expected)) if len(expected) > 1 else 0.0
        deadline = time.monotonic() + _RECOVER_WITHIN_S
        while time.monotonic() < deadline:
            ends = {place(result)[:2]: 0.0 for result in expected[self._stage.strides[-1]]}
            for result in results(self._direct):
                epoch = (result.stream, result.epoch)
                ends[epoch] = max(ends.get(epoch, 0.0), result.end_s)
            if all(ends[epoch] + slack >= end for epoch, end in last.items()):
                return
            for _ in range(10):
                self._tick()

    def _worker(self, name: str, stride: str, servers: str, prefix: str, *more: str) -> Service:
        options = ["--model", str(self._model), "--window", WINDOW_S, "--stride", stride, "--coverage", "2"]
        options += [
            "--refresh",
            "all",
            "--when-behind",
            "wait",
            "--device",
            "cpu",
            "--samplers",
            "1",
            "--buffer",
            "0.25",
        ]
        for name_value in (f"session.timeout.ms={SESSION_S * 1000}", "heartbeat.interval.ms=1000"):
            options += ["-X", name_value]
        kafka = ["--bootstrap-servers", servers, "--topic-prefix", prefix]
        return Service(name, self._folder, "worker", *options, *kafka, *more)

    def _producer(self, stream: str, clip: Path) -> Service:
        kafka = ["--bootstrap-servers", self._cluster.disturbed, "--topic-prefix", _PREFIX]
        return Service(stream, self._folder, "produce", str(clip), "--stream", stream, "--loop", *kafka)

    def _report(self, verdict: Verdict) -> None:
        stage, log, options = self._stage, self._log, self._options
        every = [seconds for found in log.seconds.values() for seconds in found]
        rows = [[kind, len(found), *_quantiles(found)] for kind, found in log.seconds.items()]
        rows.append(["all", len(every), *_quantiles(every)])
        tracebacks = [service.name for service in stage.all_services if service.traceback()]
        failures = [
            f"{service.name} ended with {status}" for service in stage.all_services for status in service.failures
        ]
        print_table(
            f"{options.minutes:g} min, seed {options.seed}, {options.brokers} broker(s), {options.workers} workers, "
            f"{options.streams} streams",
            ["fault", "times", "recovery median s", "p95 s", "max s"],
            rows,
            f"{verdict.windows} windows and questions expected; {len(verdict.lost)} lost, {len(verdict.doubled)} doubled, "
            f"{len(verdict.different)} different, {len(verdict.unknown)} unknown; {len(stage.poison)} unusable records; "
            f"{verdict.events} events; largest difference of p(yes) {verdict.worst:.1e}; {len(tracebacks)} tracebacks",
        )
        faults = {
            "lost": verdict.lost,
            "doubled": verdict.doubled,
            "different": verdict.different,
            "unknown": verdict.unknown,
            "tracebacks": tracebacks,
            "ended by themselves": failures,
            "not ended cleanly": stage.refused,
            "not recovered": log.stuck,
        }
        for what, found in faults.items():
            for line in found[:20]:
                print(f"{what}: {line}", file=sys.stderr)
        median, p95, longest = _quantiles(every)
        print_json(
            {
                "minutes": options.minutes,
                "seed": options.seed,
                "brokers": options.brokers,
                "faults": {kind: len(found) for kind, found in log.seconds.items()},
                "windows": verdict.windows,
                **{what.replace(" ", "_"): len(found) for what, found in faults.items()},
                "recovery_s": {"median": median, "p95": p95, "max": longest},
                "events": verdict.events,
                "worst_difference": verdict.worst,
            }
        )
        if any(faults.values()):
            what = ", ".join(f"{len(found)} {name}" for name, found in faults.items() if found)
            raise ChaosError(f"chaos with seed {options.seed}: {what}")


def _quantiles(seconds: Sequence[float]) -> tuple[float, float, float]:
    """Median, 95th percentile and largest."""
    if not seconds:
        return 0.0, 0.0, 0.0
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return round(statistics.median(ordered), 1), round(p95, 1), round(ordered[-1], 1)


def _tiny_model(folder: Path) -> Path:
    """Random weights are enough: equal pictures must have equal answers."""
    from codecflow.vlm.tiny import make_tiny

    return make_tiny(folder / "model", image_size=112)

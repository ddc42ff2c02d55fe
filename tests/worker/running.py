"""Workers on a real Kafka: in threads of the test, or as processes that can be killed."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

from codecflow import subscriber
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.keep.config import KeepConfig
from codecflow.lifecycle import GracefulStop
from codecflow.messages import Question, Result, encode_metadata, encode_packet
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.worker.answering import Provenance, WindowEngine
from codecflow.worker.service import Worker
from codecflow.worker.settings import Limits, WhenBehind, WorkerSettings
from codecflow.worker.summary import Summary
from codecflow.worker.transport import KafkaTransport
from codecflow.worker.window_plan import WindowPlan

from .memory import Published

PLAN = WindowPlan.of(6, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))
ASKED = Question("person", "Is a person in view?", "yes-no")
LIMITS, WHEN_BEHIND = Limits(), WhenBehind()
QUICK = {"session.timeout.ms": "6000", "heartbeat.interval.ms": "1000"}
"""The broker's minimum: a killed worker's partitions are reassigned after six seconds."""

Key = tuple[str, int, int, str]
"""(stream, epoch, window, question)"""


def quick(settings: KafkaSettings) -> KafkaSettings:
    return replace(settings, properties=QUICK)


def patient(settings: KafkaSettings) -> KafkaSettings:
    """A slow worker is not removed from the group."""
    properties = {"session.timeout.ms": "60000", "heartbeat.interval.ms": "1000"}
    return replace(settings, properties=properties)


def send(settings: KafkaSettings, *published: Published) -> None:
    """Publish records unchanged, in order, and return once the broker has them."""
    with RecordSender(settings) as sender:
        for pictures, documents in published:
            for picture in pictures:
                key, value, headers = encode_packet(picture)
                sender.send(Record(settings.topics.packets, key, value, "a picture", headers))
            for document in documents:
                key, value = encode_metadata(document)
                sender.send(Record(settings.topics.metadata, key, value, "metadata"))


def results(settings: KafkaSettings) -> list[Result]:
    """Everything visible now to readers of committed records."""
    with subscriber.Follower(settings, from_beginning=True, stopping=lambda: True) as follower:
        return list(follower)


def key(result: Result) -> Key:
    return result.stream, result.epoch, result.window, result.question


def once(found: Iterable[Result]) -> dict[Key, Result]:
    """By (stream, epoch, window, question), each of which must occur once."""
    found = list(found)
    by_key = {key(result): result for result in found}
    assert len(by_key) == len(found), sorted(key(result) for result in found)
    return by_key


def until(condition: Callable[[], bool], within_s: float = 180.0, what: str = "") -> None:
    """Poll until it holds, any worker has failed, or time is up."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}; {[r.output() for r in Running.all]}"
        time.sleep(0.1)


class Running:
    """A worker in a thread. `said`: its lines for people; `summary`: its figures so far."""

    all: ClassVar[list[Running]] = []
    """For the message of a test that times out."""

    def __init__(
        self,
        settings: KafkaSettings,
        family: Family,
        *,
        plan: WindowPlan = PLAN,
        keep: KeepConfig = KEEP,
        refresh: str = "none",
        question: Question | None = ASKED,
        until_end: bool = True,
        memory_bytes: int | None = None,
        samplers: int = 0,
        limits: Limits = LIMITS,
        when_behind: WhenBehind = WHEN_BEHIND,
        reuse_slots: int = 0,
        engine: WindowEngine | None = None,
    ) -> None:
        self.said: list[str] = []
        self.summary = Summary()
        self._stop = GracefulStop()
        engine = engine or Engine(family, refresh=refresh, background=keep.background, memory_bytes=memory_bytes)
        self._worker = Worker(
            KafkaTransport(settings, lambda: self._stop.requested),
            WorkerSettings(
                plan,
                keep,
                question=question,
                until_end=until_end,
                samplers=samplers,
                limits=limits,
                when_behind=when_behind,
                reuse_slots=reuse_slots,
            ),
            engine,
            Provenance(keep.policy, "tiny", trained=False),
            self._stop,
            self._progress,
            self.said.append,
        )
        self._running = ThreadPoolExecutor(1).submit(self._worker.run)
        self.all.append(self)

    @property
    def done(self) -> bool:
        return self._running.done()

    @property
    def error(self) -> BaseException | None:
        return self._running.exception() if self._running.done() else None

    def output(self) -> str:
        return f"{self.summary.line()}; said {self.said}; error {self.error!r}"

    def _progress(self, summary: Summary) -> None:
        self.summary = summary

    def stop(self) -> Summary:
        """Like the first SIGTERM."""
        self.request_stop()
        return self.join()

    def request_stop(self) -> None:
        self._stop.request()

    def join(self, within_s: float = 240.0) -> Summary:
        return self._running.result(within_s)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["codecflow.vlm.loading", "codecflow.vlm.engine", "codecflow.worker.service"])


class Process:
    """`codecflow worker` with the plan of these tests, in a process of its own, which can be killed.

    Forked from one that has already imported torch and transformers, which takes longer than everything else.
    `stuck_after_s`: its engine never answers, and the worker reports that as stuck after this time.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        checkpoint: Path,
        folder: Path,
        *options: str,
        stuck_after_s: float | None = None,
    ) -> None:
        arguments = ["worker", "--model", str(checkpoint), "--window", "6", "--stride", "2", "--coverage", "2"]
        arguments += ["--samplers", "0"]  # they take longer to start than everything else
        arguments += ["--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", settings.topic_prefix]
        for name, value in QUICK.items():
            arguments += ["-X", f"{name}={value}"]
        self._output = (folder / "stdout", folder / "stderr")
        self._process = FORKS.Process(
            target=_run_command, args=([*arguments, *options], *self._output, stuck_after_s), daemon=True
        )
        self._process.start()

    def signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def alive(self) -> bool:
        return self._process.is_alive()

    def end(self, within_s: float = 240.0) -> tuple[int | None, str, str]:
        """(exit status, stdout, stderr) once it has ended."""
        self._process.join(within_s)
        output, errors = (path.read_text() if path.exists() else "" for path in self._output)
        assert not self._process.is_alive(), f"the worker has not ended: {errors}"
        return self._process.exitcode, output, errors


def _run_command(arguments: list[str], output: Path, errors: Path, stuck_after_s: float | None) -> None:
    with output.open("w", buffering=1) as out, errors.open("w", buffering=1) as err:
        sys.stdout, sys.stderr = out, err
        sys.argv = ["codecflow", *arguments]
        from codecflow.cli.app import main

        if stuck_after_s is not None:
            _freeze_engine(stuck_after_s)
        main()


def _freeze_engine(stuck_after_s: float) -> None:
    from codecflow.worker.options import WorkerOptions

    def frozen_step(*_: object) -> None:
        time.sleep(600)

    settings = WorkerOptions.settings
    Engine.step = frozen_step  # type: ignore[method-assign, assignment]
    WorkerOptions.settings = lambda options: replace(  # type: ignore[method-assign]
        settings(options), stuck_after_s=stuck_after_s
    )

"""Sampler processes that end: by a decoder fault, killed from outside, hanging, or with their worker. Other streams
continue, and nothing is emitted twice."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.kafka.settings import KafkaSettings
from codecflow.keep.config import KeepConfig
from codecflow.messages import Result
from codecflow.vlm.families import Family
from codecflow.worker import pool as pools
from codecflow.worker import sampler_host, stream_queue
from codecflow.worker.pool import SamplerPool
from codecflow.worker.sampler_events import Sampling
from codecflow.worker.sampler_host import SamplerProcess, SamplersError
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Window

from .memory import Committed, Published, Topics, Worker, encode_clip, publish, undisturbed
from .picture_inputs import Pixels, crashing, hanging
from .running import FORKS, Running, once, results, send, until

PLAN = WindowPlan.of(4, 2, 2)
KEEP = KeepConfig("replenish", period_s=Fraction(2))


def patch_input(monkeypatch: pytest.MonkeyPatch, patches_of: Callable[..., Pixels]) -> None:
    def patched(plan: WindowPlan, keep: KeepConfig, grid: object, _: object) -> Sampling:
        return Sampling(plan, keep, grid, patches_of)  # type: ignore[arg-type]

    monkeypatch.setattr("tests.worker.memory.Sampling", patched)
    monkeypatch.setattr(pools, "_RESTART_S", (0.01, 0.01))


def of(worker: Worker, stream: str) -> list[Window]:
    return [window for window in worker.windows if window.stream == stream]


def test_a_picture_that_ends_its_process_sets_its_stream_aside_and_others_go_on(
    beside: Topics, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    patch_input(monkeypatch, crashing)
    worker = Worker(beside, Committed(), PLAN, KEEP, samplers=1).run()
    assert not worker.committed.twice
    assert worker.partition.settled
    bad, good = of(worker, "bad"), of(worker, "a")
    assert {window.error.code for window in bad if window.error} == {"failed"}
    assert all(window.error is not None or not window.frames for window in bad)
    assert all("SIGSEGV" in window.error.text for window in bad if window.error)
    # Tried at 0 s, then after 1, 2, 4 and 8 s, at the keyframe that follows; in a process of its own.
    letters = [letter for letter in worker.dead if letter.stream == "bad"]
    assert 4 <= len(letters) <= 5
    assert worker.pool.deaths == len(letters)
    for letter in letters:
        record = beside.packets[letter.offset]
        assert record is not None
        assert (record[0], letter.code) == (b"bad", "failed")
    assert worker.counts["a"]["sampler-restarts"] == 1
    assert all(window.error is None for window in good)
    # The process may end at any time of the good stream: what it had sampled of one stride is lost, and what begins after
    # the following keyframe is as before. Windows with frames of both are marked.
    assert len(good) >= 5
    assert len(good) + worker.counts["a"]["windows-skipped"] == 6
    expected = undisturbed(Topics().add(*published), PLAN, KEEP).answered
    whole = [window.index for window in good if window.index >= 2 and not window.restarted]
    assert whole
    for index in whole:
        assert worker.committed.answered["a", 1, index] == expected["a", 1, index]
    assert any("SIGSEGV" in line and "stream 'bad'" in line for line in worker.said)


def running_process(worker: Worker, number: int) -> SamplerProcess:
    def runs() -> bool:
        worker.collect()
        processes = worker.pool.processes
        return len(processes) == 2 and processes[number].pid is not None

    until(runs, what="the process")
    return worker.pool.processes[number]


def test_killed_processes_are_replaced_and_nothing_is_emitted_twice(tmp_path: Path) -> None:
    topics = Topics()
    clips = [publish(encode_clip(tmp_path / f"{n}.mp4", 12, gop=10), f"camera-{n}") for n in range(4)]
    for first in range(0, 120, 10):
        for pictures, documents in clips:
            topics.add(pictures[first : first + 10], documents[first : first + 10])
    for _, documents in clips:
        topics.add([], documents[120:])
    worker = Worker(topics, Committed(), PLAN, KEEP, samplers=2)
    killed = 0
    while not worker.at_end:
        worker.collect()
        worker.read_packets(40)
        worker.read_metadata(40)
        worker.transaction()
        if killed < 2 and worker.windows:
            process = running_process(worker, killed)
            assert process.pid is not None
            os.kill(process.pid, signal.SIGTERM)  # for the worker
            os.kill(process.pid, signal.SIGINT)
            process.kill()
            killed += 1
            until(lambda: worker.idle and worker.pool.deaths == killed, what="its end")  # noqa: B023
        until(lambda: worker.idle, what="what was read")
    worker.run()
    assert worker.pool.deaths == 2
    assert not worker.committed.twice
    assert worker.partition.settled
    assert not worker.dead
    assert {stream: of(worker, stream)[-1].index for stream in worker.counts} == {f"camera-{n}": 5 for n in range(4)}
    for stream in worker.counts:
        indices = [window.index for window in of(worker, stream)]
        assert indices == sorted(set(indices))
        assert all(window.error is None for window in of(worker, stream))
    restarted = [count["sampler-restarts"] for count in worker.counts.values()]
    assert sorted(restarted) == [1, 1, 1, 1]
    assert len([line for line in worker.said if "SIGKILL" in line]) == 2


def test_a_worker_whose_samplers_are_killed_goes_on_and_answers_each_window_once(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    streams = [f"camera-{n}" for n in range(4)]
    published = [publish(clip, stream) for stream in streams]
    worker = Running(kafka_settings, family, samplers=2)

    def by_stream(found: Iterable[Result]) -> list[set[int]]:
        found = list(found)
        return [{result.window for result in found if result.stream == stream} for stream in streams]

    send(kafka_settings, *((pictures[:100], documents[:100]) for pictures, documents in published))
    first = {0, 1, 2}
    until(lambda: all(first <= windows for windows in by_stream(results(kafka_settings))), what="windows of each")
    for process in worker._worker._pool.processes:
        process.kill()
    send(kafka_settings, *((pictures[100:], documents[100:]) for pictures, documents in published))
    summary = worker.join()
    assert summary.sampler_deaths == 2, worker.said
    assert len([line for line in worker.said if "a sampler process has ended (SIGKILL)" in line]) == 2
    found = once(results(kafka_settings))
    assert {result.error for result in found.values()} == {None}
    for stream, windows in zip(streams, by_stream(found.values()), strict=True):
        assert {0, 1, 2, 7, 8, 9} <= windows
        assert summary.streams[stream]["sampler-restarts"] == 1
    assert any(result.restarted for result in found.values())


def test_a_process_that_hangs_is_ended_and_the_stream_named(beside: Topics, monkeypatch: pytest.MonkeyPatch) -> None:
    patch_input(monkeypatch, hanging)
    worker = Worker(beside, Committed(), PLAN, KEEP, samplers=1, stuck_after_s=4.0)
    monkeypatch.setattr(stream_queue, "_RETRY_S", (1000, 1000))
    worker.run()
    assert not worker.committed.twice
    assert len(of(worker, "a")) + worker.counts["a"]["windows-skipped"] == 6
    assert {window.error.code for window in of(worker, "bad") if window.error} == {"failed"}
    assert "more than 4 s for one picture" in worker.said[0]
    assert "stream 'bad'" in worker.said[0]


class Unreadable:
    """A message that cannot be sent to a process."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return int, ("no number",)


def test_processes_that_cannot_work_end_the_worker_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pools, "_RESTART_S", (0.01, 0.01))
    pool = SamplerPool(Sampling(PLAN, KEEP, Unreadable(), Unreadable()), 1)  # type: ignore[arg-type]
    with pytest.raises(SamplersError, match=r"end as soon as they start \(exit status 1\)"):
        until(lambda: pool.take() is None)
    pool.close()


def work(file: Path) -> None:
    processes = [sampler_host.start() for _ in range(2)]
    until(lambda: all(process.pid is not None for process in processes), what="two processes")
    pids = [process.pid for process in processes] + [int(pid) for pid in children_of(os.getpid())]
    file.with_suffix(".part").write_text(" ".join(map(str, pids)))
    file.with_suffix(".part").rename(file)
    time.sleep(1000)


def children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def test_nothing_outlives_a_worker_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    worker = FORKS.Process(target=work, args=(file,))
    worker.start()
    until(file.exists, what="the process ids")
    pids = [int(pid) for pid in file.read_text().split()]
    assert len(pids) == 3
    assert all(alive(pid) for pid in pids)
    worker.kill()
    until(lambda: not any(alive(pid) for pid in pids), what="the end of its processes")
    worker.join()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"

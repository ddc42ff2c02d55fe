"""More streams than the engine can answer: all are served in turn, within bounds, and the worker stays in its group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from codecflow.kafka.settings import KafkaSettings
from codecflow.tools.bench.stub_engine import StubEngine
from codecflow.vlm.families import Family
from codecflow.worker.settings import Limits

from .memory import publish
from .running import Running, once, results, send, until

STREAMS = [f"camera-{number}" for number in range(6)]
LIMITS = Limits(buffer_bytes=1 << 20, windows=1)


def test_an_engine_that_is_too_slow_serves_every_stream_in_turn(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    # A worker that stopped polling while topics are paused would be removed from the group after this time.
    properties = {"session.timeout.ms": "12000", "max.poll.interval.ms": "12000"}
    settings = replace(kafka_settings, properties=properties)
    send(settings, *(publish(clip, stream) for stream in STREAMS))
    waiting: list[int] = []
    worker = Running(settings, family, engine=StubEngine(family, 0.25), limits=LIMITS)

    def done() -> bool:
        waiting.append(worker.summary.queue_bytes + worker.summary.frame_bytes)
        return worker.error is not None or worker.done

    until(done, what="all windows")
    summary = worker.join()
    assert summary.windows == 10 * len(STREAMS)
    assert summary.restarted == summary.fenced == 0, worker.said
    assert max(waiting) < 4 * LIMITS.buffer_bytes
    found = results(settings)
    assert len(once(found)) == 10 * len(STREAMS)
    # From the time at which all have begun, until the first one has ended.
    times = {stream: [result.answered_at_ms for result in found if result.stream == stream] for stream in STREAMS}
    begin, end = max(min(one) for one in times.values()), min(max(one) for one in times.values())
    served = [sum(begin <= at <= end for at in one) for one in times.values()]
    assert max(served) - min(served) <= 2, times

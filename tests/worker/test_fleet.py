"""Many streams in one worker on a real Kafka: missing or bad records of one do not affect the others."""

from __future__ import annotations

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from itertools import count
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions

from codecflow import subscriber
from codecflow.errors import KafkaError
from codecflow.kafka.clients import admin_client, require_broker
from codecflow.kafka.failures import TopicsError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import create_topics, partition_of
from codecflow.keep.config import KeepConfig
from codecflow.localkafka.daemon import LocalKafka
from codecflow.localkafka.files import BrokerFiles
from codecflow.messages import Question, decode_dead_letter, encode_metadata, encode_packet
from codecflow.vlm.families import Family
from codecflow.worker.settings import Limits, WhenBehind
from codecflow.worker.window_plan import WindowPlan
from tests.conftest import PARTITIONS

from .memory import Published, encode_clip, publish
from .running import Running, once, results, send, until
from .test_reports import letters

QUICK_BROKER = {"broker.session.timeout.ms": "3000", "broker.heartbeat.interval.ms": "500"}
PLAN = WindowPlan.of(4, 2, 1)
KEEP = KeepConfig("replenish", Fraction(1), period_s=Fraction(2))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Six seconds, two pictures per second."""
    return publish(encode_clip(tmp_path_factory.mktemp("clip") / "small.mp4", 6, fps=2, gop=4), "small")


def named(published: Published, stream: str) -> Published:
    pictures, documents = published
    return [replace(p, stream=stream) for p in pictures], [replace(d, stream=stream) for d in documents]


def unended(published: Published) -> Published:
    """The stream has not ended."""
    return published[0], published[1][:-1]


def in_one_partition(count: int, partitions: int = 3) -> list[str]:
    """Stream names that share a partition."""
    names = (f"camera-{n}" for n in range(10_000))
    return [name for name in names if partition_of(name, partitions) == 0][:count]


def test_a_hundred_streams_in_one_worker(kafka_settings: KafkaSettings, family: Family, small: Published) -> None:
    odd = ["a:b.c-d_e", "A" * 200, "-", "..", "0", "camera:7.front-door_1"]
    streams = [*odd, *(f"camera-{n}" for n in range(100 - len(odd)))]
    send(kafka_settings, *(named(small, stream) for stream in streams))
    worker = Running(kafka_settings, family, plan=PLAN, keep=KEEP, samplers=3, limits=Limits.within(64 << 20))
    summary = worker.join()
    found = once(results(kafka_settings))
    assert found.keys() == {(stream, 1, k, "person") for stream in streams for k in range(3)}
    assert {(r.frames.expected, r.frames.seen, r.error) for r in found.values() if r.window} == {(4, 4, None)}
    assert summary.windows == 300
    assert (summary.queue_bytes, summary.frame_bytes, summary.kv_bytes) == (0, 0, 0)
    assert worker.said == []


def test_memory_is_given_back_when_streams_end_or_fall_silent(
    kafka_settings: KafkaSettings, family: Family, small: Published
) -> None:
    ending, silent = [f"ending-{n}" for n in range(5)], [f"silent-{n}" for n in range(5)]
    limits = Limits(idle_s=4.0)
    worker = Running(kafka_settings, family, plan=PLAN, keep=KEEP, until_end=False, limits=limits)
    for epoch in (1, 2):
        again = [replace(p, epoch=epoch) for p in small[0]], [replace(d, epoch=epoch) for d in small[1]]
        send(kafka_settings, *(named(again, stream) for stream in ending))
        send(kafka_settings, *(unended(named(again, stream)) for stream in silent))
        until(lambda windows=30 * epoch: worker.summary.windows >= windows, what="all windows")  # type: ignore[misc]

        def released() -> bool:
            summary = worker.summary
            return not summary.held and (summary.kv_bytes, summary.frame_bytes, summary.queue_bytes) == (0, 0, 0)

        until(released, what="memory given back")
        assert len(once(results(kafka_settings))) == 30 * epoch
    assert not worker._worker._answering._engine.windows
    worker.stop()


def test_what_each_stream_holds_is_in_the_summary(
    kafka_settings: KafkaSettings, family: Family, small: Published
) -> None:
    worker = Running(kafka_settings, family, plan=PLAN, keep=KEEP, until_end=False)
    send(kafka_settings, unended(named(small, "held")))
    until(lambda: worker.summary.windows >= 2, what="windows")  # the decoder may hold back the last pictures
    until(lambda: any(held.kv_bytes for held in worker.summary.held.values()), what="its figures")
    document = worker.stop().document()
    assert document["held"]["held"].keys() == {"kv_bytes", "queue_bytes", "frame_bytes", "behind_s"}
    assert document["held"]["held"]["kv_bytes"] == document["kv_bytes"] > 0


def test_streams_without_metadata_do_not_stop_their_partition(
    kafka_settings: KafkaSettings, family: Family, small: Published, clip: Path
) -> None:
    lonely, good = in_one_partition(2)
    limits = Limits(pictures=50)
    worker = Running(kafka_settings, family, plan=PLAN, keep=KEEP, until_end=False, limits=limits)
    pictures = publish(clip, lonely)[0]
    for _ in range(2):
        send(kafka_settings, (pictures, []))
    until(lambda: any("'camera-" in line and "did not arrive" in line for line in worker.said), what="a line about it")
    send(kafka_settings, named(small, good))
    until(lambda: worker.summary.windows == 3, what="windows of the good stream")
    # It is possible that no partition of the metadata topic has records.
    assert {r.stream for r in results(kafka_settings)} == {good}
    assert worker.summary.streams[lonely]["dropped-unpaired"] >= 50
    worker.stop()


def test_an_unreadable_state_is_no_state(kafka_settings: KafkaSettings, family: Family, small: Published) -> None:
    topic = kafka_settings.topics.state
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(topic, b"small", b"\x00 no state", "garbage"))
        sender.send(Record(topic, b"other", b'{"v": 99}', "a state of another version"))
    send(kafka_settings, small, named(small, "beside"))
    worker = Running(kafka_settings, family, plan=PLAN, keep=KEEP)
    worker.join()
    assert once(results(kafka_settings)).keys() == {(s, 1, k, "person") for s in ("small", "beside") for k in range(3)}
    with TopicTail(kafka_settings, kafka_settings.topics.dead_letter) as tail:
        letters = [decode_dead_letter(record.key(), record.value()) for record in tail.catch_up()]
    assert sorted((x.topic, x.stream, x.code) for x in letters) == [
        (topic, "other", "unreadable"),
        (topic, "small", "unreadable"),
    ]
    lines = [line for line in worker.said if "its state" in line]
    assert len(lines) == 2
    assert all("its next window writes a good state" in line for line in lines)
    again = Running(kafka_settings, family, plan=PLAN, keep=KEEP, until_end=False)
    until(lambda: again.summary.partitions == 3, what="its partitions")
    again.stop()
    assert not [line for line in again.said if "'small'" in line]


def test_what_retention_has_taken_is_reported(kafka_settings: KafkaSettings, family: Family, small: Published) -> None:
    send(kafka_settings, small)
    Running(kafka_settings, family, plan=PLAN, keep=KEEP).join()
    again = [replace(p, epoch=2) for p in small[0]], [replace(d, epoch=2) for d in small[1]]
    third = [replace(p, epoch=3) for p in small[0]], [replace(d, epoch=3) for d in small[1]]
    send(kafka_settings, again, third)
    number = partition_of("small", 3)
    packets = kafka_settings.topics.packets
    admin = require_broker(kafka_settings)
    answers = admin.delete_records([TopicPartition(packets, number, 24)])
    assert [answer.result(60).low_watermark for answer in answers.values()] == [24]
    worker = Running(kafka_settings, family, plan=PLAN, keep=KEEP)
    worker.join()
    assert {epoch for _, epoch, _, _ in once(results(kafka_settings))} == {1, 3}
    lines = [line for line in worker.said if "deleted by retention" in line]
    assert lines == [
        f"{packets}[{number}]: offsets 12 to 23 were deleted by retention before they were read: 12 records; "
        f"keep topics longer, or add workers"
    ]


def test_partitions_that_are_added_end_a_worker_before_it_misplaces_a_stream(
    kafka_settings: KafkaSettings, family: Family, small: Published
) -> None:
    """A record in another partition than the worker expects is a dead letter, but not if the partitions are more now."""
    topics, more = kafka_settings.topics, PARTITIONS + 1
    names = (f"camera-{number}" for number in count())
    moved = next(
        x for x in names if partition_of(x, more) < PARTITIONS and partition_of(x, more) != partition_of(x, PARTITIONS)
    )
    worker = Running(kafka_settings, family, until_end=False)
    until(lambda: worker.summary.partitions == PARTITIONS, what="its partitions")
    wanted = [NewPartitions(topic, more) for topic in (topics.packets, topics.metadata)]
    admin = admin_client(kafka_settings)  # its requests end with it
    for done in admin.create_partitions(wanted).values():
        done.result(120)
    send(kafka_settings, named(small, moved))
    with pytest.raises(TopicsError, match=rf"{topics.packets} has 4 partitions now, and had 3 .* restart all workers"):
        worker.join()
    assert not letters(kafka_settings)


def test_another_plan_goes_on_on_a_real_kafka(kafka_settings: KafkaSettings, family: Family, clip: Path) -> None:
    pictures, documents = publish(clip, "a")
    first = Running(kafka_settings, family, until_end=False)  # windows of 6 s, every 2 s
    send(kafka_settings, (pictures[:110], documents[:110]))
    until(lambda: first.summary.windows >= 4, what="windows of the first worker")
    first.stop()
    before = results(kafka_settings)
    send(kafka_settings, (pictures[110:], documents[110:]))
    plan = WindowPlan.of(8, 4, 2)
    second = Running(kafka_settings, family, plan=plan)
    second.join()
    after = [result for result in results(kafka_settings) if result not in before]
    until_s = max(result.end_s for result in before)
    assert [result.end_s for result in sorted(after, key=lambda one: one.end_s)] == [
        end for end in (4.0, 8.0, 12.0, 16.0, 20.0) if end > until_s
    ]
    assert second.said == [
        "1 streams ('a') were answered with --window 6 --stride 2 --fps 2; they continue at their next window"
    ]


def test_a_live_backlog_is_skipped_to_the_newest_keyframe(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    now = int(time.time() * 1000)

    def live(stream: str, is_live: bool) -> Published:
        pictures, documents = publish(clip, stream)
        at = [now - 500_000 + int(p.pts * p.time_base * 1000) for p in pictures]
        return [replace(p, live=is_live, captured_at_ms=ms) for p, ms in zip(pictures, at, strict=True)], documents

    send(kafka_settings, live("camera", True), live("file", False))
    worker = Running(kafka_settings, family, when_behind=WhenBehind.parse("skip=30"))
    summary = worker.join()
    found = once(results(kafka_settings))
    assert {k for stream, _, k, _ in found if stream == "file"} == set(range(10))
    assert all(result.skipped == 0 for result in found.values() if result.stream == "file")
    assert summary.streams["camera"]["windows-behind"] >= 8
    skipped = [result for result in found.values() if result.stream == "camera"]
    assert sum(result.skipped for result in skipped) in (0, 10 - len(skipped))
    lines = [line for line in worker.said if "behind live" in line]
    assert len(lines) == 1
    assert lines[0].startswith("stream 'camera': 5")


def pid_of(broker: LocalKafka) -> int:
    """The broker's own process, not its guard's."""
    return BrokerFiles(broker.data_dir).running_pids()[-1]


@contextmanager
def slow(broker: LocalKafka) -> Iterator[None]:
    """The broker is suspended four fifths of the time."""
    over, pid = threading.Event(), pid_of(broker)

    def hamper() -> None:
        while not over.is_set():
            os.kill(pid, signal.SIGSTOP)
            over.wait(0.8)
            os.kill(pid, signal.SIGCONT)
            over.wait(0.2)

    thread = threading.Thread(target=hamper)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def fill_disk(broker: LocalKafka) -> None:
    """All further writes of the broker fail, so that it halts."""
    pid = pid_of(broker)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (1, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))


def test_a_broker_that_answers_slowly_or_whose_disk_is_full_delays_results_and_loses_none(
    tmp_path: Path, family: Family, small: Published
) -> None:
    with LocalKafka(tmp_path / "kafka", properties=QUICK_BROKER) as broker:
        settings = KafkaSettings(broker.bootstrap_servers, "slow", reach_within_s=60.0)
        create_topics(settings, partitions=1)
        send(settings, named(small, "a"))
        worker = Running(settings, family, plan=PLAN, keep=KEEP, until_end=False)
        until(lambda: worker.summary.windows == 3, what="windows")
        with slow(broker):
            send(settings, *(named(small, stream) for stream in "bcd"))
            until(lambda: worker.summary.windows == 12, 300, what="windows while it is slow")
        fill_disk(broker)
        filling = RecordSender(settings)
        filling.send(Record(settings.topics.dead_letter, b"x", bytes(1000), "what fills the disk"))
        with pytest.raises(KafkaError, match="not acknowledged"):
            filling.flush(within_s=5)
        until(lambda: not broker.running(), what="the end of a broker that cannot write")
        folder = broker.data_dir
    with ThreadPoolExecutor(1) as background:
        sending = background.submit(send, settings, *(named(small, stream) for stream in "ef"))
        with LocalKafka(folder, properties=QUICK_BROKER):
            sending.result(240)
            until(lambda: worker.summary.windows == 18, what="windows after the disk has room again")
            worker.stop()
            assert once(results(settings)).keys() == {(s, 1, k, "person") for s in "abcdef" for k in range(3)}


def test_a_question_that_cannot_be_answered_is_an_error_of_its_own(
    kafka_settings: KafkaSettings, family: Family, small: Published
) -> None:
    subscriber.ask(kafka_settings, "small", Question("good", "What is there?", max_tokens=2))
    engine_refuses = Question("bad", "x " * 1900, max_tokens=1024)
    subscriber.ask(kafka_settings, "small", engine_refuses)
    send(kafka_settings, small, named(small, "beside"))
    Running(kafka_settings, family, plan=PLAN, keep=KEEP).join()
    found = once(results(kafka_settings))
    assert {(s, q) for s, _, _, q in found} == {("small", "good"), ("small", "bad"), ("beside", "person")}
    assert all(r.error is None for (_, _, _, q), r in found.items() if q != "bad")


def test_records_of_the_contract_in_wrong_order_of_topics(
    kafka_settings: KafkaSettings, family: Family, small: Published
) -> None:
    """All metadata before any picture."""
    pictures, documents = small
    with RecordSender(kafka_settings) as sender:
        for document in documents:
            key, value = encode_metadata(document)
            sender.send(Record(kafka_settings.topics.metadata, key, value, "metadata"))
    with RecordSender(kafka_settings) as sender:
        for picture in pictures:
            key, value, headers = encode_packet(picture)
            sender.send(Record(kafka_settings.topics.packets, key, value, "a picture", headers))
    Running(kafka_settings, family, plan=PLAN, keep=KEEP).join()
    assert len(once(results(kafka_settings))) == 3

"""The worker on a real Kafka: records in, answers out."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions

from codecflow import subscriber
from codecflow.errors import KafkaError
from codecflow.kafka.clients import require_broker
from codecflow.kafka.failures import BrokersGoneError
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import create_topics
from codecflow.keep.config import KeepConfig
from codecflow.lifecycle import GracefulStop
from codecflow.localkafka.daemon import LocalKafka
from codecflow.messages import EventRule, Question, decode_masks, decode_state
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from codecflow.producer.summary import Summary as ProducerSummary
from codecflow.tools.bench.stub_engine import StubEngine
from codecflow.vlm.families import Family
from codecflow.worker.window_plan import WindowPlan

from .memory import encode_clip, publish, publish_two_sizes
from .running import ASKED, PLAN, Running, once, results, send, until


def test_every_stride_of_every_stream_is_answered(kafka_settings: KafkaSettings, family: Family, clip: Path) -> None:
    scene = Question("scene", "What is there?", max_tokens=4)
    light = Question("light", "Day or night?", "choice", ("day", "night"))
    subscriber.ask(kafka_settings, "a", scene)
    subscriber.ask(kafka_settings, "a", light)
    published = {"a": publish(clip, "a"), "b": publish(clip, "b", epoch=5), "c": publish(clip, "c")}
    send(kafka_settings, *published.values())
    summary = Running(kafka_settings, family).join()
    found = once(results(kafka_settings))
    windows = range(10)
    asked = [("a", 1, "scene"), ("a", 1, "light"), ("b", 5, "person"), ("c", 1, "person")]
    assert found.keys() == {(stream, epoch, k, question) for stream, epoch, question in asked for k in windows}
    assert (summary.windows, summary.answers, summary.frames_missing, summary.lag) == (30, 40, 0, 0)
    for (stream, _, k, _), result in found.items():
        assert (result.start_s, result.end_s) == (max(0, 2 * k - 4), 2 * k + 2)
        assert (result.frames.expected, result.frames.seen) == (min(12, 4 * k + 4),) * 2
        assert result.tokens.total == 4 * 16
        assert 16 <= result.tokens.kept <= result.tokens.total
        assert result.tokens.refreshed == result.tokens.kept
        assert result.flops.vit + result.flops.llm > 0
        assert result.seconds.keys() == {"decode", "keep", "vit", "llm", "answer"}
        assert (result.keep, result.refresh, result.model, result.trained) == ("replenish", "none", "tiny", False)
        assert not result.restarted
        assert (result.p_yes is None) == (stream == "a")
    assert found["a", 1, 3, "light"].answer in light.labels
    # The same pictures and question in another stream of the same batch.
    for k in windows:
        assert found["b", 5, k, "person"].p_yes == pytest.approx(found["c", 1, k, "person"].p_yes, abs=1e-5)
    with TopicTail(kafka_settings, kafka_settings.topics.masks) as tail:
        masks = [decode_masks(r.key(), r.value()) for r in tail.catch_up()]
    assert sorted((m.stream, m.window) for m in masks) == sorted((s, k) for s in "abc" for k in windows)
    for one in masks:
        pictures = {p.seq: p for p in published[one.stream][0]}
        result = next(r for r in found.values() if (r.stream, r.window) == (one.stream, one.window))
        assert sum(int(frame.keep.sum()) for frame in one.frames) == result.tokens.kept
        assert [frame.keep.shape for frame in one.frames] == [(4, 4)] * 4
        assert [frame.time_s for frame in one.frames] == [
            pytest.approx(float(pictures[frame.seq].pts * pictures[frame.seq].time_base), abs=1e-9)
            for frame in one.frames
        ]
        assert (one.policy, one.captured_at_ms) == ("replenish", result.captured_at_ms)
    assert sum(m.pictures.published for m in masks if m.stream == "a") <= len(published["a"][0])
    assert all(0 < m.pictures.decoded <= 2 * len(published["a"][0]) for m in masks)
    with TopicTail(kafka_settings, kafka_settings.topics.state) as tail:
        states = {s.stream: s for s in (decode_state(r.key(), r.value()) for r in tail.catch_up())}
    assert {(s.stream, s.epoch, s.answered_until, s.plan, s.ended) for s in states.values()} == {
        ("a", 1, 20, PLAN.grid, True),
        ("b", 5, 20, PLAN.grid, True),
        ("c", 1, 20, PLAN.grid, True),
    }
    assert group_reads(kafka_settings) == {kafka_settings.topics.packets, kafka_settings.topics.metadata}


def group_reads(settings: KafkaSettings) -> set[str]:
    """Topics for which the prefix's one worker group has committed offsets, according to Kafka's own tools."""
    asked = [ConsumerGroupTopicPartitions(f"{settings.topic_prefix}.worker")]
    admin = require_broker(settings)
    (group,) = admin.list_consumer_group_offsets(asked).values()
    return {place.topic for place in group.result(120).topic_partitions if place.offset > 0}


def test_questions_change_while_the_worker_runs(kafka_settings: KafkaSettings, family: Family, clip: Path) -> None:
    """Asked, then deleted with the description of a live stream: its windows go on, its open event closes."""
    pictures, documents = publish(clip, "a")
    worker = Running(kafka_settings, family, question=None, until_end=False)
    send(kafka_settings, (pictures[:80], documents[:80]))
    until(lambda: worker.summary.windows >= 3, what="windows without questions")
    assert results(kafka_settings) == []
    subscriber.ask(kafka_settings, "a", replace(ASKED, event=EventRule("yes", 0.001)))
    send(kafka_settings, (pictures[80:140], documents[80:140]))
    until(lambda: worker.summary.windows >= 6, what="windows with a question")
    subscriber.delete_description(kafka_settings, "a")
    send(kafka_settings, (pictures[140:], documents[140:]))
    until(lambda: worker.summary.windows == 10, what="all windows")
    summary = worker.stop()
    asked = sorted(result.window for result in results(kafka_settings))
    # Window k closes with the frame at 2k + 1.5 s; B-frames delay pictures by a few, in either topic.
    assert asked == list(range(asked[0], asked[-1] + 1))
    assert asked[0] in (3, 4)
    assert asked[-1] in (5, 6)
    assert summary.without_questions == 10 - len(asked)
    with subscriber.EventFollower(kafka_settings, "a", from_beginning=True, stopping=lambda: True) as events:
        changes = [(event.change, event.reason) for event in events]
    assert [change for change, _ in changes] == ["opened", "closed"]
    assert changes[-1][1] == "the question or its rule was changed or removed"


def test_a_second_run_goes_on_and_repeats_nothing(kafka_settings: KafkaSettings, family: Family, clip: Path) -> None:
    pictures, documents = publish(clip, "a")
    first = Running(kafka_settings, family, until_end=False)
    send(kafka_settings, (pictures[:100], documents[:100]))
    until(lambda: first.summary.windows >= 4, what="windows of the first run")
    first.stop()
    before = once(results(kafka_settings))
    send(kafka_settings, (pictures[100:], documents[100:]))
    second = Running(kafka_settings, family).join()
    after = once(results(kafka_settings))
    assert [k for _, _, k, _ in sorted(after)] == list(range(10))
    assert second.windows == 10 - len(before)
    # The windows of the second run with frames of the replay lack what had left the first run's window.
    restarted = {k for (_, _, k, _), result in after.items() if result.restarted}
    begun = len(before)
    assert restarted == set(range(begun, min(10, begun + PLAN.window_slots // PLAN.stride_slots)))


def test_a_stream_that_does_not_fit_is_refused_by_name_and_others_go_on(
    kafka_settings: KafkaSettings, family: Family, clip: Path
) -> None:
    streams = {name: publish(clip, name) for name in "abc"}
    going = {name: (pictures, documents[:-1]) for name, (pictures, documents) in streams.items()}
    probe = Running(kafka_settings, family, until_end=False)
    send(kafka_settings, going["a"])
    until(lambda: probe.summary.windows == 10 and probe.summary.kv_bytes > 0, what="one stream alone")
    one = probe.summary.kv_bytes
    probe.stop()
    send(kafka_settings, publish(clip, "a", epoch=2), going["b"], going["c"])
    worker = Running(kafka_settings, family, memory_bytes=int(1.5 * one), until_end=False)
    until(lambda: worker.summary.windows + worker.summary.refused >= 30, what="all windows")
    summary = worker.stop()
    found = once(result for result in results(kafka_settings) if (result.stream, result.epoch) != ("a", 1))
    assert len(found) == 30
    refused = {key for key, result in found.items() if result.error is not None and result.error.code == "no-room"}
    answered = {key for key, result in found.items() if result.error is None}
    assert refused
    assert answered
    assert 0 < summary.refused <= len(refused)  # the others have room for the window, but not for its question
    assert {(found[key].answer, found[key].p_yes) for key in refused} == {("", None)}
    refusals = [line for line in worker.said if "get an error result" in line]
    assert refusals
    assert {line.split("'")[1] for line in refusals} <= {stream for stream, *_ in refused}
    assert all("\n" not in line for line in refusals)


def test_streams_of_every_kind_in_one_batch(
    kafka_settings: KafkaSettings, family: Family, clip: Path, tmp_path: Path
) -> None:
    """A change of size, a portrait with odd sides, a start within a GOP, windows shorter than the stride: one engine."""
    pictures, documents = publish(clip, "late")
    still = encode_clip(tmp_path / "still.mp4", 8, moving=False)
    send(
        kafka_settings,
        publish_two_sizes(tmp_path, "resized"),
        publish(encode_clip(tmp_path / "portrait.mp4", 8, size=(66, 130)), "portrait"),
        publish(still, "still"),
        (pictures[43:], documents[40:]),
    )
    summary = Running(kafka_settings, family, plan=WindowPlan.of(1, 2, 2), keep=KeepConfig(period_s=Fraction(1))).join()
    found = once(results(kafka_settings))
    windows = {"resized": range(5), "portrait": range(4), "still": range(4), "late": range(2, 10)}
    assert found.keys() == {(name, 1, k, "person") for name, ks in windows.items() for k in ks}
    assert {(r.frames.expected, r.frames.seen) for r in found.values()} == {(2, 2)}
    assert {(r.end_s - r.start_s) for r in found.values()} == {1.0}
    # Nothing moves: of the two frames of each window only the one that coverage forces is encoded.
    assert {r.tokens.kept for r in found.values() if r.stream == "still"} == {16}
    assert summary.total("windows-skipped") == 0


def test_a_still_scene_is_answered_from_its_background_and_repeated_until_it_changes(
    kafka_settings: KafkaSettings, family: Family, clip: Path, tmp_path: Path
) -> None:
    """A worker is stopped in mid-stream, and the next one starts with windows that it computes."""
    still = publish(encode_clip(tmp_path / "still.mp4", 40, moving=False), "still")
    pictures, documents = still
    half = len(pictures) // 2
    keep = KeepConfig(coverage="background", period_s=Fraction(120), slack_s=Fraction(2))
    first = Running(kafka_settings, family, keep=keep, reuse_slots=16, until_end=False)
    send(kafka_settings, (pictures[:half], documents[:half]))
    until(lambda: first.summary.windows >= 8, what="windows of the first half")
    before = first.stop()
    send(kafka_settings, (pictures[half:], documents[half:]), publish(clip, "moving"))
    after = Running(kafka_settings, family, keep=keep, reuse_slots=16).join()
    found = once(results(kafka_settings))
    windows = [found["still", 1, k, "person"] for k in range(20)]
    computed = [one.window for one in windows if one.reused_from is None]
    begun = before.windows
    # Windows end at 4, 8, ... slots: those at multiples of 16, and the first of each worker, are computed.
    assert computed == sorted({0, 3, 7, 11, 15, 19, begun})
    for one in windows:
        if one.reused_from is not None:
            source = windows[one.reused_from]
            assert source.reused_from is None
            assert (one.answer, one.p_yes) == (source.answer, source.p_yes)
            assert one.reused_from == max(k for k in computed if k < one.window)
            assert (one.flops.vit, one.flops.llm) == (0, 0)
            assert one.flops.full > 0
    assert before.windows_reused + after.windows_reused == 20 - len(computed)
    assert sum(one.tokens.kept for one in windows) == 16
    full = [one for one in windows if one.window >= 3]
    assert {one.tokens.reused + one.tokens.refreshed for one in full} == {16}
    assert "windows reused" in after.line()
    assert all(one.tokens.kept and one.reused_from is None for key, one in found.items() if key[0] == "moving")


def test_brokers_that_are_gone_end_the_worker_and_a_stop_does_so_sooner(
    tmp_path: Path, family: Family, clip: Path
) -> None:
    stop_camera, stop_reader, threads = GracefulStop(), threading.Event(), ThreadPoolExecutor(2)
    with LocalKafka(tmp_path / "kafka") as broker:
        # Not less: a new broker's first transaction takes seconds on a busy machine.
        settings = KafkaSettings(broker.bootstrap_servers, "gone", reach_within_s=60.0, give_up_after_s=10.0)
        create_topics(settings, partitions=1)
        worker = Running(settings, family, until_end=False)
        patient = KafkaSettings(broker.bootstrap_servers, "stopped", reach_within_s=60.0, give_up_after_s=900.0)
        create_topics(patient, partitions=1)
        send(patient, publish(clip, "a"))
        busy = Running(patient, family, engine=StubEngine(family, 0.5), until_end=False)
        until(lambda: worker.summary.partitions == 1, what="a partition")
        until(lambda: 0 < busy.summary.windows < 10, what="some of the answers")
        playing = ProducerSummary("b", str(clip))
        options = ProduceOptions(loop=True)
        camera = threads.submit(produce, patient, str(clip), "b", options, stop_camera, summary=playing)
        until(lambda: playing.pictures > 0, what="a picture of the camera")
        follower = subscriber.Follower(patient, from_beginning=True, stopping=stop_reader.is_set)
        reader = threads.submit(list, follower)
    busy.request_stop()
    stop_camera.request()
    stop_reader.set()
    until(lambda: worker.error is not None, what="the end of the worker")
    with pytest.raises(BrokersGoneError, match="giving up"):
        worker.join()
    until(lambda: busy.done, what="the end of the stopped worker, long before it gives up")
    assert busy.error is None or "stopping" in str(busy.error), busy.error
    with pytest.raises(KafkaError, match="stopping"):
        camera.result(120)
    with pytest.raises(KafkaError, match=r"topic stopped.results: .* within"):
        reader.result(120)


def test_epochs_follow_each_other(kafka_settings: KafkaSettings, family: Family, clip: Path) -> None:
    pictures, documents = publish(clip, "a", 1)
    lost_end = (pictures[:70], documents[:70])
    again = publish(clip, "a", 2)
    late = ([replace(p) for p in pictures[70:80]], documents[70:80])
    send(kafka_settings, lost_end, (again[0][:50], again[1][:50]), late, (again[0][50:], again[1][50:]))
    worker = Running(kafka_settings, family)
    summary = worker.join()
    found = once(results(kafka_settings))
    assert found.keys() == {("a", 1, k, "person") for k in range(3)} | {("a", 2, k, "person") for k in range(10)}
    assert found["a", 2, 0, "person"].frames.seen == 4
    assert summary.streams["a"]["earlier-epoch"] == 20
    assert len([line for line in worker.said if "two producers" in line]) == 1

"""A file through a real Kafka: bit for bit, in order, once, and closed cleanly."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource

from codecflow.codec.decode import Decoder
from codecflow.codec.source import Source
from codecflow.codec.transcode import Transcode
from codecflow.errors import ConfigError, SourceError
from codecflow.kafka.clients import require_broker
from codecflow.kafka.failures import TopicsError
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import largest_record_bytes, partition_of
from codecflow.lifecycle import GracefulStop
from codecflow.messages import CodedPicture
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from codecflow.producer.summary import Summary
from tests.codec.clips import Luma, encode, plainly_decoded

from .topics import read

CLIP = Path(__file__).parents[1] / "data" / "intel_one-by-one-person-detection.mp4"
FAST = ProduceOptions(fast=True)


def frames(pictures: list[CodedPicture]) -> list[Luma]:
    decoder = Decoder()
    shown = [one for picture in pictures for one in decoder.push(picture)] + decoder.flush()
    return [one.luma().copy() for one in shown]


def assert_frames(ours: list[Luma], path: Path) -> None:
    theirs = [luma for _, luma in plainly_decoded(path)]
    assert len(ours) == len(theirs)
    assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_the_bundled_clip_bit_for_bit_and_metadata_within_eight_percent(kafka_settings: KafkaSettings) -> None:
    summary = produce(kafka_settings, str(CLIP), "gate-3", FAST)
    topics = read(kafka_settings)
    theirs = plainly_decoded(CLIP, 200)
    assert all(np.array_equal(one, two[1]) for one, two in zip(frames(topics.packets[:210]), theirs, strict=False))
    assert [one.seq for one in topics.packets] == [one.seq for one in topics.metadata] == list(range(1394))
    assert {(one.stream, one.live) for one in topics.packets} == {("gate-3", False)}  # no reader may skip any
    assert topics.partitions == {partition_of("gate-3", 3)}
    assert [(end.epoch, end.pictures) for end in topics.ends] == [(summary.epoch, 1394)]
    assert [one.signal.tick for one in sorted(topics.metadata, key=lambda m: m.pts) if one.signal] == list(range(279))
    assert [len(one.data) for one in topics.packets] == [one.size for one in topics.metadata]
    assert (summary.pictures, summary.signals, summary.seconds) == (1394, 279, pytest.approx(139.3))
    assert summary.packets_bytes == sum(len(one.data) for one in topics.packets)
    assert not summary.dropped
    assert summary.ended
    assert summary.metadata_sent_bytes <= 0.07 * summary.packets_bytes


@pytest.mark.parametrize("codec", ["hevc-open", "mpeg4", "vp9", "av1", "mjpeg", "h264-raw"])
def test_other_codecs_bit_for_bit(codec: str, kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", codec)
    produce(kafka_settings, str(path), "gate", FAST)
    topics = read(kafka_settings)
    assert_frames(frames(topics.packets), path)
    assert [one.seq for one in topics.metadata] == list(range(30))
    # A keyframe may take the place of a tick that is after the last picture.
    assert sum(one.signal is not None for one in topics.metadata) in (6, 7)


def test_real_time_takes_as_long_as_the_clip(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    seen: list[int] = []
    path = encode(tmp_path / "clip", pictures=21)
    began = time.monotonic()
    produce(kafka_settings, str(path), "gate", progress=lambda summary: seen.append(summary.pictures))
    assert time.monotonic() - began >= 1.8
    assert len(seen) >= 4
    packets = read(kafka_settings).packets
    assert all(one.live for one in packets)
    taken_s = (packets[-1].captured_at_ms - packets[0].captured_at_ms) / 1000
    assert taken_s == pytest.approx(2.0, abs=0.5)


def test_pictures_beyond_the_wires_bounds_are_refused(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "mjpeg", pictures=2, size=(8208, 16))
    with pytest.raises(SourceError, match="pictures of 8208x16; at most 8192x8192 can be published"):
        produce(kafka_settings, str(path), "gate", FAST)
    assert not read(kafka_settings).packets


def test_a_loop_goes_on_in_the_same_epoch_until_stopped(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path, stop = encode(tmp_path / "clip", pictures=25), GracefulStop()

    def enough(summary: Summary) -> None:
        if summary.pictures > 60:
            stop.request()

    summary = produce(kafka_settings, str(path), "gate", ProduceOptions(fast=True, loop=True), stop, enough)
    topics = read(kafka_settings)
    count = len(topics.packets)
    assert count == summary.pictures > 60
    assert [one.seq for one in topics.packets] == [one.seq for one in topics.metadata] == list(range(count))
    shown = sorted((one.pts - one.start_pts) * one.time_base for one in topics.metadata)
    # Stopped in decode order: the very last pictures may refer to one that is shown later.
    assert shown[:-4] == [Fraction(index, 10) for index in range(count - 4)]
    ticks = [one.signal.tick for one in sorted(topics.metadata, key=lambda m: m.pts) if one.signal]
    assert ticks[:-1] == list(range(len(ticks) - 1))
    assert [end.pictures for end in topics.ends] == [count]
    assert summary.ended


def test_a_stop_between_two_rounds_of_a_loop(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, close = GracefulStop(), Source.close

    def closed(source: Source) -> None:
        close(source)
        stop.request()

    monkeypatch.setattr(Source, "close", closed)
    summary = produce(
        kafka_settings, str(encode(tmp_path / "clip")), "gate", ProduceOptions(fast=True, loop=True), stop
    )
    assert [end.pictures for end in read(kafka_settings).ends] == [summary.pictures] == [30]


def test_a_picture_too_large_costs_the_rest_of_its_group(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "h264-plain", loud=13)
    with Source(str(path)) as source:
        sizes = [len(picture.data) for picture in source.pictures("gate", 0)]
    assert max(sizes) == sizes[13] > sorted(sizes)[-2] + 2000
    limit_records(kafka_settings, sizes[13])
    summary = produce(kafka_settings, str(path), "gate", FAST)
    topics = read(kafka_settings)
    assert summary.dropped == {"too large for the broker": 1, "after one too large": 6}
    sound = [*range(13), *range(20, 30)]
    assert [one.seq for one in topics.packets] == [one.seq for one in topics.metadata] == sound
    assert topics.ends[0].pictures == 30
    theirs = [luma for _, luma in plainly_decoded(path)]
    assert all(np.array_equal(one, theirs[seq]) for one, seq in zip(frames(topics.packets), sound, strict=True))


def limit_records(settings: KafkaSettings, largest: int) -> None:
    """Lowers max.message.bytes of topic packets."""
    entry = ConfigEntry("max.message.bytes", str(largest), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource("topic", settings.topics.packets, incremental_configs=[entry])
    client = require_broker(settings)
    client.incremental_alter_configs([resource])[resource].result(timeout=60)
    deadline = time.monotonic() + 60
    while largest_record_bytes(settings, settings.topics.packets) != largest:
        assert time.monotonic() < deadline


def test_a_corrupt_middle_publishes_what_is_sound(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    whole, path = tmp_path / "whole.mp4", tmp_path / "corrupt.mp4"
    with av.open(str(CLIP)) as source, av.open(str(whole), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in itertools.islice(source.demux(source.streams.video[0]), 400):
            packet.stream = copy
            target.mux(packet)
    data = bytearray(whole.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 20_000] = np.random.default_rng(0).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
    path.write_bytes(data)
    summary = produce(kafka_settings, str(path), "gate", FAST)
    topics = read(kafka_settings)
    assert 300 < len(topics.packets) < 400
    assert summary.dropped.keys() == {"corrupt", "after a corrupt one"}
    assert summary.lost == 400 - len(topics.packets)
    assert [one.seq for one in topics.packets] == [one.seq for one in topics.metadata]
    assert topics.ends[0].pictures == 400
    last = [one for one in topics.packets if one.seq > 300]
    theirs = dict(plainly_decoded(whole)[290:])
    decoder = Decoder()
    shown = [one for picture in last for one in decoder.push(picture)]
    assert len(shown) > 80
    assert all(np.array_equal(one.luma(), theirs[one.pts]) for one in shown)


def test_encoding_again_at_the_sampling_rate(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "mpeg4", pictures=60, size=(97, 81))  # odd sizes, impossible in H.264 4:2:0
    options = replace(FAST, transcode=Transcode.parse("fps=2,gop=4"))
    summary = produce(kafka_settings, str(path), "gate", options)
    topics = read(kafka_settings)
    assert summary.pictures == summary.signals == 12
    assert [one.keyframe for one in topics.packets] == [index % 4 == 0 for index in range(12)]
    assert {one.picture_type for one in topics.metadata} == {"I", "P"}
    assert [one.time_s for one in topics.metadata] == [index / 2 for index in range(12)]
    originals = [luma for _, luma in plainly_decoded(path)]
    for ours, index in zip(frames(topics.packets), range(0, 60, 5), strict=True):
        assert ours.shape == (80, 96)
        assert np.abs(ours.astype(int) - originals[index][:80, :96]).mean() < 8


@pytest.mark.parametrize("text", ["fps=0", "gop=16", "fps=2,gop=0", "fps=2,speed=3", "fps=two", "fps=2,crf=52"])
def test_what_transcode_cannot_be(text: str) -> None:
    with pytest.raises(ConfigError, match="--transcode"):
        Transcode.parse(text)


def test_options_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="signal interval 0 s"):
        ProduceOptions(interval=Fraction(0))
    with pytest.raises(ConfigError, match="whole multiple"):
        ProduceOptions(interval=Fraction(3, 4), transcode=Transcode(Fraction(2)))


def test_nothing_begins_without_source_or_topics(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        produce(kafka_settings, str(tmp_path / "none.mp4"), "gate", FAST)
    with pytest.raises(TopicsError, match=r"missing topics .*codecflow topics create"):
        produce(replace(kafka_settings, topic_prefix="elsewhere"), str(CLIP), "gate", FAST)
    with pytest.raises(ConfigError, match="stream id"):
        produce(kafka_settings, str(CLIP), "gate 3", FAST)


def test_a_stop_while_a_clip_plays_closes_the_epoch(kafka_settings: KafkaSettings) -> None:
    stop = GracefulStop()

    def stop_after_five_pictures() -> None:
        with TopicTail(kafka_settings, kafka_settings.topics.packets) as tail:
            seen = 0
            while seen < 5:
                seen += len(tail.poll(1.0))
        stop.request()

    watching = threading.Thread(target=stop_after_five_pictures)
    watching.start()
    summary = produce(kafka_settings, str(CLIP), "gate", stop=stop)
    watching.join()
    topics = read(kafka_settings)
    assert 5 <= len(topics.packets) == summary.pictures < 1000  # of 1,373 in 137 s
    assert [end.pictures for end in topics.ends] == [summary.pictures]

"""What a producer reports about its source's times, and the pace at which it plays a file."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import CodedPicture
from codecflow.producer import run
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import Pacer, produce
from codecflow.producer.summary import WireBytes
from tests.codec.clips import encode
from tests.codec.test_times import film

from .topics import read


def test_corrected_times_are_announced_once_and_counted(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    clip, joined, lines = encode(tmp_path / "clip", "h264-ts", 20), tmp_path / "joined.ts", list[str]()
    joined.write_bytes(clip.read_bytes() * 4)
    summary = produce(kafka_settings, str(joined), "gate", ProduceOptions(fast=True), notice=lines.append)
    assert summary.corrected == {"clock jumps": 3}
    assert "corrected 3 clock jumps" in summary.line()
    assert len(lines) == 1
    assert str(joined) in lines[0]
    assert "time continues without the jump" in lines[0]
    assert 7.5 <= summary.seconds <= 8


@pytest.mark.parametrize(("rate", "pictures"), [(120, 180), (1, 3)])
def test_fast_and_slow_files_in_real_time(
    rate: int, pictures: int, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    clip = film(tmp_path / "clip.mp4", [index / rate for index in range(pictures)], 0)
    began = time.monotonic()
    produce(kafka_settings, str(clip), "gate")
    assert time.monotonic() - began >= (pictures - 1) / rate
    topics = read(kafka_settings)
    assert [one.time_s for one in topics.metadata] == pytest.approx([index / rate for index in range(pictures)])
    captured = [one.captured_at_ms for one in topics.packets]
    assert captured[-1] - captured[0] >= 1000 * (pictures - 1) / rate - 20


def test_a_gap_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LONGEST_GAP_S", 0.2)
    pacer = Pacer(GracefulStop())
    began = time.monotonic()
    for seconds in (0, 7200, 7200.1):
        pts = round(seconds * 1000)
        pacer.wait(CodedPicture("gate", 1, 0, b"x", "h264", True, pts, pts, 40, Fraction(1, 1000), 0, 64, 64))
    assert 0.3 <= time.monotonic() - began < 60


def test_bytes_on_the_wire_are_counted_on_when_a_broker_was_restarted() -> None:
    """librdkafka counts from 0 again, and reports no partitions of a broker that is gone."""
    sent = WireBytes()
    report = sent.properties()["stats_cb"]
    for txbytes, partitions in [(0, {}), (900, {"metadata-0": {}}), (1000, {"metadata-0": {}}), (1000, {}), (50, {})]:
        report(json.dumps({"brokers": {"b:1/1": {"txbytes": txbytes, "toppars": partitions}}}))
    assert sent.total == 1050
    report(json.dumps({"brokers": {"b:1/1": {"txbytes": 80, "toppars": {"metadata-0": {}}}}}))
    assert sent.total == 1080

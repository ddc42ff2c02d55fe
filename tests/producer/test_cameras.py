"""A camera that comes and goes: found again, each time in an epoch of its own, and never a password in sight."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from codecflow.codec.opening import SourceOptions
from codecflow.errors import SourceError
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.producer import reconnect
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from tests.codec.cameras import camera, plays, refuses, stalls
from tests.codec.clips import encode

from .topics import read

PASSWORD = "hunter2"


def test_a_lost_camera_is_found_again_in_a_new_epoch(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.1)
    clip, stop, lines = encode(tmp_path / "clip", "h264-ts"), GracefulStop(), list[str]()
    calls = iter([plays(clip), refuses(503), stalls, plays(clip), refuses(401)])

    def behave(request: BaseHTTPRequestHandler) -> None:
        next(calls, refuses(503))(request)

    def notice(line: str) -> None:
        lines.append(line)
        if "auth" in line:
            stop.request()

    with camera(behave) as address:
        summary = produce(
            kafka_settings,
            f"http://admin:{PASSWORD}@{address}/live",
            "gate",
            ProduceOptions(source=SourceOptions(timeout_s=0.5)),
            stop,
            notice=notice,
        )
    topics = read(kafka_settings)
    epochs = sorted({picture.epoch for picture in topics.packets})
    assert len(epochs) == 2
    for epoch in epochs:
        sent = [picture.seq for picture in topics.packets if picture.epoch == epoch]
        assert len(sent) >= 28
        assert sent == [one.seq for one in topics.metadata if one.epoch == epoch] == list(range(len(sent)))
    assert summary.reconnects == 1
    assert summary.epoch == epochs[1]
    assert [end.epoch for end in topics.ends] == [epochs[1]], "only the stop ended an epoch in good order"
    assert ["gone" in line for line in lines[:2]] == [True, True]
    assert "timeout" in lines[2]
    assert "reconnected" in lines[3]
    assert not any(PASSWORD in line for line in [*lines, summary.source, str(summary)])


def test_a_camera_that_never_answered_is_an_error(kafka_settings: KafkaSettings) -> None:
    with camera(refuses(401)) as address, pytest.raises(SourceError) as refused:
        produce(kafka_settings, f"http://admin:{PASSWORD}@{address}/live", "gate")
    assert refused.value.code == "auth"
    assert PASSWORD not in str(refused.value)


def test_a_stop_while_the_camera_is_away_ends_at_once(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    clip, stop = encode(tmp_path / "clip", "h264-ts"), GracefulStop()

    def notice(line: str) -> None:
        threading.Timer(0.2, stop.request).start()

    with camera(plays(clip)) as address:
        summary = produce(kafka_settings, f"http://{address}/live", "gate", stop=stop, notice=notice)
    assert summary.ended
    assert summary.reconnects == 0

"""A camera that disconnects and returns: reconnected, each time in a new epoch, and never a password in the output."""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler
from itertools import cycle, islice
from pathlib import Path

import pytest

from codecflow.codec import source
from codecflow.codec.opening import SourceOptions
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.producer import reconnect
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from tests.codec.aborting import aborting_ts
from tests.codec.cameras import camera, plays, refuses, stalls
from tests.codec.clips import encode
from tests.codec.rtsp import rtsp_camera

from .topics import read

PASSWORD = "hunter2"


def test_a_lost_camera_is_found_again_in_a_new_epoch(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.1)
    clip, stop, lines = encode(tmp_path / "clip", "h264-ts"), GracefulStop(), list[str]()
    # After a time-out another request finds out whether the server answers, and with what.
    calls = iter([plays(clip), refuses(503), stalls, stalls, plays(clip), refuses(401)])

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
    assert [end.epoch for end in topics.ends] == [epochs[1]], "only the stop closed an epoch"
    assert [(lost.epoch, lost.code) for lost in topics.lost] == [(epoch, "gone") for epoch in epochs]
    assert ["gone" in line for line in lines[:2]] == [True, True]
    assert "timeout" in lines[2]
    assert "reconnected" in lines[3]
    assert not any(PASSWORD in line for line in [*lines, summary.source, str(summary)])


def test_a_camera_at_whose_data_ffmpeg_aborts_ends_the_run(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor starts it again, without what the abort left behind."""
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.1)
    damaged, lines, stop = tmp_path / "aborts.ts", list[str](), GracefulStop()
    damaged.write_bytes(aborting_ts())
    clips = iter([plays(encode(tmp_path / "clip", "h264-ts"))])

    def behave(request: BaseHTTPRequestHandler) -> None:
        next(clips, plays(damaged))(request)

    def notice(line: str) -> None:
        lines.append(line)
        if len(lines) == 5:
            stop.request()

    with camera(behave) as address, pytest.raises(SourceError, match=r"aborted: .*; start this command again") as error:
        produce(kafka_settings, f"http://admin:{PASSWORD}@{address}/live", "gate", None, stop, notice=notice)
    topics = read(kafka_settings)
    assert len(topics.packets) == len(topics.metadata) == topics.ends[0].pictures >= 28
    assert [lost.code for lost in topics.lost] == ["gone"]
    assert not any(PASSWORD in line for line in [*lines, str(error.value)])


def test_a_camera_whose_pictures_are_further_apart_than_the_time_out(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.1)
    with Source(str(encode(tmp_path / "clip", "mjpeg", 4, (640, 480)))) as recording:
        clip = [picture.data for picture in recording.pictures("gate", 1)]
    assert min(map(len, clip)) > 4096, "FFmpeg reads 2 kB before it recognizes anything"
    stop, lines, requests = GracefulStop(), list[str](), list[BaseHTTPRequestHandler]()

    def behave(request: BaseHTTPRequestHandler) -> None:
        requests.append(request)
        request.send_response(200)
        request.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        request.end_headers()
        for data in islice(cycle(clip), 6):  # a client that has left is noticed at the second write at the latest
            part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
            request.wfile.write(part + data + b"\r\n")
            time.sleep(1.2)
        if requests[-1] is request:
            stop.request()

    with camera(behave) as address:
        options = ProduceOptions(source=SourceOptions(timeout_s=1.0))
        produce(kafka_settings, f"http://{address}/live", "gate", options, stop, notice=lines.append)
    waits = [line.partition("waiting up to ")[2].split()[0] for line in lines if "waiting up to" in line]
    assert waits[:1] == ["2"], lines
    packets = read(kafka_settings).packets
    assert len([one for one in packets if one.epoch == packets[-1].epoch]) >= 3


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


def test_credentials_that_are_refused_are_not_tried_for_ever(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cameras lock accounts. One that is still starting may refuse what it accepts a minute later."""
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(reconnect, "AUTH_PAUSES_S", (0.2, 0.3, 0.4))
    clip, lines, asked = encode(tmp_path / "clip", "h264-ts"), list[str](), 0
    calls = iter([plays(clip), refuses(401), refuses(401), plays(clip)])

    def behave(request: BaseHTTPRequestHandler) -> None:
        nonlocal asked
        asked += 1
        next(calls, refuses(401))(request)

    with camera(behave) as address, pytest.raises(SourceError, match="refused 4 times; not retried") as refused:
        produce(kafka_settings, f"http://admin:{PASSWORD}@{address}/live", "gate", notice=lines.append)
    assert refused.value.code == "auth"
    assert refused.value.exit_code == 3
    # FFmpeg asks once without and once with the password when it is refused.
    assert asked <= 4 + 2 * 4
    pauses = [line.partition("reconnecting in ")[2].partition(" s")[0] for line in lines if "auth" in line]
    assert pauses == ["0.2", "0.3", "0.2", "0.3", "0.4"]
    topics = read(kafka_settings)
    assert topics.ends[-1].epoch == max(picture.epoch for picture in topics.packets), "the last epoch is closed"
    assert not any(PASSWORD in line for line in [*lines, str(refused.value)])


def test_a_camera_that_hangs_up_at_once_is_not_stormed(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It opens, plays briefly and ends, repeatedly: pauses still grow."""
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.1)
    clip, stop, lines = encode(tmp_path / "clip", "h264-ts"), GracefulStop(), list[str]()

    def notice(line: str) -> None:
        lines.append(line)
        if line.count("reconnecting in 0.8 s"):
            stop.request()

    with camera(plays(clip)) as address:
        produce(kafka_settings, f"http://{address}/live", "gate", stop=stop, notice=notice)
    pauses = [line.partition("reconnecting in ")[2].partition(" s")[0] for line in lines if "reconnecting" in line]
    assert pauses == ["0.1", "0.2", "0.4", "0.8"]


def test_a_camera_without_keyframes_says_so(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "KEYFRAME_WITHIN_S", 0.3)
    clip = encode(tmp_path / "clip", "h264-plain", 300)
    stop, lines = GracefulStop(), list[str]()

    def notice(line: str) -> None:
        """A busy machine also loses packets, which is another line."""
        if "no keyframe for" in line:
            lines.append(line)
            if len(lines) == 2:
                stop.request()

    with rtsp_camera(clip, keyframes=False) as address:
        summary = produce(kafka_settings, f"rtsp://{address}/cam", "gate", stop=stop, notice=notice)
    assert summary.pictures == 0
    assert len(lines) >= 2
    assert all("set an interval of 1 to 4 s between keyframes" in line for line in lines)
    assert summary.dropped["before the first keyframe"] > 10

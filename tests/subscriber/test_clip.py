"""Files cut from packets on a real Kafka, read by FFmpeg."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.mp4 import Fragment, Fragmenter
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, SourceError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import MAX_CLOCK_MS, CodedPicture
from codecflow.orientation import shown_size
from codecflow.page.feed import Feed
from codecflow.subscriber.clip import write_clip
from codecflow.subscriber.recording import NotThereError, Recording, WallClock
from codecflow.subscriber.times import TimeRange, parse_range
from tests.codec.clips import encode
from tests.page.camera import publish
from tests.worker.running import until
from tests.worker.test_hostile import bomb

EPOCH = 1_790_000_000_000


def camera(
    folder: Path, codec: str, stream: str, epoch: int = EPOCH, size: tuple[int, int] = (96, 80)
) -> list[CodedPicture]:
    """3 s of the stream, 10 pictures per second, keyframes a second apart, captured as they are coded."""
    with Source(str(encode(folder / f"{codec}-{size[0]}", codec, size=size))) as source:
        return [
            replace(p, width=size[0], height=size[1], captured_at_ms=epoch + 100 * p.seq)
            for p in source.pictures(stream, epoch)
        ]


def decoded(pictures: Iterable[CodedPicture]) -> list[ShownPicture]:
    decoder = Decoder()
    return [shown for picture in pictures for shown in decoder.push(picture)] + decoder.flush()


def played(path: Path) -> list[tuple[float, av.VideoFrame]]:
    with av.open(str(path)) as container:
        return [(float(frame.time or 0), frame) for frame in container.decode(video=0)]


@pytest.mark.parametrize("codec", ["h264", "h264-open", "hevc", "vp9", "av1", "mpeg4", "mjpeg"])
def test_a_clip_plays_from_the_time_that_was_asked_for(
    codec: str, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    pictures = camera(tmp_path, codec, "gate")
    publish(kafka_settings, pictures)
    with Recording(kafka_settings, "gate") as recording:
        begin, end = TimeRange(Fraction("1.3"), Fraction("2.1")).places(recording)
        cut = write_clip(recording, begin, end, tmp_path / "out.mp4")
    (file,) = cut.files
    start = min(p.pts for p in pictures if not p.discard)
    wanted = [
        one
        for one in decoded(pictures)
        if Fraction("1.3") <= (one.pts - start) * one.picture.time_base < Fraction("2.1")
    ]
    found = played(file.path)
    assert len(found) >= len(wanted) == 8
    for (at, frame), one in zip(found, wanted, strict=False):
        assert at == pytest.approx(float((one.pts - wanted[0].pts) * one.picture.time_base), abs=0.002)
        assert np.array_equal(frame.to_ndarray(format="gray"), one.frame.to_ndarray(format="gray"))
    assert found[-1][0] < 1.1
    assert file.seconds == pytest.approx(0.8, abs=0.35)
    assert [path.name for path in tmp_path.glob("*.part")] == []


def test_a_new_epoch_or_size_begins_a_file_of_its_own(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    first = camera(tmp_path, "h264", "gate")
    second = camera(tmp_path, "h264", "gate", EPOCH + 10_000)
    span = max(p.pts + p.duration for p in second)
    third = [
        replace(p, seq=p.seq + 30, pts=p.pts + span, dts=None, captured_at_ms=p.captured_at_ms + 3000, orientation=6)
        for p in camera(tmp_path, "h264", "gate", EPOCH + 10_000, (130, 66))
    ]
    publish(kafka_settings, [*first, *second, *third])
    with Recording(kafka_settings, "gate") as recording:
        newest = recording.newest()
        assert newest is not None
        cut = write_clip(
            recording, WallClock(EPOCH + 1500), WallClock(newest.captured_at_ms - 400), tmp_path / "out.mp4"
        )
    assert [file.path.name for file in cut.files] == ["out.mp4", "out-2.mp4", "out-3.mp4"]
    assert [(file.epoch - EPOCH, file.size) for file in cut.files] == [
        (0, (96, 80)),
        (10_000, (96, 80)),
        (10_000, (130, 66)),
    ]
    assert [len(played(file.path)) for file in cut.files] == [pytest.approx(15, abs=3), 30, pytest.approx(26, abs=3)]
    data = cut.files[2].path.read_bytes()
    at = data.index(b"tkhd") + 44
    assert np.frombuffer(data[at : at + 8], ">i4").tolist() == [0, 1 << 16]
    assert shown_size(130, 66, 6) == (66, 130)


def test_what_is_gone_is_said_with_what_is_still_there(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    publish(kafka_settings, camera(tmp_path, "h264", "gate"))
    with Recording(kafka_settings, "gate") as recording:
        for begin, end in ((EPOCH - 9000, EPOCH - 8000), (EPOCH + 60_000, EPOCH + 61_000)):
            with pytest.raises(NotThereError) as gone:
                write_clip(recording, WallClock(begin), WallClock(end), tmp_path / "out.mp4")
            assert f"stream gate: packets hold no pictures of {datetime.fromtimestamp(begin / 1000):%Y-%m-%d}" in str(
                gone.value
            )
            assert "they hold those of" in str(gone.value)
            assert str(EPOCH) in str(gone.value)
    with Recording(kafka_settings, "nobody") as recording, pytest.raises(NotThereError, match="none of its pictures"):
        write_clip(recording, WallClock(EPOCH), WallClock(EPOCH + 1), tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


def test_records_of_others_stop_neither_a_clip_nor_the_page(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    """A reader that did not skip one that unpacks large would read it again indefinitely, or end; an epoch of the future
    would hide the stream."""
    now_ms = int(time.time() * 1000)
    pictures = camera(tmp_path, "h264", "gate", now_ms)
    seen: list[int] = []
    failures: list[Exception] = []
    feed = Feed(kafka_settings, failures.append)
    feed.watch("gate", lambda picture: seen.append(picture.seq))
    publish(kafka_settings, pictures[:12])
    bomb(kafka_settings, kafka_settings.topics.packets, b"gate", "zstd", 110_000_000)
    publish(kafka_settings, [replace(pictures[10], epoch=MAX_CLOCK_MS)])
    publish(kafka_settings, pictures[12:])
    until(lambda: bool(failures) or (bool(seen) and seen[-1] == pictures[-1].seq), what="the page has the last picture")
    feed.close()
    assert failures == []
    with Recording(kafka_settings, "gate") as recording:
        assert recording.newest() == pictures[-1]
        cut = write_clip(recording, WallClock(now_ms + 500), WallClock(now_ms + 2500), tmp_path / "out.mp4")
    assert sum(file.pictures for file in cut.files) >= 20


@pytest.mark.parametrize("codec", ["h264", "av1"])
def test_times_that_no_file_and_no_fragment_can_hold(codec: str, tmp_path: Path) -> None:
    """One picture of another program costs at most the rest of its GOP."""
    pictures = camera(tmp_path, codec, "gate")
    for forged in (
        {"pts": 2**63 - 1},
        {"pts": 1 - 2**63},
        {"pts": 2**62, "dts": -(2**62)},
        {"duration": 2**63 - 1},
        {"time_base": Fraction(2**31 - 1)},
        {"time_base": Fraction(1, 2**31 - 1), "duration": 2**63 - 1},
    ):
        for number in (0, 12, 20):
            mixed = list(pictures)
            mixed[number] = replace(mixed[number], **forged)
            recording = cast("Recording", Given(mixed))
            with suppress(NotThereError, SourceError):
                write_clip(recording, WallClock(EPOCH), WallClock(EPOCH + 3000), tmp_path / "out.mp4")
            fragmenter = Fragmenter()
            parts = [part for picture in mixed for part in fragmenter.push(picture)]
            keyframes = {part.seq for part in parts if isinstance(part, Fragment) and part.keyframe}
            assert keyframes >= {0, 10, 20} - {number}
    assert [path.name for path in tmp_path.glob(".*.part")] == []


class Given:
    """A recording of pictures."""

    stream = "gate"

    def __init__(self, found: list[CodedPicture]) -> None:
        self._found = found

    def pictures(self, place: WallClock) -> Iterable[CodedPicture]:
        return self._found


def test_the_command(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    pictures = camera(tmp_path, "h264", "gate:1")
    publish(kafka_settings, pictures)
    at = ["--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix]

    def clip(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "codecflow", "clip", "gate:1", *arguments, *at]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    moment = datetime.fromtimestamp(EPOCH / 1000, timezone(timedelta(hours=2)))
    done = clip(
        "--from", (moment + timedelta(seconds=1)).isoformat(), "--to", (moment + timedelta(seconds=2)).isoformat()
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gate_1.mp4: ")
    assert "h264 96x80" in done.stdout
    assert len(played(tmp_path / "gate_1.mp4")) >= 10
    again = clip("--from", "0:01", "--to", "2")
    assert (again.returncode, again.stderr.count("\n")) == (2, 1)
    assert "already exists" in again.stderr
    gone = clip("--from", "3600", "--to", "3601", "-o", "x.mp4")
    assert (gone.returncode, gone.stderr.count("\n")) == (3, 1)
    assert "packets hold no pictures at 3600 s of epoch" in gone.stderr


NOW = datetime(2026, 11, 28, 0, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("begin", "end", "zone", "wanted"),
    [
        ("52", "0:58.5", None, (Fraction(52), Fraction("58.5"))),
        ("0:20:00", "00:25:00", "Europe/Berlin", ("2026-11-28T00:20:00+01:00", "2026-11-28T00:25:00+01:00")),
        ("23:50:00", "00:10:00", "Europe/Berlin", ("2026-11-27T23:50:00+01:00", "2026-11-28T00:10:00+01:00")),
        ("23:10:00Z", "23:20:00Z", "Europe/Berlin", ("2026-11-27T23:10:00+00:00", "2026-11-27T23:20:00+00:00")),
        (
            "2026-11-01 10:00",
            "2026-11-01T09:30:00Z",
            "Europe/Berlin",
            ("2026-11-01T10:00+01:00", "2026-11-01T09:30+00:00"),
        ),
    ],
)
def test_times_as_people_write_them(begin: str, end: str, zone: str | None, wanted: tuple[Fraction | str, ...]) -> None:
    found = parse_range(begin, end, zone, now=NOW)
    expected = [int(datetime.fromisoformat(w).timestamp() * 1000) if isinstance(w, str) else w for w in wanted]
    assert [found.begin, found.end] == expected


@pytest.mark.parametrize(
    ("begin", "end", "zone", "says"),
    [
        ("5", "5", None, "--to 5: is not later than --from 5"),
        ("5", "14:00:00", None, "use two times of day, or two presentation times"),
        ("soon", "5", None, "--from 'soon': use a time of day"),
        ("25:00:00", "26:00:00", None, "--from '25:00:00': use a time of day"),
        ("1", "2", "Mars/Base", "--zone 'Mars/Base': is not a time zone"),
        ("9" * 400, "2", None, "use a time of day"),
        ("99999-01-01", "2", None, "use a time of day"),
    ],
)
def test_times_that_cannot_be(begin: str, end: str, zone: str | None, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        parse_range(begin, end, zone, now=NOW)
    assert "\n" not in str(refused.value)

"""Evidence of events, from a real Kafka into a folder."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import orjson
import pytest
from PIL import Image

from codecflow.codec.source import Source
from codecflow.errors import ConfigError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import (
    CodedPicture,
    Event,
    FrameMask,
    WindowMasks,
    encode_event,
    encode_masks,
    event_id,
)
from codecflow.recorder.folder import EvidenceFolder, Retention
from codecflow.recorder.picture import drawn
from codecflow.recorder.service import Recorder, RecorderOptions
from codecflow.subscriber.evidence import find_event, span
from codecflow.subscriber.recording import NotThereError
from tests.codec.clips import encode
from tests.commands import codecflow
from tests.page.camera import publish

OPTIONS = RecorderOptions(before_s=1.0, after_s=0.5)


def camera(folder: Path) -> list[CodedPicture]:
    """3 s, 10 pictures per second, captured half a minute ago."""
    epoch = int(time.time() * 1000) - 30_000
    with Source(str(encode(folder / "clip", "h264", size=(96, 80)))) as source:
        return [
            replace(p, width=96, height=80, captured_at_ms=epoch + 100 * p.seq) for p in source.pictures("gate", epoch)
        ]


def event(pictures: list[CodedPicture], change: str, at: int, number: int = 0, name: str = "person") -> Event:
    """An event that began with picture 12."""
    epoch, at_ms = pictures[0].epoch, pictures[at].captured_at_ms
    return Event(
        stream="gate",
        id=event_id("gate", name),
        number=number,
        change=change,  # type: ignore[arg-type]
        kind="answer",
        epoch=epoch,
        began_at_ms=pictures[12].captured_at_ms,
        at_ms=at_ms,
        written_at_ms=int(time.time() * 1000),
        reason="p(yes) 0.90",
        question="person",
        prompt="Is a person in view?",
        label="yes",
        window=0,
        probability=0.9,
    )


def told(settings: KafkaSettings, *events: Event) -> None:
    with RecordSender(settings) as sender:
        for one in events:
            sender.send(Record(settings.topics.events, *encode_event(one), "an event"))


def record(settings: KafkaSettings, folder: Path, last: str) -> list[str]:
    """Until the event `last` is recorded; the lines for people."""
    stop, said = GracefulStop(), list[str]()

    def say(line: str) -> None:
        said.append(line)
        if f"event {last} " in line:
            stop.request()

    guard = threading.Timer(120, stop.request)
    guard.start()
    try:
        Recorder(settings, EvidenceFolder(folder, Retention()), OPTIONS, stop, say).run()
    finally:
        guard.cancel()
    return said


def documents(folder: Path) -> dict[str, dict[str, object]]:
    return {path.stem.split("-")[1]: orjson.loads(path.read_bytes()) for path in folder.rglob("*.json")}


def test_an_event_has_a_clip_a_picture_and_a_record_whatever_ends_the_recorder(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    keep = np.zeros((5, 6), bool)
    keep[:, :3] = True
    masks = WindowMasks("gate", pictures[0].epoch, 0, 1, "replenish", (FrameMask(15, 1.5, (96, 80), keep),))
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.masks, *encode_masks(masks)[0], "masks"))
        sender.send(Record(kafka_settings.topics.events, b"gate", b"no event", "rubbish"))
    gone = replace(event(pictures, "closed", 15, 1, "gone"), began_at_ms=5_000, at_ms=6_000)
    told(
        kafka_settings,
        event(pictures, "opened", 15),
        event(pictures, "closed", 22, 1),
        gone,
        event(pictures, "opened", 15, name="other"),
    )
    folder = tmp_path / "evidence"
    identity, other, last = (event_id("gate", name) for name in ("person", "other", "last"))
    write: Callable[..., None] = EvidenceFolder.write

    def dies(self: EvidenceFolder, path: Path, data: bytes) -> None:
        if path.suffix == ".json" and path.with_suffix(".mp4").exists():
            raise RuntimeError("killed")
        write(self, path, data)

    monkeypatch.setattr(EvidenceFolder, "write", dies)
    with pytest.raises(RuntimeError, match="killed"):
        record(kafka_settings, folder, last)
    monkeypatch.undo()
    record(kafka_settings, folder, other)
    found = documents(folder)
    assert found.keys() == {identity, gone.id, other}
    files = {path.name: path for path in folder.rglob("*.*") if path.is_file()}
    document = found[identity]
    assert (document["change"], document["stream"]) == ("closed", "gate")
    names = document["files"]
    assert isinstance(names, list)
    assert [Path(name).suffix for name in names] == [".jpg", ".mp4"]
    with av.open(str(files[names[1]])) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    # From a second before picture 12 until half a second after picture 22; further ones are what those refer to.
    assert shown[0] == 0
    assert 2.4 <= (shown[-1] or 0) <= 2.9
    picture = np.asarray(Image.open(files[names[0]]).convert("L")).astype(int)
    assert picture.shape[1] == 96
    assert picture[:80, 48:].mean() < 0.7 * picture[:80, :48].mean()  # the half whose tokens were dropped
    assert "packets hold no" in str(found[gone.id]["missing"])
    assert found[other]["change"] == "opened"
    # What was committed is not done again.
    told(kafka_settings, event(pictures, "opened", 15, name="last"))
    (line,) = record(kafka_settings, folder, last)
    assert line.startswith(f"stream 'gate': event {last} opened: ")


def test_a_clip_of_an_event(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    identity = event_id("gate", "person")
    told(kafka_settings, event(pictures, "opened", 15), event(pictures, "closed", 22, 1))
    where = ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)
    done = codecflow("clip", "gate", "--event", identity, "-o", tmp_path / "c.mp4", *where)
    assert done.returncode == 0, done
    assert "3.0 s from" in done.stdout  # all there is: the event began less than 10 s after the stream
    done = codecflow("clip", "gate", "--event", identity, "--from", "1", "-o", tmp_path / "c.mp4", *where)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    begin, end = span(find_event(kafka_settings, "gate", identity)[-1])
    assert (begin.ms, end.ms) == (pictures[12].captured_at_ms - 10_000, pictures[22].captured_at_ms + 5_000)
    with pytest.raises(NotThereError, match="there is no event 0123456789abcdef"):
        find_event(kafka_settings, "gate", "0123456789abcdef")
    with pytest.raises(ConfigError, match="use the 16 digits"):
        find_event(kafka_settings, "gate", "../../x")


def test_what_is_older_or_more_than_is_kept_is_removed_with_nothing_else(tmp_path: Path) -> None:
    folder = EvidenceFolder(tmp_path, Retention(days=2.0, nbytes=250))
    template = Event("..", "0" * 16, 0, "opened", "answer", 1, 0, 0, 0, "")
    day_ms = 86_400_000
    paths = {}
    for day in range(6):
        one = replace(template, id=f"{day:016x}", began_at_ms=day * day_ms + 3_600_000)
        for suffix in (".json", ".mp4"):
            paths[day, suffix] = folder.path(one, suffix)
            folder.write(paths[day, suffix], bytes(100))
    other = tmp_path / "_.." / "1970-01-01" / "mine.mp4"
    other.write_bytes(bytes(10_000))
    assert all(tmp_path in path.resolve().parents for path in paths.values())
    # At the end of day 5: days 0 to 3 are too old, and of the 400 bytes of days 4 and 5 one event is too much.
    assert folder.clean(6 * 86_400 - 3_700) == 5
    assert {day for (day, _), path in paths.items() if path.exists()} == {5}
    assert other.exists()
    assert not (tmp_path / "_.." / "1970-01-02").exists()
    assert folder.clean(6 * 86_400 - 3_700) == 0


def test_a_caption_in_any_script_is_drawn() -> None:
    data = drawn(np.zeros((40, 60, 3), np.uint8), None, "Tür 門 🚪 p(yes) 0.90")
    assert Image.open(io.BytesIO(data)).size[0] == 60


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="cannot be written"):
        EvidenceFolder(tmp_path / "file" / "folder", Retention())

"""Evidence of events, from a real Kafka into a folder."""

from __future__ import annotations

import io
import os
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
    MAX_CLOCK_MS,
    CodedPicture,
    Event,
    FrameMask,
    WindowMasks,
    encode_event,
    encode_masks,
    event_id,
)
from codecflow.recorder import service
from codecflow.recorder.evidence_store import EvidenceStore, Retention
from codecflow.recorder.figures import RecorderFigures
from codecflow.recorder.service import Recorder, RecorderOptions
from codecflow.storage import Storage, StorageError, open_storage
from codecflow.subscriber.evidence import evidence_name, find_event, span
from codecflow.subscriber.picture import drawn
from codecflow.subscriber.recording import NotThereError
from tests.codec.clips import encode
from tests.commands import codecflow
from tests.page.camera import publish
from tests.subscriber.example_results import publish_raw

OPTIONS = RecorderOptions(before_s=1.0, after_s=0.5)


def camera(folder: Path) -> list[CodedPicture]:
    """3 s, 10 pictures per second, captured half a minute ago."""
    epoch = int(time.time() * 1000) - 30_000
    with Source(str(encode(folder / "clip", "h264", size=(96, 80)))) as source:
        return [
            replace(p, width=96, height=80, captured_at_ms=epoch + 100 * p.seq) for p in source.pictures("gate", epoch)
        ]


def event(pictures: list[CodedPicture], change: str, at: int, number: int = 0, name: str = "person") -> Event:
    """An event that started with picture 12."""
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


def publish_events(settings: KafkaSettings, *events: Event) -> None:
    with RecordSender(settings) as sender:
        for one in events:
            sender.send(Record(settings.topics.events, *encode_event(one), "an event"))


def record(settings: KafkaSettings, storage: Storage, last: str, figures: RecorderFigures | None = None) -> list[str]:
    """Runs until the event `last` is recorded; returns the lines for people."""
    stop, said = GracefulStop(), list[str]()

    def notice(line: str) -> None:
        said.append(line)
        if f"event {last} " in line:
            stop.request()

    guard = threading.Timer(120, stop.request)
    guard.start()
    try:
        Recorder(settings, EvidenceStore(storage, Retention()), OPTIONS, stop, notice, figures).run()
    finally:
        guard.cancel()
    return said


def documents(storage: Storage) -> dict[str, dict[str, object]]:
    """By event id."""
    names = [file.name for file in storage.files() if file.name.endswith(".json")]
    return {name[-21:-5]: orjson.loads(storage.read(name) or b"") for name in names}


def check_files(storage: Storage, folder: str, document: dict[str, object]) -> None:
    """Checks that the files of an event, closed at picture 22, show it."""
    assert document["change"] == "closed"
    names = document["files"]
    assert isinstance(names, list)
    assert [Path(name).suffix for name in names] == [".jpg", ".mp4"]
    jpg, mp4 = (storage.read(f"{folder}/{name}") or b"" for name in names)
    with av.open(io.BytesIO(mp4)) as container:
        shown = [frame.time for frame in container.decode(video=0)]
    # From a second before picture 12 until half a second after picture 22; the others are pictures to which those refer.
    assert shown[0] == 0
    assert 2.4 <= (shown[-1] or 0) <= 2.9
    picture = np.asarray(Image.open(io.BytesIO(jpg)).convert("L")).astype(int)
    assert picture.shape[1] == 96
    assert picture[:80, 48:].mean() < 0.7 * picture[:80, :48].mean()  # the half whose tokens were dropped


class KilledError(Exception):
    pass


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_an_event_has_a_clip_a_picture_and_a_record_whatever_ends_the_recorder(
    place: str, kafka_settings: KafkaSettings, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`memory` stands in for object stores: no folders, no renaming."""
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    keep = np.zeros((5, 6), bool)
    keep[:, :3] = True
    masks = WindowMasks("gate", pictures[0].epoch, 0, 1, "replenish", (FrameMask(15, 1.5, (96, 80), keep),))
    with RecordSender(kafka_settings) as sender:
        sender.send(Record(kafka_settings.topics.masks, *encode_masks(masks)[0], "masks"))
        sender.send(Record(kafka_settings.topics.events, b"gate", b"no event", "rubbish"))
    gone = replace(event(pictures, "closed", 15, 1, "gone"), began_at_ms=5_000, at_ms=6_000)
    publish_events(
        kafka_settings,
        event(pictures, "opened", 15),
        event(pictures, "closed", 22, 1),
        gone,
        event(pictures, "opened", 15, name="other"),
    )
    storage = open_storage(str(tmp_path / "evidence") if place == "folder" else f"memory://{topic_prefix}/evidence")
    identity, other, last = (event_id("gate", name) for name in ("person", "other", "last"))
    kind, clip = type(storage), f"{evidence_name(event(pictures, 'opened', 15))}.mp4"
    write: Callable[..., None] = kind.write

    def dies(self: Storage, name: str, data: bytes) -> None:
        if name.endswith(".json") and self.exists(clip):
            raise KilledError
        write(self, name, data)

    monkeypatch.setattr(kind, "write", dies)
    with pytest.raises(KilledError):
        record(kafka_settings, storage, last)
    monkeypatch.undo()
    # The storage is unavailable for a while: writing is retried, in order.
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.01)
    tries = iter(range(3))

    def full(self: Storage, name: str, data: bytes) -> None:
        if next(tries, None) is not None:
            raise StorageError(f"{self.place}/{name}: cannot be written", "No space left on device")
        write(self, name, data)

    monkeypatch.setattr(kind, "write", full)
    figures = RecorderFigures()
    said = record(kafka_settings, storage, other, figures)
    monkeypatch.undo()
    assert len([line for line in said if "No space left on device; retrying" in line]) == 1
    values = {(sample.metric.name, *sample.labels): sample.value for sample in figures.samples()}
    assert values["codecflow_recorder_changes", "incomplete"] == 1
    assert values["codecflow_recorder_changes", "complete"] >= 2
    assert values["codecflow_recorder_failing_seconds",] == 0
    found = documents(storage)
    assert found.keys() == {identity, gone.id, other}
    assert found[identity]["stream"] == "gate"
    check_files(storage, clip.rpartition("/")[0], found[identity])
    assert "packets hold no" in str(found[gone.id]["missing"])
    assert found[other]["change"] == "opened"
    assert not [file for file in storage.files() if "codecflow-" in file.name]
    # Committed work is not repeated.
    publish_events(kafka_settings, event(pictures, "opened", 15, name="last"))
    (line,) = record(kafka_settings, storage, last)
    assert line.startswith(f"stream 'gate': event {last} opened: ")


def test_an_end_is_waited_for_longer_than_a_group_waits(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka's client would consider a member dead that does not poll for 6 s."""
    monkeypatch.setattr(service, "_PUBLISHED_WITHIN_MS", 37_000)
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    publish_events(kafka_settings, event(pictures, "closed", 22, 1), event(pictures, "opened", 15, name="other"))
    impatient = replace(kafka_settings, properties={"max.poll.interval.ms": "6000", "session.timeout.ms": "6000"})
    begun = time.time()
    said = record(impatient, open_storage(str(tmp_path / "evidence")), event_id("gate", "other"))
    assert time.time() - begun > 6.0
    assert len(said) == 2


def test_an_event_of_the_future_holds_up_no_other(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a camera machine whose clock is wrong, or from another program; nor does one that is no event, or whose pictures
    cause an unexpected failure."""
    monkeypatch.setattr(service, "_PUBLISHED_WITHIN_MS", 100)
    monkeypatch.setattr(service, "event_picture", lambda *_: {}["missing"])
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    publish_raw(kafka_settings, "events", "gate", b"{}")
    ahead_ms = MAX_CLOCK_MS - 86_400_000
    future = replace(event(pictures, "closed", 22, 1), began_at_ms=ahead_ms, at_ms=MAX_CLOCK_MS)
    publish_events(kafka_settings, future, event(pictures, "opened", 15, name="other"))
    storage = open_storage(str(tmp_path / "evidence"))
    said = record(kafka_settings, storage, event_id("gate", "other"))
    found = documents(storage)
    assert "packets hold no pictures of 20" in str(found[future.id]["missing"])
    assert found[event_id("gate", "other")]["missing"] == ["failed unexpectedly: KeyError: 'missing'"]
    assert any("at offset 0: event: schema version None" in line for line in said)


def test_a_clip_of_an_event(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    pictures = camera(tmp_path)
    publish(kafka_settings, pictures)
    identity = event_id("gate", "person")
    publish_events(kafka_settings, event(pictures, "opened", 15), event(pictures, "closed", 22, 1))
    where = ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)
    done = codecflow("clip", "gate", "--event", identity, "-o", tmp_path / "c.mp4", *where)
    assert done.returncode == 0, done
    assert "3.0 s from" in done.stdout  # everything there is: the event began less than 10 s after the stream
    done = codecflow("clip", "gate", "--event", identity, "--from", "1", "-o", tmp_path / "c.mp4", *where)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    begin, end = span(find_event(kafka_settings, "gate", identity)[-1])
    assert (begin.ms, end.ms) == (pictures[12].captured_at_ms - 10_000, pictures[22].captured_at_ms + 5_000)
    with pytest.raises(NotThereError, match="there is no event 0123456789abcdef"):
        find_event(kafka_settings, "gate", "0123456789abcdef")
    with pytest.raises(ConfigError, match="use the 16 digits"):
        find_event(kafka_settings, "gate", "../../x")


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_what_is_older_or_more_than_is_kept_is_removed_with_nothing_else(
    place: str, topic_prefix: str, tmp_path: Path
) -> None:
    storage = open_storage(str(tmp_path) if place == "folder" else f"memory://{topic_prefix}")
    evidence = EvidenceStore(storage, Retention(days=2.0, nbytes=250))
    template = Event("..", "0" * 16, 0, "opened", "answer", 1, 0, 0, 0, "")
    day_ms = 86_400_000
    names = {}
    for day in range(6):
        one = replace(template, id=f"{day:016x}", began_at_ms=day * day_ms + 3_600_000)
        for suffix in (".json", ".mp4"):
            names[day, suffix] = f"{evidence_name(one)}{suffix}"
            storage.write(names[day, suffix], bytes(100))
    others = ("_../1970-01-01/mine.mp4", "_../1970-99-01/010000-0000000000000000.mp4", "notes.txt")
    for name in others:
        storage.write(name, bytes(10))
    assert all(not name.startswith(".") for name in names.values())
    # At the end of day 5: days 0 to 3 have expired, and of the 400 bytes of days 4 and 5 one event exceeds the limit.
    stored = evidence.clean(6 * 86_400 - 3_700)
    assert (stored.events, stored.nbytes, stored.removed) == (2, 210, 5)
    assert {day for (day, _), name in names.items() if storage.exists(name)} == {5}
    assert all(storage.exists(name) for name in others)
    assert evidence.clean(6 * 86_400 - 3_700).removed == 0
    if place == "folder":
        assert not (tmp_path / "_.." / "1970-01-02").exists()


def test_what_a_killed_recorder_left_half_written_is_removed_later(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".codecflow-a.mp4.part", ".codecflow-b.mp4.part", ".c.part"))
    for path in (old, new, other):
        path.write_bytes(b"")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    open_storage(str(tmp_path)).tidy()
    assert (old.exists(), new.exists(), other.exists()) == (False, True, True)


def test_a_caption_in_any_script_is_drawn() -> None:
    data = drawn(np.zeros((40, 60, 3), np.uint8), None, "Tür 門 🚪 p(yes) 0.90")
    assert Image.open(io.BytesIO(data)).size[0] == 60


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("{}/file/folder", "/file/folder: nothing can be written there: Not a directory"),
        (
            "s3://me:hush@bucket/x",
            "s3://bucket/x: this kind of storage needs a package that is not installed: pip install",
        ),
        ("nonsense://hush@x", "nonsense://x: cannot be used"),
        ("ftp://me:hush@127.0.0.1:1/x", "ftp://127.0.0.1:1/x"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_in_one_line(place: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError) as refused:
        open_storage(place.format(tmp_path))
    assert says in str(refused.value)
    assert "hush" not in str(refused.value)
    assert "\n" not in str(refused.value)

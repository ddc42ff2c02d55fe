"""What a newcomer gets wrong: each is one line on stderr that says what to do, a status of its own, and no traceback."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Protocol

import av
import numpy as np
import pytest

from codecflow import subscriber
from codecflow.cli.app import main
from codecflow.kafka.clients import require_broker
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.kafka.topics import create_topics
from codecflow.messages import Question, StreamDescription, encode_stream
from codecflow.vlm.tiny import make_tiny
from tests.clips import BUNDLED, cut
from tests.commands import codecflow
from tests.subscriber.example_results import publish_raw

NEED_TOPICS = (
    ("produce", str(BUNDLED), "--stream", "gate"),
    ("ask", "gate", "Is a person in view?"),
    ("results",),
    ("worker", "--model", "anything"),
)


class Refused(Protocol):
    def __call__(self, status: int, *command: str) -> str: ...


@pytest.fixture(autouse=True)
def _logging_of_this_process() -> Iterator[None]:
    """A command sets up logging for its process; here other tests follow in the same one."""
    logger = logging.getLogger("codecflow")
    handlers, level = logger.handlers[:], logger.level
    yield
    logger.handlers, logger.level = handlers, level


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Refused:
    """Runs `codecflow command...`, which must end with `status` and one line; that line.

    In this process: what a command of its own process does is test_app's, and importing torch each time would take minutes.
    """

    def run(status: int, *command: str) -> str:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["codecflow", *command])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = [line for line in capfd.readouterr().err.splitlines() if "answers mean nothing" not in line]
        assert ended.value.code == status, printed
        assert len(printed) == 1, printed
        assert printed[0].startswith("codecflow: ")
        return printed[0]

    return run


@pytest.fixture
def at(kafka_settings: KafkaSettings) -> tuple[str, ...]:
    """Options that lead to a broker with all topics."""
    return ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)


def test_sources_that_are_none(refused: Refused, tmp_path: Path, at: tuple[str, ...]) -> None:
    produce = ("produce", "--stream", "gate", "--fast", *at)
    assert "no such file" in refused(3, *produce, str(tmp_path / "nothing.mp4"))
    assert "is not a file" in refused(3, *produce, str(tmp_path))
    (tmp_path / "note.mp4").write_text("no video at all")
    assert "not a video" in refused(3, *produce, str(tmp_path / "note.mp4"))
    clip = cut(2, tmp_path / "clip.mp4").read_bytes()  # whose index lies at its end
    (tmp_path / "half.mp4").write_bytes(clip[: len(clip) // 2])
    assert "cut off before its index" in refused(3, *produce, str(tmp_path / "half.mp4"))
    assert "no video track" in refused(3, *produce, str(sound(tmp_path / "sound.wav")))


def test_a_name_that_begins_with_a_dash(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    cut(2, tmp_path / "-clip.mp4")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["codecflow", "produce", "-clip.mp4", "--stream", "gate", "--fast", *at])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capfd.readouterr().out.startswith("stream gate: 21 pictures")


def test_an_address_in_a_file_is_read_and_kept_secret(refused: Refused, tmp_path: Path, at: tuple[str, ...]) -> None:
    produce = ("produce", "--stream", "gate", *at)
    (tmp_path / "camera.txt").write_text("rtsp://user:hunter2@127.0.0.1:1/stream\n")
    said = refused(3, *produce, f"@{tmp_path}/camera.txt")
    assert "rtsp://***@127.0.0.1:1/stream" in said
    assert "hunter2" not in said
    assert "No such file" in refused(2, *produce, f"@{tmp_path}/nothing.txt")
    (tmp_path / "empty.txt").write_text("\nrtsp://second/line\n")
    assert "first line is empty" in refused(2, *produce, f"@{tmp_path}/empty.txt")


@pytest.mark.parametrize(
    ("status", "command"),
    [
        (2, ("produce", "@{}", "--stream", "gate")),
        (3, ("produce", "./{}", "--stream", "gate")),
        (2, ("history", "gate", "-o", "{}/answers.csv")),
        (2, ("clip", "gate", "--from", "0", "--to", "1", "-o", "{}/clip.mp4")),
        (2, ("notify", "{}")),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_path_that_cannot_even_be_looked_up_is_one_line(
    refused: Refused, status: int, command: tuple[str, ...]
) -> None:
    """As a path through a folder of another user, which a test that runs as root can look into."""
    refused(status, *(word.format("x" * 300) for word in command))


FORMS = [
    "rtsp://user:{}@127.0.0.1:1/x",
    "http://127.0.0.1:1/x?token={}",
    "user:{}@127.0.0.1",
    "rtsp:/user:{}@127.0.0.1/x",
    "rtsp//user:{}@127.0.0.1:1/x",
    "//user:{}@127.0.0.1/x",
    "rtsp://user:{}",
]
CHARACTERS = "aZ9'\"@ %/\\?#=&;:!$()[]{}<>|~`^*+,.-_\té漢\U0001f600"


@pytest.mark.parametrize(
    "command",
    [
        ("produce", "--stream", "gate"),
        ("produce", "--json", "--stream", "gate"),
        ("produce", "clip.mp4", "--stream"),
        ("explain", "--out", "drawn"),
        ("bench", "policies"),
        ("bench", "window"),
        ("bench", "producer"),
        ("bench", "sources"),
        ("demo",),
        ("worker",),
        ("results",),
        ("results", "--stream"),
        ("results", "--kafka-config"),
        ("ask", "gate", "--yes-no"),
        ("topics", "create"),
        ("eval",),
    ],
    ids=" ".join,
)
def test_no_command_shows_the_secrets_of_an_address(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever characters they hold, wherever an address is given, and whether or not the command takes one at all."""
    monkeypatch.setenv("CODECFLOW_REACH_WITHIN_S", "0.2")
    monkeypatch.setenv("CODECFLOW_BOOTSTRAP_SERVERS", "127.0.0.1:1")
    chance = Random(" ".join(command))
    for form in FORMS:
        password = "hun" + "".join(chance.choices(CHARACTERS, k=chance.randrange(8))) + "er2"
        address = form.format(password if "@" in form else password.replace("@", "_"))
        monkeypatch.setenv("CODECFLOW_LOG", chance.choice(("warning", "debug")))
        done = codecflow(*command, address)
        assert done.returncode in (1, 2, 3, 4, 6)
        printed = done.stdout + done.stderr
        assert "er2" not in printed, (address, printed)
        assert "hun" not in printed, (address, printed)


def test_a_file_that_is_cut_off_is_published_as_far_as_it_goes(
    refused: Refused, tmp_path: Path, at: tuple[str, ...], kafka_settings: KafkaSettings
) -> None:
    """The bundled clip has its index in front."""
    (tmp_path / "half.mp4").write_bytes(BUNDLED.read_bytes()[:200_000])
    said = refused(3, "produce", str(tmp_path / "half.mp4"), "--stream", "gate", "--fast", *at)
    assert "stream gate: 1 of the 78 pictures of" in said
    assert "were not published" in said
    with TopicTail(kafka_settings, kafka_settings.topics.packets) as packets:
        assert len(packets.catch_up()) > 70


@pytest.mark.parametrize("command", [*NEED_TOPICS, ("topics", "create")], ids=lambda command: command[0])
def test_a_broker_that_does_not_answer(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CODECFLOW_REACH_WITHIN_S", "1")
    said = refused(4, *command, "--bootstrap-servers", "127.0.0.1:1")
    assert "Kafka at 127.0.0.1:1: no answer" in said


@pytest.mark.parametrize("command", NEED_TOPICS, ids=lambda command: command[0])
def test_topics_that_were_not_created(
    refused: Refused, kafka_settings: KafkaSettings, command: tuple[str, ...]
) -> None:
    said = refused(
        4, *command, "--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", "not-created"
    )
    assert "not-created." in said
    assert "codecflow topics create" in said


def test_topics_of_unequal_partition_counts(refused: Refused, kafka_settings: KafkaSettings) -> None:
    prefix = f"{kafka_settings.topic_prefix}u"
    settings = replace(kafka_settings, topic_prefix=prefix)
    admin = require_broker(settings)
    from confluent_kafka.admin import NewTopic

    admin.create_topics([NewTopic(settings.topics.packets, 5, 1)])[settings.topics.packets].result(120)
    create_topics(settings, partitions=2)
    at = ("--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", prefix)
    for command in (("produce", str(BUNDLED), "--stream", "gate"), ("worker", "--model", "anything")):
        assert f"{prefix}.packets has 5" in refused(4, *command, *at)


def test_a_picture_larger_than_the_topic_allows(
    refused: Refused, kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    from confluent_kafka.admin import AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

    smaller = ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, kafka_settings.topics.packets, incremental_configs=[smaller])
    admin = require_broker(kafka_settings)
    admin.incremental_alter_configs([resource])[resource].result(120)
    at = ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)
    said = refused(4, "produce", str(cut(2, tmp_path / "clip.mp4")), "--stream", "gate", "--fast", *at)
    assert "stream gate" in said
    assert "raise max.message.bytes" in said


def test_names_that_do_not_exist(refused: Refused, at: tuple[str, ...], tmp_path: Path) -> None:
    model = str(make_tiny(tmp_path / "tiny", image_size=112))
    worker = ("worker", "--model", model, *at)
    assert "'everything'" in refused(2, *worker, "--keep", "everything")
    assert "'sometimes'" in refused(2, *worker, "--refresh", "sometimes")
    assert "use a multiple of 1/2 s" in refused(2, *worker, "--stride", "0.3")
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(6, "worker", "--model", str(tmp_path / "empty"), *at)
    assert "'ga te'" in refused(2, "ask", "ga te", "Is a person in view?", *at)
    assert "two or more labels" in refused(2, "ask", "gate", "Which?", "--choice", "one", *at)
    assert "no question 'person'" in refused(2, "ask", "gate", "--remove", "person", *at)
    assert "give one of" in refused(2, "ask", "gate", *at)


@pytest.mark.parametrize(
    "command",
    [
        ("bench", "policies", str(BUNDLED), "--anchor", "0"),
        ("bench", "window", str(BUNDLED), "--anchor", "0"),
        ("bench", "window", str(BUNDLED), "--fps", "0"),
        ("explain", str(BUNDLED), "--out", "drawn", "--stride", "0"),
        ("demo", str(BUNDLED), "--fps", "0"),
        ("produce", str(BUNDLED), "--stream", "gate", "--signal-interval", "0"),
        ("worker", "--model", "anything", "--window", "0"),
    ],
    ids=lambda command: f"{command[0]} {command[-2]}",
)
def test_a_number_that_must_be_positive(refused: Refused, command: tuple[str, ...]) -> None:
    assert f"{command[-2]} '0': use a positive number" in refused(2, *command)


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (("Which?", "--choice", "red,"), "a label is empty"),
        (("Which?", "--choice", ",, ,"), "a label is empty"),
        (("Which?", "--choice", "red, red"), "two labels are equal"),
        (("Which?", "--choice", "red"), "two or more labels"),
        (("Which?", "--choice", ",".join(map(str, range(65)))), "65 labels; at most 64"),
        (("Which?", "--choice", "red," + "b" * 201), "a label has 201 characters; at most 200"),
        (("Which?", "--choice", "a,b", "--yes-no"), "exclude each other"),
        (("word " * 801,), "its prompt has 4005 characters; at most 4000"),
        ((" \t",), "an id and a prompt that are not empty"),
        (("Which?", "--id", " "), "an id and a prompt that are not empty"),
        (("Which?", "--id", "i" * 201), "its id has 201 characters; at most 200"),
        (("Which?", "--max-tokens", "0"), "max_tokens 0 is not within 1 to 1024"),
        (("Which?\udcff",), "its prompt is not valid UTF-8"),
    ],
)
def test_a_question_that_cannot_be_answered(refused: Refused, question: tuple[str, ...], says: str) -> None:
    """Found before a broker is looked for."""
    assert says in refused(2, "ask", "gate", *question, "--bootstrap-servers", "nowhere:9")


def test_more_questions_than_a_stream_may_have(
    refused: Refused, kafka_settings: KafkaSettings, at: tuple[str, ...]
) -> None:
    questions = tuple(Question(f"q{number}", "Which?") for number in range(64))
    key, value = encode_stream(StreamDescription("gate", questions))
    publish_raw(kafka_settings, "streams", key.decode(), value)
    assert "stream gate: 65 questions; at most 64 are allowed" in refused(2, "ask", "gate", "One more?", *at)


def test_a_description_that_cannot_be_read_can_be_cleared(
    refused: Refused,
    kafka_settings: KafkaSettings,
    at: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    publish_raw(kafka_settings, "streams", "gate", b'{"v":1,"questions":[{"id":"q","prompt":" ","type":"text"}]}')
    assert "to begin again run: codecflow ask gate --clear" in refused(5, "ask", "gate", "Is it open?", *at)
    monkeypatch.setattr(sys, "argv", ["codecflow", "ask", "gate", "--clear", *at])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "gate: no questions configured" in capfd.readouterr().out


def test_questions_of_others_do_not_control_the_terminal(
    kafka_settings: KafkaSettings,
    at: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    hostile = "\x1b]0;owned\x07 \x9b2J \u202e red\r\n"
    labels = (hostile, "blue")
    subscriber.ask(kafka_settings, "gate", Question(f"q{hostile}", f"Which{hostile}?", "choice", labels))
    monkeypatch.setattr(sys, "argv", ["codecflow", "ask", "gate", "--list", *at])
    with pytest.raises(SystemExit):
        main()
    (line,) = capfd.readouterr().out.splitlines()
    assert line.isprintable()
    assert "]0;owned" in line


@pytest.mark.parametrize(
    "command",
    [
        ("model", "tiny", "--out"),
        ("model", "build", "--out"),
        ("explain", str(BUNDLED), "--out"),
        ("kafka", "start", "--data-dir"),
    ],
    ids=lambda command: " ".join(Path(word).name for word in command[:2]),
)
def test_a_folder_that_is_a_file(refused: Refused, command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert f"folder {tmp_path / 'file'}: cannot be made" in refused(2, *command, str(tmp_path / "file"))


def test_a_family_that_does_not_exist(refused: Refused, tmp_path: Path) -> None:
    said = refused(6, "model", "tiny", "--out", str(tmp_path / "tiny"), "--family", "foo")
    assert said.startswith("codecflow: family 'foo': use one of internvl")


def test_a_kafka_property_that_does_not_exist(refused: Refused) -> None:
    assert "no.such.property" in refused(2, "results", "-X", "no.such.property=1")


def sound(path: Path) -> Path:
    """A second of silence: a media file without pictures."""
    with av.open(str(path), "w") as file:
        track = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return path

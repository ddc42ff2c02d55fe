"""Zones of a stream: set from a file by a command, independent of its questions, refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecflow import subscriber
from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Question, Zone
from tests.commands import Done, codecflow

STREET = {"name": "street", "use": "ignore", "polygon": [[0, 0], [1, 0], [1, 0.3]]}
GATE = {"name": "gate", "use": "place", "polygon": [[0.1, 0.6], [0.4, 0.6], [0.4, 1]]}


def test_zones_are_set_shown_and_removed_and_questions_stay(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    def run(command: str, *arguments: str) -> Done:
        where = ("--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix)
        return codecflow(command, "yard", *arguments, *where)

    file = tmp_path / "zones.json"
    file.write_text(json.dumps([STREET, GATE]))
    subscriber.ask(kafka_settings, "yard", Question("person", "Is a person in view?", "yes-no"))
    done = run("stream", "--zones", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "yard  question person  [yes-no]  Is a person in view?",
        "yard  zone street  [ignore]  (0, 0) (1, 0) (1, 0.3)",
        "yard  zone gate  [place]  (0.1, 0.6) (0.4, 0.6) (0.4, 1)",
    ]
    assert run("ask", "Is a car in the zone gate?", "--yes-no").stderr == ""
    refused = run("ask", "Is a car in the zone Street?", "--yes-no")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "the model never sees the zone 'street'" in refused.stderr
    assert "has no zone that the question names" in run("ask", "Is a car in the zone north?", "--yes-no").stderr
    assert run("ask", "--clear").returncode == 0
    assert [zone.name for zone in subscriber.read_description(kafka_settings, "yard").zones] == ["street", "gate"]
    assert run("stream", "--clear-zones").stdout.splitlines()[-1] == "yard: no zones"
    assert subscriber.read_description(kafka_settings, "yard").zones == ()


def test_a_file_of_zones_is_read(tmp_path: Path) -> None:
    file = tmp_path / "zones.json"
    file.write_text(json.dumps([GATE]))
    assert subscriber.read_zones(file) == (Zone("gate", "place", ((0.1, 0.6), (0.4, 0.6), (0.4, 1.0))),)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[", r"line 1, column 2"),
        ("\xff", r"not JSON in UTF-8"),
        ('{"zones": []}', r"a list is expected, such as"),
        ("[1]", r"zone 1: an object with name, use and polygon"),
        (json.dumps([GATE, {"name": "x"}]), r"zone 2: polygon, use missing"),
        (json.dumps([{**GATE, "colour": 1}]), r"zone 1: unknown member 'colour'; allowed are"),
        (json.dumps([{**GATE, "use": "skip"}]), r"zone 1: zone 'gate': use 'skip'; use one of ignore, only, place"),
        (json.dumps([{**GATE, "polygon": [[0, 0], [1]]}]), r"zone 1: polygon is a list of corners"),
        (json.dumps([{**GATE, "polygon": [[0, 0], [1e400, 0], [1, 1]]}]), r"lies outside the picture"),
        ('[{"name": "a", "use": "only", "polygon": [[0, 0], [' + "9" * 400 + ", 0], [1, 1]]}]", r"outside the picture"),
        (json.dumps([GATE, {**GATE, "name": "GATE"}]), r"two zones have the name 'GATE'"),
        (json.dumps([{**GATE, "name": f"zone {n}"} for n in range(33)]), r"33 zones; at most 32"),
        ("[" * 100_000, r"not JSON|line 1"),
    ],
    ids=lambda text: text[:30] if isinstance(text, str) else None,
)
def test_a_file_that_holds_no_zones_is_refused_in_one_line(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "zones.json"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigError, match=says) as refused:
        subscriber.read_zones(file)
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file"):
        subscriber.read_zones(tmp_path / "none.json")
    with pytest.raises(ConfigError, match=r"directory"):
        subscriber.read_zones(tmp_path)

"""`codecflow history`: retained results, filtered and formatted."""

from __future__ import annotations

import csv
import json
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest

from codecflow.errors import ConfigError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.messages import Event, Result, ResultError, encode_event
from codecflow.messages.events import event_id
from codecflow.subscriber.times import parse_span
from tests.commands import Done, codecflow

from .example_results import RESULT, commit, publish_raw

START_MS = int(datetime(2026, 11, 20, 21, 0, tzinfo=UTC).timestamp() * 1000)
ANSWERS = ("no", "no", "yes", "yes", "no", "yes")


def stored() -> list[Result]:
    """Six windows of gate, ten minutes apart; of yard one that failed and one whose answer has terminal control
    characters."""
    gate = [
        replace(
            RESULT,
            window=n,
            captured_at_ms=START_MS + n * 600_000,
            answered_at_ms=START_MS + n * 600_000 + 900,
            answer=answer,
            p_yes=0.9 if answer == "yes" else 0.2,
        )
        for n, answer in enumerate(ANSWERS)
    ]
    failed = ResultError("codec", "no decoder")
    hostile = 'a "man",\n\x1b[2J=1+1 漢'
    yard = [
        replace(gate[0], stream="yard", answer="", p_yes=None, error=failed),
        replace(gate[1], stream="yard", question="what", type="text", answer=hostile, p_yes=None),
    ]
    return [*gate, *yard]


@pytest.fixture(scope="module")
def settings(kafka: Any) -> KafkaSettings:
    """Topics with `stored()` and an invalid result record, for all tests."""
    settings = KafkaSettings(kafka.bootstrap_servers, f"h{uuid.uuid4().hex[:12]}", reach_within_s=60.0)
    create_topics(settings, partitions=3)
    commit(settings, stored())
    publish_raw(settings, "results", "gate", b"{}")
    return settings


@pytest.fixture
def run(settings: KafkaSettings) -> Any:
    """Runs the command on them."""
    at = ["--bootstrap-servers", settings.bootstrap_servers, "--topic-prefix", settings.topic_prefix]

    def history(*arguments: str | Path, status: int = 0) -> Done:
        done = codecflow("history", *arguments, "--zone", "Europe/Berlin", *at)
        assert done.returncode == status, done.stderr
        return done

    return history


def windows(text: str) -> list[tuple[str, int]]:
    rows = [json.loads(line) for line in text.splitlines()]
    return [(one["stream"], one["window_index"]) for one in rows]


def test_answers_are_chosen_by_stream_time_question_and_condition(run: Any) -> None:
    done = run("gate", "--format", "json")
    assert windows(done.stdout) == [("gate", n) for n in range(6)]
    assert done.stderr.startswith("codecflow: 1 records on ")
    first = json.loads(done.stdout.splitlines()[0])
    assert (first["captured_at"], first["answer"], first["probability"]) == ("2026-11-20T22:00:00.000+01:00", "no", 0.8)
    assert sorted(windows(run("--format", "json").stdout))[-2:] == [("yard", 0), ("yard", 1)]
    span = ("--since", "2026-11-20T22:10", "--until", "2026-11-20T22:40")
    assert windows(run("gate", "--format", "json", *span).stdout) == [("gate", n) for n in (1, 2, 3)]
    assert windows(run("--format", "json", "--question", "what").stdout) == [("yard", 1)]
    assert windows(run("gate", "--format", "json", "--changes").stdout) == [("gate", n) for n in (0, 2, 4, 5)]
    assert windows(run("gate", "--format", "json", "--limit", "2").stdout) == [("gate", 4), ("gate", 5)]
    last_night = "answer = 'yes' and captured_at < '2026-11-20 22:30' -- before half past ten"
    assert windows(run("--format", "json", "--where", last_night).stdout) == [("gate", 2)]
    chosen = run("gate", "--format", "json", "--where", "p_yes > 0.5", "--limit", "2")
    assert windows(chosen.stdout) == [("gate", 3), ("gate", 5)]
    assert windows(run("--format", "json", "--where", "error = 'codec'").stdout) == [("yard", 0)]
    assert run("nobody", "--format", "json").stdout == ""


def test_tables_and_files(run: Any, tmp_path: Path) -> None:
    table = run("yard").stdout
    assert "no answer: no decoder (codec)" in table
    assert 'a "man", \\x1b[2J=1+1 漢' in table
    assert "\x1b" not in table
    assert run("nobody").stdout == "no answers\n"
    run("-o", tmp_path / "all.csv")
    with (tmp_path / "all.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8
    (text,) = (one["answer"] for one in rows if one["question"] == "what")
    assert text == 'a "man",\\n\\x1b[2J=1+1 漢'
    path = tmp_path / "it's all.parquet"
    done = run("-o", path, "--changes", "--where", "stream = 'gate'")
    assert done.stderr.splitlines()[-1] == f"codecflow: {path}: 4 rows"
    with duckdb.connect() as client:
        found = client.execute("select window_index, answer, epoch_ms(captured_at) from read_parquet(?)", [str(path)])
        assert found.fetchall() == [(n, ANSWERS[n], START_MS + n * 600_000) for n in (0, 2, 4, 5)]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all.csv", "it's all.parquet"]
    assert "already exists" in run("-o", path, status=2).stderr
    run("gate", "-o", path, "--force", "--limit", "1")


def test_events_too(run: Any, settings: KafkaSettings, tmp_path: Path) -> None:
    opened = Event(
        *("gate", event_id("a"), 0, "opened", "answer", RESULT.epoch, START_MS, START_MS + 60_000, START_MS + 61_000),
        *("somebody is there", "person", "Is a person in view?", "yes"),
        probability=0.9,
    )
    closed = replace(opened, number=1, change="closed", at_ms=START_MS + 600_000, probability=None, reason="nobody")
    lost = replace(opened, id=event_id("b"), kind="camera-lost", question=None, prompt=None, label=None, stream="yard")
    with RecordSender(settings) as sender:
        for event in (opened, closed, lost):
            sender.send(Record(settings.topics.events, *encode_event(event), "an event"))
    table = run("--events").stdout.splitlines()
    assert [line.split()[:5] for line in table[1:]] in (
        [["2026-11-20", "22:01:00", "gate", "person", "opened"], ["2026-11-20", "22:01:00", "yard", "camera-lost", "opened"],
         ["2026-11-20", "22:10:00", "gate", "person", "closed"]],
        [["2026-11-20", "22:01:00", "yard", "camera-lost", "opened"], ["2026-11-20", "22:01:00", "gate", "person", "opened"],
         ["2026-11-20", "22:10:00", "gate", "person", "closed"]],
    )  # fmt: skip  # two of the same moment, from two partitions
    done = run("gate", "--events", "--format", "json", "--where", "change = 'closed'", "--since", "2026-11-20T22:05")
    (found,) = map(json.loads, done.stdout.splitlines())
    assert (found["happened_at"], found["number"], found["probability"], found["reason"]) == (
        *("2026-11-20T22:10:00.000+01:00", 1, None, "nobody"),
    )
    run("--events", "-o", tmp_path / "events.parquet", "--question", "person")
    with duckdb.connect() as client:
        count = client.execute("select count(*) from read_parquet(?)", [str(tmp_path / "events.parquet")]).fetchall()
    assert count == [(2,)]
    assert "--changes is of answers" in run("--events", "--changes", status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--where", "nope = 3"), '--where: Binder Error: Referenced column "nope" not found'),
        (("--where", "answer ="), "--where: Parser Error"),
        (("--where", "answer = 5"), "--where: Conversion Error"),
        (("--where", "1=1); drop table results; select (1"), "one condition is expected"),
        (("--where", "answer = (select content from read_text('/etc/passwd'))"), "--where: Permission Error"),
        (("--format", "xml"), "--format xml: use --format table, json, csv or parquet"),
        (("--format", "parquet"), "name a file to write with -o"),
        (("-o", "answers.txt"), "its name does not say a format"),
        (("-o", "/nowhere/answers.csv"), "there is no folder /nowhere"),
        (("--since", "yesterday"), "--since 'yesterday': use 90m, 12h or 3d (ago), a time of day such as 22:00"),
        (("--since", "999999d"), "--since '999999d': use 90m"),
        (("--since", "2026-11-28", "--until", "2026-11-27"), "is not later than --since"),
        (("no stream",), "stream id 'no stream'"),
    ],
)
def test_what_cannot_be_is_one_line(run: Any, arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments, status=2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_without_the_extra_a_condition_says_what_to_install(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert "pip install 'codecflow[history]'" in run("--where", "p_yes > 0", status=2).stderr
    assert windows(run("gate", "--format", "json", "--limit", "1").stdout) == [("gate", 5)]


def test_times_as_people_say_them() -> None:
    zone = ZoneInfo("Europe/Berlin")
    now = datetime(2026, 11, 28, 8, 0, tzinfo=zone)

    def span(since: str | None, until: str | None = None, at: datetime = now) -> tuple[str | None, str | None]:
        found = parse_span(since, until, zone, at)
        first, last = (None if ms is None else f"{datetime.fromtimestamp(ms / 1000, zone):%d %H:%M}" for ms in found)
        return first, last

    assert span("22:00", "06:00") == ("27 22:00", "28 06:00")
    assert span("22:00", "06:00", now - timedelta(hours=3)) == ("27 22:00", "28 06:00")
    assert span("90m") == ("28 06:30", None)
    assert span("3d", "1d") == ("25 08:00", "27 08:00")
    assert span("2026-11-01", "2026-11-02T12:00Z") == ("01 00:00", "02 13:00")
    assert span(None, "7:30:10") == (None, "28 07:30")
    with pytest.raises(ConfigError, match="--since '52': use 90m"):
        span("52")

"""Webhooks: signed, retried, each with its own position; through a real Kafka and real HTTP servers."""

from __future__ import annotations

import hmac
import threading
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pytest

from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import event_id
from codecflow.notify import service
from codecflow.notify.config import read_config
from codecflow.notify.schedule import Schedule, Times
from codecflow.notify.template import Text
from codecflow.notify.webhook import signature
from tests.commands import codecflow

from .running import EVENT, HttpServer, config, read, running, send, until

SECRET = "0123456789abcdef-hush"


def test_sinks_get_events_at_least_once_and_none_waits_for_another(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.1)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    released = threading.Event()

    def hangs() -> int:
        released.wait(60)
        return 500

    quick, broken, hanging = HttpServer(), HttpServer(lambda: 500, lambda: 302, lambda: 422), HttpServer(hangs)
    text = 'text = "$stream: $question $label ($probability) um $time"\nzone = "Europe/Berlin"'
    sinks = config(
        tmp_path,
        f'name = "quick"\nurl = "{quick.url}"\nsecret_file = "{tmp_path / "secret"}"\n{text}',
        f'name = "broken"\nurl = "{broken.url}"\nchanges = ["closed", "opened"]',
        f'name = "hanging"\nurl = "{hanging.url}"\nstreams = ["ga*"]',
    )
    send(kafka_settings, replace(EVENT, id=event_id("before")))  # from before the sinks existed
    closed, other = replace(EVENT, change="closed", number=1), replace(EVENT, id=event_id("two"))
    with running(kafka_settings, sinks) as one:
        send(kafka_settings, EVENT, replace(EVENT, change="updated", number=7), closed)
        first, second = f"{EVENT.id}-0", f"{EVENT.id}-1"
        until(lambda: quick.keys == [first, second], quick.keys)
        until(lambda: broken.keys == [first, first, first, second], broken.keys)
        assert hanging.keys == []
        released.set()
        until(lambda: hanging.keys == [first, first, second], hanging.keys)
        values = {(s.metric.name, s.labels): s.value for s in one.figures.samples()}
        assert values["codecflow_notify_failures", ("broken",)] == 2
        assert values["codecflow_notify_deliveries", ("broken", "refused")] == 1
    document, headers = orjson.loads(quick.bodies[0]), quick.headers[0]
    assert document["text"] == "gate: person yes (1.00) um 2026-11-28 19:00:53 CET"
    assert document["event"]["prompt"] == EVENT.prompt
    at, _, digest = headers["x-codecflow-signature"].partition(",")
    expected = signature(SECRET.encode(), int(at.removeprefix("t=")), quick.bodies[0])
    assert hmac.compare_digest(digest, f"v1={expected}")
    assert any("status 500; retrying" in line for line in one.said)
    assert any(f"status 422: {first}" in line for line in one.said)
    assert not any("hush" in f"{line} {sinks}" for line in one.said)
    # Stopped while something happens; what was delivered is not delivered again.
    send(kafka_settings, other)
    with running(kafka_settings, sinks):
        for place in (quick, broken, hanging):
            until(lambda place=place: place.keys[-1:] == [f"{other.id}-0"], place.keys)  # type: ignore[misc]
    assert quick.keys == [first, second, f"{other.id}-0"]
    for place in (quick, broken, hanging):
        place.close()


def test_a_sink_that_is_down_longer_than_a_group_waits_gets_all_in_order(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour in miniature: Kafka's client would consider a member dead that does not poll for 6 s."""
    monkeypatch.setattr(service, "LONGEST_PAUSE_S", 0.5)
    impatient = replace(kafka_settings, properties={"max.poll.interval.ms": "6000", "session.timeout.ms": "6000"})
    server = HttpServer()
    server.close()
    sinks = config(tmp_path, f'name = "a"\nurl = "{server.url}"\ntimeout_s = 2')
    events = [replace(EVENT, id=event_id(f"{n}")) for n in range(12)]
    with running(impatient, sinks) as one:
        send(kafka_settings, *events[:6])
        until(lambda: one.figures.sinks["a"].failures >= 16, one.said)  # more than 6 s
        assert one.figures.sinks["a"].failing_since is not None
    with running(impatient, sinks) as one:
        send(kafka_settings, *events[6:])
        server.start()
        until(lambda: len(server.keys) >= 12, one.said)
        until(lambda: one.figures.sinks["a"].failing_since is None, "it works again")
    server.close()
    assert server.keys == [f"{event.id}-0" for event in events]
    assert len([line for line in one.said if "retrying" in line]) <= 1


@pytest.mark.parametrize(
    ("times", "when", "holds"),
    [
        ("Mon-Fri 18:00-07:00", "2026-11-27 19:00", True),  # a Friday
        ("Mon-Fri 18:00-07:00", "2026-11-28 06:59", True),  # its night
        ("Mon-Fri 18:00-07:00", "2026-11-28 19:00", False),
        ("Mon-Fri 18:00-07:00", "2026-11-30 06:00", False),  # Sunday's night
        ("Sat-Mon 08:00-09:00", "2026-11-30 08:59", True),
        ("Sun 00:00-24:00", "2026-11-29 23:59", True),
        ("08:00-20:00", "2026-11-29 20:00", False),
    ],
)
def test_times_of_the_week(times: str, when: str, holds: bool) -> None:
    assert Times.parse(times).hold(datetime.fromisoformat(when)) == holds


def test_each_rule_has_times_of_its_own() -> None:
    noon = datetime(2026, 11, 28, 12, 0)
    schedule = Schedule.parse({"person*": ["18:00-07:00"], "silent": ["00:00-24:00"], "gate-?": ["11:00-13:00"]})
    allowed = [name for name in ("person", "person-2", "silent", "gate-1", "other") if schedule.allows(name, noon)]
    assert allowed == ["silent", "gate-1", "other"]


def test_an_end_is_sent_where_the_beginning_was(tmp_path: Path) -> None:
    (sink,) = config(
        tmp_path, 'name = "a"\nurl = "http://b"\ntimes = ["18:00-19:01"]\nzone = "UTC"\nquestions = ["pers*"]'
    )
    wanted = sink.options.filter
    assert wanted.zone == ZoneInfo("UTC")
    assert wanted.matches(EVENT)  # it began at 18:00
    assert wanted.matches(replace(EVENT, change="closed", at_ms=EVENT.at_ms + 10_000_000))
    assert not wanted.matches(replace(EVENT, began_at_ms=EVENT.began_at_ms + 10_000_000))
    assert not wanted.matches(replace(EVENT, kind="silent", question=None))
    assert not wanted.matches(replace(EVENT, change="updated"))


def test_a_text_says_what_the_model_said_in_a_named_time_zone() -> None:
    text = Text.parse("$stream: $prompt -> $label ($probability), $began bis $time, $lasted $$", ZoneInfo("Asia/Tokyo"))
    closed = replace(EVENT, change="closed", at_ms=EVENT.began_at_ms + 61_000, probability=None)
    assert text.of(closed) == (
        "gate: Ist jemand da? 門 -> yes (), 2026-11-29 03:00:51 JST bis 2026-11-29 03:01:52 JST, 61 s $"
    )
    assert (
        Text.parse("$question $label", ZoneInfo("UTC")).of(replace(EVENT, kind="silent", question=None, label=None))
        == "silent"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no"),
        ("[[smoke]]", "smoke: is not known"),
        ("[webhook]", r"use a table \[\[webhook\]\] per sink"),
        ("x = [", "is not TOML"),
        ("evidence = 3", "evidence: the recorder's folder"),
        ("[[webhook]]\nurl = 'http://a'", "needs a name"),
        ("[[webhook]]\nname = 'a'", "give one of url and url_file"),
        ("[[webhook]]\nname = 'a'\nurl = 'ftp://hush'", "must begin with http"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://'", "must begin with http"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a:hush'", "must begin with http"),
        ("[[webhook]]\nname = 'a'\nurl_file = '/nowhere/hush2'", "no such file"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nsecret = 'hush'", "'secret' is not known"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nkinds = ['rain']", "kinds: 'rain' is unknown"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nchanges = []", "must be a list"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntimes = ['night']", "times 'night'"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntimes = {p = '18:00-19:00'}", "times: use a list"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nzone = 'Mars'", "is not a time zone"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntext = '$prompt$password'", "text: use"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntimeout_s = true", "timeout_s must be a number"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\npicture = 1", "picture must be true or false"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\n" * 2, "two sinks are called 'a'"),
        ("[[mqtt]]\nname = 'a'\nurl = 'tcp://a'", "must be mqtt://HOST"),
        ("[[mqtt]]\nname = 'a'\nurl = 'mqtt://me:hush@a'", "must not hold a user"),
        ("[[mqtt]]\nname = 'a'\nurl = 'mqtt://a'\npassword_file = '/x'", "needs a username"),
        ("[[mqtt]]\nname = 'a'\nurl = 'mqtt://a'\nca_file = '/x'", "ca_file needs an address"),
        ("[[mqtt]]\nname = 'a'\nurl = 'mqtts://a'\nca_file = '/x'", "ca_file /x: No such file"),
        ("[[mqtt]]\nname = 'a'\nurl = 'mqtt://a'\ntopic = 'a/#'", "cannot be a topic prefix"),
        ("[[apprise]]\nname = 'a'\nurl = 'nonsense://hush'", "apprise does not support its address"),
        ("[[apprise]]\nname = 'a'\nurl = 'slack://hush'", "apprise does not support its address"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "notify.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as refused:
        read_config(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert str(refused.value).isprintable()
    assert "hush" not in str(refused.value).replace("hush2", "")


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    read(
        tmp_path,
        '[[webhook]]\nname = "ops"\nurl = "https://hooks.example/T0/hush"\n'
        '[[mqtt]]\nname = "home"\nurl = "mqtt://broker.example"\n'
        '[[apprise]]\nname = "mail"\nurl = "mailto://me:hush@mail.example"\n',
    )
    done = codecflow("notify", tmp_path / "notify.toml", "--check")
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            "ops: webhook at hooks.example, not signed",
            "home: mqtt at broker.example, topics below codecflow/, discovery below homeassistant/",
            "mail: apprise at E-Mail at mail.example",
        ],
    ), done.stderr

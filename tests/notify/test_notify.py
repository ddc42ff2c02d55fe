"""Webhooks: signed, retried, each with a position of its own; through a real Kafka and real HTTP servers."""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import pytest
from confluent_kafka import KafkaException, TopicPartition

from codecflow.errors import ConfigError
from codecflow.kafka.clients import consumer
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.messages import Event, encode_event, event_id
from codecflow.notify import service
from codecflow.notify.config import Webhook, read_config
from codecflow.notify.schedule import Times
from codecflow.notify.service import Notifier
from codecflow.notify.webhook import signature
from tests.commands import codecflow

SECRET = "0123456789abcdef-hush"
EVENT = Event(
    stream="gate",
    id=event_id("one"),
    number=0,
    change="opened",
    kind="answer",
    epoch=1,
    began_at_ms=1_795_888_851_507,
    at_ms=1_795_888_853_502,
    written_at_ms=1_795_888_889_337,
    reason="p(yes) 1.00",
    question="person",
    prompt="Ist jemand da? 門",
    label="yes",
    probability=0.997,
)


class Place:
    """A web server. `answers`: how requests are answered, one after the other, then with 200."""

    def __init__(self, *answers: Callable[[], int]) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        waiting = iter(answers)
        place = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = next(waiting, lambda: 200)()
                place.headers.append({name.lower(): value for name, value in self.headers.items()})
                place.bodies.append(body)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook/token-hush"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def keys(self) -> list[str]:
        return [headers["idempotency-key"] for headers in self.headers]


def config(folder: Path, *tables: str) -> list[Webhook]:
    path = folder / "notify.toml"
    path.write_text("\n".join(f"[[webhook]]\n{table}" for table in tables))
    return read_config(path)


@contextmanager
def running(settings: KafkaSettings, sinks: list[Webhook]) -> Iterator[list[str]]:
    stop, said = GracefulStop(), list[str]()
    notifier = Notifier(settings, sinks, stop, said.append)
    thread = threading.Thread(target=notifier.run)
    thread.start()
    try:
        yield said
    finally:
        stop.request()
        thread.join(60)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], what: object) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def tell(settings: KafkaSettings, *events: Event) -> None:
    with RecordSender(settings) as sender:
        for event in events:
            sender.send(Record(settings.topics.events, *encode_event(event), "an event"))


def test_sinks_are_told_at_least_once_and_none_waits_for_another(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.1)
    (tmp_path / "secret").write_text(f"{SECRET}\n")
    released = threading.Event()

    def hangs() -> int:
        released.wait(60)
        return 500

    quick, broken, hanging = Place(), Place(lambda: 500, lambda: 302, lambda: 422), Place(hangs)
    text = 'text = "$stream: $question $label ($probability) um $time"\nzone = "Europe/Berlin"'
    sinks = config(
        tmp_path,
        f'name = "quick"\nurl = "{quick.url}"\nsecret_file = "{tmp_path / "secret"}"\n{text}',
        f'name = "broken"\nurl = "{broken.url}"\nchanges = ["closed", "opened"]',
        f'name = "hanging"\nurl = "{hanging.url}"\nstreams = ["ga*"]',
    )
    tell(kafka_settings, replace(EVENT, id=event_id("before")))  # of before the sinks were there
    closed, other = replace(EVENT, change="closed", number=1), replace(EVENT, id=event_id("two"))
    with running(kafka_settings, sinks) as said:
        # Sinks begin at the end of the topic, from when they are there.
        positions = [f"{kafka_settings.topic_prefix}.notify.{sink.name}" for sink in sinks]
        until(lambda: all(has_position(kafka_settings, group) for group in positions), said)
        tell(kafka_settings, EVENT, replace(EVENT, change="updated", number=7), closed)
        first, second = f"{EVENT.id}-0", f"{EVENT.id}-1"
        until(lambda: quick.keys == [first, second], quick.keys)
        until(lambda: broken.keys == [first, first, first, second], broken.keys)
        assert hanging.keys == []
        released.set()
        until(lambda: hanging.keys == [first, first, second], hanging.keys)
    document, headers = orjson.loads(quick.bodies[0]), quick.headers[0]
    assert document["text"] == "gate: person yes (1.00) um 2026-11-28 19:00:53 CET"
    assert document["event"]["prompt"] == EVENT.prompt
    at, _, digest = headers["x-codecflow-signature"].partition(",")
    expected = signature(SECRET.encode(), int(at.removeprefix("t=")), quick.bodies[0])
    assert hmac.compare_digest(digest, f"v1={expected}")
    assert any("status 500; trying again" in line for line in said)
    assert any(f"status 422: {first}" in line for line in said)
    assert not any("hush" in f"{line} {sinks}" for line in said)
    # Away while something happens; what was told is not told again.
    tell(kafka_settings, other)
    with running(kafka_settings, sinks):
        for place in (quick, broken, hanging):
            until(lambda place=place: place.keys[-1:] == [f"{other.id}-0"], place.keys)  # type: ignore[misc]
    assert quick.keys == [first, second, f"{other.id}-0"]
    for place in (quick, broken, hanging):
        place.close()


def has_position(settings: KafkaSettings, group: str) -> bool:
    client = consumer(settings, group)
    try:
        places = [TopicPartition(settings.topics.events, number) for number in range(3)]
        return all(place.offset >= 0 for place in client.committed(places, timeout=30))
    except KafkaException:  # the group's broker is not ready
        return False
    finally:
        client.close()


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


def test_an_end_is_told_where_the_beginning_was(tmp_path: Path) -> None:
    (sink,) = config(
        tmp_path, 'name = "a"\nurl = "http://b"\ntimes = ["18:00-19:01"]\nzone = "UTC"\nquestions = ["pers*"]'
    )
    assert sink.wanted.zone == ZoneInfo("UTC")
    assert sink.wanted.takes(EVENT)  # it began at 18:00
    assert sink.wanted.takes(replace(EVENT, change="closed", at_ms=EVENT.at_ms + 10_000_000))
    assert not sink.wanted.takes(replace(EVENT, began_at_ms=EVENT.began_at_ms + 10_000_000))
    assert not sink.wanted.takes(replace(EVENT, kind="silent", question=None))
    assert not sink.wanted.takes(replace(EVENT, change="updated"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there is no"),
        ("[[mqtt]]", "'?mqtt'?: is not known"),
        ("x = [", "is not TOML"),
        ("[[webhook]]\nurl = 'http://a'", "needs a name"),
        ("[[webhook]]\nname = 'a'", "give one of url and url_file"),
        ("[[webhook]]\nname = 'a'\nurl = 'ftp://hush'", "must begin with http"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://'", "must begin with http"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a:hush'", "must begin with http"),
        ("[[webhook]]\nname = 'a'\nurl_file = '/nowhere/hush2'", "no such file"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nsecret = 'hush'", "'secret' is not known"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nkinds = ['rain']", "kinds: 'rain' never comes"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nchanges = []", "must be a list"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntimes = ['night']", "times 'night'"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\nzone = 'Mars'", "is no time zone"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntext = '$prompt$password'", "text: use"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\ntimeout_s = true", "timeout_s is not what is expected"),
        ("[[webhook]]\nname = 'a'\nurl = 'http://a'\n" * 2, "two sinks are called 'a'"),
    ],
)
def test_a_file_that_cannot_be_followed_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "notify.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as refused:
        read_config(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert str(refused.value).isprintable()
    assert "hush" not in str(refused.value).replace("hush2", "")


def test_the_command_checks_a_file(tmp_path: Path) -> None:
    path = tmp_path / "notify.toml"
    path.write_text('[[webhook]]\nname = "ops"\nurl = "https://hooks.example/T0/hush"\n')
    done = codecflow("notify", path, "--check")
    assert (done.returncode, done.stdout) == (0, "ops: webhook at hooks.example, not signed\n")

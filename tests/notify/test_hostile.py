"""Events that no worker of ours writes: values at and beyond every bound, foreign keys and bytes. Sinks get what is valid,
in a form that their receivers can read, and the events that follow."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from codecflow.errors import MessageError
from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Event, decode_event, event_id
from codecflow.notify import service
from codecflow.notify.sink import Sink
from codecflow.notify.template import PLACEHOLDERS
from tests.subscriber.test_hostile import foreign

from .mosquitto import Mosquitto
from .running import EVENT, HttpServer, Running, config, running, send, until
from .test_mqtt import listening

LAST = replace(EVENT, id=event_id("last"))
TEXT = f'text = "{" ".join(f"${name}" for name in PLACEHOLDERS if name != "words")}"\nzone = "Asia/Kathmandu"'
"""Every field but the model's words, which would be looked for in the results of each event."""


def hostile() -> Iterator[tuple[bytes | None, bytes | None]]:
    return ((key, value) for topic, key, value, _ in foreign() if topic == "events")


def valid() -> list[Event]:
    found = []
    for key, value in hostile():
        try:
            found.append(decode_event(key, value))
        except MessageError:
            continue
    return found


@contextmanager
def notified(settings: KafkaSettings, sinks: list[Sink]) -> Iterator[Running]:
    """A notifier that gets all of them."""
    with running(settings, sinks) as one:
        with RecordSender(settings) as sender:
            for key, value in hostile():
                sender.send(Record(settings.topics.events, key, value, "an event"))
        yield one
        assert one.thread.is_alive(), one.said
    assert [line for line in one.said if not line.isprintable()] == []


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.1)


def test_requests_and_messages_are_well_formed_whatever_an_event_says(
    kafka_settings: KafkaSettings, tmp_path: Path
) -> None:
    events = valid()
    assert len(events) > 20
    hook, chat = HttpServer(), HttpServer()
    always = 'times = ["00:00-24:00"]'
    sinks = [
        *config(
            tmp_path, f'name = "hook"\nurl = "{hook.url}"\n{TEXT}\n{always}\nchanges = ["opened", "updated", "closed"]'
        ),
        *config(tmp_path, f'name = "chat"\nurl = "json://{chat.address}"\n{TEXT}\n{always}', kind="apprise"),
    ]
    with notified(kafka_settings, sinks) as one:
        for partition in range(3):
            send(kafka_settings, replace(LAST, stream=f"last-{partition}"))
        until(lambda: sum(f"{LAST.id}-0" == key for key in hook.keys) == 3, one.said)
        until(lambda: sum(b"last-" in body for body in chat.bodies) == 3, one.said)
    assert {f"{event.id}-{event.number}" for event in events} <= set(hook.keys)
    for body in hook.bodies:
        assert orjson.loads(body)["text"].isprintable()
    for body in chat.bodies:
        message = orjson.loads(body)
        assert f"{message['title']}{message['message']}".isprintable(), message
    hook.close()
    chat.close()


def test_mqtt_topics_name_their_stream_and_nothing_else(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, listening(broker) as seen:
        (sink,) = config(tmp_path, f'name = "home"\nurl = "mqtt://127.0.0.1:{broker.port}"\n{TEXT}', kind="mqtt")
        with notified(kafka_settings, [sink]) as one:
            send(kafka_settings, LAST)
            until(
                lambda: any(LAST.id.encode() in payload for payload in seen.get("codecflow/gate/events", ())), one.said
            )
    streams = {event.stream for event in valid()} | {LAST.stream}
    assert {topic.split("/")[1] for topic in seen if topic.endswith("/events")} <= streams
    for topic, payloads in seen.items():
        assert topic.isprintable()
        if topic.endswith("/events"):
            assert all(orjson.loads(payload)["text"].isprintable() for payload in payloads)

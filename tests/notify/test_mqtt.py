"""MQTT with Home Assistant's discovery, through a real Kafka and a real broker."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from codecflow import subscriber
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import event_id
from codecflow.notify import service

from .mosquitto import Mosquitto
from .running import EVENT, config, running, send, until

Seen = dict[str, list[bytes]]


@contextmanager
def listening(broker: Mosquitto) -> Iterator[Seen]:
    """What arrives on every topic, as Home Assistant sees it."""
    seen: Seen = {}
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: seen.setdefault(message.topic, []).append(message.payload)
    client.on_connect = lambda client, *_: client.subscribe("#", 1)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        yield seen
    finally:
        client.disconnect()
        client.loop_stop()


def entity(seen: Seen, name: str) -> tuple[str, dict[str, str]]:
    """The discovery topic and document of an entity; the empty document if there is none."""
    for topic, payloads in seen.items():
        if topic.endswith("/config") and any(p and json.loads(p)["name"] == name for p in payloads):
            return topic, json.loads(payloads[-1] or b"{}")
    return "", {}


def test_home_assistant_finds_each_question_and_sees_its_state(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(service, "_IDLE_AGAIN_S", 0.2)
    subscriber.ask(kafka_settings, "gate", subscriber.question("?", yes_no=True, name="person", event="yes>=0.8"))
    subscriber.ask(
        kafka_settings, "gate", subscriber.question("?", choices=["auf", "zu"], name="Tür/1", event="change")
    )
    subscriber.ask(kafka_settings, "gate", subscriber.question("?", yes_no=True, name="no rule"))
    with Mosquitto(tmp_path) as broker:
        (sink,) = config(tmp_path, f'name = "home"\nurl = "mqtt://127.0.0.1:{broker.port}"\ntimeout_s = 5', kind="mqtt")
        with running(kafka_settings, [sink]) as one, listening(broker) as seen:
            until(lambda: entity(seen, "person")[1] != {}, one.said)
            until(lambda: entity(seen, "Tür/1")[1] != {} and entity(seen, "silent")[1] != {}, seen)
            assert entity(seen, "no rule") == ("", {})
            topic, person = entity(seen, "person")
            assert topic == f"homeassistant/binary_sensor/codecflow/{person['unique_id']}/config"
            assert seen[person["availability_topic"]] == [b"online"]
            send(kafka_settings, EVENT)
            until(lambda: seen.get(person["state_topic"]) == [b"ON"], seen)
            until(lambda: "codecflow/gate/events" in seen, seen)
            assert json.loads(seen[person["json_attributes_topic"]][-1])["event"]["prompt"] == EVENT.prompt
            door = replace(EVENT, id=event_id("door"), question="Tür/1", label="auf", before="zu")
            send(kafka_settings, replace(EVENT, change="closed", number=1), door)
            assert entity(seen, "Tür/1")[0].startswith("homeassistant/sensor/")
            until(lambda: seen.get("codecflow/gate/answer/Tür%2F1/state") == [b"auf"], seen)
            assert seen[person["state_topic"]] == [b"ON", b"OFF"]
            # Removing a question removes its entity.
            subscriber.remove(kafka_settings, "gate", "person")
            until(lambda: seen[topic][-1] == b"", "the entity is removed")
            # A restarted broker has lost its state; nothing was lost meanwhile.
            broker.stop()
            send(kafka_settings, replace(door, change="closed", number=1), replace(door, id=event_id("b"), label="zu"))
            until(lambda: one.figures.sinks["home"].failures > 0, one.said)
        with running(kafka_settings, [sink]):
            broker.start()
            with listening(broker) as seen:
                until(lambda: seen.get("codecflow/gate/answer/Tür%2F1/state", [])[-1:] == [b"zu"], seen)
                until(lambda: entity(seen, "Tür/1")[1] != {}, "it is announced again")
                until(lambda: seen.get("codecflow/home/status", [])[-1:] == [b"online"], seen)
                assert entity(seen, "person") == ("", {})


def test_a_broker_that_refuses_or_hangs_is_tried_again(
    kafka_settings: KafkaSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_IDLE_EVERY_S", 1000.0)
    (tmp_path / "users").write_text("")
    (tmp_path / "wrong").write_text("hush-password")
    with (
        Mosquitto(tmp_path, "allow_anonymous false", f"password_file {tmp_path / 'users'}") as broker,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        sinks = config(
            tmp_path,
            f'name = "refuses"\nurl = "mqtt://127.0.0.1:{broker.port}"\n'
            f'username = "me"\npassword_file = "{tmp_path / "wrong"}"',
            f'name = "hangs"\nurl = "mqtt://127.0.0.1:{silent.getsockname()[1]}"\ntimeout_s = 0.5',
            kind="mqtt",
        )
        with running(kafka_settings, sinks) as one:
            send(kafka_settings, EVENT)
            until(lambda: all(sink.failures for sink in one.figures.sinks.values()), one.said)
    said = "\n".join(one.said)
    assert "sink 'refuses' (127.0.0.1): not authorized; retrying" in said
    assert "sink 'hangs' (127.0.0.1): no answer; retrying" in said
    assert "hush" not in said

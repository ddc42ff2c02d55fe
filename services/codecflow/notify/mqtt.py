"""Events published to an MQTT broker, each acknowledged (quality of service 1), and the state of each question, retained.

BASE/STREAM/events                       each change: text and event
BASE/STREAM/answer/QUESTION/state        ON while an event is open, else OFF; of rules of changes: the answer. Retained
BASE/STREAM/answer/QUESTION/attributes   the newest change. Retained
BASE/STREAM/answer/QUESTION/picture      JPEG of the newest change. Retained
BASE/STREAM/KIND/...                     the same for the stream's own events
BASE/NAME/status                         online or offline, of this sink. Retained
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from codecflow.errors import ConfigError
from codecflow.messages import StreamDescription

from .home_assistant import Entity, configuration, entities, level
from .sink import Notification, Sink, SinkOptions, UndeliveredError

_QOS = 1


@dataclass(frozen=True, slots=True, repr=False)
class MqttOptions:
    """`tls`: connect with TLS, trusting the machine's authorities, or `ca_file`'s. `topic`: BASE. `discovery`: the prefix of
    Home Assistant's discovery topics; None for no discovery."""

    host: str
    port: int
    tls: bool = False
    ca_file: Path | None = None
    username: str | None = None
    password: str | None = None
    topic: str = "codecflow"
    discovery: str | None = "homeassistant"


class Mqtt(Sink):
    """An MQTT broker. The connection is kept as long as it works, and replaced after a failed delivery."""

    kind = "mqtt"

    def __init__(self, options: SinkOptions, broker: MqttOptions) -> None:
        super().__init__(options)
        self._broker = broker
        self._client: _Connection | None = None
        self._streams: Sequence[StreamDescription] = ()
        self._entities: dict[str, bytes] = {}
        self._removed: set[str] = set()
        self._announced: dict[str, bytes] = {}
        self._status = f"{broker.topic}/{level(options.name)}/status"
        self.needs_streams = broker.discovery is not None
        if broker.ca_file is not None:
            try:
                ssl.create_default_context(cafile=broker.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"ca_file {broker.ca_file}: {error.strerror or 'not a certificate'}") from None

    @property
    def place(self) -> str:
        return self._broker.host

    @property
    def notes(self) -> str:
        prefix = self._broker.discovery
        return f"topics below {self._broker.topic}/" + (f", discovery below {prefix}/" if prefix else "")

    def deliver(self, notification: Notification) -> None:
        event, picture = notification.event, notification.picture
        entity = Entity.of(event)
        base = f"{self._broker.topic}/{entity.topic}"
        document = orjson.dumps(notification.document())
        wanted = {f"{base}/attributes": document}
        if event.change != "closed":  # the question may have been removed, together with its entity
            wanted |= self._configuration(entity)
        if picture is not None:
            wanted[f"{base}/picture"] = picture
        state = (event.label or "") if entity.component == "sensor" else "OFF" if event.change == "closed" else "ON"
        wanted[f"{base}/state"] = state.encode()
        self._publish(wanted, {f"{self._broker.topic}/{level(event.stream)}/events": document})

    def idle(self, streams: Sequence[StreamDescription]) -> None:
        """Entities are announced before the first event, and removed with their questions. A lost connection is
        re-established, so that the sink is not shown as offline until the next event."""
        if streams is not self._streams:
            self._streams = streams
            wanted: dict[str, bytes] = {}
            for entity in entities(streams, self.options.filter):
                wanted |= self._configuration(entity)
            self._removed |= self._entities.keys() - wanted.keys()
            self._removed -= wanted.keys()
            self._entities = wanted
        if self._client is not None and not self._client.works:
            self._forget()
        self._publish({}, {})

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _configuration(self, entity: Entity) -> dict[str, bytes]:
        if self._broker.discovery is None:
            return {}
        found = configuration(entity, self._broker.topic, self._status, picture=self.options.picture)
        return {f"{self._broker.discovery}/{topic}": orjson.dumps(one) for topic, one in found.items()}

    def _publish(self, retained: dict[str, bytes], passing: dict[str, bytes]) -> None:
        """Publish, including pending announcements, until the broker has acknowledged everything. Raises
        UndeliveredError."""
        try:
            if self._client is None:
                self._client = _Connection(self._broker, self._status, self.options.timeout_s)
            announced = {t: d for t, d in {**self._entities, **retained}.items() if self._announced.get(t) != d}
            new = {**dict.fromkeys(self._removed, b""), **announced}
            if new or passing:
                self._client.publish(new, passing)
        except UndeliveredError:
            self._forget()
            raise
        self._removed.clear()
        self._announced |= {t: d for t, d in new.items() if t.endswith("/config")}

    def _forget(self) -> None:
        """A restarted broker may have lost the announcements."""
        self.close()
        self._announced.clear()


class _Connection:
    """One connection, with the client's own thread. Raises UndeliveredError if it cannot be made in time."""

    def __init__(self, broker: MqttOptions, status: str, timeout_s: float) -> None:
        self._timeout_s, self._status = timeout_s, status
        self._answered = threading.Event()
        self._refusal = "no answer"
        client = self._client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=f"codecflow-{secrets.token_hex(8)}", reconnect_on_failure=False
        )
        client.connect_timeout = timeout_s
        client.max_inflight_messages_set(100)
        if broker.username is not None:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls:
            client.tls_set(ca_certs=None if broker.ca_file is None else str(broker.ca_file))
        client.will_set(status, "offline", _QOS, retain=True)
        client.on_connect = self._connected
        try:
            client.connect(broker.host, broker.port, keepalive=30)
        except (OSError, ValueError) as error:
            raise UndeliveredError(getattr(error, "strerror", None) or type(error).__name__) from None
        client.loop_start()
        if not self._answered.wait(timeout_s) or self._refusal:
            self.close()
            raise UndeliveredError(self._refusal)
        try:
            self.publish({status: b"online"}, {})
        except UndeliveredError:
            self.close()
            raise

    @property
    def works(self) -> bool:
        return self._client.is_connected()

    def publish(self, retained: dict[str, bytes], passing: dict[str, bytes]) -> None:
        """Raises UndeliveredError if nothing is acknowledged during the time-out; thousands of messages may take longer in
        total."""
        sent = [self._client.publish(topic, data, _QOS, retain=True) for topic, data in retained.items()]
        sent += [self._client.publish(topic, data, _QOS) for topic, data in passing.items()]
        for one in sent:
            try:
                one.wait_for_publish(self._timeout_s)
            except (RuntimeError, ValueError):
                raise UndeliveredError("the connection was lost") from None
            if not one.is_published():
                raise UndeliveredError("not confirmed" if self._client.is_connected() else "the connection was lost")

    def close(self) -> None:
        if self._client.is_connected():
            # The will is not sent for a client that disconnects.
            self._client.publish(self._status, "offline", _QOS, retain=True).wait_for_publish(1.0)
        self._client.disconnect()
        self._client.loop_stop()

    def _connected(self, _client: object, _data: object, _flags: object, code: ReasonCode, _props: object) -> None:
        self._refusal = str(code).lower() if code.is_failure else ""
        self._answered.set()

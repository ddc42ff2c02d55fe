"""Home Assistant's MQTT discovery: each question with a rule, and each kind of a stream's own events, is an entity of the
stream's device.

https://www.home-assistant.io/integrations/mqtt/#mqtt-discovery
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from codecflow.messages import EVENT_KINDS, Event, StreamDescription

from .filter import EventFilter

_RESERVED = re.compile(r"[/+#%\x00-\x1f\x7f-\x9f]")

Component = Literal["binary_sensor", "sensor"]


@dataclass(frozen=True, slots=True)
class Entity:
    """The subject of an event: a question (`component` sensor: its rule reports changes of the answer, and the state is the
    answer; otherwise the state is whether an event is open), or the kind of an event."""

    stream: str
    kind: str
    question: str | None
    component: Component

    @staticmethod
    def of(event: Event) -> Entity:
        component: Component = "binary_sensor" if event.before is None else "sensor"
        return Entity(event.stream, event.kind, event.question, component)

    @property
    def topic(self) -> str:
        """Relative to the sink's own topic."""
        what = self.kind if self.question is None else f"answer/{level(self.question)}"
        return f"{level(self.stream)}/{what}"

    @property
    def unique_id(self) -> str:
        named = "\0".join((self.stream, self.kind, self.question or ""))
        return f"codecflow_{hashlib.sha256(named.encode()).hexdigest()[:16]}"


def level(name: str) -> str:
    """A name as one level of a topic: characters reserved by MQTT are percent-encoded."""
    return _RESERVED.sub(lambda match: f"%{ord(match[0]):02X}", name)


def entities(streams: Sequence[StreamDescription], events: EventFilter) -> Iterator[Entity]:
    """Entities for all possible events of these streams."""
    for description in streams:
        for question in description.questions:
            if question.event is not None and events.covers(description.stream, "answer", question.id):
                component: Component = "sensor" if question.event.label is None else "binary_sensor"
                yield Entity(description.stream, "answer", question.id, component)
        for kind in EVENT_KINDS:
            if kind != "answer" and events.covers(description.stream, kind, None):
                yield Entity(description.stream, kind, None, "binary_sensor")


def configuration(entity: Entity, base: str, status: str, *, picture: bool) -> dict[str, dict[str, Any]]:
    """Discovery documents by topic, relative to the discovery prefix. `base`: the sink's topic, `status`: that of its
    availability."""
    name = entity.question or entity.kind
    common = {
        "availability_topic": status,
        "device": {
            "identifiers": [f"codecflow_{entity.stream}"],
            "name": entity.stream,
            "manufacturer": "CodecFlow",
            "model": "camera stream",
        },
        "origin": {"name": "CodecFlow"},
    }
    topic = f"{base}/{entity.topic}"
    state: dict[str, Any] = {
        "name": name,
        "unique_id": entity.unique_id,
        "state_topic": f"{topic}/state",
        "json_attributes_topic": f"{topic}/attributes",
        **common,
    }
    if entity.question is None:
        state |= {"device_class": "problem", "entity_category": "diagnostic"}
    found = {f"{entity.component}/codecflow/{entity.unique_id}/config": state}
    if picture:
        found[f"image/codecflow/{entity.unique_id}/config"] = {
            "name": f"{name} picture",
            "unique_id": f"{entity.unique_id}_picture",
            "image_topic": f"{topic}/picture",
            "content_type": "image/jpeg",
            **common,
        }
    return found

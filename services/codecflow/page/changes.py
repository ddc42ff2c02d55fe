"""What a browser may change: a stream's questions and zones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from codecflow import subscriber
from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import StreamDescription
from codecflow.subscriber.zones import add_zone as write_zone
from codecflow.subscriber.zones import remove_zone as delete_zone
from codecflow.subscriber.zones import zone_of
from codecflow.text import one_line

Change = Callable[[KafkaSettings, str, dict[str, Any]], StreamDescription]
"""Takes settings, a stream and the change, as sent by a browser. Returns the new description. Raises ConfigError,
KafkaError, MessageError, and KeyError or TypeError if members are missing or wrong."""


def add_question(settings: KafkaSettings, stream: str, wanted: dict[str, Any]) -> StreamDescription:
    """`prompt`, `type`, `labels`, `event` (a rule), `id`. Replaces a question with the same id; without `event` its rule is
    kept."""
    kind = wanted.get("type", "text")
    question = subscriber.question(
        _text(wanted["prompt"]).strip(),
        yes_no=kind == "yes-no",
        choices=[_text(label) for label in wanted.get("labels", ())] if kind == "choice" else (),
        name=_text(wanted["id"]) if wanted.get("id") else None,
        event=_text(wanted["event"]).strip() or None if wanted.get("event") else None,
    )
    there = next(
        (one for one in subscriber.read_description(settings, stream).questions if one.id == question.id), None
    )
    if question.event is None and there is not None and there.event is not None:
        try:
            question = replace(question, event=there.event)
        except ConfigError as error:
            raise ConfigError(
                f"question {one_line(question.id, 60)!r} has an event rule that does not fit these answers: remove the "
                f"question first, or give it another rule ({error})"
            ) from error
    return subscriber.ask(settings, stream, question)


def remove_question(settings: KafkaSettings, stream: str, wanted: dict[str, Any]) -> StreamDescription:
    """`id`."""
    return subscriber.remove(settings, stream, _text(wanted["id"]))


def add_zone(settings: KafkaSettings, stream: str, wanted: dict[str, Any]) -> StreamDescription:
    """`name`, `use`, `polygon`. Replaces a zone with the same name."""
    return write_zone(settings, stream, zone_of("zone", wanted))


def remove_zone(settings: KafkaSettings, stream: str, wanted: dict[str, Any]) -> StreamDescription:
    """`name`."""
    return delete_zone(settings, stream, _text(wanted["name"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value

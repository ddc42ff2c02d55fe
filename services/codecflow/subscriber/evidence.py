"""Evidence of an event in packets: its time span, and the file that shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import Event
from codecflow.text import one_line

from .clip import Clip, write_clip
from .recording import NotThereError, Recording, WallClock
from .results import EventFollower

BEFORE_S, AFTER_S, LONGEST_S = 10.0, 5.0, 120.0
"""Seconds that a clip shows before an event began and after it closed, and maximum seconds of an event."""


def find_event(settings: KafkaSettings, stream: str, identity: str) -> list[Event]:
    """The changes of the event with this id that are still retained, in order. Raises KafkaError, ConfigError if it is not
    of the stream, and NotThereError if there is none."""
    if len(identity) != 16 or not set(identity) <= set("0123456789abcdef"):
        raise ConfigError(f"--event {one_line(identity, 40)!r}: use the 16 digits that codecflow events shows")
    with EventFollower(settings, stream, from_beginning=True, stopping=lambda: True) as follower:
        found = [event for event in follower if event.id == identity]
    if not found:
        raise NotThereError(
            f"stream {stream}: there is no event {identity}; codecflow events --from-beginning lists them"
        )
    return sorted(found, key=lambda event: event.number)


def evidence_name(event: Event) -> str:
    """Prefix of the names of an event's files: STREAM/DAY/TIME-ID, UTC, of when it began."""
    then = datetime.fromtimestamp(event.began_at_ms / 1000, UTC)
    # A stream may be called "..", and its id may contain characters that some file systems reject.
    stream = event.stream.replace(":", "_")
    folder = f"_{stream}" if stream.startswith(".") else stream
    return f"{folder}/{then:%Y-%m-%d}/{then:%H%M%S}-{event.id}"


def span(
    event: Event, before_s: float = BEFORE_S, after_s: float = AFTER_S, longest_s: float = LONGEST_S
) -> tuple[WallClock, WallClock]:
    """The time span of a clip of the event. `event`: its newest change. The rule evaluated the stride before the picture
    with which the event began, so `before_s` should be longer than a stride."""
    end_ms = min(event.at_ms, event.began_at_ms + int(1000 * longest_s))
    return WallClock(max(0, event.began_at_ms - int(1000 * before_s))), WallClock(
        max(end_ms, event.began_at_ms) + int(1000 * after_s)
    )


def write_evidence(recording: Recording, begin: WallClock, end: WallClock, out: Path) -> Clip:
    """As `write_clip`, but from the oldest picture on if there is none as old as `begin`: the stream may just have begun."""
    try:
        return write_clip(recording, begin, end, out)
    except NotThereError:
        oldest = recording.oldest()
        if oldest is None or not begin.ms < oldest.captured_at_ms < end.ms:
            raise
        return write_clip(recording, WallClock(oldest.captured_at_ms), end, out)

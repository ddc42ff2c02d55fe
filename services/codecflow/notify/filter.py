"""Which events go to a sink, and at which times."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from codecflow.messages import Event

from .schedule import Schedule


@dataclass(frozen=True, slots=True)
class EventFilter:
    """`streams` and `questions` may contain * and ?. With `questions`, the stream's own events (silent, camera-lost ...) do
    not match. The schedule is applied to an event's start, so that its end is sent if its start was."""

    streams: tuple[str, ...]
    questions: tuple[str, ...]
    kinds: tuple[str, ...]
    changes: tuple[str, ...]
    schedule: Schedule
    zone: ZoneInfo

    def matches(self, event: Event) -> bool:
        return (
            event.change in self.changes
            and self.covers(event.stream, event.kind, event.question)
            and self.schedule.allows(
                event.question or event.kind, datetime.fromtimestamp(event.began_at_ms / 1000, self.zone)
            )
        )

    def covers(self, stream: str, kind: str, question: str | None) -> bool:
        """Whether events of this kind, or of this question's rule, can ever match."""
        return (
            kind in self.kinds
            and any(fnmatchcase(stream, pattern) for pattern in self.streams)
            and (not self.questions or any(fnmatchcase(question or "", pattern) for pattern in self.questions))
        )

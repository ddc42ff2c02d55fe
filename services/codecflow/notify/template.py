"""The text of a notification, from a template."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from string import Template
from zoneinfo import ZoneInfo

from codecflow.errors import ConfigError
from codecflow.messages import Event
from codecflow.text import one_line

PLACEHOLDERS = (
    "stream",
    "change",
    "kind",
    "question",
    "prompt",
    "label",
    "before",
    "probability",
    "reason",
    "words",
    "time",
    "began",
    "lasted",
    "id",
)
DEFAULT_TEXT = "$stream: $change: $question $label ($reason), $time"


@dataclass(frozen=True, slots=True)
class Text:
    """A template with $NAME for each of PLACEHOLDERS; times are in `zone`."""

    template: str
    zone: ZoneInfo

    @staticmethod
    def parse(text: str, zone: ZoneInfo) -> Text:
        """Raises ConfigError."""
        template = Template(text)
        if not template.is_valid() or not set(template.get_identifiers()) <= set(PLACEHOLDERS):
            raise ConfigError(
                f"text: use $ only in {', '.join(f'${one}' for one in PLACEHOLDERS)}, and $$ for a dollar sign"
            )
        return Text(text, zone)

    @property
    def needs_words(self) -> bool:
        return "words" in Template(self.template).get_identifiers()

    def of(self, event: Event, words: str = "") -> str:
        """One line. Fields that the event lacks are omitted. `words`: the model's free text."""
        values = {
            "stream": event.stream,
            "change": event.change,
            "kind": event.kind,
            "question": event.question or event.kind,
            "prompt": event.prompt,
            "label": event.label,
            "before": event.before,
            "probability": None if event.probability is None else f"{event.probability:.2f}",
            "reason": event.reason,
            "words": words,
            "time": self._time(event.at_ms),
            "began": self._time(event.began_at_ms),
            "lasted": f"{max(0, event.at_ms - event.began_at_ms) / 1000:.0f} s",
            "id": event.id,
        }
        shown = {name: value or "" for name, value in values.items()}
        return one_line(Template(self.template).substitute(shown))

    def _time(self, ms: int) -> str:
        return f"{datetime.fromtimestamp(ms / 1000, self.zone):%Y-%m-%d %H:%M:%S %Z}"

"""When to notify: times of the week, such as "Mon-Fri 18:00-07:00"."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from zoneinfo import ZoneInfo

from codecflow.errors import ConfigError

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_FORM = re.compile(rf"(?:({'|'.join(_DAYS)})(?:-({'|'.join(_DAYS)}))?\s+)?(\d\d):(\d\d)-(\d\d):(\d\d)")
_DAY = 24 * 60


@dataclass(frozen=True, slots=True)
class Times:
    """Days on which it begins, 0 is Monday, and minutes of the day; it ends on the next day if `end` is not later."""

    days: frozenset[int]
    begin: int
    end: int

    @staticmethod
    def parse(text: str) -> Times:
        """Raises ConfigError."""
        match = _FORM.fullmatch(text.strip())
        if match is not None:
            first, last = match[1], match[2] or match[1]
            begin, end = (60 * int(match[n]) + int(match[n + 1]) for n in (3, 5))
            if begin < _DAY and end <= _DAY and int(match[4]) < 60 and int(match[6]) < 60 and begin != end:
                if first is None:
                    return Times(frozenset(range(7)), begin, end)
                at, until = _DAYS.index(first), _DAYS.index(last)
                return Times(frozenset((at + n) % 7 for n in range((until - at) % 7 + 1)), begin, end)
        raise ConfigError(
            f'times {text[:60]!r}: use a form such as "Mon-Fri 18:00-07:00", "Sun 00:00-24:00" or "08:00-20:00"'
        )

    def hold(self, then: datetime) -> bool:
        minute = 60 * then.hour + then.minute
        if self.end > self.begin:
            return then.weekday() in self.days and self.begin <= minute < self.end
        if minute >= self.begin:
            return then.weekday() in self.days
        return minute < self.end and (then - timedelta(days=1)).weekday() in self.days


def zone_of(name: str) -> ZoneInfo:
    """Raises ConfigError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(f"zone {name[:60]!r}: is not a time zone; use a name such as Europe/Berlin or UTC") from None


@dataclass(frozen=True, slots=True)
class Schedule:
    """Times by name pattern, of questions or of kinds of events: the first matching pattern decides; without a match,
    notification is always allowed."""

    rules: tuple[tuple[str, tuple[Times, ...]], ...] = ()

    @staticmethod
    def parse(value: object) -> Schedule:
        """From `["Mon-Fri 18:00-07:00", ...]`, for everything, or `{"person" = [...], "*" = [...]}`. Raises ConfigError."""
        rules = value.items() if isinstance(value, dict) else [("*", value)]
        found = []
        for pattern, texts in rules:
            if not (isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts)):
                raise ConfigError(
                    'times: use a list such as ["18:00-07:00"], or a table with such a list per question: '
                    '{ "person" = ["18:00-07:00"] }'
                )
            found.append((pattern, tuple(Times.parse(text) for text in texts)))
        return Schedule(tuple(found))

    def allows(self, name: str, then: datetime) -> bool:
        for pattern, times in self.rules:
            if fnmatchcase(name, pattern):
                return any(one.hold(then) for one in times)
        return True

"""Parsing of times: times of day, or presentation times since the start of an epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from fractions import Fraction
from zoneinfo import ZoneInfo

from codecflow.errors import ConfigError

from .recording import Place, Recording, WallClock

_SECONDS = re.compile(r"(?:(?:(\d{1,6}):)?(\d{1,2}):)?(\d{1,9}(?:\.\d{1,9})?)")
_AGO = re.compile(r"(\d{1,6})([smhd])")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIME_OF_DAY = re.compile(r"\d{1,2}:\d{2}:\d{2}(\.\d+)?(Z|[+-]\d{2}:?\d{2})?")


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Two moments in ms, or two presentation times in seconds of an epoch (None: the newest)."""

    begin: int | Fraction
    end: int | Fraction
    epoch: int | None = None

    def places(self, recording: Recording) -> tuple[Place, Place]:
        """In the form that a recording takes. Raises NotThereError."""
        if isinstance(self.begin, int) and isinstance(self.end, int):
            return WallClock(self.begin), WallClock(self.end)
        first = recording.at(Fraction(self.begin), self.epoch)
        return first, recording.at(Fraction(self.end), first.epoch)


def parse_range(
    begin: str, end: str, zone: str | None = None, epoch: int | None = None, now: datetime | None = None
) -> TimeRange:
    """Two times, both of day or both of presentation. Raises ConfigError."""
    where = zone_of(zone)
    now = now or datetime.now(where)
    first, last = _time(begin, "--from", where, now), _time(end, "--to", where, now)
    if isinstance(first, datetime) != isinstance(last, datetime):
        raise ConfigError("--from and --to: use two times of day, or two presentation times in seconds")
    if isinstance(first, datetime) and isinstance(last, datetime):
        if epoch is not None:
            raise ConfigError("--epoch requires seconds of presentation time, not a time of day")
        if _is_of_today(begin) and _is_of_today(end) and last < first:
            first -= timedelta(days=1)  # spans midnight
        times: tuple[int | Fraction, int | Fraction] = (int(first.timestamp() * 1000), int(last.timestamp() * 1000))
    else:
        assert isinstance(first, Fraction)
        assert isinstance(last, Fraction)
        times = (first, last)
    if not times[0] < times[1]:
        raise ConfigError(f"--to {end}: is not later than --from {begin}")
    return TimeRange(*times, epoch)


def parse_span(
    since: str | None, until: str | None, zone: tzinfo | None, now: datetime | None = None
) -> tuple[int | None, int | None]:
    """Two moments as wall clock in ms, each given as a duration before now, a time of day, or a date with or without one. A
    time of day is its last occurrence; for `until`, the first one after `since`. Raises ConfigError."""
    now = now or datetime.now(zone)
    first = None if since is None else _moment(since, "--since", zone, now)
    last = None if until is None else _moment(until, "--until", zone, now)
    if first is not None and last is not None and until is not None:
        if last <= first and _is_of_today(_with_seconds(until)):
            last += timedelta(days=1)
        if last <= first:
            raise ConfigError(f"--until {until}: is not later than --since {since}")
    return _ms(first), _ms(last)


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


def _moment(text: str, option: str, zone: tzinfo | None, now: datetime) -> datetime:
    words = _with_seconds(text)
    try:
        if match := _AGO.fullmatch(words):
            return now - timedelta(seconds=int(match[1]) * _UNITS_S[match[2]])
        found = _time(words, option, zone, now)
    except (ConfigError, OverflowError):
        found = Fraction(0)
    if not isinstance(found, datetime):
        raise ConfigError(
            f"{option} {text[:60]!r}: use 90m, 12h or 3d (ago), a time of day such as 22:00, or a date such as 2026-11-28 "
            f"or 2026-11-28T22:00+01:00"
        )
    return found


def _with_seconds(text: str) -> str:
    words = text.strip()
    return f"{words}:00" if re.fullmatch(r"\d{1,2}:\d{2}", words) else words


def zone_of(name: str | None) -> tzinfo | None:
    """The time zone with that name; None: this machine's. Raises ConfigError."""
    if name is None:
        return datetime.now().astimezone().tzinfo
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise ConfigError(
            f"--zone {name[:60]!r}: is not a time zone; use a name such as Europe/Berlin or UTC"
        ) from None


def _is_of_today(text: str) -> bool:
    return _TIME_OF_DAY.fullmatch(text.strip()) is not None


def _time(text: str, option: str, zone: tzinfo | None, now: datetime) -> datetime | Fraction:
    words = text.strip()
    try:
        if _is_of_today(words):
            date = f"{now.date().isoformat()}T{words.zfill(8) if words[1] != ':' else '0' + words}"
            found = datetime.fromisoformat(date)
            found = found if found.tzinfo is not None else found.replace(tzinfo=zone)
            return found if found <= now else found - timedelta(days=1)
        if match := _SECONDS.fullmatch(words):
            hours, minutes, seconds = match.groups()
            return Fraction(int(hours or 0) * 3600 + int(minutes or 0) * 60) + Fraction(seconds)
        found = datetime.fromisoformat(words)
        return found if found.tzinfo is not None else found.replace(tzinfo=zone)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"{option} {text[:60]!r}: use a time of day such as 14:03:22, a date with it such as "
            f"2026-11-28T14:03:22+01:00, or seconds of presentation time such as 52 or 0:52"
        ) from None

"""Text form of rules: yes>=0.8, below=0.5, windows=2/3, for=10, cooldown=60."""

from __future__ import annotations

import math
import re

from codecflow.errors import ConfigError
from codecflow.messages import EventRule
from codecflow.messages.limits import MIN_PROBABILITY
from codecflow.text import one_line

USAGE = (
    "use ANSWER or ANSWER>=P or change, then of below=P, windows=N/M, for=S, cooldown=S, update=S, separated by commas"
)

_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?|\.\d{1,9}")
_WINDOWS = re.compile(r"(\d{1,3})\s*/\s*(\d{1,3})")
_NUMBERS = {"below": "below", "for": "for_s", "cooldown": "cooldown_s", "update": "update_s"}


def parse_rule(text: str) -> EventRule:
    """The rule in a text. Raises ConfigError with the expected form."""
    first, *rest = (part.strip() for part in text.split(","))
    label, at_least, above = (part.strip() for part in first.partition(">="))
    if not label or (at_least and not above) or "=" in label:
        raise ConfigError(f"--event {_shown(text)}: {USAGE}")
    members: dict[str, float | tuple[int, int]] = {}
    if label == "change":
        members["above"] = MIN_PROBABILITY
    if above:
        members["above"] = _number(above, "a probability", text)
    for part in rest:
        name, _, value = (piece.strip() for piece in part.partition("="))
        if name == "windows":
            found = _WINDOWS.fullmatch(value)
            if found is None:
                raise ConfigError(f"--event {_shown(text)}: windows={_plain(value)}: use N/M, such as 2/3")
            new: float | tuple[int, int] = (int(found[1]), int(found[2]))
        elif name in _NUMBERS:
            new = _number(value, name, text)
        else:
            raise ConfigError(f"--event {_shown(text)}: {_plain(part) or 'an empty part'}: {USAGE}")
        key = _NUMBERS.get(name, name)
        if key in members:
            raise ConfigError(f"--event {_shown(text)}: {name} is given twice")
        members[key] = new
    return EventRule(None if label == "change" else label, **members)  # type: ignore[arg-type]  # it checks them


def rule_text(rule: EventRule) -> str:
    """A rule in the form that `parse_rule` takes, without default values."""
    if rule.label is None:
        parts = ["change" if rule.above <= MIN_PROBABILITY else f"change>={rule.above:g}"]
    else:
        parts = [f"{rule.label}>={rule.above:g}"]
    if rule.below is not None:
        parts.append(f"below={rule.below:g}")
    if rule.windows != (1, 1):
        parts.append(f"windows={rule.windows[0]}/{rule.windows[1]}")
    for name, seconds, default in (
        ("for", rule.for_s, 0.0),
        ("cooldown", rule.cooldown_s, 0.0),
        ("update", rule.update_s, 60.0),
    ):
        if seconds != default:
            parts.append(f"{name}={seconds:g}")
    return ",".join(parts)


def _number(text: str, name: str, rule: str) -> float:
    if not _NUMBER.fullmatch(text) or not math.isfinite(value := float(text)):
        raise ConfigError(f"--event {_shown(rule)}: {name} {_plain(text)!r}: use a number such as 0.8 or 60")
    return value


def _shown(text: str) -> str:
    return repr(_plain(text))


def _plain(text: str) -> str:
    return one_line(text, 80)

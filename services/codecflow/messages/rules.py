"""Rules: which change in the answers to a question is an event. Part of a question in codecflow.streams."""

from __future__ import annotations

from typing import Annotated

import msgspec

from codecflow.errors import ConfigError

from .limits import MAX_HISTORY, MAX_LABEL, MAX_RULE_S, MIN_PROBABILITY

Probability = Annotated[float, msgspec.Meta(ge=MIN_PROBABILITY, le=1 - MIN_PROBABILITY)]
Period = Annotated[float, msgspec.Meta(ge=0, le=MAX_RULE_S)]
Windows = Annotated[int, msgspec.Meta(ge=1, le=MAX_HISTORY)]


class EventRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """When an event begins and ends.

    With a `label` (`yes` or `no` of a yes-no question) an event lasts while the label's probability is high: a window starts
    to count at `above`, stops below `below`, and between the two counts if the previous window did. The event is open while
    at least `windows[0]` of the last `windows[1]` answered windows count.

    Without a label each change of the answer is an event, which lasts until the next one: a label becomes the answer once at
    least `windows[0]` of the last `windows[1]` answered windows gave it with a probability of `above` or more.

    `for_s`: seconds for which this must hold before the event opens. `cooldown_s`: seconds after an event has closed (for
    changes: opened) in which no other opens. `update_s`: seconds between updates of an open event; 0: none.

    Raises ConfigError for a rule that could never fire, or whose events could never end.
    """

    label: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL)] | None = None
    above: Probability = 0.5
    below: Probability | None = None
    windows: tuple[Windows, Windows] = (1, 1)
    for_s: Period = 0.0
    cooldown_s: Period = 0.0
    update_s: Period = 60.0

    def __post_init__(self) -> None:
        limit = 1 - MIN_PROBABILITY
        for name, value in (("above", self.above), ("below", self.clear_below)):
            if not MIN_PROBABILITY <= value <= limit:
                raise ConfigError(
                    f"event: {name} {value:g}: use a probability from {MIN_PROBABILITY:g} to {limit:g}; beyond it no event "
                    f"could open or close"
                )
        if self.label is None and self.below is not None:
            raise ConfigError("event: below requires a label; a change has none")
        if self.clear_below > self.above:
            raise ConfigError(
                f"event: below {self.clear_below:g} is more than above {self.above:g}: it could not close"
            )
        least, of = self.windows
        if not 1 <= least <= of <= MAX_HISTORY:
            raise ConfigError(
                f"event: {least} of {of} windows: use numbers from 1 to {MAX_HISTORY}, the first at most the second; "
                f"otherwise it could not open"
            )
        for name, seconds in (("for", self.for_s), ("cooldown", self.cooldown_s), ("update", self.update_s)):
            if not 0 <= seconds <= MAX_RULE_S:
                raise ConfigError(f"event: {name} {seconds:g} s: use 0 to {MAX_RULE_S} seconds")

    @property
    def clear_below(self) -> float:
        return self.above if self.below is None else self.below

"""Numbers as users write them: exact fractions for seconds and rates that must divide each other, and lists of counts."""

from __future__ import annotations

import re
from fractions import Fraction

from codecflow.errors import ConfigError

_NUMBER = re.compile(r"\+?(\d{1,20}(\.\d{0,20})?|\.\d{1,20})(e[+-]?\d{1,2})?|\+?\d{1,10}/\d{1,10}", re.IGNORECASE)
"""Limits the size: 1e2000000000 is a text of 12 characters, but takes hours to compute."""

_MAX = 2**31 - 1
"""Maximum numerator and denominator in the wire format."""


def positive(text: str | float | Fraction, name: str) -> Fraction:
    """The exact value of `text`: 8, 0.5 and 1/3 all work. `name`: the option's name for the error.

    Raises ConfigError on anything else: zero and less, and fractions whose parts take more than 31 bits.
    """
    written = str(text)
    try:
        value = Fraction(written) if _NUMBER.fullmatch(written.strip()) else Fraction(0)
    except ZeroDivisionError:
        value = Fraction(0)
    if value <= 0 or max(value.numerator, value.denominator) > _MAX:
        raise ConfigError(f"{name} {written[:60]!r}: use a positive number, such as 2, 0.5 or 1/3")
    return value


def counts(text: str, name: str) -> list[int]:
    """The whole numbers in `text`, separated by commas. Raises ConfigError, naming the option, unless all are 1 or more."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = [0]
    if min(values) < 1:
        raise ConfigError(f"{name} {text[:60]!r}: use whole numbers from 1, separated by commas")
    return values

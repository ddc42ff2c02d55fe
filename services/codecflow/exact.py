"""Exact positive numbers from what a user writes: seconds and rates that must divide each other without rounding."""

from __future__ import annotations

from fractions import Fraction

from codecflow.errors import ConfigError


def positive(text: str | float | Fraction, name: str) -> Fraction:
    """The number that `text` is, exactly: 8, 0.5 and 1/3 all work. `name`: the option, as the error is to call it.

    Raises ConfigError on anything else, zero and less among it.
    """
    try:
        value = Fraction(str(text))
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise ConfigError(f"{name} {str(text)!r}: use a positive number, such as 2, 0.5 or 1/3")
    return value

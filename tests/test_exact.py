"""Numbers as users write them: exact, positive, or rejected in one line that names the option."""

from __future__ import annotations

from fractions import Fraction

import pytest

from codecflow.errors import ConfigError
from codecflow.exact import positive


@pytest.mark.parametrize(
    ("given", "number"),
    [
        ("2", Fraction(2)),
        ("0.1", Fraction(1, 10)),
        ("1/3", Fraction(1, 3)),
        (0.1, Fraction(1, 10)),
        (Fraction(2, 7), Fraction(2, 7)),
    ],
)
def test_what_is_written_is_what_is_meant(given: str | float | Fraction, number: Fraction) -> None:
    assert positive(given, "--fps") == number


HUGE = ["1e2000000000", "1e-2000000000", "1/99999999999", "0." + "3" * 5000, "9" * 5000, "1e10", 1 / 3]


@pytest.mark.parametrize("given", ["0", "-1/2", "1/0", "often", "", "nan", "inf", "2\n3", 0, -0.5, float("inf"), *HUGE])
def test_anything_else_is_one_line_that_names_the_option(given: str | float) -> None:
    with pytest.raises(ConfigError, match=r"^--stride '.*': use a positive number, such as 2, 0\.5 or 1/3$"):
        positive(given, "--stride")

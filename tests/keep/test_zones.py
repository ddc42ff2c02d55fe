"""Which tokens zones hide, and which samples are blanked: nothing of an ignored zone may remain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codecflow.errors import ConfigError
from codecflow.grid import TokenGrid
from codecflow.keep.zones import BLANK, MARGIN, view_of
from codecflow.messages import Question as Asked
from codecflow.messages import StreamDescription, Zone, zones_digest, zones_in_prompt

GRID = TokenGrid.regular(6, 8, 128, 96)  # tokens of 16x16 samples
BOX = ((0.25, 0.5), (0.5, 0.5), (0.5, 1.0), (0.25, 1.0))


def picture() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 100, (96, 128, 3), np.uint8)


def test_what_an_ignored_zone_touches_is_hidden_and_its_samples_are_blank() -> None:
    view = view_of([Zone("street", "ignore", BOX)], GRID)
    blanked = view.blanked(picture())
    assert (blanked[48:96, 32:64] == BLANK).all()
    assert (blanked[48 - MARGIN : 48, 32:64] == BLANK).all()
    rest = np.ones((96, 128), bool)
    rest[48 - MARGIN - 1 : 96, 32 - MARGIN - 1 : 64 + MARGIN + 1] = False
    assert (blanked[rest] == picture()[rest]).all()
    hidden = view.hidden.reshape(6, 8)
    assert hidden[2:, 1:5].all(), "with the margin it reaches into the next tokens"
    assert hidden.sum() == 4 * 4


def test_only_zones_leave_what_they_touch_and_ignored_ones_come_first() -> None:
    only = view_of([Zone("gate", "only", BOX)], GRID)
    assert (~only.hidden).reshape(6, 8)[3:, 2:4].all()
    assert (~only.hidden).sum() <= 4 * 4
    assert only.blanked(picture()) is not None
    assert (only.blanked(picture()) == picture()).all()
    both = view_of([Zone("gate", "only", BOX), Zone("face", "ignore", ((0.3, 0.6), (0.31, 0.6), (0.31, 0.61)))], GRID)
    assert both.hidden.sum() == only.hidden.sum() + 1
    nothing = view_of([Zone("gate", "place", BOX)], GRID)
    assert not nothing.hidden.any()


points = st.tuples(st.floats(0, 1), st.floats(0, 1))


@settings(max_examples=60, deadline=None)
@given(
    corners=st.tuples(points, points, points),
    weights=st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.01, 1)),
    size=st.tuples(st.integers(16, 70), st.integers(16, 70)),
)
def test_no_point_of_an_ignored_zone_is_left(
    corners: tuple[tuple[float, float], ...], weights: tuple[float, ...], size: tuple[int, int]
) -> None:
    try:
        zone = Zone("any", "ignore", corners)
    except ConfigError:
        return
    width, height = size
    grid = TokenGrid.regular(3, 3, width, height)
    x, y = np.average(corners, axis=0, weights=weights) * (width, height)
    at = min(int(y), height - 1), min(int(x), width - 1)
    view = view_of([zone], grid)
    assert (view.blanked(np.zeros((height, width, 3), np.uint8))[at] == BLANK).all()
    under = [x0 <= at[1] < x1 and y0 <= at[0] < y1 for x0, y0, x1, y1 in grid.boxes]
    assert view.hidden[under].all()


@pytest.mark.parametrize(
    ("polygon", "says"),
    [
        (((0, 0), (1, 1)), "2 corners"),
        (((0, 0), (0.5, 0.5), (1, 1)), "enclose nothing"),
        (((0, 0), (1, 1), (1, 0), (0, 0.9)), "edges cross"),
        (((0, 0), (1.2, 0), (1, 1)), r"corner \[1.2, 0\] lies outside"),
        (((0, 0), (float("nan"), 0), (1, 1)), "lies outside"),
    ],
)
def test_polygons_that_are_none_are_refused(polygon: tuple[tuple[float, float], ...], says: str) -> None:
    with pytest.raises(ConfigError, match=f"^zone 'x': .*{says}"):
        Zone("x", "ignore", polygon)


def test_a_question_that_names_a_zone_says_where_it_lies() -> None:
    zones = (Zone("gate", "place", BOX), Zone("gate north", "only", BOX), Zone("Straße", "place", BOX))
    assert [zone.name for zone in zones_in_prompt('Is a car in the zone "Gate"?', zones)] == ["gate"]
    assert [zone.name for zone in zones_in_prompt("Is a car in the zone gate north?", zones)] == ["gate north"]
    assert [zone.name for zone in zones_in_prompt("in zone STRASSE or in the zone straße", zones)] == ["Straße"]
    assert zones_in_prompt("Is a zone gates?", zones) == []
    questions = (Asked("a", "Is a car in the zone gate?", "yes-no"), Asked("b", "Is a car there?", "yes-no"))
    asked = StreamDescription("s", questions, zones).resolved_questions
    assert asked[0].prompt == (
        "Is a car in the zone gate? The zone gate is at the bottom of the picture: 25 to 50 % of its width from the left, "
        "50 to 100 % of its height from the top."
    )
    assert asked[1] == questions[1]


def test_the_digest_is_of_what_is_hidden() -> None:
    gate, other = Zone("gate", "ignore", BOX), Zone("other", "only", BOX)
    assert zones_digest([]) == zones_digest([Zone("a", "place", BOX)]) == 0
    assert zones_digest([gate, other]) == zones_digest([other, Zone("renamed", "ignore", BOX)])
    assert zones_digest([gate]) != zones_digest([other])

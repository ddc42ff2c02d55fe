"""A real clip through producer, sampled frames and keep masks, as in a worker."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from codecflow.grid import TokenGrid
from codecflow.keep import KeepConfig, KeepState
from codecflow.messages import NO_BOUND, CodedPicture
from codecflow.tools.bench.sampling import Published, decoded_frames, decoding, published
from tests.tools.bench.clips import CLIP

FPS = Fraction(2)


@pytest.fixture(scope="module")
def pictures() -> list[Published]:
    """Half a minute of the bundled clip: the view is empty for 6 s, then a person arrives, leaves, and returns."""
    return list(published(CLIP, FPS, 30))


def state(side: int) -> KeepState:
    return KeepState(TokenGrid.regular(side, side, 768, 432), KeepConfig(slack_s=Fraction(8)))


@pytest.mark.parametrize("side", [8, 16])
def test_masks_are_those_of_comparing_pixels_always(side: int, pictures: list[Published]) -> None:
    """The bounds decide only which tokens need pixels: exposure and noise are the same for both."""
    certified, looking, certain = state(side), state(side), 0
    for frame in decoded_frames(pictures, FPS):
        decision = frame.decide(certified)
        certain += int(decision.certified.sum())
        for signal in frame.signals:
            looking.observe(replace(signal, change=np.full_like(signal.change, NO_BOUND)))
        other = looking.step(frame.slot, frame.picture.luma, keyframe=frame.alone)
        assert not other.certified.any()
        assert (decision.keep == other.keep).all()
    assert certain > 0.3 * 60 * side * side


def test_where_nothing_moves_one_picture_in_ten_is_decoded_at_most(pictures: list[Published]) -> None:
    still = [one for one in pictures if one[1].time_s < 5.9]

    def begin(picture: CodedPicture) -> KeepState:
        return state(8)

    found = decoding(still, FPS, begin)
    assert found.published == 59
    assert found.decoded <= 5
    assert decoding(pictures, FPS, begin).decoded < 0.5 * len(pictures)

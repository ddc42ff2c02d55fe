"""Places full of things show what their labels say: no vehicle in rooms, and vehicles where they are parked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.test_film import _pack


@pytest.mark.parametrize(("kind", "shares"), [("things", (1.0, 0.0)), ("vehicles", (0.0, 1.0))])
def test_what_fills_a_place_is_labelled(
    kind: str, shares: tuple[float, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import clutter
    from library import load_library
    from scenes import Studio

    for name, share in zip(("CLUTTERED", "PARKED"), shares, strict=True):
        monkeypatch.setattr(clutter, name, share)
    _pack(tmp_path)
    n, person, vehicle = 6, 0, 1
    picture = torch.full((n, 3, 448, 448), 0.4)
    cover, seen = torch.zeros(n, 4, 8, 8), torch.zeros(n, 4)
    known, complete = torch.ones(n, 4, dtype=torch.bool), torch.ones(n, 4, dtype=torch.bool)
    seen[0, person] = 1  # a place with somebody in it is not filled with vehicles
    studio = Studio(load_library(tmp_path, torch.device("cpu"), "train"), 3)
    studio.fill(picture, cover, seen, known, complete, torch.full((n,), 4 / 3))
    changed = (picture - 0.4).abs().amax((1, 2, 3)) > 0.05
    assert changed.tolist() == [False, True, True, True, True, True]
    blue = (picture[:, 2] - picture[:, 0] > 0.15).float()
    if kind == "things":
        assert blue.sum() == 0
        assert cover.sum() == 0
        assert seen.sum() == 1
        return
    assert (seen[1:, vehicle] >= 3).all()
    assert not complete[1:, vehicle].any()
    np.testing.assert_allclose(cover[:, vehicle].numpy(), blue.reshape(n, 8, 56, 8, 56).mean((2, 4)).numpy(), atol=0.12)


def test_views_of_a_panorama_look_where_they_should() -> None:
    from panoramas import view

    picture = np.zeros((64, 128, 3), np.uint8)
    picture[:, 32:96, 0] = 200  # the half around a quarter to three quarters of the way
    picture[48:, :, 1] = 200  # the ground
    ahead = np.asarray(view(picture, np.pi, 0.0, 1.2, (40, 30)))
    behind = np.asarray(view(picture, 0.0, 0.0, 1.2, (40, 30)))
    down = np.asarray(view(picture, np.pi, 1.5, 0.8, (40, 30)))
    assert ahead[..., 0].min() > 150
    assert behind[..., 0].max() < 50
    assert ahead[..., 1].max() == 0
    assert down[..., 1].min() > 150

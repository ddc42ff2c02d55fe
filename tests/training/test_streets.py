"""Places and things without vehicles, put together and drawn: the same every time, and none like another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image


def test_streets_are_what_lies_above_vehicles_on_what_lies_below_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import carless

    photos: list[dict[str, Any]] = []
    for name, sky, ground in (("a.jpg", (0, 0, 250), (0, 250, 0)), ("b.jpg", (0, 0, 200), (0, 200, 0))):
        picture = np.zeros((100, 160, 3), np.uint8)
        picture[:40], picture[40:70], picture[70:] = sky, (250, 0, 0), ground  # the vehicle is red
        Image.fromarray(picture).save(tmp_path / f"vehicles-{name}", "PNG")
        photos.append({"file": f"vehicles-{name}", "boxes": [[1, 0.1, 0.42, 0.9, 0.69]]})
    parts = {"above": {"a.jpg", "b.jpg"}, "below": {"b.jpg"}}
    monkeypatch.setattr(carless, "read_parts", lambda: parts)
    made = carless.streets(photos, tmp_path, 0)
    assert len(made) == 2
    for street, blue in zip(made, (250, 200), strict=True):
        pixels = np.asarray(street).astype(int)
        assert pixels[..., 0].max() < 30
        assert abs(int(pixels[0, 0, 2]) - blue) < 10
        assert abs(int(pixels[-1, 0, 1]) - 200) < 10
    assert [np.asarray(s).tobytes() for s in carless.streets(photos, tmp_path, 0)] == [
        np.asarray(s).tobytes() for s in made
    ]
    assert carless.streets(photos[:1], tmp_path, 0) == []  # no ground to stand on


def test_parts_that_are_named_are_of_both_kinds() -> None:
    from carless import read_parts

    parts = read_parts()
    assert len(parts["above"]) > 400
    assert len(parts["below"]) > 100


def test_groups_are_people_side_by_side_and_shadows_are_dark() -> None:
    from crowds import groups, shadows

    people = torch.zeros(3, 4, 48, 48)
    for k in range(3):
        people[k, k], people[k, 3] = 1.0, 1.0
    things, wide = groups(12, people, [0.4, 0.3, 0.5], 0)
    again, _ = groups(12, people, [0.4, 0.3, 0.5], 0)
    assert torch.equal(things, again)
    assert 0.3 < min(wide) < max(wide) < 6
    for thing in things:
        shown = thing[3] > 0.9
        assert 0.1 < shown.float().mean() <= 1.0
        assert (thing[:3].amax(0)[shown] > 0.9).all()
    dark, _ = shadows(6, people, [0.4, 0.3, 0.5], 0)
    assert dark[:, :3].max() < 0.2
    assert 0.1 < dark[:, 3].amax() < 0.8


def test_street_things_differ_in_shape_and_colour() -> None:
    from street import street_thing

    things = [street_thing(np.random.default_rng(seed)) for seed in range(24)]
    assert np.array_equal(things[5], street_thing(np.random.default_rng(5)))
    assert len({thing.shape for thing in things}) > 20
    assert all((thing[..., 3] > 128).mean() > 0.04 for thing in things)
    assert np.ptp([thing[thing[..., 3] > 128][:, :3].mean() for thing in things]) > 80

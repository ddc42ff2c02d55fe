"""Drawn vehicles vary in kind, colour and direction, and are reproducible."""

from __future__ import annotations

import numpy as np


def test_drawn_vehicles_fill_an_oblong_and_differ() -> None:
    from drawn import LONG, vehicle_from_above

    vehicles = [vehicle_from_above(np.random.default_rng(seed)) for seed in range(16)]
    assert np.array_equal(vehicles[3], vehicle_from_above(np.random.default_rng(3)))
    lengths, shares, colours = [], [], []
    for rgba in vehicles:
        assert rgba.dtype == np.uint8
        opaque = rgba[..., 3] > 200
        assert opaque.any(0)[rgba.shape[1] // 2]
        y, x = np.nonzero(opaque)
        spread = np.linalg.eigvalsh(np.cov(np.stack([x, y])))
        lengths.append(float(np.sqrt(12 * spread[1])))  # of a rectangle with that spread
        shares.append(float(np.sqrt(spread[0] / spread[1])))
        colours.append(rgba[opaque][:, :3].mean(0))
    assert all(0.85 * LONG < length < 1.15 * LONG for length in lengths)
    assert all(0.22 < share < 0.62 for share in shares)
    assert max(shares) > 1.3 * min(shares)  # cars and trucks
    assert np.ptp(np.stack(colours), 0).min() > 60
    assert len({rgba.shape for rgba in vehicles}) > 12  # with different rotations

"""Synthetic things look like the photographs, in shapes of their own."""

from __future__ import annotations

import torch

RED, GREEN = (250, 0, 0), (0, 250, 0)


def test_things_are_pieces_of_photographs_in_many_shapes() -> None:
    from made_up import made_up

    shapes = torch.zeros(1, 32, 32)
    shapes[0, :, :16] = 1.0  # a left half
    photos = torch.tensor([RED, GREEN], dtype=torch.uint8)[:, :, None, None].expand(2, 3, 64, 64).contiguous()
    things, aspects = made_up(40, 32, shapes, photos)
    again, _ = made_up(40, 32, shapes, photos)
    assert torch.equal(things, again)
    assert len(aspects) == 40
    assert min(aspects) < 0.7
    assert max(aspects) > 1.4
    colours = {tuple(round(v) for v in thing[:3, 16, 4].mul(255).tolist()) for thing in things}
    assert colours == {RED, GREEN}
    copies = [torch.equal(thing[3], shapes[0]) for thing in things]
    assert 10 < sum(copies) < 30
    blobs = [thing[3] for thing, copy in zip(things, copies, strict=True) if not copy]
    assert all(blob[16, 16] == 1 and 0.2 < blob.mean() < 0.95 for blob in blobs)
    assert len({float(blob.mean()) for blob in blobs}) == len(blobs)  # all different

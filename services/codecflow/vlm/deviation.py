"""How far cached keys and values are from what they would be in today's context (CacheBlend, arXiv 2405.16444).

The first layer's keys depend on the token alone. The second layer's are the first to show context, and a token that deviates
there tends to deviate in the layers above, so one layer over the overlap is enough to choose.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from codecflow.vlm.cache import ProbeCache, ProbedError
from codecflow.vlm.families.base import Family
from codecflow.vlm.packing import Pack, Work
from codecflow.vlm.window import HeldFrame, StreamWindow


def deviations(
    family: Family, windows: Sequence[tuple[StreamWindow, Sequence[HeldFrame]]]
) -> list[tuple[Tensor, Work]]:
    """For each window and its overlap, frames in order: squared distance of keys and values, (tokens,) on the CPU, and cost.

    A model of one layer has no context in its cache: nothing deviates.
    """
    pack = Pack(family)
    work = [pack.trunk(w.buffers, w.start, [frame.run() for frame in overlap]) for w, overlap in windows]
    probe = ProbeCache()
    with suppress(ProbedError):
        pack.run(probe)
    if probe.keys is None or probe.values is None:
        return [(torch.zeros(one.tokens), one) for one in work]
    result, at = [], 0
    for (window, overlap), one in zip(windows, work, strict=True):
        slots = slice(overlap[0].slot, overlap[-1].slot + overlap[-1].tokens)
        now = slice(at, at + one.tokens)
        keys = (probe.keys[:, now].float() - window.buffers.keys[1, :, slots].float()).square().sum((0, 2))
        values = (probe.values[:, now].float() - window.buffers.values[1, :, slots].float()).square().sum((0, 2))
        result.append(((keys + values).cpu(), one))
        at += one.tokens
    return result

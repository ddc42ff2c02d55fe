"""Batches on their way: windows of scenes on the device, and what decides their layout on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from asking import ask_scenes
from maker import SIDE
from scenes import Studio
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Mode:
    """A kind of batch: `clips` windows of `frames` frames, whole or pruned, `side` pixels square. `share`: how often."""

    name: str
    clips: int
    frames: int
    pruned: bool
    share: float
    side: int = SIDE


MODES = (
    Mode("frame", 96, 1, False, 0.38),
    Mode("frame-336", 128, 1, False, 0.05, 336),
    Mode("frame-224", 160, 1, False, 0.05, 224),
    Mode("stride", 24, 4, False, 0.12),
    Mode("stride-pruned", 48, 4, True, 0.10),
    Mode("window", 7, 16, False, 0.06),
    Mode("window-pruned", 24, 16, True, 0.18),
    Mode("long-pruned", 5, 80, True, 0.06),
)
ANCHOR_EVERY = 16  # frames: eight seconds


@dataclass
class Draft:
    """A batch on its way: pixels stay on the device, what decides its layout is copied to the CPU without waiting."""

    mode: Mode
    frames: Tensor
    cover: Tensor | None
    facts: dict[str, Tensor]
    ready: Any
    ask: Any


def to_cpu(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return x
    host = torch.empty(x.shape, dtype=x.dtype, pin_memory=True)
    host.copy_(x, non_blocking=True)
    return host


def draft_scenes(studio: Studio, mode: Mode, scale: float) -> Draft:
    clips = max(1, round(mode.clips * scale))
    scenes = studio.make(clips, mode.frames, ANCHOR_EVERY)
    keep = scenes.keep if mode.pruned else torch.ones_like(scenes.keep)
    facts = {"keep": to_cpu(keep)}
    for name in ("seen", "known", "slivers", "moving", "mover", "person_at", "fall", "left", "complete"):
        facts[name] = to_cpu(getattr(scenes, name))
    frames = scenes.frames.flatten(0, 1)
    cover = scenes.cover.flatten(0, 1)
    if mode.side != SIDE:
        small = functional.interpolate(frames.float(), (mode.side, mode.side), mode="bilinear", antialias=True)
        frames = small.round().to(torch.uint8)
        cover = functional.interpolate(cover, (mode.side // 28, mode.side // 28), mode="area")
        facts["keep"] = torch.ones(clips, 1, (mode.side // 28) ** 2, dtype=torch.bool)
    return Draft(mode, frames, cover, facts, mark(frames.device), ask_scenes)


def mark(device: torch.device) -> Any:
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()
    event.record()
    return event

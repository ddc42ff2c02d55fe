"""Loads what prepare.py packed onto the device: photographs and cut-outs for scenes, and real clips as windows."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from asking import pick
from camera import replenish
from drafts import Draft, Mode, mark, to_cpu
from maker import NEWEST, SIDE, TOKENS, Library
from PIL import Image
from questions import CLASSES, OTHER
from torch import Tensor
from torch.nn import functional

SIZES = (192, 96, 48, 24)


def _picture(path: Path) -> Tensor:
    image = Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cut(path: Path) -> Tensor:
    rgba = np.array(Image.open(path).convert("RGBA").resize((SIZES[0], SIZES[0]), Image.Resampling.BICUBIC))
    return torch.from_numpy(rgba).permute(2, 0, 1)


def load_library(pack: Path, device: torch.device, split: str, most: int | None = None) -> Library:
    """Everything of `split`; empty cameras count many times. `most`: no more photographs than this."""
    photos = [row for row in json.loads((pack / "photos.json").read_text()) if row["split"] == split][
        -(most or 10**9) :
    ]
    cuts = [row for row in json.loads((pack / "cutouts.json").read_text()) if row["split"] == split]
    with ThreadPoolExecutor(16) as pool:
        pictures = torch.stack(list(pool.map(_picture, [pack / "photos" / row["file"] for row in photos])))
        rgba = torch.stack(list(pool.map(_cut, [pack / "cutouts" / row["file"] for row in cuts]))).to(device)
    rgba = rgba / 255
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1).contiguous()
    longest = max(1, *(len(row["boxes"]) for row in photos))
    boxes, kinds = torch.zeros(len(photos), longest, 4), torch.full((len(photos), longest), -1)
    for i, row in enumerate(photos):
        for j, (kind, *box) in enumerate(row["boxes"]):
            boxes[i, j], kinds[i, j] = torch.tensor(box), kind
    weights = torch.ones(len(photos))
    for i, row in enumerate(photos):
        if row["file"].startswith("empty-"):
            weights[i] = 60.0
        elif row["file"].startswith("coco"):
            weights[i] = 4.0
    names = (*CLASSES, "other")
    by_class = [torch.tensor([i for i, row in enumerate(cuts) if row["kind"] == name]) for name in names]
    by_class = [b if len(b) else by_class[OTHER] for b in by_class]
    return Library(
        photos=pictures.contiguous().to(device),
        aspect=torch.tensor([row["aspect"] for row in photos]),
        boxes=boxes.to(device),
        kinds=kinds.to(device),
        known=torch.tensor([row["known"] for row in photos]).to(device),
        weights=weights,
        cuts=[rgba if s == SIZES[0] else functional.interpolate(rgba.float(), (s, s), mode="area") for s in SIZES],
        cut_aspect=torch.tensor([row["aspect"] for row in cuts]),
        by_class=by_class,
    )


class Clips:
    """Real clips on the product's sampling grid. `draft` gives random windows of them, as scenes.py's, ready to be asked."""

    def __init__(self, clips: list[dict[str, Any]], device: torch.device) -> None:
        self.clips, self.device = clips, device
        self.weights = np.array([len(c["times"]) ** 0.5 for c in clips])

    def __bool__(self) -> bool:
        return bool(self.clips)

    def draft(self, rng: np.random.Generator, scale: float) -> Any:
        options = (
            Mode("real-frame", 64, 1, False, 0),
            Mode("real-stride", 20, 4, False, 0),
            Mode("real-window", 16, 16, True, 0),
        )
        mode = options[int(rng.choice(3, p=[0.5, 0.2, 0.3]))]
        n = max(1, round(mode.clips * scale))
        chosen = rng.choice(len(self.clips), n, p=self.weights / self.weights.sum())
        windows, covers, facts = [], [], []
        for c in chosen:
            clip = self.clips[c]
            length = len(clip["times"])
            start = int(rng.integers(max(1, length - mode.frames + 1)))
            index = np.minimum(np.arange(start, start + mode.frames), length - 1)
            at = torch.from_numpy(index).to(self.device, non_blocking=True)
            frames, cover = clip["frames"][at], clip["cover"][at]
            if rng.random() < 0.5:
                frames, cover = frames.flip(3), cover.flip(3)
            gain, gamma = float(rng.uniform(0.7, 1.2)), float(rng.uniform(0.75, 1.3))
            frames = ((frames.float() / 255) ** gamma * gain * 255).round().clamp(0, 255).to(torch.uint8)
            windows.append(frames)
            covers.append(cover)
            facts.append({name: torch.tensor(np.array(values)[index]) for name, values in clip["labels"].items()})
        frames, cover = torch.stack(windows), torch.stack(covers)
        keep = (
            replenish(frames, 16, int(rng.integers(16)))
            if mode.pruned
            else torch.ones(n, mode.frames, TOKENS**2, dtype=torch.bool)
        )
        return Draft(
            mode, frames.flatten(0, 1), cover.flatten(0, 1), {"keep": to_cpu(keep)}, mark(self.device), _Ask(facts)
        )


class _Ask:
    def __init__(self, facts: list[dict[str, Tensor]]) -> None:
        self.facts = facts

    def __call__(self, _: dict[str, Tensor], rng: np.random.Generator) -> list[list[tuple[str, str, float]]]:
        asked = []
        for labels in self.facts:
            certain = {}
            for name, values in labels.items():
                newest = values[-NEWEST:]
                share = float((newest == 1).float().mean())
                if (newest >= 0).all() and (share == 0 or share >= 0.5):
                    certain[name] = "Yes" if share >= 0.5 else "No"
            asked.append(pick(certain, rng))
        return asked


def load_clips(pack: Path, device: torch.device, split: str) -> Clips:
    clips = []
    for file in sorted((pack / "clips").glob("*/clip.json")):
        clip = json.loads(file.read_text())
        if clip["split"] != split:
            continue
        with ThreadPoolExecutor(16) as pool:
            frames = torch.stack(list(pool.map(_picture, sorted(file.parent.glob("*.webp")))))
        keep = np.unpackbits(np.load(file.parent / "keep.npy"), axis=1)[:, : TOKENS**2].astype(bool)
        clips.append(
            clip
            | {"name": file.parent.name, "frames": frames.to(device), "keep": keep, "cover": _cover(clip).to(device)}
        )
    return Clips(clips, device)


def _cover(clip: dict[str, Any]) -> Tensor:
    """(frames, 4, TOKENS, TOKENS): what is known of where things are; -1 unknown."""
    count = len(clip["times"])
    cover = torch.full((count, 4, TOKENS, TOKENS), -1.0)
    for c, name in enumerate(CLASSES):
        if name in clip["labels"]:
            cover[torch.tensor(clip["labels"][name]) == 0, c] = 0.0
    edges = torch.arange(TOKENS) / TOKENS
    for i, boxes in enumerate(clip.get("boxes", [])):
        for x0, y0, x1, y1 in boxes:
            w = x1 - x0
            ox = (torch.clamp(edges + 1 / TOKENS, max=x1 - 0.1 * w) - torch.clamp(edges, min=x0 + 0.1 * w)).clamp(min=0)
            oy = (torch.clamp(edges + 1 / TOKENS, max=y1) - torch.clamp(edges, min=y0)).clamp(min=0)
            cover[i, 0] = torch.maximum(
                cover[i, 0], oy[:, None] * ox[None] * TOKENS * TOKENS * (oy[:, None] * ox[None] > 0)
            )
        if boxes:
            # Where no pedestrian was detected, none is: the detector misses few, and the dense loss forgives some.
            outside = cover[i, 0] <= 0
            cover[i, 0][outside] = 0.0
    return cover

"""Loads what scenes are made of onto the device: the photographs and cut-outs that prepare.py packed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from made_up import MADE_UP, made_up
from maker import RENDER, Library
from PIL import Image
from questions import CLASSES, OTHER, PERSON, VEHICLE
from torch import Tensor
from torch.nn import functional

SIZES = (192, 96, 48, 24)


def _picture(path: Path) -> Tensor:
    image = Image.open(path).convert("RGB").resize((RENDER, RENDER), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cut(path: Path) -> Tensor:
    rgba = np.array(Image.open(path).convert("RGBA").resize((SIZES[0], SIZES[0]), Image.Resampling.BICUBIC))
    return torch.from_numpy(rgba).permute(2, 0, 1)


def load_library(pack: Path, device: torch.device, split: str) -> Library:
    """Everything of `split`; empty cameras count many times."""
    photos = [row for row in json.loads((pack / "photos.json").read_text()) if row["split"] == split]
    cuts = [row for row in json.loads((pack / "cutouts.json").read_text()) if row["split"] == split]
    with ThreadPoolExecutor(16) as pool:
        pictures = torch.stack(list(pool.map(_picture, [pack / "photos" / row["file"] for row in photos])))
        rgba = torch.stack(list(pool.map(_cut, [pack / "cutouts" / row["file"] for row in cuts]))).to(device)
    rgba = rgba / 255
    empty = [i for i, row in enumerate(photos) if all(row["known"]) and not row["boxes"]]
    shapes = rgba[[i for i, row in enumerate(cuts) if row["kind"] == "other"], 3].cpu()
    if empty:
        things, aspects = made_up(round(MADE_UP * len(shapes)), SIZES[0], shapes, pictures[empty])
        rgba = torch.cat([rgba, things.to(device)])
        cuts += [{"kind": "other", "aspect": aspect} for aspect in aspects]
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1).contiguous()
    longest = max(1, *(len(row["boxes"]) for row in photos))
    boxes, kinds = torch.zeros(len(photos), longest, 4), torch.full((len(photos), longest), -1)
    for i, row in enumerate(photos):
        for j, (kind, *box) in enumerate(row["boxes"]):
            boxes[i, j], kinds[i, j] = torch.tensor(box), kind
    weights, quiet = torch.ones(len(photos)), torch.full((len(photos),), 0.15)
    for i, row in enumerate(photos):
        if row["file"].startswith("empty-"):
            weights[i] = quiet[i] = 60.0
        elif row["file"].startswith("coco"):
            weights[i] = 4.0
            calm = not {PERSON, VEHICLE} & {box[0] for box in row["boxes"]} and all(row["known"][:2])
            quiet[i] = 6.0 if calm else 1.0
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
        quiet=quiet,
        cuts=[rgba if s == SIZES[0] else functional.interpolate(rgba.float(), (s, s), mode="area") for s in SIZES],
        cut_aspect=torch.tensor([row["aspect"] for row in cuts]),
        by_class=by_class,
        from_above=torch.tensor([i for i, row in enumerate(cuts) if row.get("from_above")], dtype=torch.long),
    )

"""Loads what scenes are made of onto the device: the photographs and cut-outs that prepare.py packed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from carless import fronts, limits, read_parts, streets
from crowds import GROUPS, SHADOWS, groups, shadows
from made_up import MADE_UP, made_up
from maker import RENDER, Library
from PIL import Image
from questions import CLASSES, OTHER, PERSON, VEHICLE
from torch import Tensor
from torch.nn import functional

SIZES = (192, 96, 48, 24)


def _picture(path: Path | Image.Image) -> Tensor:
    image = path if isinstance(path, Image.Image) else Image.open(path)
    image = image.convert("RGB").resize((RENDER, RENDER), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _cut(path: Path) -> Tensor:
    rgba = np.array(Image.open(path).convert("RGBA").resize((SIZES[0], SIZES[0]), Image.Resampling.BICUBIC))
    return torch.from_numpy(rgba).permute(2, 0, 1)


WEIGHTS = {"empty-": 40.0, "street": 1.0, "front": 0.7, "room-": 4.0, "real-": 6.0}
"""How often places without vehicles are drawn, by how their files' names begin."""


def _weights(row: dict[str, Any]) -> tuple[float, float]:
    """How often a photograph is a background of short scenes, and of long ones, in which a place must be empty at times."""
    for begin, weight in WEIGHTS.items():
        if row["file"].startswith(begin):
            return weight, weight
    if row["file"].startswith("vehicles"):
        return 0.3, 0.15
    if row["file"].startswith("coco"):
        calm = not {PERSON, VEHICLE} & {box[0] for box in row["boxes"]} and all(row["known"][:2])
        return 4.0, 6.0 if calm else 1.0
    return 1.0, 0.15


def load_library(pack: Path, device: torch.device, split: str, seed: int = 0) -> Library:
    """Everything of `split`; empty cameras count many times. `seed`: of what is put together here."""
    photos = [row for row in json.loads((pack / "photos.json").read_text()) if row["split"] == split]
    cuts = [row for row in json.loads((pack / "cutouts.json").read_text()) if row["split"] == split]
    made = streets(photos, pack / "photos", seed)
    alone = fronts(photos, pack / "photos")
    with ThreadPoolExecutor(16) as pool:
        files = [pack / "photos" / row["file"] for row in photos]
        pictures = torch.stack(list(pool.map(_picture, [*files, *made, *alone])))
        rgba = torch.stack(list(pool.map(_cut, [pack / "cutouts" / row["file"] for row in cuts]))) / 255
    known = {"boxes": [], "known": [True] * 4}
    for file, images in (("street", made), ("front", alone)):
        photos += [{**known, "file": file, "aspect": image.width / image.height} for image in images]
    # Of pictures that show nothing of any class, pieces become things that are made up.
    empty = [i for i, row in enumerate(photos) if all(row["known"]) and not row["boxes"]]
    shapes = rgba[[i for i, row in enumerate(cuts) if row["kind"] == "other"], 3]
    people = [i for i, row in enumerate(cuts) if row["kind"] == "person"]
    if empty:
        things, aspects = made_up(round(MADE_UP * len(shapes)), SIZES[0], shapes, pictures[empty])
        rgba = torch.cat([rgba, things])
        cuts += [{"kind": "other", "aspect": aspect} for aspect in aspects]
    if people:
        standing = [cuts[i]["aspect"] for i in people]
        for make, number, row in (
            (groups, GROUPS, {"kind": "person", "group": True}),
            (shadows, SHADOWS, {"kind": "other"}),
        ):
            things, aspects = make(number, rgba[people], standing, seed)
            rgba = torch.cat([rgba, things])
            cuts += [{**row, "aspect": aspect} for aspect in aspects]
    rgba = torch.cat([rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]], 1).contiguous().to(device)
    longest = max(1, *(len(row["boxes"]) for row in photos))
    boxes, kinds = torch.zeros(len(photos), longest, 4), torch.full((len(photos), longest), -1)
    for i, row in enumerate(photos):
        for j, (kind, *box) in enumerate(row["boxes"]):
            boxes[i, j], kinds[i, j] = torch.tensor(box), kind
    parts = read_parts()
    clear = torch.tensor([limits(row, parts) for row in photos])
    weights, quiet = (torch.tensor(column) for column in zip(*map(_weights, photos), strict=True))
    names = (*CLASSES, "other")
    single = [(i, row["kind"]) for i, row in enumerate(cuts) if not row.get("group")]
    by_class = [torch.tensor([i for i, kind in single if kind == name]) for name in names]
    by_class = [b if len(b) else by_class[OTHER] for b in by_class]
    return Library(
        photos=pictures.contiguous().to(device),
        aspect=torch.tensor([row["aspect"] for row in photos]),
        boxes=boxes.to(device),
        kinds=kinds.to(device),
        known=torch.tensor([row["known"] for row in photos]).to(device),
        clear=clear.to(device),
        weights=weights,
        quiet=quiet,
        cuts=[rgba if s == SIZES[0] else functional.interpolate(rgba.float(), (s, s), mode="area") for s in SIZES],
        cut_aspect=torch.tensor([row["aspect"] for row in cuts]),
        by_class=by_class,
        groups=torch.tensor([i for i, row in enumerate(cuts) if row.get("group")], dtype=torch.long),
        from_above=torch.tensor([i for i, row in enumerate(cuts) if row.get("from_above")], dtype=torch.long),
    )

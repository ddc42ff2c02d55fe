"""Packs the training data into one folder: photographs and cut-outs for scenes, and real clips as banks.

    python training/prepare.py --data DATA --pack PACK

DATA is laid out as README.md says. Nothing of it goes into the repository. Of PACK, `clips` and `test` are not needed to
train: frames that cut-outs were made from, and the test cameras as a bank, with a spec of them for `codecflow eval`, and
one of clips that are only scored.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
from pathlib import Path
from typing import Any

import bank
import cutouts
import numpy as np
from furniture import package_in
from PIL import Image
from real import RealClip, fight_rows, pack_bank, spec_rows, watch_clip
from specs import write_spec

VAGUE = {1: {"bicycle", "train", "boat", "airplane"}, 2: {"teddy bear"}}
"""Labels that leave a class in doubt: is a bicycle a vehicle?"""


def read_split(path: Path) -> list[tuple[str, str]]:
    with path.open() as file:
        return [(row["source"], row["split"]) for row in csv.DictReader(file)]


def pack_photos(data: Path, pack: Path) -> None:
    rows: list[dict[str, Any]] = []
    (pack / "photos").mkdir(parents=True, exist_ok=True)
    for name in ("coco128", "vehicles"):
        for label, split, content in cutouts.labelled(data, name):
            file = f"{name}-{Path(label['file']).name}"
            (pack / "photos" / file).write_bytes(content)
            names = {box["label"] for box in label["boxes"]}
            known = [name == "coco128" and not names & VAGUE.get(c, set()) for c in range(4)]
            boxes = [[cutouts.KINDS[b["label"]], *b["xyxy"]] for b in label["boxes"] if b["label"] in cutouts.KINDS]
            aspect = label["width"] / label["height"]
            rows.append({"file": file, "boxes": boxes, "known": known, "split": split, "aspect": aspect})
    for stem, known in (
        (cutouts.PLAZA, [True, False, True, False]),
        *((stem, [True] * 4) for stem in cutouts.FROM_ABOVE),
    ):
        file = f"empty-{stem}.webp"
        clip = sorted((pack / "clips" / stem).glob("*.webp"))
        frames = np.stack([np.asarray(Image.open(f)) for f in clip[:: max(1, len(clip) // 40)]])
        Image.fromarray(np.median(frames, 0).astype(np.uint8)).save(pack / "photos" / file, quality=92)
        width, height = json.loads((pack / "clips" / stem / "clip.json").read_text())["size"]
        rows.append({"file": file, "boxes": [], "known": known, "split": "train", "aspect": width / height})
    (pack / "photos.json").write_text(json.dumps(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    args = parser.parse_args()
    package_in(args.data)  # told now, not after the clips
    patterns = read_split(Path(__file__).parent / "split.csv")
    with (args.data / "MANIFEST.csv").open() as file:
        paths = [row["file"] for row in csv.DictReader(file)]
    clips: dict[str, list[RealClip]] = {"train": [], "test": []}
    scored = []
    for path in paths:
        split = next((s for p, s in patterns if fnmatch.fnmatch(path, p)), "unused")
        if split == "scored":
            scored.append(path)
        if split in clips:
            clips[split].append(watch_clip(args.data, path))
            print(path, split, flush=True)
    for clip in clips["train"]:
        if clip.stem in (*cutouts.FROM_ABOVE, cutouts.PLAZA):
            clip.write_pictures(args.pack / "clips" / clip.stem)
        if clip.stem in cutouts.FROM_ABOVE:
            clip.labels["vehicle"] = cutouts.label_by_motion(args.pack, clip.stem)
    pack_bank(args.pack / "real", clips["train"])
    bank.fold(args.pack / "real")
    pack_bank(args.pack / "test", clips["test"])
    write_spec(args.pack / "test" / "spec.csv", spec_rows(args.data, clips["test"]))
    (args.pack / "fights").mkdir(parents=True, exist_ok=True)
    write_spec(args.pack / "fights" / "spec.csv", fight_rows(args.data, scored))
    pack_photos(args.data, args.pack)
    cutouts.pack_cutouts(args.data, args.pack)


if __name__ == "__main__":
    main()

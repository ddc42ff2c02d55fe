"""Packs the training data into one folder: photographs and cut-outs for scenes, and real clips as banks.

    python training/prepare.py --data DATA --pack PACK

DATA is laid out as README.md says. Nothing of it goes into the repository. Of PACK, `clips`, `validation` and `test` are not
needed to train: frames that cut-outs were made from, and the cameras of both splits, as banks for score.py and as specs for
`codecflow eval`, who and what is in view (`spec.csv`), and falls and fights (`events.csv`).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import bank
import cutouts
import numpy as np
from cameras import clips_in
from furniture import package_in
from panoramas import packages_in, panoramas, views, webp
from PIL import Image
from real import RealClip, event_rows, pack_bank, spec_rows, watch_clip
from specs import write_spec

VAGUE = {1: {"train", "boat", "airplane"}, 2: {"teddy bear"}}
"""Labels that leave a class in doubt: is a boat a vehicle?"""

ROOMS = ("bottle-detection", "store-aisle-detection", "worker-zone-detection", "classroom", "s1_")
"""Parts of the names of real clips whose pictures are rooms for scenes too: no vehicle, no animal."""

EACH = 3
"""Pictures of each of them."""


def room_photos(data: Path, pack: Path, clips: list[RealClip]) -> list[dict[str, Any]]:
    """Rows of photos.json, of pictures that are written: views of panoramas, and pictures of real rooms. Who is in those is
    not boxed, so whether people are in view is not known."""
    rows: list[dict[str, Any]] = []
    (pack / "photos").mkdir(parents=True, exist_ok=True)
    for one, picture in panoramas(data):
        for number, image in enumerate(views(one, picture)):
            file = f"room-{Path(one.package).stem[:4]}-{one.name}-{number:02d}.webp"
            (pack / "photos" / file).write_bytes(webp(image))
            known = list(one.known)
            rows.append(
                {"file": file, "boxes": [], "known": known, "split": one.split, "aspect": image.width / image.height}
            )
    for clip in clips:
        if any(part in clip.stem for part in ROOMS):
            for number in np.linspace(0, len(clip.pictures) - 1, EACH).astype(int).tolist():
                file = f"real-{clip.stem}-{number:03d}.webp"
                (pack / "photos" / file).write_bytes(webp(Image.fromarray(clip.pictures[number])))
                known, aspect = [False, True, True, False], clip.size[0] / clip.size[1]
                rows.append({"file": file, "boxes": [], "known": known, "split": "train", "aspect": aspect})
    return rows


def pack_photos(data: Path, pack: Path, rooms: list[dict[str, Any]]) -> None:
    rows = list(rooms)
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
    package_in(args.data)  # reported now, not after the clips
    packages_in(args.data)
    clips = []
    for path in clips_in(args.data, "train"):
        clips.append(watch_clip(args.data, path))
        print(path, flush=True)
    for clip in clips:
        if clip.stem in (*cutouts.FROM_ABOVE, cutouts.PLAZA):
            clip.write_pictures(args.pack / "clips" / clip.stem)
        if clip.stem in cutouts.FROM_ABOVE:
            clip.labels["vehicle"] = cutouts.label_by_motion(args.pack, clip.stem)
    pack_bank(args.pack / "real", clips)
    bank.fold(args.pack / "real")
    for split in ("validation", "test"):
        paths = clips_in(args.data, split)
        pack_bank(args.pack / split, [watch_clip(args.data, path) for path in paths])
        bank.fold(args.pack / split)
        write_spec(args.pack / split / "spec.csv", spec_rows(args.data, paths))
        write_spec(args.pack / split / "events.csv", event_rows(args.data, paths))
    pack_photos(args.data, args.pack, room_photos(args.data, args.pack, clips))
    cutouts.pack_cutouts(args.data, args.pack)


if __name__ == "__main__":
    main()

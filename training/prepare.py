"""Packs the training data into one folder: photographs, cut-outs and real clips' frames with labels and the product's masks.

    python training/prepare.py --data DATA --pack PACK

DATA is laid out as README.md says. Nothing of it goes into the repository.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import io
import json
import re
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cutouts
import numpy as np
from maker import SIDE, TOKENS
from PIL import Image

from codecflow.codec.footprints import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.keep.state import KeepState

FPS = 2
ANIMALS = ["bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe"]
KINDS = {
    "person": 0,
    "car": 1,
    "truck": 1,
    "bus": 1,
    "motorcycle": 1,
    "ambulance": 1,
    "handbag": 3,
    "backpack": 3,
    "suitcase": 3,
}
KINDS |= dict.fromkeys(ANIMALS, 2)
VAGUE = {1: {"bicycle", "train", "boat", "airplane"}, 2: {"teddy bear"}}
"""Labels that leave a class in doubt: is a bicycle a vehicle?"""

FIXED: dict[str, dict[str, int]] = {
    "opencv4nodejs_traffic": {"person": 0, "animal": 0},
    "bgslibrary_video03": {"person": 0, "animal": 0},
    "intel_bottle-detection": {"vehicle": 0, "animal": 0},
    "intel_preview_store-aisle-detection": {"person": 1, "vehicle": 0, "animal": 0},
    "intel_preview_worker-zone-detection": {"person": 1, "vehicle": 0, "animal": 0},
    "intel_preview_classroom": {"person": 1, "vehicle": 0, "animal": 0},
    "vtest_h264": {"person": 1, "animal": 0},
    "intel_one-by-one-person-detection": {"vehicle": 0},
    "intel_car-detection": {"person": 0},
    "bgslibrary_video": {"person": 0},
    "autostrade_svincolo_b": {"vehicle": 1},
    "autostrade_traffic_b": {"vehicle": 1},
}
"""What holds of every frame of a clip, seen by eye: 1 in view, 0 not."""


def read_split(path: Path) -> list[tuple[str, str]]:
    with path.open() as file:
        return [(row["source"], row["split"]) for row in csv.DictReader(file)]


def pack_photos(data: Path, pack: Path) -> None:
    rows: list[dict[str, Any]] = []
    (pack / "photos").mkdir(parents=True, exist_ok=True)
    for name in ("coco128", "vehicles"):
        with tarfile.open(data / "train" / f"{name}.tar") as archive:
            labels = [json.loads(line) for line in io.TextIOWrapper(archive.extractfile("labels.jsonl"))]  # type: ignore[arg-type]
            held = cutouts.held_out(name, labels)
            for label in labels:
                file = f"{name}-{Path(label['file']).name}"
                (pack / "photos" / file).write_bytes(archive.extractfile(label["file"]).read())  # type: ignore[union-attr]
                names = {box["label"] for box in label["boxes"]}
                known = [name == "coco128" and not names & VAGUE.get(c, set()) for c in range(4)]
                boxes = [[KINDS[b["label"]], *b["xyxy"]] for b in label["boxes"] if b["label"] in KINDS]
                split = "val" if label["file"] in held else "train"
                rows.append(
                    {
                        "file": file,
                        "boxes": boxes,
                        "known": known,
                        "split": split,
                        "aspect": label["width"] / label["height"],
                    }
                )
    for stem, known in (
        ("vtest_h264", [1, 0, 1, 0]),
        ("bgslibrary_video03", [1, 1, 1, 1]),
        ("opencv4nodejs_traffic", [1, 1, 1, 1]),
    ):
        file = f"empty-{stem}.webp"
        clip = sorted((pack / "clips" / stem).glob("*.webp"))
        frames = np.stack([np.asarray(Image.open(f)) for f in clip[:: max(1, len(clip) // 40)]])
        Image.fromarray(np.median(frames, 0).astype(np.uint8)).save(pack / "photos" / file, quality=92)
        width, height = json.loads((pack / "clips" / stem / "clip.json").read_text())["size"]
        rows.append(
            {"file": file, "boxes": [], "known": [bool(k) for k in known], "split": "train", "aspect": width / height}
        )
    (pack / "photos.json").write_text(json.dumps(rows))


def intervals(data: Path, path: str) -> dict[str, list[tuple[float, float]]]:
    """Labelled intervals of a clip by what they show."""
    found: dict[str, list[tuple[float, float]]] = {}
    with (data / "EVENTS.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file"] == path:
                found.setdefault(row["event"], []).append((float(row["start_s"]), float(row["end_s"])))
    with (data / "MANIFEST.csv").open() as file:
        for row in csv.DictReader(file):
            if row["file"] == path and "intervals:" in row["note"]:
                for part in row["note"].split("intervals:")[1].split(";"):
                    if match := re.match(r"\s*Fall[^[]*\[([\d.]+) to ([\d.]+)", part):
                        found.setdefault("fall", []).append((float(match[1]), float(match[2])))
    return found


def frame_labels(data: Path, path: str, stem: str, times: list[float]) -> dict[str, list[int]]:
    """Per frame and class: 1 in view, 0 not, -1 unknown."""
    at, labels = np.array(times), {}

    def inside(spans: list[tuple[float, float]]) -> np.ndarray[Any, Any]:
        return np.any([(at >= a) & (at < b) for a, b in spans], axis=0) if spans else np.zeros(len(at), bool)

    for name, value in FIXED.get(stem, {}).items():
        labels[name] = np.full(len(at), value)
    events = intervals(data, path)
    if "gmdcsa24" in path:
        labels["person"], labels["vehicle"] = np.ones(len(at), int), np.zeros(len(at), int)
        labels["fall"] = inside(events.get("fall", [])).astype(int)
    if "person present" in events:
        labels["person"] = inside(events["person present"]).astype(int)
    if "vehicle(s) present" in events:
        labels["vehicle"] = inside(events["vehicle(s) present"]).astype(int)
    if "bicycle" in events:  # a rider is hard to call a person in view, a bicycle a vehicle: left out
        rides = inside(events["bicycle"])
        for name, event in (("person", "person"), ("vehicle", "car")):
            there = inside(events[event])
            labels[name] = np.where(there, 1, np.where(rides, -1, 0))
    return {name: [int(v) for v in values] for name, values in labels.items()}


def pack_clip(data: Path, path: str, split: str, pack: Path) -> None:
    """Frames on the product's sampling grid at the model's square, with labels and replenish's masks from the coded luma."""
    stem = Path(path).stem
    folder = pack / "clips" / stem
    folder.mkdir(parents=True, exist_ok=True)
    times: list[float] = []
    keeps: list[Any] = []
    state: KeepState | None = None
    with av.open(str(data / path)) as container:
        begin, tick = None, 0
        for picture in container.decode(video=0):
            begin = picture.time if begin is None else begin
            now = picture.time - begin
            if now + 1e-6 < tick / FPS:
                continue
            slot = int(now * FPS + 1e-6)
            luma = picture.to_ndarray(format="gray")
            if state is None:
                grid = TokenGrid.regular(TOKENS, TOKENS, picture.width, picture.height)
                state = KeepState(grid, KeepConfig(fps=Fraction(FPS), period_s=Fraction(8)))
            keeps.append(state.step(slot, None, lambda luma=luma: luma).keep)  # type: ignore[misc]
            image = picture.to_image()
            size = image.size
            image.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(
                folder / f"{len(times):04d}.webp", quality=88, method=2
            )
            times.append(round(now, 3))
            tick = slot + 1
    about = {
        "path": path,
        "split": split,
        "size": size,
        "times": times,
        "labels": frame_labels(data, path, stem, times),
    }
    if stem == "vtest_h264":
        about["boxes"] = cutouts.pets_boxes(data, times)
    (folder / "clip.json").write_text(json.dumps(about))
    np.save(folder / "keep.npy", np.packbits(np.stack(keeps), axis=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True)
    args = parser.parse_args()
    patterns = read_split(Path(__file__).parent / "split.csv")
    with (args.data / "MANIFEST.csv").open() as file:
        paths = [row["file"] for row in csv.DictReader(file)]
    for path in paths:
        split = next((s for p, s in patterns if fnmatch.fnmatch(path, p)), "unused")
        if split in ("train", "test"):
            pack_clip(args.data, path, split, args.pack)
            print(path, split, flush=True)
    cutouts.label_by_motion(args.pack, ("bgslibrary_video03", "opencv4nodejs_traffic"))
    pack_photos(args.data, args.pack)
    cutouts.pack_cutouts(args.data, args.pack)


if __name__ == "__main__":
    main()

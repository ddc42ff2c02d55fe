"""Cut-outs of people, vehicles, animals, bags and other things, with soft edges, for scenes.py to paste.

From COCO's polygons; from vehicle photographs by GrabCut inside their boxes; furniture.py's models; from three fixed cameras
by the difference to the empty picture, so that some are cut at a camera's own scale and angle; drawn.py's vehicles and
street.py's things. A bicycle is no vehicle.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from drawn import vehicle_from_above
from furniture import HELD_OUT, furniture
from maker import RENDER
from PIL import Image, ImageDraw
from questions import CLASSES
from street import street_thing

Bytes = npt.NDArray[np.uint8]

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
AMBIGUOUS = {"train", "boat", "airplane", "tie", "teddy bear"}
LONGEST = 224

FROM_ABOVE = ("bgslibrary_video03", "opencv4nodejs_traffic")
"""Clips of cameras that look down on a road on which nothing but vehicles and leaves moves."""
LEAVES = 3.0
"""Levels by which green exceeds red and blue from which a place is leaves (they have 6 to 12, roads -30 to 0)."""
DRAWN = 30
"""Vehicles that are drawn as seen from straight above: some quarter of those seen from above."""
STREET = 160
"""Things of streets that are drawn (street.py)."""
SOLID = 0.7
"""Least share of its convex hull that one vehicle fills."""
PLAZA = "vtest_h264"
"""The clip whose pedestrians have boxes."""


def labelled(data: Path, name: str) -> Iterator[tuple[dict[str, Any], str, bytes]]:
    """(label, "train" or "val", the file) of each photograph of train/{name}.tar. Of "val" neither the photograph nor
    cut-outs of it are trained on."""
    with tarfile.open(data / "train" / f"{name}.tar") as archive:

        def read(file: str) -> bytes:
            if (member := archive.extractfile(file)) is None:
                raise SystemExit(f"prepare.py: {file} in train/{name}.tar is no file")
            return member.read()

        labels = [json.loads(line) for line in read("labels.jsonl").splitlines()]
        kept = "val" if name == "coco128" else "test"
        held = [x["file"] for x in labels if x["split"] == kept][: 48 if name == "coco128" else None]
        for label in labels:
            yield label, "val" if label["file"] in held else "train", read(label["file"])


def pets_boxes(data: Path, times: list[float]) -> list[list[list[float]]]:
    """Pedestrians in each sampled frame: (x0, y0, x1, y1) as shares; the detections count pictures from 1 at 10 a second."""
    by: dict[int, list[list[float]]] = {}
    for line in (data / "labelled/pets09_s2l1_vtest/det.txt").read_text().splitlines():
        frame, _, x, y, w, h, score, *_ = (float(v) for v in line.split(","))
        if score > 0.8:
            by.setdefault(int(frame), []).append([x / 768, y / 576, (x + w) / 768, (y + h) / 576])
    return [by.get(round(t * 10) + 1, []) for t in times]


class Writer:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, rgb: Bytes, alpha: Bytes, kind: str, split: str, from_above: bool = False) -> None:
        ys, xs = np.where(alpha > 64)
        if len(ys) < 80 or np.ptp(ys) < 16 or np.ptp(xs) < 8:
            return
        box = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        image = Image.fromarray(np.ascontiguousarray(np.dstack([rgb, alpha])[box]))
        scale = min(1, LONGEST / max(image.size))
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
        file = f"{len(self.rows):05d}.webp"
        image.save(self.folder / file, quality=82, method=4)
        aspect = image.width / image.height
        self.rows.append({"file": file, "kind": kind, "split": split, "aspect": aspect, "from_above": from_above})


def pack_cutouts(data: Path, pack: Path) -> None:
    writer = Writer(pack / "cutouts")
    for name, cut in (("coco128", _polygons), ("vehicles", _grabcut)):
        for label, split, content in labelled(data, name):
            image = Image.open(io.BytesIO(content)).convert("RGB")
            for kind, alpha in cut(label, image):
                writer.save(np.asarray(image), alpha, kind, split)
    for model in furniture(data):
        writer.save(model.rgba[..., :3], model.rgba[..., 3], model.kind, model.split)
    _pedestrians(pack, writer)
    for stem in FROM_ABOVE:
        _movers(pack, stem, writer)
    rng = np.random.default_rng(0)
    for _ in range(DRAWN):
        rgba = vehicle_from_above(rng)
        writer.save(rgba[..., :3], rgba[..., 3], "vehicle", "train", from_above=True)
    for number in range(STREET):
        rgba = street_thing(rng)
        writer.save(rgba[..., :3], rgba[..., 3], "other", "val" if number % HELD_OUT == 0 else "train")
    (pack / "cutouts.json").write_text(json.dumps(writer.rows))


def _polygons(label: dict[str, Any], image: Image.Image) -> list[tuple[str, Bytes]]:
    found = []
    for polygon in label.get("polygons") or []:
        if polygon["label"] in AMBIGUOUS:
            continue
        points = np.array(polygon["xy"]).reshape(-1, 2) * image.size
        if np.ptp(points[:, 1]) < 34 or np.ptp(points[:, 0]) < 14:
            continue
        mask = Image.new("L", (image.width * 2, image.height * 2), 0)
        ImageDraw.Draw(mask).polygon([tuple(p * 2) for p in points], fill=255)
        alpha = np.asarray(mask.resize(image.size, Image.Resampling.BILINEAR))
        kind = KINDS.get(polygon["label"])
        found.append(("other" if kind is None else CLASSES[kind], cv2.GaussianBlur(alpha, (3, 3), 0.8)))
    return found


def _grabcut(label: dict[str, Any], image: Image.Image) -> list[tuple[str, Bytes]]:
    """The largest vehicle of a photograph that shows it whole."""
    x0, y0, x1, y1 = max((b["xyxy"] for b in label["boxes"]), key=lambda b: (b[2] - b[0]) * (b[3] - b[1]))
    if len(label["boxes"]) > 3 or x0 < 0.02 or x1 > 0.98 or y0 < 0.01 or y1 > 0.99 or (x1 - x0) * (y1 - y0) < 0.06:
        return []
    scale = 160 / max(image.size)
    small = cv2.resize(np.asarray(image)[:, :, ::-1], None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = small.shape[:2]
    rectangle = (int(x0 * width), int(y0 * height), max(2, int((x1 - x0) * width)), max(2, int((y1 - y0) * height)))
    mask = np.zeros((height, width), np.uint8)
    cv2.setRNGSeed(0)
    cv2.grabCut(small, mask, rectangle, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_RECT)
    solid = cv2.morphologyEx(np.isin(mask, (1, 3)).astype(np.uint8) * 255, cv2.MORPH_OPEN, np.ones((3, 3)))
    count, parts, stats, _ = cv2.connectedComponentsWithStats(solid)
    if count < 2:
        return []
    largest = 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())
    if stats[largest, cv2.CC_STAT_AREA] < 0.4 * rectangle[2] * rectangle[3]:
        return []
    alpha = cv2.morphologyEx((parts == largest).astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((7, 7)))
    alpha = cv2.resize(alpha, image.size, interpolation=cv2.INTER_LINEAR)
    return [("vehicle", cv2.GaussianBlur(alpha, (3, 3), 1.0).astype(np.uint8))]


def _clip(pack: Path, stem: str) -> tuple[Bytes, Bytes, dict[str, Any]]:
    """(frames (n, RENDER, RENDER, 3), the empty picture, clip.json)."""
    folder = pack / "clips" / stem
    frames = np.stack([np.asarray(Image.open(f)) for f in sorted(folder.glob("*.webp"))])
    empty = np.median(frames[:: max(1, len(frames) // 40)], 0).astype(np.uint8)
    return frames, empty, json.loads((folder / "clip.json").read_text())


def _moved(frame: Bytes, empty: Bytes, threshold: int, close: int, clean: int) -> Bytes:
    difference = np.abs(frame.astype(np.int16) - empty).max(2)
    mask = cv2.morphologyEx((difference > threshold).astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((close, close)))
    return np.asarray(cv2.morphologyEx(mask, cv2.MORPH_OPEN, np.ones((clean, clean))), np.uint8)


def _unsqueezed(rgb: Bytes, alpha: Bytes, aspect: float) -> tuple[Bytes, Bytes]:
    """Both in the camera's own proportions, enlarged half again."""
    size = round(rgb.shape[1] * aspect * 1.5), round(rgb.shape[0] * 1.5)
    alpha = cv2.GaussianBlur(cv2.resize(alpha, size), (5, 5), 1.2).astype(np.uint8)
    return cv2.resize(rgb, size, interpolation=cv2.INTER_CUBIC).astype(np.uint8), alpha


def _pedestrians(pack: Path, writer: Writer) -> None:
    frames, empty, about = _clip(pack, PLAZA)
    for frame, boxes in list(zip(frames, about["boxes"], strict=True))[::3]:
        mask = _moved(frame, empty, 28, 5, 3)
        for box in boxes:
            x0, y0, x1, y1 = (round(min(1, max(0, v)) * RENDER) for v in box)
            x0, y0, x1, y1 = max(0, x0 - 4), max(0, y0 - 4), x1 + 4, y1 + 4
            alpha = mask[y0:y1, x0:x1]
            if alpha.size and (alpha > 0).mean() > 0.25:
                writer.save(
                    *_unsqueezed(frame[y0:y1, x0:x1], alpha, about["size"][0] / about["size"][1]), "person", "train"
                )


def _movers(pack: Path, stem: str, writer: Writer) -> None:
    frames, empty, about = _clip(pack, stem)
    for frame in frames[::2]:
        for x, y, w, h, area, mask in _what_drives(frame, empty):
            if area < 500 or max(w, h) > 220 or min(x, y) <= 1 or x + w >= RENDER - 1 or y + h >= RENDER - 1:
                continue
            # A dark roof is missing from what differs from dark asphalt; where more is missing, it is two vehicles.
            outline, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            hull = cv2.convexHull(np.concatenate(outline))
            if area < SOLID * cv2.contourArea(hull):
                continue
            alpha = cv2.fillConvexPoly(np.zeros_like(mask), hull, 255).astype(np.uint8)
            writer.save(
                *_unsqueezed(frame[y : y + h, x : x + w], alpha, about["size"][0] / about["size"][1]),
                "vehicle",
                "train",
                from_above=True,
            )


def label_by_motion(pack: Path, stem: str) -> list[int]:
    """Vehicle labels of a clip of FROM_ABOVE: 1 where a large thing differs, leaves apart, 0 where nothing does."""
    frames, empty, _ = _clip(pack, stem)
    labels = []
    for frame in frames:
        largest = max((area for *_, area, _ in _what_drives(frame, empty)), default=0)
        labels.append(1 if largest > 350 else 0 if largest < 60 else -1)
    return labels


def _what_drives(frame: Bytes, empty: Bytes) -> Iterator[tuple[int, int, int, int, int, Bytes]]:
    """(x, y, width, height, area, its mask in that box) of each thing that differs from the empty picture, leaves apart."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(_moved(frame, empty, 30, 9, 5))
    for part in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[part])
        mask = parts[y : y + h, x : x + w] == part
        red, green, blue = empty[y : y + h, x : x + w][mask].mean(0)
        if green - max(red, blue) < LEAVES:
            yield x, y, w, h, area, mask.astype(np.uint8) * 255

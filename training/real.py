"""Real clips on the product's sampling grid: what their labels say of each frame, as a bank and as a spec."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import bank
import cutouts
import numpy as np
import numpy.typing as npt
from cameras import labels_of
from encode import Keeping, squeeze
from facts import FALLEN, FIGHTING, LEFT
from maker import BACKGROUND_S, FPS, RENDER, TOKENS
from PIL import Image
from questions import CLASSES, QUESTIONS
from specs import Row, rows_of

PERIOD_S = 8
"""Seconds between anchors."""

CALM = {"fall": 0, "fight": 0, "left": 0}
FIXED: dict[str, dict[str, int]] = {
    "opencv4nodejs_traffic": {"animal": 0, "moving": 2, **CALM},
    "bgslibrary_video03": {"animal": 0, **CALM},
    "intel_bottle-detection": {"animal": 0, "fall": 0, "fight": 0},
    "intel_preview_store-aisle-detection": {"animal": 0, **CALM},
    "intel_preview_worker-zone-detection": {"animal": 0, **CALM},
    "intel_preview_classroom": {"animal": 0, **CALM},
    "vtest_h264": {"animal": 0, "moving": 2, **CALM},
}
"""What holds of every frame of a clip besides people and vehicles (labels.csv), seen by eye: 1 yes, 0 no; `moving`: 2,
several things do."""


@dataclass
class RealClip:
    """A clip's sampled frames. `pictures`: (RENDER, RENDER, 3) uint8 each, for cut-outs of what moves in them; `frames`,
    `keep`: as the bank has them; `background`: the masks where tokens outlive their frames. `labels`: by what is asked, 1, 0
    or -1 unknown a frame. `boxes`: people in each frame, shares, where a detector looked for them."""

    path: str
    size: tuple[int, int]
    times: list[float]
    pictures: list[npt.NDArray[np.uint8]]
    frames: list[npt.NDArray[np.uint8]]
    keep: list[npt.NDArray[np.bool_]]
    background: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    labels: dict[str, list[int]] = field(default_factory=dict)
    boxes: list[list[list[float]]] = field(default_factory=list)

    @property
    def stem(self) -> str:
        return Path(self.path).stem

    def write_pictures(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for i, picture in enumerate(self.pictures):
            Image.fromarray(picture).save(folder / f"{i:04d}.webp", quality=88, method=2)
        (folder / "clip.json").write_text(json.dumps({"size": self.size, "times": self.times, "boxes": self.boxes}))


def watch_clip(data: Path, path: str) -> RealClip:
    """What the product's worker would see and keep of a clip, with its labels."""
    anchored: Keeping | None = None
    clip = RealClip(path, (0, 0), [], [], [], [])
    with av.open(str(data / path)) as container:
        begin, tick = None, 0
        for picture in container.decode(video=0):
            begin = picture.time if begin is None else begin
            now = picture.time - begin
            if now + 1e-6 < tick / FPS:
                continue
            slot = int(now * FPS + 1e-6)
            if anchored is None:
                anchored, once = (Keeping(picture.width, picture.height, s) for s in (PERIOD_S, BACKGROUND_S))
                clip.size = picture.width, picture.height
            clip.keep.append(anchored.of(slot, picture))
            clip.background.append(once.of(slot, picture))
            rgb = picture.to_ndarray(format="rgb24")
            clip.frames.append(squeeze(rgb))
            clip.pictures.append(np.asarray(Image.fromarray(rgb).resize((RENDER, RENDER), Image.Resampling.BICUBIC)))
            clip.times.append(round(now, 3))
            tick = slot + 1
    clip.labels = frame_labels(data, path, clip.stem, clip.times)
    if clip.stem == cutouts.PLAZA:
        clip.boxes = cutouts.pets_boxes(data, clip.times)
    return clip


def pack_bank(folder: Path, clips: list[RealClip]) -> None:
    """`clips` as a bank, with masks for a background besides: background.npy, as keep.npy."""
    count = sum(len(clip.times) for clip in clips)
    bank.begin(folder, count)
    frames, keep, cover = (np.load(folder / f"{name}.npy", mmap_mode="r+") for name in ("frames", "keep", "cover"))
    facts, entries, at = bank.nothing_known(count), [], 0
    outlive = np.zeros_like(keep)
    for clip in clips:
        part = slice(at, at + len(clip.times))
        frames[part], keep[part], cover[part] = np.stack(clip.frames), np.stack(clip.keep), cover_of(clip)
        outlive[part] = np.stack(clip.background)
        for c, name in enumerate(CLASSES):
            if name in clip.labels:
                values = np.array(clip.labels[name])
                facts["seen"][part, c], facts["known"][part, c] = values == 1, values >= 0
        for name in ("fall", "fight", "left", "moving"):
            if name in clip.labels:
                facts[name][part] = clip.labels[name]
        entries.append({"name": clip.stem, "start": at, "length": len(clip.times), "real": True, "path": clip.path})
        at = part.stop
    np.save(folder / "background.npy", outlive)
    bank.finish(folder, facts, entries)


def cover_of(clip: RealClip) -> npt.NDArray[np.uint8]:
    """(frames, 8, TOKENS, TOKENS): what is known of where things are."""
    cover = np.full((len(clip.times), bank.CHANNELS, TOKENS, TOKENS), -1.0)
    for c, name in enumerate(CLASSES):
        if name in clip.labels:
            cover[np.array(clip.labels[name]) == 0, c] = 0.0
    for channel, name in ((FALLEN, "fall"), (FIGHTING, "fight"), (LEFT, "left")):
        if name in clip.labels:
            cover[np.array(clip.labels[name]) == 0, channel] = 0.0
    edges = np.arange(TOKENS) / TOKENS
    for people, boxes in zip(cover[:, 0], clip.boxes, strict=False):
        for x0, y0, x1, y1 in boxes:
            rim = 0.1 * (x1 - x0)
            wide = (np.minimum(edges + 1 / TOKENS, x1 - rim) - np.maximum(edges, x0 + rim)).clip(0)
            high = (np.minimum(edges + 1 / TOKENS, y1) - np.maximum(edges, y0)).clip(0)
            people[:] = np.maximum(people, high[:, None] * wide * TOKENS**2)
        if boxes:
            # Where no pedestrian was detected, none is: the detector misses few, and the dense loss forgives some.
            people[people <= 0] = 0.0
    return np.where(cover < 0, bank.UNKNOWN, (cover.clip(0, 1) * 254).round()).astype(np.uint8)


def spec_rows(data: Path, paths: list[str], names: Sequence[str] = ("person", "vehicle")) -> Iterator[Row]:
    """Clips as a spec: what of `names` is in view or happens, as far as that is known; to the labels' own tenths of seconds,
    not to the frames'."""
    for path in paths:
        with av.open(str(data / path)) as container:
            end = (container.duration or 0) / av.time_base
        seen = [span[:2] for spans in labels_of(path).values() for span in spans]
        labelled = [span for spans in intervals(data, path).values() for span in spans]
        edges = sorted({0.0, *(t for span in (*seen, *labelled) for t in span if 0 < t < end), end})
        labels = frame_labels(data, path, Path(path).stem, [(a + b) / 2 for a, b in pairwise(edges)])
        for name in names:
            if name in labels:
                answers = [{1: "Yes", 0: "No"}.get(value) for value in labels[name]]
                yield from rows_of(str((data / path).resolve()), name, answers, edges)


def event_rows(data: Path, paths: list[str]) -> Iterator[Row]:
    """Clips with falls and fights as a spec. Folders say which show a fight from beginning to end, and which none."""
    for path in paths:
        if "fight_surv" in path:
            answer = "Yes" if Path(path).parent.name == "fight" else "No"
            yield str((data / path).resolve()), "", "", QUESTIONS["fight"][0], "yes-no", answer
        elif "gmdcsa24" in path:
            yield from spec_rows(data, [path], ["fall"])


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
    """By what is asked, at each of `times`: 1 in view, 0 not, -1 unknown."""
    at, labels = np.array(times), {}

    def inside(spans: list[tuple[float, float]]) -> np.ndarray[Any, Any]:
        return np.any([(at >= a) & (at < b) for a, b in spans], axis=0) if spans else np.zeros(len(at), bool)

    for name, value in FIXED.get(stem, {}).items():
        labels[name] = np.full(len(at), value)
    for name, seen in labels_of(path).items():
        labels[name] = np.full(len(at), -1)
        for begin, until, value in seen:
            labels[name][(at >= begin) & (at < until)] = value
    events = intervals(data, path)
    if "gmdcsa24" in path:
        labels["fall"] = inside(events.get("fall", [])).astype(int)
        labels["fight"] = np.zeros(len(at), int)
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

"""Banks: clips made or packed before training, one folder each, and how they are read.

N is the number of all frames of all clips, one clip after the other; SIDE the model's square; TOKENS^2 a frame's tokens.

frames.npy  (N, 3, SIDE, SIDE) uint8 RGB, as the product would give them to the model
keep.npy    (N, TOKENS^2) bool, replenish's masks, by the product's own code; a clip's first frame is whole
cover.npy   (N, 8, TOKENS, TOKENS) uint8: share of each token that a channel covers, 0 to 254; 255 unknown. Channels: person,
            vehicle, animal, bag; what moves; who fell and lies; what was left behind by its owner; who fights
facts.npz   by frame. seen (N, 4) int16 things in view; known (N, 4) bool, whether that is certain as to none or some;
            slivers (N, 4) bool, something of the class is barely in view; complete (N, 4) bool, counts are certain; moving
            (N,) int8 things on the move, -1 not certain; mover, person_at (N, 2) float32, where the one that moves and the
            one person are, -1 unknown; fall, left, fight (N,) int8, someone fell and lies, a thing was left behind, people
            fight: 1, 0, -1 not certain; left_since (N,) int32, the frame of the clip from which its owner began to leave, -1
clips.json  [{"name", "start", "length", "real", ...}], in order; written last: a folder that has it is finished
background.npy  of real clips: keep.npy where tokens outlive their frames
frames.zip  in place of frames.npy where a bank has to travel: one WebP picture a frame, nearly the same pixels
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from maker import SIDE, TOKENS
from PIL import Image

CHANNELS = 8
UNKNOWN = 255
SHAPES: dict[str, tuple[tuple[int, ...], Any]] = {
    "frames": ((3, SIDE, SIDE), np.uint8),
    "keep": ((TOKENS**2,), np.bool_),
    "cover": ((CHANNELS, TOKENS, TOKENS), np.uint8),
}
FACTS: dict[str, tuple[tuple[int, ...], Any, int]] = {
    "seen": ((4,), np.int16, 0),
    "known": ((4,), np.bool_, 0),
    "slivers": ((4,), np.bool_, 0),
    "complete": ((4,), np.bool_, 0),
    "moving": ((), np.int8, -1),
    "mover": ((2,), np.float32, -1),
    "person_at": ((2,), np.float32, -1),
    "fall": ((), np.int8, -1),
    "left": ((), np.int8, -1),
    "fight": ((), np.int8, -1),
    "left_since": ((), np.int32, -1),
}
"""Shape and type of one frame's, and what says that nothing is known."""

Facts = dict[str, npt.NDArray[Any]]


@dataclass
class Bank:
    """A bank as it lies on the disk: `frames` and `cover` are read where they are looked at, by every process alike."""

    frames: npt.NDArray[np.uint8]
    keep: npt.NDArray[np.bool_]
    cover: npt.NDArray[np.uint8]
    facts: Facts
    clips: list[dict[str, Any]]
    background: npt.NDArray[np.bool_] | None = None


def nothing_known(frames: int) -> Facts:
    """Facts of `frames` frames that say nothing."""
    return {name: np.full((frames, *shape), value, kind) for name, (shape, kind, value) in FACTS.items()}


def finished(folder: Path) -> bool:
    return (folder / "clips.json").exists()


def begin(folder: Path, frames: int) -> None:
    """Makes room for a bank of `frames` frames, in place of what was begun there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "clips.json").unlink(missing_ok=True)
    for name, (shape, kind) in SHAPES.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", kind, (frames, *shape))


def finish(folder: Path, facts: Facts, clips: list[dict[str, Any]]) -> None:
    """Writes what is still missing of a bank whose frames, masks and cover are there."""
    arrays: dict[str, Any] = facts
    np.savez_compressed(folder / "facts.npz", **arrays)
    part = folder / "clips.json.part"
    part.write_text(json.dumps(clips))
    part.rename(folder / "clips.json")


def fold(folder: Path, quality: int = 92) -> None:
    """Makes a bank fit to travel: its frames become pictures in frames.zip, a tenth of the bytes."""
    frames = np.load(folder / "frames.npy", mmap_mode="r")
    with zipfile.ZipFile(folder / "frames.zip", "w", zipfile.ZIP_STORED) as archive:
        for i, frame in enumerate(frames):
            file = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(frame.transpose(1, 2, 0))).save(file, "WEBP", quality=quality)
            archive.writestr(f"{i:06d}.webp", file.getvalue())
    (folder / "frames.npy").unlink()


def unfold(folder: Path) -> None:
    """frames.npy again from frames.zip."""
    with zipfile.ZipFile(folder / "frames.zip") as archive:
        names = sorted(archive.namelist())
        frames = np.empty((len(names), *SHAPES["frames"][0]), np.uint8)
        for i, name in enumerate(names):
            frames[i] = np.asarray(Image.open(archive.open(name)).convert("RGB")).transpose(2, 0, 1)
    part = folder / f"frames.{os.getpid()}.npy"  # processes may do so side by side
    np.save(part, frames)
    part.rename(folder / "frames.npy")


def load_bank(folder: Path) -> Bank:
    """A finished bank. Raises FileNotFoundError without one."""
    clips = json.loads((folder / "clips.json").read_text())
    if not (folder / "frames.npy").exists():
        unfold(folder)
    with np.load(folder / "facts.npz") as archive:
        facts = {name: archive[name] for name in FACTS}
    frames, keep, cover = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in SHAPES)
    outlive = folder / "background.npy"
    return Bank(frames, keep, cover, facts, clips, np.load(outlive, mmap_mode="r") if outlive.exists() else None)

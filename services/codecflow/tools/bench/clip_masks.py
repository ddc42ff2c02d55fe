"""A clip as input for the benchmark's language model: sampled pictures, and each keep policy's masks.

Computed from a video through the real codec signal and the real keep policies, or read from a file made earlier, so that the
machine with the GPU needs neither FFmpeg nor the clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from codecflow.errors import ConfigError
from codecflow.grid import TokenGrid
from codecflow.keep import POLICY_NAMES, KeepConfig, KeepState
from codecflow.keep.config import BACKGROUND_PERIOD_S

BACKGROUND = "background"
"""Masks of `replenish` for a window with a background: very few anchors."""

MASK_NAMES = (*POLICY_NAMES, BACKGROUND)

GridOf = Callable[[int, int], TokenGrid]
"""A model's token grid for a picture (width, height)."""


@dataclass(frozen=True, slots=True)
class ClipMasks:
    """One clip. `pictures`: (frames, height, width, 3) uint8. `keep`: by MASK_NAMES, (frames, tokens) bool. `anchors`:
    (frames,) bool, frames that every policy keeps completely. Frames are consecutive on the sampling grid."""

    name: str
    rows: int
    columns: int
    pictures: npt.NDArray[np.uint8]
    keep: dict[str, npt.NDArray[np.bool_]]
    anchors: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.pictures)


def masks_of_clip(
    name: str, clip: Path, grid_of: GridOf, fps: Fraction, anchor_s: Fraction, seconds: float
) -> ClipMasks:
    """Masks of a video, up to `seconds` of it, under the name `name`. Raises SourceError when it cannot be read."""
    from codecflow.tools.bench.sampling import sampled_frames

    pictures, anchors = [], []
    keep: dict[str, list[npt.NDArray[np.bool_]]] = {mask: [] for mask in MASK_NAMES}
    states: dict[str, KeepState] = {}
    for sampled in sampled_frames(clip, fps, seconds):
        picture = sampled.picture
        if not states:
            grid = grid_of(*picture.size).oriented(picture.orientation)
            config = KeepConfig(fps=fps, period_s=anchor_s)
            states = {p: KeepState(grid, replace(config, policy=p)) for p in POLICY_NAMES}  # type: ignore[arg-type]
            rare = replace(config, coverage="background", period_s=BACKGROUND_PERIOD_S)
            states[BACKGROUND] = KeepState(grid, rare)
        decisions = {mask: sampled.decide(state) for mask, state in states.items()}
        for mask, decision in decisions.items():
            keep[mask].append(decision.keep)
        anchors.append(bool(decisions["replenish"].forced.all()))
        pictures.append(picture.rgb())
    return ClipMasks(
        name, grid.rows, grid.columns, np.stack(pictures), {p: np.stack(m) for p, m in keep.items()}, np.array(anchors)
    )


def save_masks(clips: Sequence[ClipMasks], file: Path, grid_of: GridOf) -> None:
    """Writes `clips` to one compressed .npz file. Pictures are downsampled to at most 256 columns if the model has as many
    tokens for those, since they are used only for timing.

    Raises ConfigError when it cannot be written.
    """
    content: dict[str, npt.NDArray[np.generic]] = {}
    for number, clip in enumerate(clips):
        content[f"{number}/name"] = np.array(clip.name)
        content[f"{number}/grid"] = np.array([clip.rows, clip.columns])
        step = -(-clip.pictures.shape[2] // 256)
        thin = clip.pictures[:, ::step, ::step]
        content[f"{number}/pictures"] = thin if _cells(thin, grid_of) == (clip.rows, clip.columns) else clip.pictures
        content[f"{number}/anchors"] = clip.anchors
        for policy, masks in clip.keep.items():
            content[f"{number}/keep/{policy}"] = np.packbits(masks, axis=1)
    try:
        with file.open("wb") as out:
            np.savez_compressed(out, **content)  # type: ignore[arg-type]  # its stub has no room for arrays by name
    except OSError as error:
        raise ConfigError(f"masks {file}: cannot be written ({error.strerror})") from None


def load_masks(file: Path, grid_of: GridOf) -> list[ClipMasks]:
    """The clips of a file that `save_masks` wrote. Raises ConfigError for any other file, or for another token grid."""
    try:
        with np.load(file) as held:
            content = dict(held)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise ConfigError(f"masks {file}: cannot be read ({error}); make it with --save-masks") from error
    clips = []
    for number in range(sum(key.endswith("/name") for key in content)):
        pictures, anchors = content[f"{number}/pictures"], content[f"{number}/anchors"]
        rows, columns = _cells(pictures, grid_of)
        if tuple(content[f"{number}/grid"].tolist()) != (rows, columns):
            raise ConfigError(f"masks {file}: made for another token grid than {rows}x{columns}; create them again")
        keep: dict[str, npt.NDArray[np.bool_]] = {
            policy: np.unpackbits(content[f"{number}/keep/{policy}"], axis=1, count=rows * columns).astype(bool)
            for policy in MASK_NAMES
        }
        clips.append(ClipMasks(str(content[f"{number}/name"]), rows, columns, pictures, keep, anchors))
    if not clips:
        raise ConfigError(f"masks {file}: no clip in it; make it with --save-masks")
    return clips


def _cells(pictures: npt.NDArray[np.uint8], grid_of: GridOf) -> tuple[int, int]:
    """Rows and columns of tokens in each of `pictures` (frames, height, width, 3)."""
    grid = grid_of(pictures.shape[2], pictures.shape[1])
    return grid.rows, grid.columns

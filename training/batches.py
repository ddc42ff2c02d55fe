"""What the training loop reads: batch number k, drawn from the banks by seed and k alone, made by processes on the CPU.

A step learns from several batches of one mode. One GPU takes them one after the other, more of them side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import questions as q
import torch
from answer_labels import MAX_QUESTIONS, certain, changing, pick
from bank import CHANNELS, UNKNOWN, Bank, Facts, nothing_known
from layout import Batch, Clip, Layout
from maker import BACKGROUND_S, NEWEST, TOKENS
from torch import Tensor
from torch.utils.data import Dataset


@dataclass(frozen=True)
class Mode:
    """A kind of batch: `clips` clips of `frames` frames, whole or pruned, `share` of all batches.

    `longest`: tokens after which a sequence is cut. `asked`: questions a stride. `first`: it occurs from the first batch on;
    the others come later, since what things look like comes before what happens to them.
    """

    name: str
    clips: int
    frames: int
    pruned: bool
    share: float
    longest: int
    asked: int = MAX_QUESTIONS
    first: bool = False


MODES = (
    Mode("frame", 224, 1, False, 0.3, 400, 5, first=True),
    Mode("stride", 88, 4, False, 0.11, 600, 5, first=True),
    Mode("stride-pruned", 112, 4, True, 0.09, 600, 5),
    Mode("window", 24, 16, False, 0.15, 1700),
    Mode("window-pruned", 44, 16, True, 0.2, 1300),
    Mode("long", 5, 80, False, 0.05, 7400, 3),
    Mode("long-pruned", 11, 80, True, 0.1, 4200, 3),
)
WINDOWS = (8, 16, 16, 32, 80)
"""Frames that a window may have."""

SHARE_BACKGROUND = 0.35
"""Share of real clips whose tokens outlive their frames."""


@dataclass
class Draft:
    """A batch on its way. `frames`: (n, 3, S, S) uint8, those of which something is kept. `keep`: (n, tokens) bool. `cover`:
    (kept tokens, 8) uint8. `names`: of each question asked, in the batch's numbering."""

    mode: str
    frames: Tensor
    keep: npt.NDArray[np.bool_]
    cover: Tensor
    batch: Batch
    names: list[str]

    def pin_memory(self) -> Draft:
        """Where a GPU can fetch it from without waiting; called by the loader."""
        parts = {f.name: getattr(self.batch, f.name) for f in fields(Batch)}
        batch = Batch(**{name: part.pin_memory() if part.numel() else part for name, part in parts.items()})
        return replace(self, frames=self.frames.pin_memory(), cover=self.cover.pin_memory(), batch=batch)


class Batches(Dataset[Draft]):
    """Batch `k` is the same in every run of one `seed`. `parts`: batches of a step. `early`: before this step only modes
    that are `first`. `share_real`: of clips that are real cameras'; `share_cropped`: how many of those are cut to
    a part where everything is kept; `share_lit`: of the others, how many are put in another light.
    """

    def __init__(
        self,
        scenes: Sequence[Bank],
        real: Bank | None,
        layout: Layout,
        seed: int,
        *,
        parts: int,
        share_real: float = 0.1,
        share_lit: float = 0.3,
        share_cropped: float = 0.5,
        early: int = 0,
        scale: float = 1.0,
        modes: Sequence[Mode] = MODES,
    ) -> None:
        self.real, self.layout, self.seed, self.parts = real, layout, seed, parts
        self.share_real, self.share_lit, self.share_cropped = share_real, share_lit, share_cropped
        self.early, self.scale, self.modes = early, scale, modes
        self.by_length = {
            n: [(bank, e) for bank in scenes for e in bank.clips if e["length"] == n] for n in {m.frames for m in modes}
        }
        if real is not None:
            self.real_weights = np.array([e["length"] for e in real.clips]) ** 0.5
            self.real_weights /= self.real_weights.sum()

    def __len__(self) -> int:
        return 1 << 30

    def __getitem__(self, number: int) -> Draft:
        step = number // self.parts
        modes = [m for m in self.modes if m.first or step >= self.early]
        shares = np.array([m.share for m in modes])
        which = np.random.default_rng((self.seed, step)).choice(len(modes), p=shares / shares.sum())
        return self.draw(modes[int(which)], np.random.default_rng((self.seed, step, number % self.parts)))

    def draw(self, mode: Mode, rng: np.random.Generator) -> Draft:
        parts = [self._clip(mode, rng) for _ in range(max(1, round(mode.clips * self.scale)))]
        batch = self.layout.lay([part[0] for part in parts], mode.longest)
        frames, keeps, covers = [], [], []
        for (clip, pixels, cover), used in zip(parts, batch.frames, strict=True):
            shown = np.flatnonzero(clip.keep[:used].any(1))
            frames.append(pixels[shown])
            keeps.append(clip.keep[shown])
            covers.append(cover[shown])
        keep, cover = np.concatenate(keeps), np.concatenate(covers)
        names = []
        for (clip, *_), used in zip(parts, batch.frames, strict=True):
            names += [_NAMES[text] for end, asked in clip.asked.items() if end <= used for text, *_ in asked]
        return Draft(
            mode.name,
            torch.from_numpy(np.concatenate(frames)),
            keep,
            torch.from_numpy(cover.reshape(len(cover), cover.shape[1], -1).transpose(0, 2, 1)[keep]),
            Batch(**{f.name: torch.from_numpy(getattr(batch, f.name)) for f in fields(Batch)}),
            names,
        )

    def _clip(self, mode: Mode, rng: np.random.Generator) -> tuple[Clip, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """A clip ready to be laid, its frames (T, 3, S, S) and cover (T, 8, tokens a side, tokens a side)."""
        if self.real is not None and rng.random() < self.share_real:
            bank = self.real
            entry = bank.clips[int(rng.choice(len(bank.clips), p=self.real_weights))]
        else:
            choice = self.by_length[mode.frames]
            bank, entry = choice[int(rng.integers(len(choice)))]
        length = min(mode.frames, entry["length"])
        length -= length % NEWEST if length > NEWEST else 0
        begin = entry["start"] + int(rng.integers(entry["length"] - length + 1))
        part = slice(begin, begin + length)
        pixels, cover, facts = bank.frames[part], bank.cover[part], {n: v[part] for n, v in bank.facts.items()}
        background = entry.get("coding", {}).get("period_s", 0) >= BACKGROUND_S
        masks = bank.keep
        if bank.background is not None and rng.random() < SHARE_BACKGROUND:
            background, masks = True, bank.background
        keep = np.array(masks[part]) if mode.pruned else np.ones((length, TOKENS**2), bool)
        keep[0] = True
        if entry["real"] and not mode.pruned and rng.random() < self.share_cropped:
            pixels, cover, facts = _cropped(pixels, facts, rng)
        if rng.random() < 0.5:
            pixels, cover, keep, facts = _mirrored(pixels, cover, keep, facts)
        if entry["real"] or rng.random() < self.share_lit:
            pixels = _lit(pixels, rng)
        window = _window(keep, mode, rng, background)
        ends = range(min(NEWEST, length), length + 1, NEWEST)
        asked = {end: pick(certain(facts, end, window), changing(facts, end), rng, mode.asked) for end in ends}
        if not any(asked.values()):
            asked = {length: [(q.QUESTIONS["person"][0], "", 0.0)]}
        first = int(rng.integers(8 if rng.random() < 0.3 else 4000))
        return Clip(keep, first, window, asked, background), pixels, cover


_NAMES = {text: name for name, spellings in q.QUESTIONS.items() for text in spellings}


def _window(keep: npt.NDArray[np.bool_], mode: Mode, rng: np.random.Generator, background: bool) -> int:
    """Frames that a stride of this clip looks at: at least from one whole frame to the next, as in the product, but for a
    background, which has the cells that the window lacks."""
    whole = np.flatnonzero(keep.all(1))
    gap = NEWEST if background else int(np.diff([*whole, len(keep)]).max())
    options = [w for w in (NEWEST, *WINDOWS) if w >= gap and (w <= len(keep) or w == WINDOWS[-1])]
    return int(rng.choice(options or [WINDOWS[-1]])) if mode.frames > NEWEST else WINDOWS[-1]


def _mirrored(pixels: Any, cover: Any, keep: npt.NDArray[np.bool_], facts: Facts) -> tuple[Any, Any, Any, Facts]:
    facts = dict(facts)
    for name in ("mover", "person_at"):
        x = facts[name][:, :1]
        facts[name] = np.concatenate([np.where(x >= 0, 1 - x, x), facts[name][:, 1:]], 1)
    grid = keep.reshape(-1, TOKENS, TOKENS)[:, :, ::-1]
    return pixels[..., ::-1], cover[..., ::-1], grid.reshape(keep.shape), facts


def _cropped(
    pixels: Any, facts: Facts, rng: np.random.Generator
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], Facts]:
    """A part of the same camera's picture, in other colours at times: one more place. Where who is in view stands is not
    known, so that only what is nowhere is still certain."""
    side = pixels.shape[-1]
    zoom = rng.uniform(0.45, 0.9)
    width, height = (round(side * zoom * v) for v in (rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.1)))
    left, top = int(rng.integers(side - width + 1)), int(rng.integers(side - height + 1))
    ys, xs = (((np.arange(side) + 0.5) * n / side + at).astype(int) for n, at in ((height, top), (width, left)))
    pixels = np.ascontiguousarray(pixels[:, :, ys[:, None], xs])
    if rng.random() < 0.3:
        pixels = pixels[:, rng.permutation(3)]
    known = nothing_known(len(pixels))
    for name in ("fall", "fight", "left"):
        known[name] = np.where(facts[name] == 0, 0, -1).astype(known[name].dtype)
    known["known"] = facts["known"] & (facts["seen"] == 0)
    cover = np.full((len(pixels), CHANNELS, TOKENS, TOKENS), UNKNOWN, np.uint8)
    for c in range(known["known"].shape[1]):
        cover[known["known"][:, c], c] = 0
    return pixels, cover, known


def _lit(pixels: Any, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The same camera in another light."""
    gain, gamma = rng.uniform(0.7, 1.2), rng.uniform(0.75, 1.3)
    table = ((np.arange(256) / 255) ** gamma * gain * 255).round().clip(0, 255).astype(np.uint8)
    return np.asarray(table[pixels])

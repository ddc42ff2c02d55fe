"""Scores the trained part: windows of real cameras never trained on, and synthetic scenes of held-out pictures and cut-outs.

python training/evaluate.py --pack PACK --trained OUT/trained.safetensors
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import questions as q
import torch
from asking import ask_scenes
from drafts import Mode, draft_scenes
from layout import Layout
from library import load_clips, load_library
from maker import NEWEST, SIDE
from model import Learner
from scenes import Studio
from torch.nn import functional

from codecflow.trained.assemble import apply_trained_part, assemble, read_trained_part

WINDOW = 16  # frames: eight seconds, answered every NEWEST frames
SYNTHETIC = (
    Mode("frame", 48, 1, False, 0),
    Mode("stride", 12, 4, False, 0),
    Mode("window", 4, 16, False, 0),
    Mode("window-pruned", 12, 16, True, 0),
)
Floats = npt.NDArray[np.float64]


def auc(p: Floats, y: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve; None where only one answer occurs."""
    if y.all() or not y.any():
        return None
    order = np.argsort(np.concatenate([p[y], p[~y]]), kind="stable")
    values = np.concatenate([p[y], p[~y]])[order]
    ranks = np.empty(len(p))
    for value in np.unique(values):
        same = np.flatnonzero(values == value)
        ranks[order[same]] = same.mean() + 1
    n = int(y.sum())
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * (len(y) - n)))


def scores(p: Floats, y: npt.NDArray[np.bool_]) -> dict[str, Any]:
    said = p >= 0.5
    hit = int((said & y).sum())
    f1 = 2 * hit / max(1, int(said.sum()) + int(y.sum()))
    right = float((said == y).mean())
    empty = float((~said)[~y].mean()) if (~y).any() else None
    best = max(
        (2 * int(((p >= t) & y).sum()) / max(1, int((p >= t).sum()) + int(y.sum())), t)
        for t in np.linspace(0.02, 0.98, 49)
    )
    found: dict[str, Any] = {
        "n": len(y),
        "yes": int(y.sum()),
        "f1": f1,
        "auc": auc(p, y),
        "accuracy": right,
        "no_right": empty,
        "best": best[0],
        "at": best[1],
    }
    return {k: round(float(v), 3) if isinstance(v, float) else v for k, v in found.items()}


class Examiner:
    def __init__(self, learner: Learner, layout: Layout, device: torch.device) -> None:
        self.learner, self.layout, self.device = learner.eval(), layout, device
        spelled = [
            [layout.ids_of(s + w) for s in ("", " ") for w in (word, word.capitalize(), word.upper())]
            for word in ("yes", "no")
        ]
        self.yes, self.no = ([ids[0] for ids in spellings if len(ids) == 1] for spellings in spelled)

    @torch.no_grad()
    def logits(
        self, frames: torch.Tensor, keep: npt.NDArray[np.bool_], first: list[int], asked: list[list[str]]
    ) -> torch.Tensor:
        """(questions, vocabulary) at each question's first answer position. `keep`: (n, frames, tokens)."""
        batch = self.layout.lay(keep, first, [[(text, "", 1.0) for text in texts] for texts in asked], self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            features = self.learner.see(frames, keep.reshape(-1, keep.shape[-1]))
            return self.learner.score(self.learner.read(batch, features))

    def p_yes(self, logits: torch.Tensor) -> Floats:
        yes, no = (logits[:, ids].logsumexp(1) for ids in (self.yes, self.no))
        return torch.sigmoid(yes - no).double().cpu().numpy()

    def clips(self, clips: Any, policy: str, side: int = SIDE, frames_only: bool = False) -> dict[str, Any]:
        """Scores by question and clip. `policy`: all or replenish. `frames_only`: each window is its newest frame alone."""
        found: dict[str, dict[str, list[tuple[float, bool]]]] = defaultdict(lambda: defaultdict(list))
        for clip in clips.clips:
            labels = {k: np.array(v) for k, v in clip["labels"].items() if k in q.YES_NO}
            names = sorted(labels)
            count = len(clip["times"])
            ends = range(NEWEST, count + 1, NEWEST)
            for end in ends:
                begin = end - 1 if frames_only else max(0, end - WINDOW)
                frames = clip["frames"][begin:end]
                if side != SIDE:
                    frames = (
                        functional.interpolate(frames.float(), (side, side), mode="bicubic", antialias=True)
                        .round()
                        .clamp(0, 255)
                        .to(torch.uint8)
                    )
                tokens = (side // 28) ** 2
                keep = (
                    clip["keep"][None, begin:end].copy()
                    if policy == "replenish"
                    else np.ones((1, end - begin, tokens), bool)
                )
                if policy == "replenish":
                    keep[:, 0] |= not keep.any()
                p = self.p_yes(self.logits(frames, keep, [begin], [[q.QUESTIONS[n][0] for n in names]]))
                for name, value in zip(names, p, strict=True):
                    newest = labels[name][end - NEWEST : end]
                    share = float((newest == 1).mean())
                    if (newest >= 0).all() and (share == 0 or share >= 0.5):
                        found[name][clip["name"]].append((float(value), share >= 0.5))
        table: dict[str, Any] = {}
        for name, by in found.items():
            groups = {clip: np.array(rows) for clip, rows in by.items() if not clip.startswith(("s1_", "s2_", "s3_"))}
            people = [rows for clip, rows in by.items() if clip.startswith(("s1_", "s2_", "s3_"))]
            if people:
                groups["falls"] = np.concatenate([np.array(r) for r in people])
            labelled = [rows for clip, rows in groups.items() if not clip.startswith("autostrade")]
            if labelled:
                groups["all labelled"] = np.concatenate(labelled)
            table[name] = {clip: scores(rows[:, 0], rows[:, 1] > 0.5) for clip, rows in groups.items()}
        return table

    def synthetic(self, studio: Studio, mode: Mode, batches: int, scale: float) -> dict[str, Any]:
        """Yes/no questions by F1 and AUC, the others by the share of first tokens that are right."""
        binary: dict[str, list[tuple[float, bool]]] = defaultdict(list)
        exact: dict[str, list[bool]] = defaultdict(list)
        rng = np.random.default_rng(1)
        for _ in range(batches):
            draft = draft_scenes(studio, mode, scale)
            if draft.ready is not None:
                draft.ready.synchronize()
            wanted = ask_scenes(draft.facts, rng, every=True)
            wanted = [w or [(q.QUESTIONS["person"][0], "", 0.0)] for w in wanted]
            logits = self.logits(
                draft.frames, draft.facts["keep"].numpy(), [0] * len(wanted), [[text for text, *_ in w] for w in wanted]
            )
            p = self.p_yes(logits)
            flat = [one for w in wanted for one in w]
            for i, (text, answer, weight) in enumerate(flat):
                name = next(n for n, spellings in q.QUESTIONS.items() if text in spellings)
                if name in q.YES_NO and weight:
                    binary[name].append((float(p[i]), answer == "Yes"))
                elif name == "count":
                    options = [self.layout.ids_of(c)[0] for c in q.COUNTS]
                    exact[name].append(options[int(logits[i, options].argmax())] == self.layout.ids_of(answer)[0])
                elif name in ("where", "person_where"):
                    exact[name].append(int(logits[i].argmax()) == self.layout.ids_of(answer)[0])
        table: dict[str, Any] = {name: scores(np.array(r)[:, 0], np.array(r)[:, 1] > 0.5) for name, r in binary.items()}
        return table | {
            name: {"n": len(r), "first_token_right": round(float(np.mean(r)), 3)} for name, r in exact.items()
        }


def examine(
    learner: Learner, layout: Layout, pack: Path, device: torch.device, scale: float = 1.0, batches: int = 8
) -> dict[str, Any]:
    """All tables, printed as they come."""
    examiner = Examiner(learner, layout, device)
    library = load_library(pack, device, "val")
    report: dict[str, Any] = {}
    for mode in SYNTHETIC:
        report[f"synthetic/{mode.name}"] = examiner.synthetic(Studio(library, 7), mode, batches, scale)
        print(mode.name, json.dumps(report[f"synthetic/{mode.name}"]), flush=True)
    clips = load_clips(pack, device, "test")
    for policy in ("all", "replenish"):
        report[f"cameras/{policy}"] = examiner.clips(clips, policy)
        print(policy, json.dumps(report[f"cameras/{policy}"]), flush=True)
    for side in (448, 336, 224):
        report[f"cameras/one frame/{side}"] = examiner.clips(clips, "all", side, frames_only=True)
        print(
            side,
            json.dumps({k: v.get("all labelled") for k, v in report[f"cameras/one frame/{side}"].items()}),
            flush=True,
        )
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--trained", type=Path, required=True)
    parser.add_argument("--cache", type=Path, default=Path("training/cache"))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, tokenizer = assemble(args.cache, None)
    apply_trained_part(model, read_trained_part(args.trained))
    learner = Learner(model.to(device), tokenizer)
    layout = Layout(tokenizer, model.config.image_token_id)
    report = examine(learner, layout, args.pack, device, args.scale, args.batches)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

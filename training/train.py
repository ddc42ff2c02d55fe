"""Trains codecflow-tiny: one command, one GPU, resumable. See README.md.

python training/train.py --pack PACK --out OUT --minutes 9
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import questions as q
import torch
from drafts import MODES, Draft, draft_scenes
from layout import Batch, Layout
from library import load_clips, load_library
from maker import NEWEST, SIDE
from model import Learner
from scenes import Studio
from torch import Tensor
from torch.nn import functional

from codecflow.trained.assemble import assemble


def shorten(keep: npt.NDArray[np.bool_], most: int = 1500) -> None:
    """Windows with more than `most` kept tokens lose all but their newest stride, which then begins with a whole frame.

    A batch is padded to its longest window; one restless scene must not make all of it as long.
    """
    limit = most if keep.shape[1] <= 16 else 2 * most
    long = keep.sum((1, 2)) > limit
    keep[long, :-NEWEST] = False
    keep[long, -NEWEST] = True


class Trainer:
    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(args.seed)
        self.rng = np.random.default_rng(args.seed)
        model, tokenizer = assemble(Path(args.cache), None)
        self.learner = Learner(model.to(self.device), tokenizer)
        self.layout = Layout(tokenizer, model.config.image_token_id)
        if args.start:
            self.learner.start_from(Path(args.start))
        library = load_library(Path(args.pack), self.device, "train")
        self.studio = Studio(library, args.seed)
        self.clips = load_clips(Path(args.pack), self.device, "train")
        self.groups = self.learner.groups()
        self.optimiser = torch.optim.AdamW(
            self.groups, lr=args.rate, betas=(0.9, 0.98), fused=self.device.type == "cuda"
        )
        self.step, self.spent = 0, 0.0
        self.out = Path(args.out)
        self.out.mkdir(parents=True, exist_ok=True)
        if (self.out / "resume.pt").exists():
            self._resume()

    def _trained(self) -> dict[str, Tensor]:
        return {n: p for n, p in self.learner.named_parameters() if p.requires_grad}

    def _resume(self) -> None:
        state = torch.load(self.out / "resume.pt", map_location=self.device)
        with torch.no_grad():
            for name, parameter in self._trained().items():
                parameter.copy_(state["weights"][name])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.spent = state["step"], state["spent"]
        self.rng = np.random.default_rng((self.args.seed, self.step))
        self.studio.random.manual_seed(self.args.seed + self.step)

    def save(self) -> None:
        weights = {n: p.detach() for n, p in self._trained().items()}
        state = {"weights": weights, "optimiser": self.optimiser.state_dict(), "step": self.step, "spent": self.spent}
        torch.save(state, self.out / "resume.tmp")
        (self.out / "resume.tmp").replace(self.out / "resume.pt")
        self.learner.export(self.out / "trained.safetensors", SIDE)

    def draft(self, progress: float) -> Draft:
        if self.clips and progress > 0.1 and self.rng.random() < self.args.real:
            return self.clips.draft(self.rng, self.args.scale)
        # At first single frames alone: what things look like comes before what happens to them.
        shares = np.array([m.share if progress > 0.12 or m.frames == 1 else 0.0 for m in MODES])
        mode = MODES[int(self.rng.choice(len(MODES), p=shares / shares.sum()))]
        return draft_scenes(self.studio, mode, self.args.scale)

    def lay(self, draft: Draft) -> tuple[Batch, npt.NDArray[np.bool_]]:
        if draft.ready is not None:
            draft.ready.synchronize()
        keep = draft.facts["keep"].numpy()
        if draft.mode.pruned:
            shorten(keep)
        asked = draft.ask(draft.facts, self.rng)
        asked = [a or [(q.QUESTIONS["person"][0], "", 0.0)] for a in asked]
        high = 8 if self.rng.random() < 0.3 else 4000
        first = [int(self.rng.integers(high)) for _ in asked]
        return self.layout.lay(keep, first, asked, self.device), keep

    def learn(self, draft: Draft, batch: Batch, keep: npt.NDArray[np.bool_]) -> dict[str, Tensor]:
        flat = keep.reshape(-1, keep.shape[-1])
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            features = self.learner.see(draft.frames, flat)
            hidden = self.learner.read(batch, features)
            scores = self.learner.score(hidden)
            said = self.learner.head(features).float()
        loss = (
            functional.cross_entropy(scores, batch.target, reduction="none") * batch.weight
        ).sum() / batch.weight.sum().clamp(min=1)
        parts = {"answers": loss.detach()}
        if draft.cover is not None:
            at = torch.from_numpy(np.flatnonzero(flat)).to(self.device, non_blocking=True)
            cover = draft.cover.flatten(2).transpose(1, 2).flatten(0, 1)[at]  # (kept, classes)
            wanted = (cover > 0.12).float()
            certain = ((cover > 0.12) | ((cover >= 0) & (cover < 0.02))).float()
            balance = certain * (1 + 3 * wanted)
            dense = functional.binary_cross_entropy_with_logits(said, wanted, reduction="none")
            dense = (dense * balance).sum() / balance.sum().clamp(min=1)
            parts["where"] = dense.detach()
            loss = loss + dense
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([p for g in self.groups for p in g["params"]], 1.0)
        self.optimiser.step()
        return parts | {"norm": norm}

    def run(self) -> None:
        budget, begun, spent = self.args.minutes * 60, time.monotonic(), self.spent
        drafted = self.draft(0.0)
        batch, keep = self.lay(drafted)
        log: list[tuple[str, dict[str, Tensor]]] = []
        saved = time.monotonic()
        while self.spent < budget and self.step < self.args.steps:
            progress = self.spent / budget
            rate = (
                self.args.rate
                * min(1, (self.step + 1) / 100)
                * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1, progress))))
            )
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            following = self.draft(progress)  # queued before the step, so that its facts are there when the step runs
            log.append((drafted.mode.name, self.learn(drafted, batch, keep)))
            drafted = following
            batch, keep = self.lay(drafted)
            self.step += 1
            self.spent = spent + time.monotonic() - begun
            if self.step % 50 == 0 or self.step == self.args.steps:
                self._report(log)
                log = []
            if time.monotonic() - saved > 120:
                self.save()
                saved = time.monotonic()
        self.save()

    def _report(self, log: list[tuple[str, dict[str, Tensor]]]) -> None:
        by: dict[str, list[float]] = {}
        for name, parts in log:
            for part, value in parts.items():
                by.setdefault(f"{name}/{part}" if part != "norm" else "norm", []).append(float(value))
        means = {k: round(float(np.mean(v)), 3) for k, v in sorted(by.items())}
        print(f"step {self.step} {self.spent:.0f} s {json.dumps(means)}", flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", required=True, help="folder that prepare.py wrote")
    parser.add_argument("--out", required=True, help="folder for the trained part, and to resume from")
    parser.add_argument("--cache", default="training/cache", help="where the published parts lie or are downloaded to")
    parser.add_argument("--start", help="a trained part to go on from")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--steps", type=int, default=1 << 30)
    parser.add_argument("--rate", type=float, default=4e-4)
    parser.add_argument("--real", type=float, default=0.12, help="share of batches from real fixed cameras")
    parser.add_argument("--scale", type=float, default=1.0, help="of batch sizes; small for a rehearsal on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examine", action="store_true", help="score the result at the end, as evaluate.py does")
    return parser.parse_args()


def main() -> None:
    trainer = Trainer(arguments())
    trainer.run()
    if trainer.args.examine:
        from evaluate import examine

        report = examine(trainer.learner, trainer.layout, Path(trainer.args.pack), trainer.device, trainer.args.scale)
        (trainer.out / "report.json").write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()

"""Scores a trained part on banks of real cameras, in seconds on a GPU: p(yes) of who and what is in view after every stride.

    python training/score.py --model trained.safetensors --banks PACK/validation PACK/test --out answers.csv
    python training/cameras.py report answers.csv

The same sequences as `codecflow eval --window 8 --stride 2` (a test holds both to the engine's logits), for three policies:
everything kept (all/all, computed once), replenish with an anchor every 8 s, and with a background.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from answer_labels import certain
from bank import Bank, load_bank
from cameras import QUESTIONS
from layout import Batch, Clip, Layout
from maker import NEWEST
from model import Learner

from codecflow.folders import cache_dir
from codecflow.tools.demo_model.assemble import assemble

WINDOW, CHUNK = 16, 48
"""Frames of a window; of a piece of a clip that is computed at a time, of which the first window only leads in."""

POLICIES = {"all/all": "all", "replenish/none": "keep", "replenish@background/none": "background"}


class Scorer:
    def __init__(self, model: Path | None, cache: Path) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        assembled, tokenizer = assemble(cache, None)
        self.layout = Layout(tokenizer, assembled.config.image_token_id)
        self.learner = Learner(assembled.to(self.device))
        if model is not None:
            self.learner.start_from(model)
        # Every spelling that is one token counts, as in vlm/answers.py.
        spellings = [
            [lead + case for case in (w, w.capitalize(), w.upper()) for lead in ("", " ")] for w in ("yes", "no")
        ]
        self.yes, self.no = (
            sorted({ids[0] for text in texts if len(ids := self.layout.ids_of(text)) == 1}) for texts in spellings
        )

    @torch.no_grad()
    def scores(
        self, bank: Bank, masks: Any, entry: dict[str, Any], background: bool
    ) -> Iterator[tuple[int, str, bool, float]]:
        """(frame before which the stride ends, question's name, label, p(yes)) of one clip."""
        part = slice(entry["start"], entry["start"] + entry["length"])
        facts = {name: values[part] for name, values in bank.facts.items()}
        keep = np.array(masks[part])
        whole = bool(keep.all())
        length = entry["length"]
        begin = 0
        while begin < length:
            # A short clip, and a pruned one, is one piece; keys of a whole one would take too much memory.
            stop = min(length, begin + CHUNK) if whole else length
            kept = keep[begin:stop].copy()
            kept[0] = True
            ends = [e for e in range(min(NEWEST, len(kept)), len(kept) + 1, NEWEST) if not begin or e > WINDOW]
            truth = {e: certain(facts, begin + e, WINDOW) for e in ends}
            asked = {e: [(text, "", 1.0) for name, text in QUESTIONS.items() if name in truth[e]] for e in ends}
            if any(asked.values()):
                batch = self.layout.lay([Clip(kept, begin, WINDOW, asked, background)])
                tensors = {f.name: torch.from_numpy(getattr(batch, f.name)).to(self.device) for f in fields(Batch)}
                shown = kept.any(1)
                pixels = torch.from_numpy(np.array(bank.frames[part][begin:stop][shown])).to(self.device)
                laid = Batch(**tensors)
                hidden = self.learner.read(laid, self.learner.see(pixels, kept[shown]))
                logits = self.learner.score(hidden[laid.at[:, 0], laid.at[:, 1]])
                p = torch.sigmoid(logits[:, self.yes].logsumexp(1) - logits[:, self.no].logsumexp(1)).tolist()
                names = [(e, name) for e in ends for name in QUESTIONS if name in truth[e]]
                for (e, name), value in zip(names, p, strict=True):
                    yield begin + e, name, truth[e][name] == "Yes", value
            if stop == length:
                break
            begin = stop - WINDOW

    def write(self, folders: list[Path], policies: list[str], out: Path) -> None:
        with out.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["policy", "file", "end_s", "question", "label", "p_yes"])
            for folder in folders:
                bank = load_bank(folder)
                masks = {
                    "all": np.ones_like(bank.keep),
                    "keep": bank.keep,
                    "background": np.load(folder / "background.npy", mmap_mode="r"),
                }
                for policy, name in ((one, POLICIES[one]) for one in policies):
                    for entry in bank.clips:
                        for end, question, label, p in self.scores(bank, masks[name], entry, name == "background"):
                            row = [
                                policy,
                                entry["path"],
                                end / 2,
                                QUESTIONS[question],
                                "yes" if label else "no",
                                f"{p:.4f}",
                            ]
                            writer.writerow(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a trained part; without one, what is not trained yet")
    parser.add_argument("--banks", type=Path, nargs="+", required=True)
    parser.add_argument("--cache", type=Path, default=cache_dir())
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    Scorer(args.model, args.cache).write(args.banks, args.policies, args.out)


if __name__ == "__main__":
    main()

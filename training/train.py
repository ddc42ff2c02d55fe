"""Trains codecflow-tiny on banks: on one GPU or on several side by side, resumable. See README.md.

    torchrun --standalone --nproc-per-node GPUS training/train.py --scenes BANK BANK --real PACK/real --out OUT

What is learnt is the same on one GPU as on several, up to rounding. SIGTERM ends a run as --stop-after does.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from bank import UNKNOWN, Bank, load_bank
from batches import MODES, Batches, Draft
from layout import Batch, Layout
from maker import SIDE
from model import Learner
from questions import CLASSES
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader

from codecflow.errors import CodecFlowError
from codecflow.folders import cache_dir
from codecflow.tools.demo_model.assemble import assemble

SHOWS, BARELY = 0.12, 0.02
"""Shares of a token from which, and below which, it is certain that something is in it, or is not."""

WARM = 100
"""Steps in which the learning rate comes up."""

BEGUN = time.monotonic()

SAVE_S = 60
"""Seconds between saves."""

AGREE = 10
"""Steps between those at which all processes settle whether they go on: one's clock is not another's."""


class Trainer:
    """One process's part of the training: of every step the batches whose number is its own, modulo the processes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.rank, self.world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
        if args.parts % self.world:
            raise SystemExit(
                f"train.py: {self.world} processes cannot share the {args.parts} batches of a step evenly; see --parts"
            )
        if self.world > 1:
            dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", self.rank)
            torch.cuda.set_device(self.device)
        self.stopped = False
        self.scenes = [load_bank(Path(folder)) for folder in args.scenes]
        self.real = load_bank(Path(args.real)) if args.real else None
        self.held_out = load_bank(args.held_out) if args.held_out else None
        model, tokenizer = assemble(Path(args.cache), None)
        torch.manual_seed(0)  # begins alike whatever the order of batches
        self.layout = Layout(tokenizer, model.config.image_token_id)
        self.learner = Learner(model.to(self.device))
        if args.begin_with:
            self.learner.start_from(Path(args.begin_with), args.vision)
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

    def save(self) -> None:
        if self.rank:
            return
        weights = {n: p.detach() for n, p in self._trained().items()}
        state = {"weights": weights, "optimiser": self.optimiser.state_dict(), "step": self.step, "spent": self.spent}
        torch.save(state, self.out / "resume.tmp")
        (self.out / "resume.tmp").replace(self.out / "resume.pt")
        self.learner.export(self.out / "trained.safetensors", SIDE)

    def forward(self, draft: Draft) -> tuple[dict[str, Tensor], Tensor, Batch]:
        """(losses by name; logits at every answer position; the batch on the device)."""

        def up(x: Tensor) -> Tensor:
            return x.to(self.device, non_blocking=True)

        batch = Batch(**{f.name: up(getattr(draft.batch, f.name)) for f in fields(Batch)})
        features = self.learner.see(up(draft.frames), draft.keep)
        hidden = self.learner.read(batch, features)
        logits = self.learner.score(hidden[batch.at[:, 0], batch.at[:, 1]])
        each = functional.cross_entropy(logits, batch.target, reduction="none") * batch.weight
        cover = up(draft.cover)
        seen = hidden[batch.ids == self.learner.image_id]
        losses = {
            "answers": each.sum() / batch.weight.sum().clamp(min=1),
            "looks": _dense(self.learner.looks(features.float()), cover[:, : len(CLASSES)]),
            "knows": _dense(self.learner.knows(seen), cover),
        }
        return losses, logits, batch

    def learn(self, drafts: Sequence[Draft]) -> dict[str, Tensor]:
        """One step on `drafts`, this process's part of it."""
        self.optimiser.zero_grad(set_to_none=True)
        total: dict[str, Tensor] = {}
        for draft in drafts:
            losses, _, _ = self.forward(draft)
            (torch.stack(list(losses.values())).sum() / self.args.parts).backward()
            total = {name: total.get(name, 0) + loss.detach() / len(drafts) for name, loss in losses.items()}
        parameters = [p for group in self.groups for p in group["params"]]
        if self.world > 1:
            grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            flat = torch.cat([grad.flatten() for grad in grads])
            dist.all_reduce(flat)
            for p, part in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
                p.grad = part.view_as(p)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimiser.step()
        return total | {"norm": norm}

    def _go_on(self, spent: float, begun: float) -> bool:
        """Whether all processes take further steps; sets the seconds spent, `spent` before `begun`, to the first one's."""
        now = time.monotonic() - begun
        over = self.stopped or time.monotonic() - BEGUN >= self.args.stop_after
        shared = torch.tensor([spent + now, float(over)], device=self.device)
        if self.world > 1:
            dist.broadcast(shared, 0)
        self.spent = float(shared[0])
        return not shared[1] and self.spent < self.args.minutes * 60

    def run(self) -> bool:
        """Trains, from where it was left. Returns whether all is done."""
        args, budget = self.args, self.args.minutes * 60
        if self.spent >= budget or self.step >= args.steps:
            return True
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "stopped", True))
        batches = Batches(
            self.scenes,
            self.real,
            self.layout,
            args.seed,
            parts=args.parts,
            share_real=args.share_real,
            early=args.early,
            scale=args.scale,
        )
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=range(self.step * args.parts + self.rank, args.steps * args.parts, self.world),
            num_workers=args.workers,
            worker_init_fn=_until_its_parent_ends,
            prefetch_factor=4 if args.workers else None,
            pin_memory=self.device.type == "cuda",
        )
        begun, spent, saved = time.monotonic(), self.spent, time.monotonic()
        log: list[tuple[str, dict[str, Tensor]]] = []
        drafts = iter(loader)
        while self.step < args.steps and (self.step % AGREE or self._go_on(spent, begun)):
            progress = min(1.0, max(self.spent / budget, self.step / args.steps))
            warmth = min(1.0, (self.step + 1) / WARM)
            rate = args.rate * warmth * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in self.optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            mine = [next(drafts) for _ in range(args.parts // self.world)]
            log.append((mine[0].mode, self.learn(mine)))
            self.step += 1
            if self.step % args.report == 0:
                self._report(log)
                log = []
            if time.monotonic() - saved > SAVE_S:
                self.save()
                saved = time.monotonic()
        self.save()
        return bool(self.spent >= budget or self.step >= args.steps)

    def _report(self, log: list[tuple[str, dict[str, Tensor]]]) -> None:
        if self.rank:
            return
        by: dict[str, list[float]] = defaultdict(list)
        for name, parts in log:
            for part, value in parts.items():
                by[f"{name}/{part}" if part != "norm" else "norm"].append(float(value))
        means = {k: round(float(np.mean(v)), 3) for k, v in sorted(by.items())}
        peak = torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0
        print(f"step {self.step} {self.spent:.0f} s {peak:.0f} GiB {json.dumps(means)}", flush=True)

    @torch.no_grad()
    def validate(self, scenes: Bank, rounds: int = 3) -> dict[str, dict[str, float]]:
        """Share of answers whose first token is right, by kind of batch and question, on scenes of held-out pictures."""
        batches = Batches([scenes], None, self.layout, self.args.seed + 1, parts=1, scale=0.5 * self.args.scale)
        table = {}
        for number, mode in enumerate(MODES):
            right: dict[str, list[bool]] = defaultdict(list)
            for k in range(rounds):
                draft = batches.draw(mode, np.random.default_rng((7, number, k)))
                _, logits, batch = self.forward(draft)
                first = batch.question >= 0
                hit = (logits.argmax(1) == batch.target)[first].cpu().numpy()
                real = (batch.weight > 0)[first].cpu().numpy()
                for name, one, counts in zip(draft.names, hit, real, strict=True):
                    if counts:
                        right[name].append(bool(one))
            table[mode.name] = {n: round(float(np.mean(r)), 3) for n, r in sorted(right.items())}
            print(mode.name, json.dumps(table[mode.name]), flush=True)
        return table


def _until_its_parent_ends(_: int) -> None:
    """Of a process that makes batches: SIGTERM is for who reads them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _dense(logits: Tensor, cover: Tensor) -> Tensor:
    """How well each token says what it shows. `logits`, `cover`: (tokens, channels); `cover` uint8 as a bank has it."""
    share = cover.float() / 254
    wanted = (share > SHOWS).float()
    certain = ((share > SHOWS) | (share < BARELY)) & (cover != UNKNOWN)
    balance = certain.float() * (1 + 3 * wanted)
    loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return (loss * balance).sum() / balance.sum().clamp(min=1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", required=True, nargs="+", help="banks that film.py made")
    parser.add_argument("--real", help="bank of real cameras that prepare.py made")
    parser.add_argument("--held-out", type=Path, help="bank of scenes to score the result on")
    parser.add_argument("--out", required=True, help="folder for the trained part, and to resume from")
    parser.add_argument("--cache", default=cache_dir(), help="where the published parts lie or are downloaded to")
    parser.add_argument("--begin-with", help="a trained part to go on from; the heads start untrained")
    parser.add_argument(
        "--vision", type=float, default=1.0, help="share of that trained part in the ViT, the rest as published"
    )
    parser.add_argument("--minutes", type=float, default=14.0)
    parser.add_argument(
        "--stop-after", type=float, default=math.inf, help="seconds after this call began; the next one goes on"
    )
    parser.add_argument("--steps", type=int, default=100_000, help="no more than these")
    parser.add_argument("--parts", type=int, default=4, help="batches of a step, shared evenly by the processes")
    parser.add_argument("--early", type=int, default=150, help="steps of single frames and strides alone")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--share-real", type=float, default=0.1, help="of clips from real fixed cameras")
    parser.add_argument("--scale", type=float, default=1.0, help="of batch sizes; small for a rehearsal on a CPU")
    parser.add_argument("--workers", type=int, default=12, help="processes that make batches")
    parser.add_argument("--report", type=int, default=50, help="steps between lines of losses")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    try:
        trainer = Trainer(arguments())
    except (CodecFlowError, FileNotFoundError) as error:
        raise SystemExit(f"train.py: {error}") from error
    path = trainer.out / "held-out.json"
    if trainer.run() and not trainer.rank and trainer.held_out and not path.exists():
        path.write_text(json.dumps(trainer.validate(trainer.held_out), indent=1))
    if trainer.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

"""Makes a bank of scenes: rendered on the GPU, encoded and decoded as real H.264 on all cores, masked by the product's code.

    python training/film.py --pack PACK --out BANK --split train --seed 0

A finished bank is left alone; one that was begun is begun again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import bank
import numpy as np
import torch
from encode import Clip, Coding, Job, set_up, work
from library import load_library
from maker import RENDER, Library
from scenes import Scenes, Studio
from specs import scene_rows, write_spec

LENGTHS = {"long": 80, "window": 16, "stride": 4, "single": 1}
"""Frames of each kind of clip. The longest first: at the end no core waits for another's long clip."""

BATCH = 320
"""Frames rendered at a time."""

EXPORTED = 16
"""Frames of the shortest clips whose bits are worth a file."""

IN_FLIGHT = 14
"""Batches that wait for a core or are on one."""

WORKERS = {
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    # Frames are some hundred kilobytes: without these each is a system call, and fresh pages.
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
}
"""Environment of the processes that encode."""

JOB = 16
"""Frames of a worker's job at least, from as many clips as that takes."""


@dataclass(frozen=True)
class Order:
    """What is wanted: how many clips of each kind; `videos`: where the bits of those of 16 frames or more go besides, with
    a spec of them for `codecflow eval`."""

    counts: dict[str, int]
    seed: int
    videos: Path | None = None
    batch: int = BATCH

    @property
    def frames(self) -> int:
        return sum(LENGTHS[kind] * count for kind, count in self.counts.items())

    def batches(self) -> Iterator[tuple[str, int, int]]:
        """(kind, number of its first clip, clips) of each batch."""
        for kind, length in LENGTHS.items():
            step = max(1, self.batch // length)
            for first in range(0, self.counts[kind], step):
                yield kind, first, min(step, self.counts[kind] - first)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """`values` for processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ |= values
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


class Film:
    """Fills one bank. `workers`: processes that encode."""

    def __init__(self, library: Library, folder: Path, order: Order, workers: int) -> None:
        self.folder, self.order, self.workers = folder, order, workers
        self.studio = Studio(library, order.seed)
        self.rng = np.random.default_rng(order.seed)
        self.facts = bank.nothing_known(order.frames)
        self.clips: list[dict[str, Any]] = []
        self.at = 0

    def make(self) -> None:
        started = time.monotonic()
        bank.begin(self.folder, self.order.frames)
        cover = np.load(self.folder / "cover.npy", mmap_mode="r+")
        if self.order.videos:
            self.order.videos.mkdir(parents=True, exist_ok=True)
        pending: deque[list[Future[int]]] = deque()
        with environment(WORKERS), ProcessPoolExecutor(self.workers, get_context("spawn"), set_up) as pool:
            for number, (kind, first, count) in enumerate(self.order.batches()):
                scenes = self.studio.make(count, LENGTHS[kind])
                while len(pending) >= IN_FLIGHT:
                    for future in pending.popleft():
                        future.result()
                source = self._put(scenes, number % IN_FLIGHT)
                jobs = self._jobs(kind, first, count, source)
                pending.append([pool.submit(work, job) for job in jobs])
                start = self.at - count * LENGTHS[kind]
                cover[start : self.at] = scenes.cover.reshape(-1, *cover.shape[1:])
                for name, values in scenes.facts.items():
                    self.facts[name][start : self.at] = values.reshape(-1, *values.shape[2:])
                if number % 20 == 0:
                    self._print_progress(started)
            for futures in pending:
                for future in futures:
                    future.result()
        self._print_progress(started)
        for file in self.folder.glob("input-*.raw"):
            file.unlink()
        if self.order.videos:
            exported = [clip for clip in self.clips if clip["length"] >= EXPORTED]
            write_spec(self.order.videos / "spec.csv", scene_rows(self.facts, exported, max(LENGTHS.values())))
        bank.finish(self.folder, self.facts, self.clips)

    def _put(self, scenes: Scenes, slot: int) -> Path:
        """Puts a batch's pictures where workers find them: a file that is used again and again, so stays in memory."""
        file = self.folder / f"input-{slot}.raw"
        planes = scenes.planes.flatten(0, 1)
        size = max(self.order.batch, len(planes)), RENDER * 3 // 2, RENDER
        held = np.memmap(file, np.uint8, "r+" if file.exists() else "w+", shape=size)
        torch.from_numpy(held[: len(planes)]).copy_(planes)
        return file

    def _jobs(self, kind: str, first: int, count: int, source: Path) -> list[Job]:
        length, clips = LENGTHS[kind], []
        for i in range(count):
            name, coding = f"{kind}-{first + i:05d}", Coding.random(self.rng, length)
            video = self.order.videos / f"{name}.mp4" if self.order.videos and length >= EXPORTED else None
            clips.append(Clip(i * length, self.at, length, coding, video))
            self.clips.append(
                {"name": name, "start": self.at, "length": length, "real": False, "coding": asdict(coding)}
            )
            self.at += length
        each = max(1, JOB // length)
        return [Job(self.folder, source, tuple(clips[i : i + each])) for i in range(0, count, each)]

    def _print_progress(self, started: float) -> None:
        spent = time.monotonic() - started
        rate = self.at / spent
        print(
            f"{self.at} of {self.order.frames} frames, {rate:.0f} a second, {spent:.0f} s", file=sys.stderr, flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pack", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--split", choices=("train", "val"), default="train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--singles", type=int, default=24000)
    parser.add_argument("--strides", type=int, default=8000)
    parser.add_argument("--windows", type=int, default=4000)
    parser.add_argument("--longs", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=BATCH, help="frames rendered at a time")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--export", type=Path, help="folder for videos of 16 and 80 frames and their spec")
    args = parser.parse_args()
    if bank.finished(args.out):
        print(f"{args.out} is finished", file=sys.stderr)
        return
    counts = {kind: int(getattr(args, f"{kind}s")) for kind in LENGTHS}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    order = Order(counts, args.seed, args.export, args.batch)
    Film(load_library(args.pack, device, args.split, args.seed), args.out, order, args.workers).make()


if __name__ == "__main__":
    main()

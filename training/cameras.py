"""Real fixed cameras: who trains, validates and tests (split.csv), what is in view (labels.csv), and a model's scores.

    python training/cameras.py spec --data DATA --split validation test --out spec.csv
    codecflow eval spec.csv --model MODEL --window 8 --stride 2 --policies replenish/none --out OUT
    python training/cameras.py report OUT/answers.csv

No camera is in two splits. Validation cameras choose the weights and the threshold, test cameras are looked at once, at
the end. The report holds each camera out in turn: its answers are scored at the threshold that is best on all others, so
none has a say in what it is scored with. Intervals draw cameras, not windows, which resemble their neighbours.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

HERE = Path(__file__).parent
SPLITS = ("train", "validation", "test", "unused")
DRAWS = 1000
QUESTIONS = {"person": "Is a person in view?", "vehicle": "Is a vehicle in view?"}


@dataclass(frozen=True)
class Source:
    """A row of split.csv. `pattern`: of paths in DATA; `camera`: "" for photographs."""

    pattern: str
    camera: str
    split: str


def read_split(path: Path = HERE / "split.csv") -> list[Source]:
    """All sources. Raises SystemExit when a camera is in two splits, or a split has another name."""
    with path.open() as file:
        sources = [Source(row["source"], row["camera"], row["split"]) for row in csv.DictReader(file)]
    splits: dict[str, set[str]] = defaultdict(set)
    for source in sources:
        if source.split not in SPLITS:
            raise SystemExit(f"{path}: split {source.split!r} of {source.pattern}: use one of {', '.join(SPLITS)}")
        if source.camera and source.split != "unused":
            splits[source.camera].add(source.split)
    for camera, found in splits.items():
        if len(found) > 1:
            raise SystemExit(f"{path}: camera {camera} is in two splits, {' and '.join(sorted(found))}")
    return sources


def source_of(path: str, sources: Sequence[Source]) -> Source:
    """The row of a clip; one that has none is unused."""
    return next((s for s in sources if fnmatch.fnmatch(path, s.pattern)), Source(path, "", "unused"))


def clips_in(data: Path, split: str) -> list[str]:
    """Paths of a split's clips, in the order of MANIFEST.csv."""
    sources = read_split()
    with (data / "MANIFEST.csv").open() as file:
        paths = [row["file"] for row in csv.DictReader(file)]
    return [path for path in paths if source_of(path, sources).split == split]


Spans = list[tuple[float, float, int]]


def labels_of(path: str, file: Path = HERE / "labels.csv") -> dict[str, Spans]:
    """(begin, end in seconds, 1 in view or 0 not) of "person" and "vehicle" in a clip, as seen by eye; elsewhere unknown."""
    found: dict[str, Spans] = {}
    with file.open() as opened:
        for row in csv.DictReader(opened):
            if not fnmatch.fnmatch(path, row["file"]):
                continue
            begin, end = float(row["start_s"] or 0), float(row["end_s"] or "inf")
            for name in QUESTIONS:
                if row[name]:
                    found.setdefault(name, []).append((begin, end, int(row[name] == "yes")))
    return found


# --- scores ---------------------------------------------------------------------------------------------------


@dataclass
class Scored:
    """Windows of one question: `p` (n,) p(yes), `yes` (n,) bool, `camera` (n,) numbers of `names`."""

    p: npt.NDArray[np.float64]
    yes: npt.NDArray[np.bool_]
    camera: npt.NDArray[np.int64]
    names: list[str]

    def take(self, at: npt.NDArray[Any]) -> Scored:
        return Scored(self.p[at], self.yes[at], self.camera[at], self.names)


def auc(p: npt.NDArray[Any], yes: npt.NDArray[np.bool_]) -> float:
    """Of a random window with and one without, how often the first is ranked higher; nan where one kind is missing."""
    if yes.all() or not yes.any():
        return float("nan")
    above = p[yes][:, None] - p[~yes][None]
    return float((above > 0).mean() + 0.5 * (above == 0).mean())


def f1(predicted: npt.NDArray[np.bool_], yes: npt.NDArray[np.bool_]) -> float:
    """Of yes; nan where nothing is yes and nothing was said to be."""
    wrong, right = (predicted != yes).sum(), (predicted & yes).sum()
    return float(2 * right / (2 * right + wrong)) if right + wrong else float("nan")


def best_threshold(p: npt.NDArray[Any], yes: npt.NDArray[np.bool_]) -> float:
    """Where F1 is highest; in the middle of the best stretch, so that one window more or less changes little."""
    tried = np.linspace(0.02, 0.98, 97)
    scores = np.array([np.nan_to_num(f1(p >= t, yes)) for t in tried])
    best = np.flatnonzero(scores >= scores.max() - 1e-9)
    stretch = max(np.split(best, np.flatnonzero(np.diff(best) > 1) + 1), key=len)
    return float(tried[stretch[len(stretch) // 2]])


def held_out(scored: Scored) -> npt.NDArray[np.bool_]:
    """(n,) what each camera's windows are answered at the threshold that is best on all other cameras."""
    predicted = np.zeros(len(scored.p), bool)
    for camera in np.unique(scored.camera):
        mine = scored.camera == camera
        predicted[mine] = scored.p[mine] >= best_threshold(scored.p[~mine], scored.yes[~mine])
    return predicted


def interval(scored: Scored, predicted: npt.NDArray[np.bool_]) -> dict[str, tuple[float, float, float]]:
    """(value, lower and upper end of its 95 % interval) of AUC and F1, cameras drawn."""
    rng = np.random.default_rng(0)
    cameras = np.unique(scored.camera)
    groups = [np.flatnonzero(scored.camera == c) for c in cameras]
    draws: dict[str, list[float]] = {"auc": [], "f1": []}
    for _ in range(DRAWS):
        at = np.concatenate([groups[k] for k in rng.integers(len(groups), size=len(groups))])
        draws["auc"].append(auc(scored.p[at], scored.yes[at]))
        draws["f1"].append(f1(predicted[at], scored.yes[at]))
    whole = {"auc": auc(scored.p, scored.yes), "f1": f1(predicted, scored.yes)}
    ends = {k: np.nanquantile(draws[k], (0.025, 0.975)) for k in whole}
    return {k: (whole[k], float(ends[k][0]), float(ends[k][1])) for k in whole}


def read_answers(path: Path, policy: str) -> Iterator[tuple[str, str, bool, float]]:
    """(file, "person" or "vehicle", label, p(yes)) of each labelled window that `policy` answered."""
    names = {text: name for name, text in QUESTIONS.items()}
    with path.open() as file:
        for row in csv.DictReader(file):
            if row["policy"] == policy and row["question"] in names and row["label"] and row["p_yes"]:
                yield row["file"], names[row["question"]], row["label"] == "yes", float(row["p_yes"])


def report(paths: Sequence[Path], policy: str, splits: Sequence[str]) -> dict[str, Any]:
    """Prints tables by camera and over all of them; returns what the last line says."""
    sources = read_split()
    by: dict[str, list[tuple[str, bool, float]]] = defaultdict(list)
    of_split: dict[str, str] = {}
    for path in paths:
        for file, name, yes, p in read_answers(path, policy):
            source = next((s for s in sources if fnmatch.fnmatch(Path(file).name, Path(s.pattern).name)), None)
            if source is None or source.split not in splits:
                continue
            by[name].append((source.camera, yes, p))
            of_split[source.camera] = source.split
    document: dict[str, Any] = {"policy": policy}
    for name, rows in by.items():
        cameras = sorted({camera for camera, *_ in rows}, key=lambda c: (of_split[c], c))
        scored = Scored(
            np.array([p for *_, p in rows]),
            np.array([yes for _, yes, _ in rows]),
            np.array([cameras.index(camera) for camera, *_ in rows]),
            cameras,
        )
        predicted = held_out(scored)
        print(f"\n{QUESTIONS[name]}\n\n| camera | split | windows, of them yes | right | right at 0.5 | mean p(yes) |")
        print("|---|---|---|---|---|---|")
        for k, camera in enumerate(cameras):
            mine = scored.camera == k
            yes, p = scored.yes[mine], scored.p[mine]
            right = (predicted[mine] == yes).mean(), ((p >= 0.5) == yes).mean()
            cells = [*(f"{share:.2f}" for share in right), f"{p.mean():.2f}"]
            print(f"| {camera} | {of_split[camera]} | {len(p)}, {yes.sum()} | {' | '.join(cells)} |")
        print("\n| cameras | windows, of them yes | AUC (95 %) | F1, each camera held out (95 %) | F1 at 0.5 (95 %) |")
        print("|---|---|---|---|---|")
        document[name] = {}
        for split in (*dict.fromkeys(of_split[c] for c in cameras), "all"):
            at = np.array([split in (of_split[cameras[c]], "all") for c in scored.camera])
            part = scored.take(at)
            ends = interval(part, predicted[at]), interval(part, part.p >= 0.5)
            number = len(np.unique(part.camera))
            cells = [f"{v:.3f} ({lo:.3f} to {hi:.3f})" for v, lo, hi in (ends[0]["auc"], ends[0]["f1"], ends[1]["f1"])]
            print(f"| {split}, {number} | {len(part.p)}, {part.yes.sum()} | {' | '.join(cells)} |")
            document[name][split] = {
                "cameras": number,
                "windows": len(part.p),
                "yes": int(part.yes.sum()),
                "auc": ends[0]["auc"],
                "f1": ends[0]["f1"],
                "f1_at_half": ends[1]["f1"],
            }
        document[name]["threshold"] = best_threshold(scored.p, scored.yes)
    return document


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    spec = commands.add_parser("spec", help="labelled clips as a spec for `codecflow eval`")
    spec.add_argument("--data", type=Path, required=True)
    spec.add_argument("--split", nargs="+", choices=SPLITS, default=["validation"])
    spec.add_argument("--out", type=Path, required=True)
    report = commands.add_parser("report", help="scores by camera of what `codecflow eval --out` wrote")
    report.add_argument("answers", type=Path, nargs="+")
    report.add_argument("--policy", default="replenish/none")
    report.add_argument("--split", nargs="+", choices=SPLITS, default=["validation", "test"])
    return parser.parse_args()


def main() -> None:
    args = arguments()
    if args.command == "report":
        print(json.dumps(report(args.answers, args.policy, args.split)))
        return
    from real import spec_rows
    from specs import write_spec

    paths = [path for split in args.split for path in clips_in(args.data, split)]
    write_spec(args.out, spec_rows(args.data, paths))


if __name__ == "__main__":
    main()

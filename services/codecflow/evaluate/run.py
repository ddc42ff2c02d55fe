"""`codecflow eval` from its options to its table, pictures and JSON line."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from codecflow.bench.charts import check_possible
from codecflow.bench.table import print_json, progress
from codecflow.codec.transcode import Transcode
from codecflow.errors import ConfigError
from codecflow.messages import Result
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.worker.windows import WindowPlan

from .contenders import DEFAULT, Contender, contenders
from .curves import draw_curves
from .labels import label
from .pipeline import Lane, publish
from .report import UNTRAINED, document, print_standings, write_answers
from .scoring import RESAMPLES, Key, score
from .spec import Clip, Spec, read_spec


@dataclass(frozen=True, slots=True)
class Options:
    """As given on the command line. `policies` None: those of the product and every baseline."""

    spec: Path
    model: str
    window_s: str = "40"
    stride_s: str = "8"
    fps: str = "2"
    policies: str | None = None
    coverage: str | None = None
    transcode: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    out: Path | None = None


def run(options: Options) -> None:
    """Evaluates and prints. Raises ConfigError, before the model is loaded, SourceError and ModelError."""
    spec = read_spec(options.spec)
    plan = WindowPlan.of(options.window_s, options.stride_s, options.fps)
    wanted = contenders(options.policies or DEFAULT, plan, options.coverage)
    transcode = Transcode.parse(options.transcode) if options.transcode else None
    if options.out is not None:
        _folder(options.out)
    family = load_model(options.model, options.dtype, options.device)
    if not family.trained:
        _say(f"{UNTRAINED} ({options.model})")
    answers = _Answers(spec, plan)
    with ExitStack() as stack:
        lanes = [stack.enter_context(closing(Lane(one, family, options.model))) for one in wanted]
        for number, clip in enumerate(spec.clips):
            _evaluate(number, clip, lanes, answers, transcode)
    if not answers.labels:
        raise ConfigError(
            f"spec {options.spec}: not one window can be scored; no file is as long as a stride of {options.stride_s} s,"
            " or no interval covers half of one"
        )
    _tell(options, family, answers, wanted)


class _Answers:
    """Everything that was answered, by contender, and what would have been right."""

    def __init__(self, spec: Spec, plan: WindowPlan) -> None:
        self.spec = spec
        self.by_contender: dict[str, dict[Key, Result]] = {}
        self.labels: dict[Key, str] = {}
        self._plan = plan

    def add(self, contender: Contender, number: int, clip: Clip, results: list[Result]) -> None:
        for result in results:
            key = (number, result.window, result.prompt)
            self.by_contender.setdefault(contender.name, {})[key] = result
            # The stride, not the window: a window of the last few frames may be shorter than its stride.
            start_s, end_s = (float(self._plan.time((result.window + k) * self._plan.stride_slots)) for k in (0, 1))
            right = label(result.type, clip.labels[result.prompt], start_s, end_s)
            if right is not None:
                self.labels[key] = right


def _evaluate(number: int, clip: Clip, lanes: list[Lane], answers: _Answers, transcode: Transcode | None) -> None:
    """One clip through every lane."""
    spec, stream = answers.spec, f"clip-{number}"
    name = f"{number + 1}/{len(spec.clips)} {clip.file.name}"
    records, summary = publish(clip.file, stream, lanes[0].contender.plan.fps, transcode)
    if summary.lost:
        _say(f"{name}: {summary.lost} pictures are damaged and were left out")
    with progress("windows") as bar:
        task = bar.add_task(name, total=None)
        for lane in lanes:
            bar.update(task, description=f"{name}: {lane.contender.name}", completed=0)
            begun, count = time.perf_counter(), 0
            for results in lane.answers(records, stream, spec.asked_of(clip)):
                answers.add(lane.contender, number, clip, results)
                count += 1
                bar.update(task, completed=count)
            told = (
                f"{count} windows in {time.perf_counter() - begun:.1f} s"
                if count
                else "shorter than a stride, not asked"
            )
            bar.console.print(f"{name}: {lane.contender.name}: {told}", highlight=False)


def _tell(options: Options, family: Family, answers: _Answers, wanted: list[Contender]) -> None:
    by_contender = {one.name: answers.by_contender.get(one.name, {}) for one in wanted}
    standings = score(tuple(answers.spec.questions.values()), by_contender, answers.labels)
    clips = len(answers.spec.clips)
    title = (
        f"{options.model}: {clips} clip{'s' * (clips > 1)} of {options.spec.name}, windows of {options.window_s} s every "
        f"{options.stride_s} s at {options.fps} frames/s"
    )
    print_standings(standings, title, family.trained)
    run: dict[str, object] = {
        "model": options.model,
        "trained": family.trained,
        "spec": str(options.spec),
        "clips": clips,
        "window_s": options.window_s,
        "stride_s": options.stride_s,
        "fps": options.fps,
        "coverage": options.coverage,
        "transcode": options.transcode,
        "resamples": RESAMPLES,
    }
    if not family.trained:
        run["scores"] = UNTRAINED
    if options.out is not None:
        pictures = [options.out / "f1-flops.png", options.out / "f1-flops.svg"]
        draw_curves(standings, title, family.trained, pictures)
        write_answers(options.out / "answers.csv", answers.spec, by_contender, answers.labels)
        run["files"] = [str(path) for path in (*pictures, options.out / "answers.csv")]
    if not family.trained:
        _say(UNTRAINED)
    print_json(document(standings, run))


def _folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"folder {out}: cannot be made ({error.strerror})") from error
    check_possible(out)


def _say(line: str) -> None:
    print(f"codecflow: {line}", file=sys.stderr, flush=True)

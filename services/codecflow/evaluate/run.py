"""`codecflow eval` from its options to its table, pictures and JSON line."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from codecflow.bench.charts import check_possible
from codecflow.bench.table import print_json, progress
from codecflow.codec.source import clip_seconds
from codecflow.codec.transcode import Transcode
from codecflow.errors import ConfigError
from codecflow.keep import KeepConfig
from codecflow.messages import Result
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.worker.windows import WindowPlan

from .contenders import DEFAULT, REFERENCE, Contender, contenders
from .curves import draw_curves
from .labels import label
from .lanes import Lane
from .pipeline import Published, Sampled, publish
from .report import UNTRAINED, document, print_standings, write_answers
from .scoring import RESAMPLES, Key, score
from .spec import Spec, read_spec

HELD_BYTES = 4 << 30
"""The most that decoded pictures of the clips side by side may take: beyond it, each contender decodes them again."""


@dataclass(frozen=True, slots=True)
class Options:
    """As given on the command line. `policies` None: the product's and every baseline. `streams`: clips side by side."""

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
    streams: int = 8
    out: Path | None = None


def run(options: Options) -> None:
    """Evaluates and prints. Raises ConfigError, before the model is loaded, SourceError and ModelError."""
    spec = read_spec(options.spec)
    plan = WindowPlan.of(options.window_s, options.stride_s, options.fps)
    wanted = contenders(options.policies or DEFAULT, plan, options.coverage)
    transcode = Transcode.parse(options.transcode) if options.transcode else None
    waves = in_waves([clip.file for clip in spec.clips], options.streams)
    if options.out is not None:
        _folder(options.out)
    family = load_model(options.model, options.dtype, options.device)
    if not family.trained:
        _say(f"{UNTRAINED} ({options.model})")
    answers = _Answers(spec, plan)
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(options.streams, thread_name_prefix="decoder"))
        lanes = [stack.enter_context(closing(Lane(one, family, options.model, threads))) for one in wanted]
        for wave in waves:
            asked = [(number, spec.clips[number]) for number in wave]
            published = threads.map(
                lambda one: publish(one[0], one[1].file, spec.asked_of(one[1]), plan.fps, transcode), asked
            )
            _evaluate(list(published), lanes, answers)
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

    def has(self, number: int) -> bool:
        """Whether any window of a clip was answered."""
        return any(key[0] == number for key in self.by_contender.get(REFERENCE, {}))

    def add(self, contender: Contender, number: int, results: list[Result]) -> None:
        """The results of one window of the clip at place `number` of the spec."""
        clip = self.spec.clips[number]
        for result in results:
            key = (number, result.window, result.prompt)
            self.by_contender.setdefault(contender.name, {})[key] = result
            # The stride, not the window: a window of the last few frames may be shorter than its stride.
            start_s, end_s = (float(self._plan.time((result.window + k) * self._plan.stride_slots)) for k in (0, 1))
            right = label(result.type, clip.labels[result.prompt], start_s, end_s)
            if right is not None:
                self.labels[key] = right


def in_waves(files: Sequence[Path], streams: int) -> list[list[int]]:
    """Places of the files that are answered side by side, `streams` at a time, the longest first: such as are of like length
    end together, so that batches stay full. Raises ConfigError and, when a file is no video, SourceError."""
    if streams < 1:
        raise ConfigError(f"--streams {streams}: use 1 or more")
    seconds = [clip_seconds(file) for file in files]
    order = sorted(range(len(files)), key=lambda number: -seconds[number])
    return [order[first : first + streams] for first in range(0, len(order), streams)]


def _evaluate(clips: Sequence[Published], lanes: Sequence[Lane], answers: _Answers) -> None:
    """A wave of clips through every lane. Lanes that take the same tokens follow each other, to decode them once."""
    name = clips[0].file.name if len(clips) == 1 else f"{clips[0].file.name} and {len(clips) - 1} more"
    for clip in clips:
        if clip.lost:
            _say(f"{clip.file.name}: {clip.lost} pictures are damaged and were left out")
    alike: dict[tuple[WindowPlan, KeepConfig], list[Lane]] = {}
    for lane in lanes:
        alike.setdefault((lane.contender.plan, lane.contender.keep), []).append(lane)
    with progress("windows") as bar:
        task = bar.add_task(name, total=None)
        for group in alike.values():
            sampled = [Sampled(clip, group[0].sampling, HELD_BYTES // len(clips)) for clip in clips]
            for lane in group:
                bar.update(task, description=f"{name}: {lane.contender.name}", completed=0)
                begun, count = time.perf_counter(), 0
                for number, results in lane.answers(sampled):
                    answers.add(lane.contender, number, results)
                    count += 1
                    bar.update(task, completed=count)
                told = f"{count} windows in {time.perf_counter() - begun:.1f} s"
                bar.console.print(f"{name}: {lane.contender.name}: {told}", highlight=False)
    for clip in clips:
        if not answers.has(clip.number):
            _say(f"{clip.file.name}: shorter than a stride, not asked")


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
        "streams": options.streams,
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

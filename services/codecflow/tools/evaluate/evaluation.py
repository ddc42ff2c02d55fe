"""`codecflow eval`: from its options to its table, charts and JSON line."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from codecflow.codec.source import clip_seconds
from codecflow.codec.transcode import Transcode
from codecflow.errors import ConfigError
from codecflow.folders import make_folder
from codecflow.keep import KeepConfig
from codecflow.tools.demo_model.checkpoint import checkpoint
from codecflow.tools.report.charts import check_possible
from codecflow.tools.report.table import print_json, progress
from codecflow.vlm.kv_pool import spare_memory
from codecflow.vlm.loading import load_model
from codecflow.worker.window_plan import WindowPlan

from .bootstrap import RESAMPLES
from .contender_answers import Answers, ContenderWorker
from .contender_names import REFERENCE, TARGET
from .contenders import DEFAULT, contenders
from .curves import draw_curves
from .report import UNTRAINED, document, print_matched, print_policies, print_questions, write_answers
from .sampled_clips import Published, Sampled, publish
from .scoring import Standing, matched, score
from .spec import read_spec
from .timeline import draw_timeline, pictures_at, thumbnail_times, timeline

HELD_BYTES = 4 << 30
"""Maximum bytes of decoded pictures of concurrent clips: beyond it, each contender decodes them again."""


@dataclass(frozen=True, slots=True)
class Options:
    """Command line options. `policies` None: the product's and every baseline. `streams`: concurrent clips. `match`: the
    contender at whose FLOPs others are compared; None: the product's default, if it runs. `reference`: the one that scores,
    FLOPs and answers are compared with."""

    spec: Path
    model: str
    window_s: str = "40"
    stride_s: str = "8"
    fps: str = "2"
    policies: str | None = None
    coverage: str | None = None
    transcode: str | None = None
    dtype: str = "auto"
    weights: str = "auto"
    kv: str = "auto"
    device: str = "auto"
    streams: int = 8
    match: str | None = None
    reference: str = REFERENCE
    out: Path | None = None


def run(options: Options) -> None:
    """Evaluates and prints. Raises ConfigError, before the model is loaded, SourceError and ModelError."""
    spec = read_spec(options.spec)
    plan = WindowPlan.of(options.window_s, options.stride_s, options.fps)
    match = None if options.match is None else options.match.strip()
    wanted = contenders(options.policies or DEFAULT, plan, options.coverage, match, options.reference.strip())
    transcode = Transcode.parse(options.transcode) if options.transcode else None
    waves = in_waves([clip.file for clip in spec.clips], options.streams)
    if options.out is not None:
        check_possible(make_folder(options.out))
    family = load_model(checkpoint(options.model, _notice), options.dtype, options.device, options.weights, options.kv)
    if not family.trained:
        _notice(f"{UNTRAINED} ({options.model})")
    answers = Answers(spec, plan, wanted)
    with ExitStack() as stack:
        threads = stack.enter_context(ThreadPoolExecutor(options.streams, thread_name_prefix="decoder"))
        share = spare_memory(family.device) // len(wanted)
        workers = [
            stack.enter_context(closing(ContenderWorker(one, family, options.model, threads, share))) for one in wanted
        ]
        for wave in waves:
            clips_of_wave = [(number, spec.clips[number]) for number in wave]
            published = threads.map(
                lambda one: publish(one[0], one[1].file, spec.questions_of(one[1]), plan.fps, transcode), clips_of_wave
            )
            _evaluate(list(published), workers, answers)
    _check_comparable(answers, options)
    clips = len(spec.clips)
    title = (
        f"{options.model}: {clips} clip{'s' * (clips > 1)} of {options.spec.name}, windows of {options.window_s} s every "
        f"{options.stride_s} s at {options.fps} frames/s"
    )
    figures = {
        "model": options.model,
        "trained": family.trained,
        "device": str(family.device),
        "dtype": str(family.dtype).removeprefix("torch."),
        "weights": options.weights,
        "kv": options.kv,
        "spec": str(options.spec),
        "clips": clips,
        "window_s": options.window_s,
        "stride_s": options.stride_s,
        "fps": options.fps,
        "coverage": options.coverage,
        "transcode": options.transcode,
        "streams": options.streams,
        "reference": answers.reference,
        "resamples": RESAMPLES,
    }
    report_results(answers, match or TARGET, title, figures, options.out)


def _check_comparable(answers: Answers, options: Options) -> None:
    """Raises ConfigError if no labelled window was answered by every contender: there is nothing to compare."""
    if not answers.labels:
        raise ConfigError(
            f"spec {options.spec}: no window can be scored; no file is as long as a stride of {options.stride_s} s,"
            " or no interval covers half of one"
        )
    if answers.labels.keys() & set.intersection(*map(set, answers.by_contender.values())):
        return
    name, given = min(answers.by_contender.items(), key=lambda item: len(item[1]))
    raise ConfigError(
        f"{name}: no window that can be scored was answered by all; it has {len(given)} answers, {answers.reference} has"
        f" {len(answers.by_contender[answers.reference])}. The clips have fewer than {options.fps} frames per second where"
        " it samples: use a lower --fps, or leave it out of --policies"
    )


def in_waves(files: Sequence[Path], streams: int) -> list[list[int]]:
    """Indices of the files that are answered concurrently, `streams` at a time, the longest first: files of similar length
    end together, so that batches stay full. Raises ConfigError and, when a file is not a video, SourceError."""
    if streams < 1:
        raise ConfigError(f"--streams {streams}: use 1 or more")
    seconds = [clip_seconds(file) for file in files]
    order = sorted(range(len(files)), key=lambda number: -seconds[number])
    return [order[first : first + streams] for first in range(0, len(order), streams)]


def _evaluate(clips: Sequence[Published], workers: Sequence[ContenderWorker], answers: Answers) -> None:
    """Runs a wave of clips through every contender. Those with the same tokens run consecutively: decoded once."""
    name = clips[0].file.name if len(clips) == 1 else f"{clips[0].file.name} and {len(clips) - 1} more"
    for clip in clips:
        if clip.lost:
            _notice(f"{clip.file.name}: {clip.lost} pictures are damaged and were left out")
    alike: dict[tuple[WindowPlan, KeepConfig, bool], list[ContenderWorker]] = {}
    for worker in workers:
        own = worker.contender
        alike.setdefault((own.plan, own.keep, own.whole), []).append(worker)
    with progress("windows") as bar:
        task = bar.add_task(name, total=None)
        for group in alike.values():
            sampled = [Sampled(clip, group[0].sampling, HELD_BYTES // len(clips)) for clip in clips]
            for worker in group:
                bar.update(task, description=f"{name}: {worker.contender.name}", completed=0)
                begun, count = time.perf_counter(), 0
                for number, results in worker.answers(sampled):
                    answers.add(worker.contender, number, results)
                    count += 1
                    bar.update(task, completed=count)
                summary = f"{count} windows in {time.perf_counter() - begun:.1f} s"
                bar.console.print(f"{name}: {worker.contender.name}: {summary}", highlight=False)
    for clip in clips:
        if not answers.has(clip.number):
            _notice(f"{clip.file.name}: shorter than a stride, skipped")


def _notice(line: str) -> None:
    print(f"codecflow: {line}", file=sys.stderr, flush=True)


MAX_CLIPS = 10
"""Maximum number of clips whose answers over time are drawn."""


def report_results(answers: Answers, target: str, title: str, run: Mapping[str, object], out: Path | None) -> None:
    """Prints, and writes to the folder `out`. `target`: at whose FLOPs others are compared, if it ran. `run`: description of
    the run for the JSON line, including `trained`. Raises ConfigError when a file cannot be written."""
    trained, summary = bool(run["trained"]), dict(run)
    standings = score(tuple(answers.spec.questions.values()), answers.by_contender, answers.labels)
    print_policies(standings, title, trained)
    chosen = next((one for one in standings if one.name == target), None)
    rivals = matched(standings, chosen) if chosen else []
    if chosen and rivals:
        print_matched(chosen, rivals, answers.reference, trained)
    print_questions(standings, trained)
    if not trained:
        summary["scores"] = UNTRAINED
    if out is not None:
        write_answers(out / "answers.csv", answers.spec, answers.by_contender, answers.labels)
        pictures = [out / "f1-flops.png", out / "f1-flops.svg"]
        draw_curves(standings, title, trained, pictures)
        pictures += _timelines(answers, standings, target, run, out)
        summary["files"] = [str(path) for path in (*pictures, out / "answers.csv")]
    if not trained:
        print(f"codecflow: {UNTRAINED}", file=sys.stderr, flush=True)
    print_json(document(standings, target, rivals, summary))


def _timelines(
    answers: Answers, standings: Sequence[Standing], target: str, run: Mapping[str, object], out: Path
) -> list[Path]:
    """Draws the answers over time of the first clips; returns the files."""
    clips, paths = answers.spec.clips, []
    for number in range(min(len(clips), MAX_CLIPS)):
        if (shown := timeline(answers, number, standings, target)) is None:
            continue
        stem = "answers" if len(clips) == 1 else f"answers-{number + 1}-{shown.file.stem}"
        files = [out / f"{stem}.png", out / f"{stem}.svg"]
        title = f"{run['model']}, asked every {run['stride_s']} s about {shown.file.name}"
        if not run["trained"]:
            title = UNTRAINED
        draw_timeline(shown, pictures_at(shown.file, thumbnail_times(shown.seconds)), title, files)
        paths += files
    if len(clips) > MAX_CLIPS:
        print(f"codecflow: answers over time are drawn of the first {MAX_CLIPS} clips", file=sys.stderr, flush=True)
    return paths

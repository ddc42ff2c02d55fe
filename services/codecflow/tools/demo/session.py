"""The demo's sequence of steps. Its processes exchange data only through Kafka."""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from codecflow import subscriber
from codecflow.codec.source import clip_seconds
from codecflow.errors import SourceError
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.localkafka.daemon import LocalKafka
from codecflow.subscriber.lines import clock, result_line
from codecflow.tools.demo_model.checkpoint import checkpoint

from .children import Children
from .source_figures import fitting_stride, jpeg_bytes
from .tally import Figures, tally
from .watch import Answers, Display, Published, show_address

STREAM = "demo"
QUESTIONS = (subscriber.question("Is a person in view?", yes_no=True, name="person", event="yes"),)
"""What codecflow-tiny answers well on cameras that it has never seen (training/MODEL_CARD.md), and no more."""

_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`source`: a video file. `model`: hub id, folder or codecflow-tiny; None makes one with random weights. `window_s`,
    `stride_s`: seconds; both shrink for a clip that is shorter than a stride. `realtime`: at the clip's own pace. `stay`:
    keep the page after the clip has ended, until Ctrl-C. `worker`: further options of `codecflow worker`, passed unchanged.
    """

    source: Path
    model: str | None = None
    window_s: int = 40
    stride_s: int = 8
    fps: Fraction = Fraction(2)
    realtime: bool = False
    stay: bool = False
    worker: tuple[str, ...] = ()


def run(options: DemoOptions, display: Display, done: Callable[[Figures], None]) -> None:
    """Plays the clip through its own broker and answers it; `done` is called with the figures. Stops every process that
    it has started. A page shows the run if its packages are installed.

    Raises SourceError, ConfigError, KafkaError, ModelError or ServiceError, whose text is one line.
    """
    window, stride = _windows(options, display)
    with tempfile.TemporaryDirectory(prefix="codecflow-demo-") as folder, LocalKafka(progress=display.line) as kafka:
        settings = KafkaSettings(kafka.bootstrap_servers)
        create_topics(settings, partitions=2)
        model = _model(options.model, Path(folder), display)
        for question in QUESTIONS:
            subscriber.ask(settings, STREAM, question)
            display.line(f"question: {question.prompt}")
        follow = ["results", "--json", "--from-beginning"]
        answer = [
            "worker",
            "--model",
            model,
            "--window",
            str(window),
            "--stride",
            str(stride),
            "--fps",
            str(options.fps),
        ]
        answer += ["--until-end", "--json", *options.worker, *(["--when-behind", "wait"] if options.realtime else [])]
        produce = ["produce", str(options.source), "--stream", STREAM, *([] if options.realtime else ["--fast"])]
        began = time.monotonic()
        environment = {"CODECFLOW_BOOTSTRAP_SERVERS": kafka.bootstrap_servers}
        with Children(Path(folder), environment) as services, Published(settings) as published:
            if importlib.util.find_spec("uvicorn") is not None:
                show_address(services.start("page", "--port", "0"), STREAM, display)
            answers = Answers(services.start(*follow))
            services.start(*answer)
            services.start(*produce)
            for service in (follow, answer, produce):
                display.line(f"started: codecflow {' '.join(service)}", style="dim")
            while services.runs("worker"):
                for result in answers.arrived(_POLL_S):
                    display.line(result_line(result))
                published.update(to_end=not services.runs("produce"))
                if published.pictures and (words := services.failure("produce")):
                    display.warn(words)  # part of the clip is damaged; the rest can be answered
                services.check()
                display.status(_status(published, answers))
            services.check()
            services.stop("results")
            for result in answers.rest():
                display.line(result_line(result))
            published.update()
            took = time.monotonic() - began
            if not answers.all:
                raise SourceError(f"source {options.source}: it is shorter than one window of {stride} s")
            figures = tally(
                answers.all,
                pictures=published.pictures,
                packets_bytes=kafka.topic_bytes(settings.topics.packets),
                metadata_bytes=kafka.topic_bytes(settings.topics.metadata),
                source_bytes=options.source.stat().st_size,
                jpeg=jpeg_bytes(options.source, options.fps),
                seconds=took,
            )
            done(figures)
            if options.stay and services.runs("page"):
                display.status("")
                display.line("the page stays until Ctrl-C")
                with suppress(KeyboardInterrupt):
                    while services.runs("page"):
                        time.sleep(_POLL_S)
            services.check()


def _windows(options: DemoOptions, display: Display) -> tuple[int, int]:
    """(window, stride) in seconds that the clip can fill."""
    seconds = clip_seconds(options.source)
    stride = fitting_stride(seconds, options.stride_s)
    if stride == options.stride_s:
        return options.window_s, stride
    window = max(1, options.window_s * stride // options.stride_s)
    display.warn(
        f"The clip lasts {seconds:.1f} s, less than one stride of {options.stride_s} s: no window would ever be complete. "
        f"Here windows are {window} s long and move by {stride} s."
    )
    return window, stride


def _model(name: str | None, folder: Path, display: Display) -> str:
    """The model that the worker loads."""
    if name is None:
        return _untrained_model(folder, display)
    return checkpoint(name, display.line)


def _untrained_model(folder: Path, display: Display) -> str:
    from codecflow.vlm.tiny import make_tiny

    path = make_tiny(folder / "untrained")
    display.warn(
        "The model is UNTRAINED: tiny, with random weights, made on the spot. Its answers mean nothing; windows, tokens, "
        "FLOPs and bytes are real. --model takes a trained checkpoint."
    )
    return str(path)


def _status(published: Published, answers: Answers) -> str:
    windows = {result.window: result for result in answers.all}.values()
    kept, total = sum(r.tokens.kept for r in windows), sum(r.tokens.total for r in windows)
    behind = published.seconds - max((result.end_s for result in windows), default=0.0)
    return (
        f"{published.pictures} pictures published ({clock(published.seconds)}), {len(windows)} windows answered, "
        f"tokens kept {f'{kept / total:.0%}' if total else '-'}, lag {clock(max(behind, 0.0))}"
    )

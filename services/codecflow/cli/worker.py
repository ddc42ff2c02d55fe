"""`codecflow worker`: answer the questions asked of streams."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from codecflow import logs

from .options import (
    DEFAULT_PREFIX,
    BootstrapServers,
    KafkaConfig,
    MaxPictureSize,
    MetricsPort,
    Properties,
    TopicPrefix,
    kafka_settings,
    picture_pixels,
)
from .status import StatusLine, last_words

if TYPE_CHECKING:
    from codecflow.vlm.families import Family
    from codecflow.worker.summary import Summary

_WINDOWS, _MODEL = "Windows and policies", "Model"


def register(app: typer.Typer) -> None:
    app.command("worker")(worker)


def worker(
    *,
    model: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_FOLDER",
            help="Checkpoint: an id on the Hugging Face hub, a folder, or codecflow-tiny, the demo model.",
            rich_help_panel=_MODEL,
        ),
    ],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...", rich_help_panel=_MODEL)] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.", rich_help_panel=_MODEL)] = "auto",
    weights: Annotated[
        str,
        typer.Option(
            help="fp8 or int8: the language model's linear layers in 8 bits, in half the memory. auto: as the dtype.",
            rich_help_panel=_MODEL,
        ),
    ] = "auto",
    kv: Annotated[
        str,
        typer.Option(
            help="fp8: keys and values are stored in 8 bits, in half the memory. auto: as the dtype.",
            rich_help_panel=_MODEL,
        ),
    ] = "auto",
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            metavar="GIB",
            help="Memory for the windows of all streams.  [default: 3/4 of a GPU's free memory, half of a CPU's]",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    window: Annotated[
        str,
        typer.Option(metavar="SECONDS", help="Length of a window: what one answer looks at.", rich_help_panel=_WINDOWS),
    ] = "40",
    stride: Annotated[
        str,
        typer.Option(
            metavar="SECONDS", help="Time between answers: how far the window moves.", rich_help_panel=_WINDOWS
        ),
    ] = "8",
    fps: Annotated[
        str, typer.Option(metavar="RATE", help="Frames per second that are sampled.", rich_help_panel=_WINDOWS)
    ] = "2",
    keep: Annotated[
        str, typer.Option(help="Which tokens are encoded: all, motion or replenish.", rich_help_panel=_WINDOWS)
    ] = "replenish",
    refresh: Annotated[
        str,
        typer.Option(
            help="Which cached keys and values are recomputed: none, anchors, budget[=SHARE] or all.",
            rich_help_panel=_WINDOWS,
        ),
    ] = "none",
    coverage: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="When unchanged tokens are kept: SECONDS between whole frames, once (per window), rolling[=SECONDS], "
            "or background[=SECONDS]: rarely, because tokens outlive their frames."
            "  [default: 8, or what fits the window]",
            rich_help_panel=_WINDOWS,
        ),
    ] = None,
    reuse: Annotated[
        str,
        typer.Option(
            metavar="SECONDS",
            help="Repeat the answers of an unchanged window for at most this long; 0: never.",
            rich_help_panel=_WINDOWS,
        ),
    ] = "64",
    question: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Question for streams without questions.")
    ] = None,
    yes_no: Annotated[
        bool, typer.Option("--yes-no", help="Answer --question with yes or no and the probability of yes.")
    ] = False,
    idle: Annotated[
        float,
        typer.Option(
            min=1,
            metavar="SECONDS",
            help="A stream is released after this long without data; when it comes back, it begins at its next keyframe.",
        ),
    ] = 600.0,
    silent: Annotated[
        float,
        typer.Option(
            "--silent-after",
            min=1,
            metavar="SECONDS",
            help="Open an event for a stream without data for this long (codecflow events).",
        ),
    ] = 30.0,
    samplers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes that decode and sample pictures; 0: decode in the main process.  [default: the machine's "
            "cores less "
            "one; at most 12 with nvdec]",
        ),
    ] = None,
    decode: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Where pictures are decoded: cpu, nvdec (an NVIDIA GPU's video decoder, for H.264, HEVC and VP9; the rest"
            " stays on the CPU), or auto: nvdec where there is one.",
        ),
    ] = "auto",
    buffer: Annotated[
        float | None,
        typer.Option(
            min=0.0625,
            metavar="GIB",
            help="Memory for queued pictures and frames.  [default: 1/4 of the machine's]",
        ),
    ] = None,
    when_behind: Annotated[
        str,
        typer.Option(
            metavar="POLICY",
            help="What to do with live streams that are late: wait (answer everything), skip=SECONDS (skip older "
            "pictures, up to the newest keyframe), or thin=SECONDS (while older, use every second frame and "
            "window).",
        ),
    ] = "skip=60",
    max_picture_size: MaxPictureSize = "8192x8192",
    until_end: Annotated[
        bool, typer.Option("--until-end", help="Stop when every stream has ended and has been answered.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Check options, topics and model, then exit.")] = False,
    metrics_port: MetricsPort = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with the summary as one JSON line.")] = False,
    bootstrap_servers: BootstrapServers = None,
    topic_prefix: TopicPrefix = DEFAULT_PREFIX,
    properties: Properties = None,
    kafka_config: KafkaConfig = None,
) -> None:
    """Answer the questions of the streams assigned to this worker, for each window, on the results topic.

    All workers of one --topic-prefix share its streams.

    Ctrl-C or SIGTERM finishes and commits the current windows; a second one quits at once. Results are exactly-once,
    however a worker ends.
    """
    from codecflow.worker.summary import Summary

    summary = Summary()
    with (
        nullcontext() if check else last_words(summary, as_json),
        nullcontext() if check or metrics_port is None else _monitoring(metrics_port, summary),
    ):
        from codecflow.worker.options import WorkerOptions

        options = WorkerOptions(
            window=window,
            stride=stride,
            fps=fps,
            keep=keep,
            refresh=refresh,
            coverage=coverage,
            reuse=reuse,
            question=question,
            yes_no=yes_no,
            memory=memory,
            idle_s=idle,
            silent_s=silent,
            samplers=samplers,
            decode=decode,
            buffer=buffer,
            when_behind=when_behind,
            until_end=until_end,
            max_pixels=picture_pixels(max_picture_size),
        )
        settings = options.settings()
        kafka = kafka_settings(bootstrap_servers, topic_prefix, properties, kafka_config)
        from codecflow.kafka.topics import CONFIGS
        from codecflow.lifecycle import GracefulStop
        from codecflow.tracing import traced
        from codecflow.worker import sampler_host
        from codecflow.worker.transport import KafkaTransport

        stop = GracefulStop()
        transport = KafkaTransport(kafka, lambda: stop.requested)
        if settings.samplers and not check:
            sampler_host.prepare()  # while the model is loaded
        family = _load(model, dtype, device, weights, kv)
        if not family.trained:
            logs.notice(f"model {model}: its weights are random, not trained: answers mean nothing", "warning")
        if check:
            typer.echo(
                f"{len(CONFIGS)} topics, {transport.partitions} partitions; "
                f"model {model} of type {family.model_type}: ready"
            )
            return
        from codecflow.worker.answering import Provenance
        from codecflow.worker.service import Worker

        engine = options.engine(family)
        provenance = Provenance(keep, model, family.trained)
        with traced("codecflow-worker"), stop, StatusLine("joining the group", every_s=5.0) as status:
            Worker(transport, settings, engine, provenance, stop, status.show, status.notice, summary).run()


def _load(model: str, dtype: str, device: str, weights: str, kv: str) -> Family:
    from codecflow.tools.demo_model.checkpoint import checkpoint
    from codecflow.vlm.loading import load_model, slower_than_needed

    folder = checkpoint(model, logs.notice)
    family = load_model(folder, dtype, device, weights, kv)
    if dtype == "auto" and slower_than_needed(family):
        logs.notice(
            "this CPU has matrix units for bfloat16: --dtype bfloat16 is several times faster; answers differ slightly"
        )
    return family


def _monitoring(address: str, summary: Summary) -> AbstractContextManager[object]:
    """From before the model is loaded: a probe can then tell a slow start from a dead process."""
    from codecflow.monitoring.server import MonitoringServer
    from codecflow.worker.metrics import worker_samples

    return MonitoringServer(address, lambda: summary.health, lambda: worker_samples(summary), [summary.delay])

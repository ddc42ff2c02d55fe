"""`codecflow bench`: measurements. Each prints a table for people and ends with one JSON line for machines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from codecflow.tools.bench.window_cost import POLICIES

from .options import video_file

_WORKER = "Options of codecflow worker"


def register(app: typer.Typer) -> None:
    group = typer.Typer(name="bench", help="Measure; prints a table, then one JSON line.", no_args_is_help=True)
    group.command("damage")(damage)
    group.command("gpu")(gpu)
    group.command("still")(still)
    group.command("pipeline")(pipeline)
    group.command("policies")(policies)
    group.command("producer")(producer)
    group.command("sources")(sources)
    group.command("decode")(decode)
    group.command("window")(window)
    app.add_typer(group)


def damage(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="An undamaged video file.", parser=video_file)],
    *,
    codecs: Annotated[str | None, typer.Option(help="Codecs to measure, separated by commas.  [default: all]")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Only the first seconds of the clip.")] = 20.0,
    repeats: Annotated[int, typer.Option(min=1, help="How often to repeat each kind of damage.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed for place and kind of the damage.")] = 0,
) -> None:
    """Damage streams (lost packets, cut files, flipped bytes) and measure what is shown, and what of it is wrong."""
    from codecflow.tools.bench.damage import CODECS, run

    run(clip, seed=seed, repeats=repeats, seconds=seconds, codecs=codecs.split(",") if codecs else list(CODECS))


def gpu(
    clips: Annotated[
        list[Path] | None, typer.Argument(metavar="CLIP...", help="Video files, any codec.", parser=video_file)
    ] = None,
    *,
    shapes: Annotated[
        str,
        typer.Option(
            help="Sizes of models, with random weights: the first with every row and clip, the others with a few rows of the"
            " first clip."
        ),
    ] = "internvl3-8b,internvl3-1b,internvl3-14b,qwen3-vl-8b",
    rows: Annotated[str, typer.Option(metavar="NAME/NAME/...", help="Only these rows.  [default: all]")] = "",
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    window_s: Annotated[str, typer.Option("--window", help="Seconds of a window.")] = "40",
    stride: Annotated[str, typer.Option(help="Seconds between windows.")] = "8",
    fps: Annotated[str, typer.Option(help="Sampled frames per second.")] = "2",
    anchor: Annotated[str, typer.Option(help="Seconds between anchors.")] = "8",
    slides: Annotated[int, typer.Option(min=1, help="Windows to time for each row, after the first full one.")] = 6,
    at_most: Annotated[float, typer.Option(min=0.1, help="Seconds after which no further one is timed.")] = 5.0,
    streams: Annotated[
        str, typer.Option(metavar="N,N,...", help="Streams at once, of those that rows have; most: as many as fit.")
    ] = "1,8,32,most",
    check: Annotated[bool, typer.Option(help="First compare small models on the GPU with the CPU.")] = True,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw a picture: PNG or SVG.")] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw what an earlier run has printed; measure nothing.")
    ] = None,
) -> None:
    """What one GPU answers: full computation, the paper's policy and ours, by streams, questions, precision and model."""
    from codecflow.tools.bench.gpu_run import Options, run

    run(
        Options(
            clips=clips or [],
            shapes=shapes,
            rows=rows,
            dtype=dtype,
            device=device,
            window_s=window_s,
            stride_s=stride,
            fps=fps,
            anchor_s=anchor,
            slides=slides,
            max_s=at_most,
            streams=streams,
            check=check,
            plot=plot,
            results=results,
        )
    )


def still(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video file, any codec.", parser=video_file)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write, such as still.mp4.")],
    *,
    seconds: Annotated[
        float, typer.Option(min=0.2, help="So much of the clip's begin, in which nothing happens.")
    ] = 5.5,
    length: Annotated[float, typer.Option(min=1, help="Seconds to write.")] = 60.0,
) -> None:
    """Make a still scene for measurements: a clip's first seconds, forwards and backwards, again and again."""
    from codecflow.tools.bench.still import run

    run(clip, out, seconds, length)


def pipeline(
    clips: Annotated[
        list[Path] | None, typer.Argument(metavar="CLIP...", help="Video files, any codec.", parser=video_file)
    ] = None,
    *,
    streams: Annotated[
        str | None,
        typer.Option(metavar="N,N,...", help="Cameras at once; with --find its bounds, LOW,HIGH.  [default: 1]"),
    ] = None,
    find: Annotated[bool, typer.Option("--find", help="Find the largest sustained number of cameras.")] = False,
    shape: Annotated[str, typer.Option(help="Sizes of the model, with random weights.")] = "codecflow-tiny",
    model: Annotated[
        str | None,
        typer.Option(metavar="ID_OR_FOLDER", help="A checkpoint instead of a shape, as for codecflow worker."),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="model, or stub: answer after --stub-ms, to measure everything but the engine.")
    ] = "model",
    stub_ms: Annotated[float, typer.Option(min=0.0, metavar="MS", help="Time that the stub takes per window.")] = 10.0,
    seconds: Annotated[float, typer.Option(min=1, help="Seconds to measure, after the first full windows.")] = 60.0,
    probe_seconds: Annotated[
        float | None,
        typer.Option(min=1, help="Seconds measured by the short runs of --find.  [default: 2 strides, 16 s]"),
    ] = None,
    warm_up: Annotated[
        float | None,
        typer.Option(min=0, metavar="SECONDS", help="Time before measuring.  [default: a window and a stride]"),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the clips' records to a file; without --streams, only that."),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Play such a file instead of clips, without brokers.")
    ] = None,
    partitions: Annotated[int, typer.Option(min=1, help="Partitions of the topics.")] = 8,
    device: Annotated[
        str, typer.Option(help="As for codecflow worker, like the options below.", rich_help_panel=_WORKER)
    ] = "auto",
    dtype: Annotated[str, typer.Option(rich_help_panel=_WORKER)] = "auto",
    weights: Annotated[str, typer.Option(rich_help_panel=_WORKER)] = "auto",
    kv: Annotated[str, typer.Option(rich_help_panel=_WORKER)] = "auto",
    memory: Annotated[float | None, typer.Option(min=0.001, metavar="GIB", rich_help_panel=_WORKER)] = None,
    window: Annotated[str, typer.Option(metavar="SECONDS", rich_help_panel=_WORKER)] = "40",
    stride: Annotated[str, typer.Option(metavar="SECONDS", rich_help_panel=_WORKER)] = "8",
    fps: Annotated[str, typer.Option(metavar="RATE", rich_help_panel=_WORKER)] = "2",
    keep: Annotated[str, typer.Option(rich_help_panel=_WORKER)] = "replenish",
    refresh: Annotated[str, typer.Option(rich_help_panel=_WORKER)] = "none",
    coverage: Annotated[str | None, typer.Option(metavar="WHEN", rich_help_panel=_WORKER)] = None,
    reuse: Annotated[str, typer.Option(metavar="SECONDS", rich_help_panel=_WORKER)] = "64",
    question: Annotated[str | None, typer.Option(metavar="TEXT", rich_help_panel=_WORKER)] = None,
    yes_no: Annotated[bool, typer.Option("--yes-no", rich_help_panel=_WORKER)] = False,
    samplers: Annotated[int | None, typer.Option(min=0, metavar="N", rich_help_panel=_WORKER)] = None,
    decode: Annotated[str, typer.Option(metavar="WHERE", rich_help_panel=_WORKER)] = "auto",
    buffer: Annotated[float | None, typer.Option(min=0.0625, metavar="GIB", rich_help_panel=_WORKER)] = None,
    when_behind: Annotated[str, typer.Option(metavar="POLICY", rich_help_panel=_WORKER)] = "skip=60",
) -> None:
    """Measure a whole worker, from Kafka to committed results, with cameras in real time: what it sustains, and what
    limits it.

    Sustained: every window is answered before the next one is due, without errors, and memory does not grow.
    """
    from codecflow.tools.bench.pipeline_run import Options, run
    from codecflow.tools.demo_model.checkpoint import checkpoint
    from codecflow.worker.options import WorkerOptions

    run(
        Options(
            clips=clips or [],
            streams=streams,
            find=find,
            shape=shape,
            model=model,
            engine=engine,  # type: ignore[arg-type]  # it checks the name
            stub_ms=stub_ms,
            dtype=dtype,
            weights=weights,
            kv=kv,
            device=device,
            worker=WorkerOptions(
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
                samplers=samplers,
                decode=decode,
                buffer=buffer,
                when_behind=when_behind,
            ),
            seconds=seconds,
            probe_seconds=probe_seconds,
            warm_up=warm_up,
            partitions=partitions,
            record=record,
            replay=replay,
        ),
        lambda name: checkpoint(name, lambda line: typer.echo(f"codecflow: {line}", err=True)),
    )


def policies(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Video files, any codec.", parser=video_file)],
    *,
    fps: Annotated[str, typer.Option(help="Sampled frames per second, such as 2, 0.5 or 1/3.")] = "2",
    size: Annotated[int, typer.Option(min=1, help="Side of the model's square input, in pixels.")] = 448,
    token: Annotated[int, typer.Option(min=1, help="Side of a token in that input, in pixels.")] = 28,
    anchor: Annotated[str, typer.Option(help="Seconds between anchors.")] = "8",
    window: Annotated[str, typer.Option(help="Seconds of a window.")] = "40",
    stride: Annotated[str, typer.Option(help="Seconds between windows.")] = "8",
    threshold: Annotated[float, typer.Option(help="Grey levels of mean change that keep a token.")] = 4.0,
    detail: Annotated[
        float, typer.Option(help="Grey levels of change in a cell (7x7 pixels) that keep a token.")
    ] = 7.75,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Only the first seconds of each clip.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a chart of the kept share over time (PNG, SVG).")] = None,
    zones: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Zones of the clips, as `codecflow stream --zones` takes them.")
    ] = None,
) -> None:
    """Measure which tokens each keep policy keeps, lets go stale, and certifies by the codec signal alone."""
    from codecflow import subscriber
    from codecflow.exact import positive
    from codecflow.keep import KeepConfig
    from codecflow.tools.bench.policy_comparison import run
    from codecflow.worker.window_plan import WindowPlan

    plan = WindowPlan.of(window, stride, fps)
    window_s, period_s = positive(window, "--window"), positive(anchor, "--anchor")
    config = KeepConfig(
        fps=positive(fps, "--fps"),
        period_s=period_s,
        slack_s=max(0 * window_s, min(period_s, window_s - period_s)),  # as a worker's anchors wait for a keyframe
        threshold=threshold,
        detail_threshold=detail,
    )
    found = () if zones is None else subscriber.read_zones(zones)
    run(clips, config, size=size, token=token, plan=plan, seconds=seconds, plot=plot, zones=found)


def producer(
    clip: Annotated[Path, typer.Argument(metavar="CLIP", help="A video file, any codec.", parser=video_file)],
    *,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved runs; medians are reported.")] = 5,
    seconds: Annotated[float | None, typer.Option(min=0.1, help="Only the first seconds of the clip.")] = None,
) -> None:
    """Measure the producer: the codec signal against a plain decode, and metadata against the coded pictures."""
    from codecflow.tools.bench.producer import run

    run(clip, repeats, seconds)


def sources(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Video files, any codec.", parser=video_file)],
    *,
    folders: Annotated[bool, typer.Option("--folders", help="One row per folder, not per file.")] = False,
) -> None:
    """Measure what is published of files: pictures, dropped and corrected ones, metadata, processor time. Needs no
    broker."""
    from codecflow.tools.bench.sources import run

    run(clips, folders=folders)


def decode(
    clips: Annotated[list[Path], typer.Argument(metavar="CLIP...", help="Video files, any codec.", parser=video_file)],
    *,
    streams: Annotated[
        str, typer.Option(help="Concurrent decoders, one thread each; several numbers separated by commas.")
    ] = "1",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures of each clip that are decoded repeatedly.")] = 500,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds per measurement.")] = 5.0,
    every: Annotated[int, typer.Option(min=1, help="Read the samples of one picture in this many.")] = 12,
) -> None:
    """Measure pictures per second of a worker's decoders, and whether NVDEC gives the CPU's samples."""
    from codecflow.exact import counts
    from codecflow.tools.bench.decode_rate import run

    run(clips, streams=counts(streams, "--streams"), pictures=pictures, seconds=seconds, every=every)


def window(
    clips: Annotated[
        list[Path] | None, typer.Argument(metavar="CLIP...", help="Video files, any codec.", parser=video_file)
    ] = None,
    *,
    shape: Annotated[
        str, typer.Option(help="Sizes of the model, with random weights; --shape help lists them.")
    ] = "internvl-small",
    model: Annotated[
        str | None,
        typer.Option(
            metavar="ID_OR_FOLDER",
            help="A checkpoint instead of a shape: an id on the Hugging Face hub, a folder, or codecflow-tiny, the trained"
            " demo model (needs codecflow[demo]).",
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    weights: Annotated[
        str,
        typer.Option(
            help="fp8 or int8: the language model's linear layers in 8 bits, in half the memory. auto: as the dtype."
        ),
    ] = "auto",
    kv: Annotated[
        str, typer.Option(help="fp8: keys and values are stored in 8 bits, in half the memory. auto: as the dtype.")
    ] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    policies: Annotated[str, typer.Option(help="Keep/refresh pairs, separated by commas.")] = POLICIES,
    streams: Annotated[str, typer.Option(help="Concurrent streams; several numbers separated by commas.")] = "1",
    fps: Annotated[str, typer.Option(help="Sampled frames per second.")] = "2",
    window_s: Annotated[str, typer.Option("--window", help="Seconds of a window.")] = "40",
    stride: Annotated[str, typer.Option(help="Seconds between windows.")] = "8",
    anchor: Annotated[str, typer.Option(help="Seconds between anchors.")] = "8",
    slides: Annotated[int, typer.Option(min=1, help="Windows to time, after the first full one.")] = 3,
    questions: Annotated[int, typer.Option(min=1, help="Questions per window.")] = 1,
    text: Annotated[
        int,
        typer.Option(metavar="TOKENS", min=0, help="Answer with text of at most this many tokens; 0: yes or no."),
    ] = 0,
    save_masks: Annotated[
        Path | None, typer.Option(help="Only write pictures and masks of the clips to a file.")
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Read them from such a file instead of clips: no FFmpeg needed.")
    ] = None,
    profile: Annotated[
        bool, typer.Option(help="Also print where one slide's time goes, by kernel, on stderr.")
    ] = False,
) -> None:
    """Measure FLOPs and time of a window under each keep and refresh policy, against computing everything.

    Also says how long a worker with this model takes from its start to its first answer.
    """
    began = time.perf_counter()
    from codecflow.tools.bench.window_run import Options, run
    from codecflow.tools.demo_model.checkpoint import checkpoint

    run(
        Options(
            began=began,
            clips=clips or [],
            shape=shape,
            model=model,
            dtype=dtype,
            weights=weights,
            kv=kv,
            device=device,
            policies=policies,
            streams=streams,
            fps=fps,
            window_s=window_s,
            stride_s=stride,
            anchor_s=anchor,
            slides=slides,
            questions=questions,
            text=text,
            save_masks=save_masks,
            masks=masks,
            profile=profile,
        ),
        lambda name: checkpoint(name, lambda line: typer.echo(f"codecflow: {line}", err=True)),
    )

"""`codecflow eval`: labelled clips through the real pipeline, policy by policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    app.command("eval")(evaluate)


def evaluate(
    spec: Annotated[
        Path,
        typer.Argument(
            metavar="SPEC",
            help="CSV file: file,start_s,end_s,question,type,answer; see docs/explanation/evaluation.md.",
        ),
    ],
    *,
    model: Annotated[
        str,
        typer.Option(
            metavar="ID_OR_FOLDER",
            help="Checkpoint: an id on the Hugging Face hub, a folder, or codecflow-tiny, the trained demo model (needs"
            " codecflow[demo]).",
        ),
    ],
    window: Annotated[
        str, typer.Option(metavar="SECONDS", help="Length of a window: what one answer looks at.")
    ] = "40",
    stride: Annotated[
        str, typer.Option(metavar="SECONDS", help="Time between answers: how far the window moves.")
    ] = "8",
    fps: Annotated[str, typer.Option(metavar="RATE", help="Frames per second that are sampled.")] = "2",
    policies: Annotated[
        str | None,
        typer.Option(
            metavar="KEEP[@COVERAGE]/REFRESH,...",
            help="KEEP: all, motion, motion-PX, replenish, random, last-N, every-N. COVERAGE: as --coverage, for this one."
            " REFRESH: none, anchors, shifted, random, contiguous, deviation, budget=SHARE, all. The reference always"
            " runs.  [default: 18 of them]",
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            metavar="KEEP/REFRESH",
            help="The contender at whose FLOPs the others are compared.  [default: replenish/none, if it runs]",
        ),
    ] = None,
    reference: Annotated[
        str,
        typer.Option(
            metavar="KEEP[@COVERAGE]/REFRESH",
            help="The contender that the others' scores, FLOPs and answers are compared with.",
        ),
    ] = "all/all",
    coverage: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="SECONDS between whole frames, once (per window), rolling[=SECONDS] or background[=SECONDS]."
            "  [default: 8, or what fits the window]",
        ),
    ] = None,
    transcode: Annotated[
        str | None,
        typer.Option(metavar="fps=N,gop=M", help="Re-encode the clips first, as the paper does: fps=2,gop=16."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or auto.")] = "auto",
    weights: Annotated[
        str,
        typer.Option(
            help="fp8 or int8: the language model's linear layers in 8 bits, in half the memory. auto: as the dtype."
        ),
    ] = "auto",
    kv: Annotated[
        str, typer.Option(help="fp8: keys and values are stored in 8 bits, in half the memory. auto: as the dtype.")
    ] = "auto",
    streams: Annotated[
        int, typer.Option(min=1, help="Clips that are answered in parallel, in batches; fewer take less memory.")
    ] = 8,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for pictures (F1 against FLOPs, answers over time; PNG, SVG) and a CSV file of every answer."
        ),
    ] = None,
) -> None:
    """Measure what each keep and refresh policy costs in answers: F1 and agreement with computing everything, against
    FLOPs."""
    from codecflow.tools.evaluate.evaluation import Options, run

    run(
        Options(
            spec=spec,
            model=model,
            window_s=window,
            stride_s=stride,
            fps=fps,
            policies=policies,
            coverage=coverage,
            transcode=transcode,
            dtype=dtype,
            weights=weights,
            kv=kv,
            device=device,
            streams=streams,
            match=match,
            reference=reference,
            out=out,
        )
    )

"""The figure of `codecflow bench gpu`, with matplotlib (the extra `plots`): each row's place on the roofline, and the cost
of a window against the number of streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from codecflow.tools.report.charts import save

_COLOURS = ("#8a8a8a", "#5c5c5c", "#b8a07a", "#c77d3a", "#d1495b", "#00798c", "#2a9d5c", "#4b6cb7", "#8e5ea2")
_ROOFS = {"fp8": "#8e5ea2"}

Result = Mapping[str, Any]


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """`figures`: the JSON line of `codecflow bench gpu`. Raises ConfigError when the figure cannot be written."""
    results = [one for one in figures["results"] if "failed" not in one]
    shape, clip = results[0]["shape"], results[0]["clip"]
    main = [one for one in results if (one["shape"], one["clip"]) == (shape, clip)]
    figure = Figure(figsize=(15, 6.2), layout="constrained")
    roofline, growth = figure.subplots(1, 2)
    _roofline(roofline, main, figures["peaks"])
    _growth(growth, results, shape)
    figure.suptitle(
        f"{shape} on {figures['device']}, {figures['dtype']}, windows of {figures['window_frames']} frames of which"
        f" {figures['stride_frames']} are new (random weights)",
        x=0.01,
        ha="left",
    )
    save(figure, path)


def _roofline(axes: Axes, results: Sequence[Result], peaks: Mapping[str, Any]) -> None:
    reach = [one["intensity"] for one in results]
    x = np.geomspace(min(50.0, min(reach) / 2), 2 * max(reach), 200)
    for name, most in peaks["tflops"].items():
        roof = np.minimum(most, x * peaks["gbytes_per_s"] / 1000)
        axes.plot(x, roof, color=_ROOFS.get(name, "#404040"), linewidth=1.5)
        axes.text(
            x[-1], most, f"{name}: {most:,.0f} TFLOP/s", ha="right", va="bottom", color=_ROOFS.get(name, "#404040")
        )
    for row, colour in _coloured(results):
        own = [one for one in results if one["row"] == row]
        marker = "s" if own[0]["weights"] == "fp8" else "o"
        axes.plot(
            [one["intensity"] for one in own],
            [one["tflops_per_s"] for one in own],
            marker=marker,
            color=colour,
            label=row,
        )
        axes.annotate(
            str(own[-1]["streams"]),
            (own[-1]["intensity"], own[-1]["tflops_per_s"]),
            (4, -10),
            textcoords="offset points",
            size=8,
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte of weights, keys and values, each read once per step")
    axes.set_ylabel("TFLOP/s, by operations executed")
    axes.set_title("How much of the card is used (numbers: streams at once)", loc="left")
    axes.grid(which="both", alpha=0.2)
    axes.legend(loc="lower right", fontsize=8)


def _growth(axes: Axes, results: Sequence[Result], shape: str) -> None:
    rows = [one for one in results if one["shape"] == shape and not one["text_tokens"] and one["questions"] == 1]
    for row, colour in _coloured(rows):
        clips = list(dict.fromkeys(one["clip"] for one in rows if one["row"] == row))
        for clip, style in zip(clips, ("-", "--", ":", "-."), strict=False):
            own = [one for one in rows if (one["row"], one["clip"]) == (row, clip)]
            label = row if clip == clips[0] else None
            axes.plot(
                [one["streams"] for one in own],
                [one["ms"] for one in own],
                style,
                marker="o",
                color=colour,
                label=label,
            )
    for clip, style in zip(dict.fromkeys(one["clip"] for one in rows), ("-", "--", ":", "-."), strict=False):
        axes.plot([], [], style, color="black", label=clip)
    axes.set(xscale="log", yscale="log", xlabel="streams at once", ylabel="ms of one window of one stream")
    axes.set_title("What a window costs", loc="left")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _coloured(results: Sequence[Result]) -> list[tuple[str, str]]:
    """Rows in their order, each with its colour."""
    names = list(dict.fromkeys(one["row"] for one in results))
    return [(name, _COLOURS[number % len(_COLOURS)]) for number, name in enumerate(names)]

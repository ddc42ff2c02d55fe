"""The figure of `codecflow bench gpu`, with matplotlib (the extra `plots`): each row's place on the roofline, and the cost
of a window against the number of streams."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from codecflow.tools.report.charts import save

_COLOURS = (
    "#8a8a8a", "#5c5c5c", "#b8a07a", "#c77d3a", "#d1495b", "#00798c", "#2a9d5c", "#4b6cb7", "#8e5ea2", "#7aa6c2", "#1a1a1a",
    "#e0a100", "#e377c2",
)  # fmt: skip
_ROOFS = {"fp8": "#8e5ea2"}

Result = Mapping[str, Any]


def draw(figures: Mapping[str, Any], path: Path) -> None:
    """`figures`: the JSON line of `codecflow bench gpu`. Raises ConfigError when the figure cannot be written."""
    results = [one for one in figures["results"] if "failed" not in one]
    shape, clip = results[0]["shape"], results[0]["clip"]
    main = [one for one in results if (one["shape"], one["clip"]) == (shape, clip)]
    figure = Figure(figsize=(15, 6.2), layout="constrained")
    roofline, growth = figure.subplots(1, 2)
    names = dict.fromkeys(one["row"] for one in results)
    colours = dict(zip(names, itertools.cycle(_COLOURS), strict=False))
    _roofline(roofline, main, figures["peaks"], colours)
    _growth(growth, [one for one in results if one["shape"] == shape], colours)
    figure.suptitle(
        f"{shape} on {figures['device']}, {figures['dtype']}, windows of {figures['window_frames']} frames of which"
        f" {figures['stride_frames']} are new (random weights)",
        x=0.01,
        ha="left",
    )
    save(figure, path)


def _roofline(axes: Axes, results: Sequence[Result], peaks: Mapping[str, Any], colours: Mapping[str, str]) -> None:
    reach = [one["intensity"] for one in results]
    x = np.geomspace(min(50.0, min(reach) / 2), 2 * max(reach), 200)
    for name, most in peaks["tflops"].items():
        roof = np.minimum(most, x * peaks["gbytes_per_s"] / 1000)
        colour = _ROOFS.get(name, "#404040")
        axes.plot(x, roof, color=colour, linewidth=1.5)
        ridge = 1000 * most / peaks["gbytes_per_s"]  # rows lie to the right of it
        axes.text(1.1 * ridge, most, f"{name}: {most:,.0f} TFLOP/s", va="bottom", color=colour)
    for row in dict.fromkeys(one["row"] for one in results):
        own = [one for one in results if one["row"] == row]
        axes.plot(
            [one["intensity"] for one in own],
            [one["tflops_per_s"] for one in own],
            marker=_marker(own),
            color=colours[row],
        )
    axes.set(xscale="log", yscale="log", xlabel="FLOPs per byte of weights, keys and values, each read once per step")
    _plain(axes.yaxis)
    axes.set_ylabel("TFLOP/s, by operations executed")
    axes.set_title("How much of the card is used (lines: from few to many streams)", loc="left")
    axes.grid(which="both", alpha=0.2)


def _growth(axes: Axes, results: Sequence[Result], colours: Mapping[str, str]) -> None:
    styles = dict(zip(dict.fromkeys(one["clip"] for one in results), ("-", "--", ":", "-."), strict=False))
    for row in dict.fromkeys(one["row"] for one in results):
        for number, (clip, style) in enumerate(styles.items()):
            own = [one for one in results if (one["row"], one["clip"]) == (row, clip)]
            axes.plot(
                [one["streams"] for one in own],
                [one["ms"] for one in own],
                style,
                marker=_marker(own),
                color=colours[row],
                label=None if number else row,
            )
    for clip, style in styles.items():
        axes.plot([], [], style, color="black", label=clip)
    axes.set(xscale="log", yscale="log", xlabel="streams at once", ylabel="ms of one window of one stream")
    _plain(axes.yaxis)
    axes.set_xticks(sorted({one["streams"] for one in results}))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title("What a window costs", loc="left")
    axes.grid(which="both", alpha=0.2)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def _marker(results: Sequence[Result]) -> str:
    """Squares for weights in 8 bits."""
    return "s" if results and results[0]["weights"] == "fp8" else "o"


def _plain(axis: Axis) -> None:
    """A logarithmic axis with numbers as they are written, at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:,g}")
    axis.set_minor_formatter(NullFormatter())

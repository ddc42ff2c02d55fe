"""F1 against FLOPs, one panel per question, with matplotlib (the extra `plots`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from codecflow.tools.report.charts import COLOURS, plain_text, save

from .bootstrap import Estimate
from .contender_names import keep_policy
from .report import UNTRAINED
from .scoring import Standing

_COLOURS = {**COLOURS, "random": "#6a4c93", "last": "#8d6a3f", "every": "#4f772d"}
_MARKERS = {"none": "o", "anchors": "s", "shifted": "<", "random": "X", "contiguous": "v", "deviation": "P", "all": "D"}
_OTHER_MARKER = "*"
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


@plain_text()
def draw_curves(standings: Sequence[Standing], title: str, trained: bool, paths: Sequence[Path]) -> None:
    """Writes the chart to each of `paths` (PNG, SVG). Questions without an F1 get no panel. Raises ConfigError."""
    from matplotlib.figure import Figure

    prompts = [p for p, score in standings[0].questions.items() if not math.isnan(score.f1.value)]
    columns = min(2, max(1, len(prompts)))
    rows = max(1, math.ceil(len(prompts) / columns))
    figure = Figure(figsize=(5.4 * columns + 2.2, 4.2 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, prompt in zip(axes, prompts, strict=False):
        _panel(axis, standings, prompt)
    for axis in axes[len(prompts) :]:
        axis.set_axis_off()
    if prompts:
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8)
    figure.suptitle(title if trained else f"{UNTRAINED}\n{title}", fontsize=9, x=0.01, ha="left")
    for path in paths:
        save(figure, path)


def colour(contender: str) -> str:
    """Colour of a contender's keep policy, whatever its number."""
    return _COLOURS[keep_policy(contender)]


def _panel(axis: Any, standings: Sequence[Standing], prompt: str) -> None:
    points = sorted((100 * one.flops_share, one.questions[prompt].f1.value) for one in standings)
    best = [(x, y) for at, (x, y) in enumerate(points) if all(y > other for _, other in points[:at])]
    axis.plot(*zip(*best, strict=True), color="#c9c9c9", lw=1, zorder=0, label="best at its FLOPs")
    for one in standings:
        f1 = one.questions[prompt].f1
        low, high = _ends(f1)
        refresh = one.name.partition("/")[2]
        axis.errorbar(
            100 * one.flops_share,
            f1.value,
            [[f1.value - low], [high - f1.value]],
            color=colour(one.name),
            marker=_MARKERS.get(refresh, _OTHER_MARKER),
            markersize=6,
            linestyle="none",
            elinewidth=0.7,
            alpha=0.85,
            label=one.name,
        )
    left, right = points[0][0] * 0.85, points[-1][0] * 1.15
    axis.set_title(prompt if len(prompt) <= 70 else prompt[:67] + "...", loc="left", fontsize=9)
    axis.set(
        xscale="log", xlabel=f"FLOPs, % of {standings[0].name}'s", ylabel="F1, with 95 % interval", xlim=(left, right)
    )
    worst = min(_ends(one.questions[prompt].f1)[0] for one in standings)
    axis.set_ylim(max(-0.03, worst - 0.1), 1.03)
    axis.set_xticks([tick for tick in _TICKS if left <= tick <= right], minor=False)
    axis.set_xticks([], minor=True)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def _ends(score: Estimate) -> tuple[float, float]:
    """Ends of the interval, which may be unknown; with few windows the interval may not contain the score itself."""
    if math.isnan(score.low):
        return score.value, score.value
    return min(score.low, score.value), max(score.high, score.value)

"""Answers over time: one picture a clip, p(yes) of a few contenders under what the camera saw, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codecflow.tools.report.charts import plain_text, save

from .curves import colour
from .timelines import Row, Timeline

_YES, _WRONG, _INK, _QUIET = "#f6e3b4", "#b00020", "#222222", "#777777"
_WIDTH, _LEFT, _RIGHT = 10.4, 1.62, 0.14  # inches, as all lengths here
_ROW, _ROW_GAP, _HEADING, _BLOCK_GAP, _ABOVE, _BELOW = 0.4, 0.13, 0.3, 0.16, 0.66, 0.5
_THUMBNAILS, _THUMBNAIL_GAP, _POINTER = 8, 0.05, 0.14


@plain_text()
def draw_timeline(
    timeline: Timeline, pictures: Sequence[npt.NDArray[np.uint8]], title: str, paths: Sequence[Path]
) -> None:
    """Writes the picture to each of `paths` (PNG, SVG). `pictures`: of the clip, at `thumbnail_times`, (h, w, 3) each.

    Rows share a time axis. A row's height is p(yes) from 0 to 1, one step a stride. Raises ConfigError when a file cannot be
    written.
    """
    from matplotlib.figure import Figure

    across = _WIDTH - _LEFT - _RIGHT
    thumb_wide = across / len(pictures) - _THUMBNAIL_GAP
    thumb_high = max(thumb_wide * picture.shape[0] / picture.shape[1] for picture in pictures)
    blocks = [_HEADING + _rows_high(timeline, prompt) + _BLOCK_GAP for prompt in timeline.questions]
    tall = thumb_high + _POINTER + sum(blocks)
    high = _ABOVE + tall + _BELOW
    figure = Figure(figsize=(_WIDTH, high))
    axis = figure.add_axes((_LEFT / _WIDTH, _BELOW / high, across / _WIDTH, tall / high))
    axis.set(xlim=(0, timeline.seconds), ylim=(tall, 0), yticks=[])  # down, in inches
    axis.spines[["left", "top", "right"]].set_visible(False)
    axis.spines["bottom"].set_color(_QUIET)
    axis.tick_params(colors=_QUIET, labelsize=8)
    axis.set_xlabel("seconds from the clip's beginning", fontsize=8, color=_QUIET)
    figure.text(0.14 / _WIDTH, 1 - 0.26 / high, title, size=12.5, weight="bold", color=_INK, va="center")
    figure.text(0.14 / _WIDTH, 1 - 0.5 / high, timeline.legend, size=8.5, color=_QUIET, va="center")
    _thumbnails(axis, timeline.seconds, pictures, thumb_high, across)
    top = thumb_high + _POINTER
    for prompt, block in zip(timeline.questions, blocks, strict=True):
        _block(axis, timeline, prompt, top)
        top += block
    for path in paths:
        save(figure, path)


def thumbnail_times(seconds: float) -> list[float]:
    """When the pictures above the axis are taken, in seconds: at regular times, the middle of each picture's own span."""
    return [seconds * (at + 0.5) / _THUMBNAILS for at in range(_THUMBNAILS)]


def _thumbnails(
    axis: Any, seconds: float, pictures: Sequence[npt.NDArray[np.uint8]], high: float, across: float
) -> None:
    gap = _THUMBNAIL_GAP * seconds / across / 2
    for at, picture in enumerate(pictures):
        left, right = (seconds * (at + end) / len(pictures) for end in (0, 1))
        axis.imshow(picture, extent=(left + gap, right - gap, high, 0), aspect="auto", interpolation="antialiased")
        axis.plot([(left + right) / 2] * 2, [high, high + _POINTER * 0.6], color=_QUIET, lw=0.8)
    axis.set(xlim=(0, seconds))  # imshow moves it


def _rows_high(timeline: Timeline, prompt: str) -> float:
    """Rows that would all be empty are not drawn."""
    return 0.0 if timeline.always_no(prompt) else len(timeline.questions[prompt]) * (_ROW + _ROW_GAP)


def _block(axis: Any, timeline: Timeline, prompt: str, top: float) -> None:
    """One question: where it is yes, and a row for each contender."""
    heading = {"size": 9.5, "color": _INK, "va": "center"}
    if timeline.always_no(prompt):
        told = axis.annotate(prompt, (0, top + _HEADING / 2 - 0.03), weight="bold", **heading)
        beside = {"xycoords": told, "textcoords": "offset points", "va": "center", "size": 8.5, "color": _QUIET}
        axis.annotate("Never, and no answer says yes.", (1, 0.5), (8, 0), **beside)
        return
    rows, spans = timeline.questions[prompt], timeline.spans[prompt]
    bottom = top + _HEADING + _rows_high(timeline, prompt)
    for start, end in spans:
        axis.fill_between([start, end], top + _HEADING - 0.06, bottom - _ROW_GAP + 0.06, color=_YES, lw=0, zorder=0)
    told = prompt if spans else f"{prompt}  (never)"
    axis.text(0, top + _HEADING / 2 - 0.03, told, weight="bold", **heading)
    for at, row in enumerate(rows):
        _row(axis, row, timeline.seconds, top + _HEADING + at * (_ROW + _ROW_GAP) + _ROW)


def _row(axis: Any, row: Row, seconds: float, base: float) -> None:
    from matplotlib.collections import PolyCollection

    ink = colour(row.contender)
    for shown, alpha in ((row.scored, 0.9), (~row.scored, 0.35)):
        tops = base - _ROW * np.maximum(row.p_yes, 0.02)
        steps = zip(row.starts[shown], row.ends[shown], tops[shown], strict=True)
        areas = [[(start, base), (start, top), (end, top), (end, base)] for start, end, top in steps]
        axis.add_collection(PolyCollection(areas, facecolor=ink, alpha=alpha, linewidth=0, zorder=2))
    axis.plot([0, seconds], [base, base], color=ink, lw=0.8, zorder=2)
    axis.plot([0, seconds], [base - _ROW / 2] * 2, color="white", lw=0.6, ls=(0, (2, 3)), zorder=3)
    middles = (row.starts + row.ends)[row.wrong] / 2
    axis.plot(middles, [base - _ROW / 2] * len(middles), "x", color=_WRONG, ms=4.5, mew=1.3, zorder=4)
    beside = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
    axis.annotate(row.contender, (0, base - _ROW * 0.72), (-22, 0), size=9, weight="bold", color=ink, **beside)
    axis.annotate(row.told, (0, base - _ROW * 0.24), (-22, 0), size=8, color=_QUIET, **beside)
    for level, word in ((0.96, "yes"), (0.06, "no")):
        axis.annotate(word, (0, base - _ROW * level), (-3, 0), size=7, color=_QUIET, **beside)

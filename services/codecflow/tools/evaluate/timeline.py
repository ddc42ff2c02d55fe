"""Answers over time: one figure per clip, p(yes) of a few contenders below the camera's pictures, with matplotlib."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import Result
from codecflow.orientation import shown_size, upright
from codecflow.tools.report.charts import plain_text, save

from .contender_answers import Answers
from .contender_names import family_of
from .curves import colour
from .scoring import Key, Standing

_HEIGHT = 120  # of a thumbnail, in pixels


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's answers to one question, in order; arrays of one length. `starts`, `ends`: of the newest stride, in
    seconds, float64. `p_yes`: float64. `scored`, `wrong`: bool. `cost_text`: text with its cost."""

    contender: str
    cost_text: str
    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    p_yes: npt.NDArray[np.float64]
    scored: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Timeline:
    """One clip: the rows by question, and the spans in seconds in which the labels say yes. `legend`: how to read it."""

    file: Path
    seconds: float
    questions: dict[str, list[Row]]
    spans: dict[str, list[tuple[float, float]]]
    legend: str

    def always_no(self, prompt: str) -> bool:
        """Whether a question is never labelled yes, and never answered yes."""
        return not self.spans[prompt] and all((row.p_yes < 0.5).all() for row in self.questions[prompt])


def timeline(answers: Answers, number: int, standings: Sequence[Standing], target: str) -> Timeline | None:
    """The timeline of clip `number` of the spec; None if it has no yes-no questions."""
    shown = chosen(standings, target)
    clip = answers.spec.clips[number]
    questions = {
        prompt: [_row_of(answers, number, prompt, one) for one in shown]
        for prompt in clip.labels
        if answers.spec.questions[prompt].type == "yes-no" and answers.of(answers.reference, number, prompt)
    }
    if not questions:
        return None
    seconds = max(row.ends[-1] for rows in questions.values() for row in rows if len(row.ends))
    spans = {
        prompt: [
            (one.start_s, min(one.end_s, seconds))
            for one in clip.labels[prompt]
            if one.answer == "yes" and one.start_s < seconds
        ]
        for prompt in questions
    }
    of_all = [row for rows in questions.values() for row in rows]
    legend = "Height of a row: p(yes) of each stride; next to it FLOPs. Shaded: labelled yes."
    if any(row.wrong.any() for row in of_all):
        legend += " ×: answered wrong."
    if not all(row.scored.all() for row in of_all):
        legend += " Pale: not scored."
    return Timeline(clip.file, float(seconds), questions, spans, legend)


def chosen(standings: Sequence[Standing], target: str) -> list[Standing]:
    """The reference, the target, and for each other keep policy the contender whose cost is nearest to the target's."""
    by_name = {one.name: one for one in standings}
    first = [by_name[name] for name in dict.fromkeys((standings[0].name, target)) if name in by_name]
    wanted = first[-1].flops_share
    others: dict[str, Standing] = {}
    keeps = {family_of(one.name).partition("/")[0] for one in first}
    for one in sorted(standings, key=lambda one: abs(one.flops_share - wanted)):
        keep = family_of(one.name).partition("/")[0]
        if keep not in keeps:
            others.setdefault(keep, one)
    ran = [one.name for one in standings]
    return first + sorted(others.values(), key=lambda one: ran.index(one.name))


def pictures_at(file: Path, times: Sequence[float]) -> list[npt.NDArray[np.uint8]]:
    """The pictures of a file that are shown at `times`, ascending, in seconds, as thumbnails: (h, w, 3) uint8 each. After
    its end, the last one. Raises SourceError."""
    found = list[npt.NDArray[np.uint8]]()
    begin, last = None, None
    with Source(str(file)) as source:
        for last in _shown(source):
            begin = last.pts if begin is None else begin
            while len(found) < len(times) and (last.pts - begin) * last.picture.time_base >= times[len(found)]:
                found.append(_small(last))
            if len(found) == len(times):
                return found
    if last is None:
        raise SourceError(f"source {file}: no picture of it can be decoded; give an intact video file")
    return found + [_small(last)] * (len(times) - len(found))


def _shown(source: Source) -> Iterator[ShownPicture]:
    decoder = Decoder()
    for coded in source.pictures("thumbnails", 1):
        yield from decoder.push(coded)
    yield from decoder.flush()


def _small(picture: ShownPicture) -> npt.NDArray[np.uint8]:
    size = max(2, round(_HEIGHT * picture.size[0] / picture.size[1])), _HEIGHT
    width, height = shown_size(*size, picture.orientation)
    small = picture.frame.reformat(width=width, height=height, format="rgb24", interpolation="AREA")
    return np.ascontiguousarray(upright(np.asarray(small.to_ndarray(), np.uint8), picture.orientation))


def _row_of(answers: Answers, number: int, prompt: str, standing: Standing) -> Row:
    given: dict[Key, Result] = answers.of(standing.name, number, prompt)
    strides = [answers.stride(key[1]) for key in given]
    right = [answers.labels.get(key) for key in given]
    return Row(
        contender=standing.name,
        cost_text=f"{100 * standing.flops_share:.1f}".removesuffix(".0") + " % of FLOPs",
        starts=np.array([start for start, _ in strides], np.float64),
        ends=np.array([end for _, end in strides], np.float64),
        p_yes=np.array([result.p_yes or 0.0 for result in given.values()], np.float64),
        scored=np.array([label is not None for label in right], bool),
        wrong=np.array([label not in (None, r.answer) for label, r in zip(right, given.values(), strict=True)], bool),
    )


_YES, _WRONG, _INK, _QUIET = "#f6e3b4", "#b00020", "#222222", "#777777"
_WIDTH, _LEFT, _RIGHT = 10.4, 1.62, 0.14  # inches, as all lengths here
_ROW, _ROW_GAP, _HEADING, _BLOCK_GAP, _ABOVE, _BELOW = 0.4, 0.13, 0.3, 0.16, 0.66, 0.5
_THUMBNAILS, _THUMBNAIL_GAP, _POINTER = 8, 0.05, 0.14


@plain_text()
def draw_timeline(
    timeline: Timeline, pictures: Sequence[npt.NDArray[np.uint8]], title: str, paths: Sequence[Path]
) -> None:
    """Writes the figure to each of `paths` (PNG, SVG). `pictures`: of the clip, at `thumbnail_times`, (h, w, 3) each.

    Rows share a time axis. A row's height is p(yes) from 0 to 1, one step per stride. Raises ConfigError when a file cannot
    be written.
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
    """Times of the thumbnails above the axis, in seconds: evenly spaced, in the middle of each thumbnail's span."""
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
    """Number of rows; rows that would all be empty are not drawn."""
    return 0.0 if timeline.always_no(prompt) else len(timeline.questions[prompt]) * (_ROW + _ROW_GAP)


def _block(axis: Any, timeline: Timeline, prompt: str, top: float) -> None:
    """One question: where it is yes, and a row for each contender."""
    heading = {"size": 9.5, "color": _INK, "va": "center"}
    if timeline.always_no(prompt):
        cost_text = axis.annotate(prompt, (0, top + _HEADING / 2 - 0.03), weight="bold", **heading)
        style = {"xycoords": cost_text, "textcoords": "offset points", "va": "center", "size": 8.5, "color": _QUIET}
        axis.annotate("Never, and no answer says yes.", (1, 0.5), (8, 0), **style)
        return
    rows, spans = timeline.questions[prompt], timeline.spans[prompt]
    bottom = top + _HEADING + _rows_high(timeline, prompt)
    for start, end in spans:
        axis.fill_between([start, end], top + _HEADING - 0.06, bottom - _ROW_GAP + 0.06, color=_YES, lw=0, zorder=0)
    cost_text = prompt if spans else f"{prompt}  (never)"
    axis.text(0, top + _HEADING / 2 - 0.03, cost_text, weight="bold", **heading)
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
    style = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "ha": "right", "va": "center"}
    axis.annotate(row.contender, (0, base - _ROW * 0.72), (-22, 0), size=9, weight="bold", color=ink, **style)
    axis.annotate(row.cost_text, (0, base - _ROW * 0.24), (-22, 0), size=8, color=_QUIET, **style)
    for level, word in ((0.96, "yes"), (0.06, "no")):
        axis.annotate(word, (0, base - _ROW * level), (-3, 0), size=7, color=_QUIET, **style)

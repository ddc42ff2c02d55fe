"""What a picture of the answers over time shows: which contenders, which questions, and what of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame

from codecflow.codec.decode import Decoder, ShownPicture
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.messages import Result

from .answers import Answers
from .contenders import REFERENCE, family_of
from .scoring import Key, Standing

_HEIGHT = 120  # of a thumbnail, in pixels


@dataclass(frozen=True, slots=True)
class Row:
    """One contender's answers to one question, in order; arrays of one length. `starts`, `ends`: of the newest stride, in
    seconds, float64. `p_yes`: float64. `scored`, `wrong`: bool. `told`: what it costs."""

    contender: str
    told: str
    starts: npt.NDArray[np.float64]
    ends: npt.NDArray[np.float64]
    p_yes: npt.NDArray[np.float64]
    scored: npt.NDArray[np.bool_]
    wrong: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Timeline:
    """One clip: by question the rows, and the spans in seconds in which the labels say yes. `legend`: how to read it."""

    file: Path
    seconds: float
    questions: dict[str, list[Row]]
    spans: dict[str, list[tuple[float, float]]]
    legend: str

    def always_no(self, prompt: str) -> bool:
        """Whether a question is never labelled yes, and never answered so."""
        return not self.spans[prompt] and all((row.p_yes < 0.5).all() for row in self.questions[prompt])


def timeline(answers: Answers, number: int, standings: Sequence[Standing], target: str) -> Timeline | None:
    """Of the clip at place `number` of the spec; None where nothing was asked of it that is answered yes or no."""
    shown = chosen(standings, target)
    clip = answers.spec.clips[number]
    questions = {
        prompt: [_row(answers, number, prompt, one) for one in shown]
        for prompt in clip.labels
        if answers.spec.questions[prompt].type == "yes-no" and answers.of(REFERENCE, number, prompt)
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
    legend = "Height of a row: p(yes) of each stride, beside it FLOPs. Shaded: labelled yes."
    if any(row.wrong.any() for row in of_all):
        legend += " ×: answered wrong."
    if not all(row.scored.all() for row in of_all):
        legend += " Pale: not scored."
    return Timeline(clip.file, float(seconds), questions, spans, legend)


def chosen(standings: Sequence[Standing], target: str) -> list[Standing]:
    """all/all, the target, and of each other keep policy what costs most nearly as much as the target."""
    by_name = {one.name: one for one in standings}
    first = [by_name[name] for name in dict.fromkeys((REFERENCE, target)) if name in by_name]
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
    """The pictures of a file that are shown at `times`, ascending, in seconds, made small: (h, w, 3) uint8 each. Past its
    end, the last one. Raises SourceError."""
    found = list[npt.NDArray[np.uint8]]()
    begin, last = None, None
    with Source(str(file)) as source:
        for last in _shown(source):
            begin = last.pts if begin is None else begin
            while len(found) < len(times) and (last.pts - begin) * last.picture.time_base >= times[len(found)]:
                found.append(_small(last.frame))
            if len(found) == len(times):
                return found
    if last is None:
        raise SourceError(f"source {file}: no picture of it can be decoded; give a sound video file")
    return found + [_small(last.frame)] * (len(times) - len(found))


def _shown(source: Source) -> Iterator[ShownPicture]:
    decoder = Decoder()
    for coded in source.pictures("thumbnails", 1):
        yield from decoder.push(coded)
    yield from decoder.flush()


def _small(frame: VideoFrame) -> npt.NDArray[np.uint8]:
    width = max(2, round(_HEIGHT * frame.width / frame.height))
    small = frame.reformat(width=width, height=_HEIGHT, format="rgb24", interpolation="AREA")
    return np.asarray(small.to_ndarray(), np.uint8)


def _row(answers: Answers, number: int, prompt: str, standing: Standing) -> Row:
    given: dict[Key, Result] = answers.of(standing.name, number, prompt)
    strides = [answers.stride(key[1]) for key in given]
    right = [answers.labels.get(key) for key in given]
    return Row(
        contender=standing.name,
        told=f"{100 * standing.flops_share:.1f}".removesuffix(".0") + " % of FLOPs",
        starts=np.array([start for start, _ in strides], np.float64),
        ends=np.array([end for _, end in strides], np.float64),
        p_yes=np.array([result.p_yes or 0.0 for result in given.values()], np.float64),
        scored=np.array([label is not None for label in right], bool),
        wrong=np.array([label not in (None, r.answer) for label, r in zip(right, given.values(), strict=True)], bool),
    )

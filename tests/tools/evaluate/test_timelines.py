"""The content of the figure of answers over time."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from codecflow.messages import Flops, Frames, Result, Tokens
from codecflow.tools.evaluate.contender_answers import Answers
from codecflow.tools.evaluate.contenders import contenders
from codecflow.tools.evaluate.scoring import score
from codecflow.tools.evaluate.spec import read_spec
from codecflow.tools.evaluate.timeline import chosen, pictures_at, timeline
from codecflow.worker.window_plan import WindowPlan
from tests.codec.clips import encode

PLAN = WindowPlan.of(4, 2, 2)
PERSON = "person?"


@pytest.fixture
def answers(clip: Path, tmp_path: Path) -> Answers:
    """all/all answers right; the others say yes in every stride. There are no labels for 4-6 s and after 8 s."""
    spec = tmp_path / "spec.csv"
    rows = [f"{clip},0,4,{PERSON},yes-no,no", f"{clip},6,8,{PERSON},yes-no,yes", f"{clip},0,9,what?,text,x"]
    rows.append(f"{clip},30,40,{PERSON},yes-no,yes")  # after the clip's end
    spec.write_text("\n".join(["file,start_s,end_s,question,type,answer", *rows]), encoding="utf-8")
    ran = contenders("replenish/none,last-1/all,last-4/all,motion/none,random/none,every-4/none,all/none", PLAN, None)
    answers = Answers(read_spec(spec), PLAN, ran)
    costs = {"all/all": 100, "replenish/none": 10, "last-1/all": 12, "last-4/all": 50, "motion/none": 30}
    for one in ran:
        for window in reversed(range(5)):
            p = [0.1, 0.2, 0.3, 0.9, 0.6][window] if one.name == "all/all" else 0.8
            said = "yes" if p > 0.5 else "no"
            result = Result(
                "s", 1, window, 0, 1, 0, 0, "q", PERSON, "yes-no", said, p, None, Frames(1, 1), Tokens(1, 1, 1, 0),
                Flops(costs.get(one.name, 11), 0, 100), {}, "", "", "m", True,
            )  # fmt: skip
            answers.add(one, 0, [result])
    return answers


def test_rows_are_the_answers_in_order_of_time(answers: Answers) -> None:
    standings = score(list(answers.spec.questions.values()), answers.by_contender, answers.labels, resamples=10)
    shown = timeline(answers, 0, standings, "replenish/none")
    assert shown is not None
    assert shown.seconds == 10
    assert shown.spans == {PERSON: [(6, 8)]}
    assert list(shown.questions) == [PERSON]
    whole, default, *_ = shown.questions[PERSON]
    assert (whole.contender, whole.cost_text) == ("all/all", "100 % of FLOPs")
    assert (default.contender, default.cost_text) == ("replenish/none", "10 % of FLOPs")
    assert whole.starts.tolist() == [0, 2, 4, 6, 8]
    assert whole.ends.tolist() == [2, 4, 6, 8, 10]
    assert whole.p_yes.tolist() == [0.1, 0.2, 0.3, 0.9, 0.6]
    assert whole.scored.tolist() == [True, True, False, True, False]
    assert not whole.wrong.any()
    assert default.wrong.tolist() == [True, True, False, False, False]
    assert "×: answered wrong" in shown.legend
    assert not shown.always_no(PERSON)
    assert replace(shown, spans={PERSON: []}, questions={PERSON: []}).always_no(PERSON)
    assert not replace(shown, spans={PERSON: []}, questions={PERSON: [whole]}).always_no(PERSON)  # 0.9 once


def test_of_each_other_kind_the_one_of_like_cost_is_shown(answers: Answers) -> None:
    standings = score(list(answers.spec.questions.values()), answers.by_contender, answers.labels, resamples=10)
    names = [one.name for one in chosen(standings, "replenish/none")]
    assert names == ["all/all", "replenish/none", "last-1/all", "motion/none", "random/none", "every-4/none"]
    assert [one.name for one in chosen(standings, "last-4/all")][:3] == ["all/all", "last-4/all", "replenish/none"]


def test_pictures_are_those_of_their_times(clip: Path) -> None:
    found = pictures_at(clip, [0, 4.95, 99])
    with av.open(str(clip)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert [picture.shape for picture in found] == [(120, 213, 3)] * 3
    for picture, at in zip(found, (0, 50, -1), strict=True):  # ten pictures per second
        height, width = frames[at].shape[:2]
        rows, columns = (np.arange(120) * height) // 120, (np.arange(213) * width) // 213
        distances = [np.abs(picture.astype(float) - frame[rows][:, columns]).mean() for frame in frames[::10]]
        own = np.abs(picture.astype(float) - frames[at][rows][:, columns]).mean()
        assert own <= min(distances) + 0.5


def test_the_last_pictures_which_a_decoder_holds_back_have_their_own_times(tmp_path: Path) -> None:
    found = pictures_at(encode(tmp_path / "clip", pictures=12), [n / 10 - 0.05 for n in range(12)])
    assert len(found) == 12
    assert all(np.abs(one.astype(int) - other).mean() > 0.1 for one, other in pairwise(found))

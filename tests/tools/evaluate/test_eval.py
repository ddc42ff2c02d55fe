"""`codecflow eval` on a real clip, with a model whose answers are meaningless but whose figures must be consistent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image

from codecflow.cli.app import build
from codecflow.errors import ConfigError
from codecflow.keep import KeepState
from codecflow.tools.bench.sampling import sampled_frames
from codecflow.tools.evaluate.contenders import contenders
from codecflow.tools.evaluate.evaluation import Options, run
from codecflow.vlm.loading import load_model
from codecflow.worker.window_plan import WindowPlan
from tests.tools.bench.clips import encode

PERSON, CAR, SCENE = "Is a person in view?", "Is a car in view?", "What is to be seen?"
POLICIES = (
    "all/none,all/budget=1,every-1/none,last-8/all,last-4/all,every-4/none,motion/anchors,motion/shifted,motion/random,"
    "replenish/none,random/none"
)


@dataclass(frozen=True)
class Evaluated:
    policies: dict[str, Any]
    answers: dict[str, list[dict[str, str]]]
    out: Path
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def spec(clip: Path) -> Path:
    path = clip.with_name("spec.csv")
    rows = [
        f"{clip.name},6,20.2,{PERSON},yes-no,yes",
        f"{clip.name},,,{CAR},yes-no,no",
        f"{clip.name},0,5,{SCENE},choice,nobody",
        f"{clip.name},6,10,{SCENE},choice,a person",
        f"{clip.name},6,10,What happens?,text,a person walks",
    ]
    path.write_text("\n".join(["file,start_s,end_s,question,type,answer", *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def evaluated(spec: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    out = tmp_path_factory.mktemp("evaluate") / "new" / "out"
    stdout, stderr = evaluate(
        spec, "--model", model, "--window", "4", "--stride", "2", "--policies", POLICIES, "--out", out
    )
    answers: dict[str, list[dict[str, str]]] = {}
    with (out / "answers.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            answers.setdefault(row["policy"], []).append(row)
    return Evaluated(orjson.loads(stdout.splitlines()[-1]), answers, out, stdout, stderr)


def evaluate(*arguments: str | Path) -> tuple[str, str]:
    """Standard output and standard error of `codecflow eval`."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        build()(["eval", *map(str, arguments)], standalone_mode=False)
    return out.getvalue(), err.getvalue()


def test_every_stride_is_answered_and_labelled_by_its_own_time(evaluated: Evaluated) -> None:
    run = evaluated.policies["run"]
    assert (run["clips"], run["device"], run["dtype"]) == (1, "cpu", "float32")
    for name, rows in evaluated.answers.items():
        assert [row["label"] for row in rows if row["question"] == PERSON] == ["no", "no", "no", "yes", "yes"], name
        assert [row["label"] for row in rows if row["question"] == CAR] == ["no"] * 5, name
        labels = [row["label"] for row in rows if row["question"] == SCENE]
        assert labels == ["nobody", "nobody", "nobody", "a person", "a person"], name  # half of 4-6 s is covered
    figures = evaluated.policies["all/all"]
    assert (figures[PERSON]["n"], figures[PERSON]["positive"], figures[SCENE]["n"]) == (5, 2, 5)
    assert (figures[CAR]["n"], figures[CAR]["f1"], figures[CAR]["auc"]) == (5, None, None)
    assert figures["What happens?"]["n"] == 2
    assert (figures[PERSON]["f1_always_yes"], figures[CAR]["f1_always_yes"]) == (pytest.approx(4 / 7, abs=1e-6), None)
    assert f"{PERSON}  (always yes: F1 0.571)" in evaluated.stdout


def test_scores_are_those_of_the_answers(evaluated: Evaluated) -> None:
    for name, rows in evaluated.answers.items():
        asked = [row for row in rows if row["question"] == PERSON]
        hits = sum(row["label"] == row["answer"] == "yes" for row in asked)
        said_yes = sum(row["answer"] == "yes" for row in asked)
        figures = evaluated.policies[name][PERSON]
        assert figures["f1"] == pytest.approx(2 * hits / (said_yes + 2), abs=1e-6)
        assert figures["recall"] == pytest.approx(hits / 2, abs=1e-6)
        assert figures["f1_ci95"][0] <= figures["f1"] <= figures["f1_ci95"][1]
        yes, no = ([float(row["p_yes"]) for row in asked if row["label"] == label] for label in ("yes", "no"))
        pairs = [(a > b) + (a == b) / 2 for a, b in product(yes, no)]
        assert figures["auc"] == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
        same = [a["answer"] == b["answer"] for a, b in zip(rows, evaluated.answers["all/all"], strict=True)]
        assert evaluated.policies[name]["agreement"] == pytest.approx(sum(same) / len(same), abs=1e-6)
        flops = [sum(int(row["flops"]) for row in evaluated.answers[other]) for other in (name, "all/all")]
        assert evaluated.policies[name]["flops_share"] == pytest.approx(flops[0] / flops[1], abs=1e-6)


def test_what_must_be_equal_is_and_what_must_differ_does(evaluated: Evaluated) -> None:
    figures = evaluated.policies
    reference = figures["all/all"]
    assert (reference["flops_share"], reference["tokens_kept"], reference["dp_yes"], reference["agreement"]) == (
        1,
        1,
        0,
        1,
    )
    # A full refresh budget, and a window of the last 8 of its 8 frames, equal all/all.
    assert figures["all/budget=1"]["dp_yes"] < 1e-5
    assert figures["last-8/all"]["dp_yes"] < 1e-5
    assert figures["last-8/all"]["flops_share"] == 1
    assert figures["every-1/none"] == figures["all/none"]
    assert figures["all/none"]["dp_yes"] > 1e-5
    assert figures["random/none"]["flops_share"] == figures["replenish/none"]["flops_share"]
    assert figures["random/none"]["tokens_kept"] == figures["replenish/none"]["tokens_kept"]
    assert figures["random/none"]["dp_yes"] != figures["replenish/none"]["dp_yes"]
    assert figures["last-4/all"]["tokens_window"] == 4 * 16
    assert figures["every-4/none"]["tokens_kept"] == 0.25
    assert figures["replenish/none"]["flops_share"] < figures["all/none"]["flops_share"] < 1


def test_matched_refresh_budgets_cost_alike_and_are_not_the_same(evaluated: Evaluated) -> None:
    figures = evaluated.policies
    anchors = figures["motion/anchors"]
    for name in ("motion/shifted", "motion/random"):
        assert figures[name]["flops_share"] == pytest.approx(anchors["flops_share"], rel=0.02)
        assert figures[name]["dp_yes"] != anchors["dp_yes"]


def test_others_are_compared_at_the_defaults_flops(evaluated: Evaluated) -> None:
    figures = evaluated.policies
    found = figures["matched"]
    assert found["to"] == "replenish/none"
    assert set(found) == {
        "to",
        "every/none",
        "last/all",
        "motion/anchors",
        "motion/shifted",
        "motion/random",
        "random/none",
    }
    assert found["random/none"]["f1"] == figures["random/none"]["f1"]
    assert found["random/none"]["flops_share"] == figures["replenish/none"]["flops_share"]
    assert f"At replenish/none's FLOPs, {100 * figures['replenish/none']['flops_share']:.2f} %" in evaluated.stdout
    for name in ("all/all", "replenish/none"):
        assert figures[name]["f1_change"] == pytest.approx(figures[name]["f1"] - figures["all/all"]["f1"], abs=1e-5)
    assert figures["all/all"]["f1_change_ci95"] == [0, 0]


def test_masks_are_those_of_the_keep_policies(evaluated: Evaluated, clip: Path, model: Path) -> None:
    """The clip through bench/sampling, which has no joins or windows, keeps equally many tokens."""
    plan = WindowPlan.of(4, 2, 2)
    _, motion, replenish = contenders("motion/none,replenish/none", plan, None)
    grid = load_model(str(model)).grid(768, 432)
    for one, name in ((motion, "motion/anchors"), (replenish, "replenish/none")):
        state = KeepState(grid, one.keep)
        frames = islice(sampled_frames(clip, plan.fps), 20)
        kept = [int(f.decide(state).keep.sum()) for f in frames]
        assert len(kept) == 20
        assert evaluated.policies[name]["tokens_kept"] == pytest.approx(sum(kept) / (20 * grid.tokens), abs=1e-6)


def test_random_weights_are_reported_loudly(evaluated: Evaluated) -> None:
    assert evaluated.policies["run"]["trained"] is False
    assert "MEANINGLESS" in evaluated.policies["run"]["scores"]
    assert evaluated.stderr.count("MEANINGLESS SCORES") == 2
    assert evaluated.stdout.count("MEANINGLESS SCORES") >= 5  # every table, and the JSON line
    assert "clip.mp4: replenish/none: 5 windows in" in evaluated.stderr


def test_pictures_show_something(evaluated: Evaluated) -> None:
    files = list(map(Path, evaluated.policies["run"]["files"]))
    assert [file.name for file in files] == [
        "f1-flops.png", "f1-flops.svg", "answers.png", "answers.svg", "answers.csv",
    ]  # fmt: skip
    for png, svg in (files[:2], files[2:4]):
        with Image.open(png) as picture:
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096) or ()) > 30
        text = svg.read_text(encoding="utf-8")
        assert text.count("<path") > 20
        assert "MEANINGLESS" in text


def test_answers_over_time_are_those_of_a_few_contenders(evaluated: Evaluated) -> None:
    text = (evaluated.out / "answers.svg").read_text(encoding="utf-8")
    shares = {name: evaluated.policies[name]["flops_share"] for name in ("all/all", "replenish/none", "random/none")}
    for name, share in shares.items():
        assert text.count(f"<!-- {name} -->") == 2  # in the rows of both yes-no questions
        assert text.count(f"<!-- {100 * share:.1f}".removesuffix(".0") + " % of FLOPs -->") >= 2
    assert f"<!-- {PERSON} -->" in text
    assert f"<!-- {CAR}  (never) -->" in text
    assert SCENE not in text
    assert "<!-- all/none -->" not in text
    assert "<image" in text  # the clip's thumbnails


def test_trained_weights_are_not_called_meaningless(
    spec: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"codecflow_untrained": False}), encoding="utf-8")
    run(Options(spec, str(tmp_path), "2", "2", "2", "all/all", transcode="fps=2,gop=16"))
    printed = capsys.readouterr()
    assert "MEANINGLESS" not in printed.out + printed.err
    figures = json.loads(printed.out.splitlines()[-1])
    assert figures["run"]["trained"] is True
    assert figures["all/all"]["windows"] == 5


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["--policies", "some/none"], "--policies 'some/none'"),
        (["--match", "motion/none,last-1/all"], "--match 'motion/none,last-1/all': give KEEP[@COVERAGE]/REFRESH"),
        (
            ["--match", "replenish"],
            "--match 'replenish': give KEEP[@COVERAGE]/REFRESH, KEEP one of all, motion, replenish,",
        ),
        (["--match", ""], "--match '': give KEEP[@COVERAGE]/REFRESH"),
        (["--reference", "every/none"], "--reference 'every/none': give KEEP[@COVERAGE]/REFRESH"),
        (["--window", "3.3"], "--window 3.3 s is not a whole number of frames"),
        (["--transcode", "gop=3"], "--transcode 'gop=3'"),
        (["--coverage", "100"], "coverage '100'"),
    ],
)
def test_bad_options_are_reported_before_the_model_is_loaded(
    spec: Path, arguments: Sequence[str], printed: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        evaluate(spec, "--model", "no-such-model", *arguments)
    assert printed in str(raised.value)


def test_clips_shorter_than_a_stride_are_one_line(spec: Path, model: Path) -> None:
    with pytest.raises(ConfigError, match=r"spec\.csv: no window can be scored"):
        evaluate(spec, "--model", model, "--policies", "all/all", "--window", "20", "--stride", "20")


def test_a_contender_that_finds_no_frames_where_it_looks_is_one_line(model: Path, tmp_path: Path) -> None:
    """At one frame per second every other slot is empty, including the last one of every stride."""
    clip = encode(tmp_path / "slow.mp4", "libx264", 64, 48, pictures=8, rate=1)
    spec = tmp_path / "spec.csv"
    spec.write_text(f"file,start_s,end_s,question,type,answer\n{clip.name},2,6,{PERSON},yes-no,yes\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^last-1/all: .*it has 0 answers, all/all has [78]\. .* --fps") as raised:
        evaluate(spec, "--model", model, "--policies", "last-1/all", "--window", "4", "--stride", "1")
    assert "\n" not in str(raised.value)


def test_clips_of_the_same_name_are_distinguished_in_the_file_of_answers(model: Path, tmp_path: Path) -> None:
    rows = ["file,start_s,end_s,question,type,answer"]
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        encode(tmp_path / folder / "gate.mp4", "libx264", 64, 48, pictures=20)
        rows.append(f"{folder}/gate.mp4,0,2,{PERSON},yes-no,yes")
    spec = tmp_path / "spec.csv"
    spec.write_text("\n".join(rows) + "\n", encoding="utf-8")
    evaluate(spec, "--model", model, "--policies", "all/all", "--window", "2", "--stride", "2", "--out", tmp_path)
    with (tmp_path / "answers.csv").open(newline="", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == [
            str(tmp_path / folder / "gate.mp4") for folder in ("left", "right")
        ]


def test_questions_are_drawn_as_they_are_worded(model: Path, tmp_path: Path) -> None:
    question = "Is it $^$?"
    clip = encode(tmp_path / "clip.mp4", "libx264", 64, 48, pictures=40)
    spec = tmp_path / "spec.csv"
    spec.write_text(
        f"file,start_s,end_s,question,type,answer\n{clip.name},0,2,{question},yes-no,yes\n", encoding="utf-8"
    )
    evaluate(spec, "--model", model, "--policies", "all/all", "--window", "2", "--stride", "2", "--out", tmp_path)
    for name in ("f1-flops.svg", "answers.svg"):
        assert f"<!-- {question} -->" in (tmp_path / name).read_text(encoding="utf-8")

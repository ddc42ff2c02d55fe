"""Concurrent clips in one engine: answers, masks and costs are the same as one by one."""

from __future__ import annotations

import csv
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.errors import ConfigError, SourceError
from codecflow.keep import KeepConfig
from codecflow.messages import Question
from codecflow.tools.evaluate.evaluation import Options, in_waves, run
from codecflow.tools.evaluate.sampled_clips import Sampled, publish
from codecflow.vlm.loading import load_model
from codecflow.worker.sampler_events import Sampling
from codecflow.worker.window_plan import WindowPlan
from tests.codec.clips import encode

QUESTIONS = ("Is a person in view?", "Is a car in view?")
POLICIES = "all/none,replenish/anchors,random/none"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Clips of 2 to 8 seconds: with windows of 4 s every 2 s some end while others continue. All show different content."""
    folder = tmp_path_factory.mktemp("clips")
    sizes = {4: (192, 160), 8: (192, 160), 2: (160, 192), 6: (256, 144)}
    return [encode(folder / f"{s}s", pictures=10 * s, size=size, seed=s) for s, size in sizes.items()]


def answers(spec: Path, model: Path, streams: int) -> dict[tuple[str, ...], dict[str, str]]:
    out = spec.with_name(f"out-{streams}")
    run(Options(spec, str(model), "4", "2", "2", POLICIES, dtype="float32", device="cpu", streams=streams, out=out))
    with (out / "answers.csv").open(newline="", encoding="utf-8") as file:
        return {
            tuple(row[name] for name in ("policy", "file", "window", "question")): row for row in csv.DictReader(file)
        }


def test_answers_are_those_of_each_clip_alone(
    clips: list[Path], model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = clips[0].with_name("spec.csv")
    rows = [f"{clip.name},,,{question},yes-no,no" for clip in clips for question in QUESTIONS[: 1 + (clip != clips[2])]]
    spec.write_text("\n".join(["file,start_s,end_s,question,type,answer", *rows]) + "\n", encoding="utf-8")
    alone = answers(spec, model, 1)
    together = answers(spec, model, 4)
    assert list(alone) == list(together)
    windows = Counter((policy, file) for policy, file, _, question in alone if question == QUESTIONS[0])
    assert windows == {(p, f): n for p in ("all/all", *POLICIES.split(",")) for f, n in
                       {"2s.mp4": 1, "4s.mp4": 2, "6s.mp4": 3, "8s.mp4": 4}.items()}  # fmt: skip
    for key, row in alone.items():
        other = together[key]
        assert float(other["p_yes"]) == pytest.approx(float(row["p_yes"]), abs=1e-4), key
        # Tokens and FLOPs follow from the masks: the masks are the same.
        assert (other["tokens"], other["flops"], other["answer"]) == (row["tokens"], row["flops"], row["answer"]), key
    assert len({row["p_yes"] for row in alone.values()}) > 30  # the answers vary
    assert "8s.mp4 and 3 more: replenish/anchors: 10 windows in" in capsys.readouterr().err


def test_what_is_decoded_once_is_what_is_decoded_each_time(clips: list[Path], model: Path) -> None:
    family = load_model(str(model))
    sampling = Sampling(WindowPlan.of(4, 2, 2), KeepConfig(period_s=Fraction(4)), family.grid, family.input.patches)
    published = publish(0, clips[1], (Question("q1", QUESTIONS[0], "yes-no"),), Fraction(2))
    once, uncached = Sampled(published, sampling, 1 << 30), Sampled(published, sampling, 0)
    for sampled in (once, uncached):
        first, again = (list(sampled.windows()) for _ in range(2))
        assert [turn.window.index for turn in again if turn.window] == [0, 1, 2, 3]
        assert (first[0] is again[0]) == (sampled is once)
        masks = [[frame.keep.tolist() for turn in turns if turn.window for frame in turn.window.frames]
                 for turns in (first, again, list(uncached.windows()))]  # fmt: skip
        assert masks[0] == masks[1] == masks[2]
        assert len(masks[0]) == 16


def test_clips_of_like_length_are_answered_together(clips: list[Path]) -> None:
    assert in_waves(clips, 3) == [[1, 3, 0], [2]]
    with pytest.raises(ConfigError, match="--streams 0: use 1 or more"):
        in_waves(clips, 0)
    note = clips[0].with_name("note.txt")
    note.write_text("no video", encoding="utf-8")
    with pytest.raises(SourceError, match=r"note\.txt"):
        in_waves([clips[0], note], 3)

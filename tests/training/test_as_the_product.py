"""The recipe's own batched code gives the product's results: the same sequences, positions, features and logits."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from codecflow.folders import cache_dir
from codecflow.messages import Question
from codecflow.tools.demo_model.checkpoint import cached_checkpoint
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.work import Frame, StreamWork

QUESTIONS = ("Is a person in view?", "Is something moving?")
FIRST, FRAMES, STRIDE = 6, 12, 4


@pytest.fixture(scope="module")
def family() -> Family:
    return load_model(str(cached_checkpoint(cache_dir())), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def keep(family: Family) -> npt.NDArray[np.bool_]:
    """(12, tokens): one whole frame, then few, none, many, ..."""
    tokens = family.grid(448, 448).tokens
    shares = np.array([1.1, 0.1, 0.0, 0.6, 0.2, 0.0, 0.1, 0.3, 0.0, 0.2, 0.1, 0.0])
    mask: npt.NDArray[np.bool_] = np.random.default_rng(0).random((FRAMES, tokens)) < shares[:, None]
    return mask


@pytest.mark.parametrize(("window", "background"), [(FRAMES, False), (4, False), (4, True)])
def test_strides_are_answered_as_the_engine_answers_them_without_refresh(
    family: Family, keep: npt.NDArray[np.bool_], window: int, background: bool
) -> None:
    from layout import Batch, Clip, Layout
    from model import Learner

    side = family.model.config.vision_config.image_size[0]
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (FRAMES, side, side, 3), np.uint8)
    logits: dict[tuple[int, str], torch.Tensor] = {}
    engine = Engine(
        family,
        refresh="none",
        background=background,
        observe=lambda stream, question, scores: logits.__setitem__((len(logits) // 2, question.prompt), scores),
    )
    questions = [Question(str(i), text, "yes-no") for i, text in enumerate(QUESTIONS)]
    for begin in range(0, FRAMES, STRIDE):
        frames = [
            Frame(
                FIRST + i,
                0.0,
                keep[i],
                family.input.patches(pixels[i], keep[i]) if keep[i].any() else None,
                (side, side),
                bool(keep[i].all()),
            )
            for i in range(begin, begin + STRIDE)
        ]
        engine.step([StreamWork("camera", frames, FIRST + max(0, begin + STRIDE - window), questions)])

    learner = Learner(copy.deepcopy(family.model))
    layout = Layout(family.tokenizer, learner.image_id)
    ends = range(STRIDE, FRAMES + 1, STRIDE)
    asked = {end: [(text, "", 1.0) for text in QUESTIONS] for end in ends}
    batch = layout.lay([Clip(keep, FIRST, window, asked, background)])
    batch = Batch(**{name: torch.from_numpy(value) for name, value in vars(batch).items()})
    shown = keep.any(1)
    images = torch.from_numpy(pixels[shown].transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        hidden = learner.read(batch, learner.see(images, keep[shown]))
        scores = learner.score(hidden[batch.at[:, 0], batch.at[:, 1]])
    expected = torch.stack([logits[stride, text] for stride in range(len(ends)) for text in QUESTIONS])
    torch.testing.assert_close(scores, expected, rtol=0, atol=2e-3)
    assert float((scores[:2] - scores[2:4]).abs().max()) > 0.05  # the strides give different scores


def test_frames_that_left_the_window_and_other_questions_are_not_seen(family: Family) -> None:
    from layout import ALWAYS, Batch, Clip, Layout
    from model import Learner

    layout = Layout(family.tokenizer, family.config.image_token_id)
    keep = np.ones((12, 4), bool)
    asked = {end: [(QUESTIONS[0], "Yes", 1.0), (QUESTIONS[1], "No", 1.0)] for end in (4, 8, 12)}
    batch = layout.lay([Clip(keep, 0, 8, asked)])
    every = Learner._visible(Batch(**{name: torch.from_numpy(value) for name, value in vars(batch).items()}))[0, 0]
    moment, segment = batch.moment[0], batch.segment[0]
    visible, carried = every[:, : len(moment)], every[:, len(moment) :]
    last = int(np.flatnonzero(segment == 6)[-1])  # last of the second question of the last stride
    seen = set(moment[visible[last].numpy()]) - {ALWAYS}
    assert seen == set(range(4, 12))
    assert set(segment[visible[last].numpy()]) == {0, 6}
    ninth = int(np.flatnonzero(moment == 8)[0])
    assert set(moment[visible[ninth].numpy()]) - {ALWAYS} == {4, 5, 6, 7, 8}
    # The prefix moves up to the oldest frame once frames have left.
    prefix = len(layout.prefix)
    assert not visible[ninth, :prefix].any()
    assert carried[ninth].sum() == prefix
    assert visible[ninth - 1, :prefix].all()
    assert not carried[ninth - 1].any()
    assert batch.question.tolist().count(-1) == len(batch.at) - 6


def test_a_sequence_is_cut_after_a_whole_stride(family: Family) -> None:
    from layout import Clip, Layout

    layout = Layout(family.tokenizer, family.config.image_token_id)
    clip = Clip(np.ones((12, 4), bool), 0, 80, {end: [(QUESTIONS[0], "Yes", 1.0)] for end in (4, 8, 12)})
    whole, cut = layout.lay([clip]), layout.lay([clip], longest=len(layout.lay([clip]).ids[0]) // 2)
    assert whole.frames.tolist() == [12]
    assert cut.frames.tolist() == [4]
    first = (whole.at[:, 1] < cut.ids.shape[1]).sum()
    np.testing.assert_array_equal(cut.at, whole.at[: len(cut.at)])
    assert 0 < len(cut.at) <= first


def test_what_was_trained_is_written_and_read_under_the_checkpoints_names(family: Family, tmp_path: Path) -> None:
    from model import Learner

    from codecflow.tools.demo_model.assemble import apply_trained_part, read_trained_part

    model = copy.deepcopy(family.model)
    learner, again = (Learner(copy.deepcopy(model)) for _ in range(2))
    with torch.no_grad():
        for value in learner.parts().values():
            value.add_(torch.randn_like(value) * 0.01)
    learner.export(tmp_path / "part.safetensors", 224)
    apply_trained_part(model, read_trained_part(tmp_path / "part.safetensors"))
    joined = Learner(model)  # with low-rank additions, which are still zero
    ids, places = torch.arange(20)[None] + 1000, torch.arange(20)[None]
    mask = torch.ones(20, 20, dtype=torch.bool).tril()[None, None]
    with torch.no_grad():
        expected, got, before = (one.text(one.table[ids], places, mask) for one in (joined, learner, again))
    assert float((expected - before).abs().mean()) > 0.05
    assert float((expected - got).abs().mean()) < 0.01  # the file's bfloat16
    again.start_from(tmp_path / "part.safetensors")
    for name, value in again.parts().items():
        torch.testing.assert_close(value, learner.parts()[name], rtol=0.01, atol=1e-3)

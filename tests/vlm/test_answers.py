"""Answers compared with transformers' own model: generated greedily, or scored label by label."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codecflow.messages import Question
from codecflow.vlm.work import StreamWork

from .cases import Case
from .running import QUESTION, SECOND, THIRD, Run, assert_equal


def test_text_is_what_transformers_generates(case: Case) -> None:
    rng = np.random.default_rng(0)
    frames, texts = case.frames(rng, range(2)), []
    for limit in (1, 6):
        question = Question("t", "What?", "text", max_tokens=limit)
        run = Run(case)
        run.step(frames, 0, [question, SECOND])
        texts.append(run.outcome.answers[0].text)
        chosen: list[int] = []
        while len(chosen) < limit:
            token = int(case.stock_logits(frames, question.prompt, chosen)[-1].argmax())
            if token in case.family.stop_ids:
                break
            chosen.append(token)
        assert texts[-1] == case.family.tokenizer.decode(chosen, skip_special_tokens=True).strip()
    assert texts[1].startswith(texts[0])


def test_a_stop_token_ends_a_text(case: Case) -> None:
    frames = case.frames(np.random.default_rng(1), range(2))
    question = Question("t", "What?", "text", max_tokens=4)
    run = Run(case)
    run.step(frames, 0, [question])
    first = int(run.logits["camera", "t"].argmax())
    stops, case.family.stop_ids = case.family.stop_ids, frozenset([first])
    try:
        run = Run(case)
        run.step(frames, 0, [question])
    finally:
        case.family.stop_ids = stops
    assert run.outcome.answers[0].text == ""


def test_yes_no_is_a_softmax_over_their_spellings(case: Case) -> None:
    frames = case.frames(np.random.default_rng(2), range(2))
    run = Run(case)
    run.step(frames, 0, [QUESTION])
    answer = run.outcome.answers[0]
    p = case.stock_logits(frames, QUESTION.prompt)[-1].softmax(0)
    vocabulary = case.family.tokenizer.get_vocab()
    yes, no = (
        sum(float(p[vocabulary[spelling]]) for spelling in spellings)
        for spellings in (("yes", "Yes", "Ġyes", "ĠYes"), ("no", "No", "Ġno", "ĠNo"))
    )
    assert answer.p_yes == pytest.approx(yes / (yes + no), abs=1e-4)
    assert answer.text == ("yes" if yes > no else "no")


def test_choice_is_the_likelihood_of_each_complete_label(case: Case) -> None:
    frames = case.frames(np.random.default_rng(3), range(2))
    first = case.stock_logits(frames, "Which?")[-1]
    letters = sorted("abcdefghijklmnopqrstuvwxyz", key=lambda letter: -float(first[case.family.ids(letter)[0]]))
    labels = (letters[0], letters[1], letters[0] + letters[2], letters[0] + letters[1] + " is")
    run = Run(case)
    run.step(frames, 0, [THIRD, Question("c", "Which?", "choice", labels=labels), SECOND])
    found = run.outcome.answers[1]
    scores = []
    for label in labels:
        ids = [*case.family.ids(label), case.family.end_id]
        rows = case.stock_logits(frames, "Which?", ids).log_softmax(-1)
        scores.append(sum(float(rows[at, token]) for at, token in enumerate(ids)))
    expected = torch.tensor(scores, dtype=torch.float64).log_softmax(0).tolist()
    logs = [float(np.log(p)) for p in (found.label_probabilities or {}).values()]
    assert list(found.label_probabilities or {}) == list(labels)
    assert logs == pytest.approx(expected, abs=1e-3)
    assert found.text == labels[int(np.argmax(expected))]


def test_questions_leave_the_visual_cache_as_it_was_bit_for_bit(case: Case) -> None:
    rng = np.random.default_rng(4)
    asked, quiet = Run(case), Run(case)
    for step in range(4):
        new, first = case.frames(rng, range(2 * step, 2 * step + 2), 0.5), max(0, 2 * step - 2)
        asked.step(new, first, [SECOND, QUESTION, Question("c", "Which?", "choice", labels=("car", "bus"))])
        quiet.engine.step([StreamWork("camera", new, first)])
        windows = [run.engine.windows["camera"] for run in (asked, quiet)]
        keys, values = zip(*(w.pool.read(w.where(w.start, w.slots)) for w in windows), strict=True)
        assert torch.equal(*keys), f"step {step}: keys differ by {(keys[0] - keys[1]).abs().max()}"
        assert torch.equal(*values), f"step {step}: values differ by {(values[0] - values[1]).abs().max()}"


def test_a_question_may_be_longer_than_the_window_and_come_while_running(case: Case) -> None:
    rng = np.random.default_rng(5)
    long = Question("long", "Is it so? " * 60, "yes-no")
    run, held = Run(case, "all"), []
    for step in range(3):
        new = case.frames(rng, [step])
        held = [*held, *new][-2:]
        questions = [QUESTION, long] if step else [QUESTION]
        got = run.step(new, max(0, step - 1), questions)
        for question, row in zip(questions, got, strict=True):
            assert_equal(row, case.stock_logits(held, question.prompt)[-1], f"{question.id} in step {step}")
    assert len(case.family.chat(long.prompt)[1]) > run.engine.windows["camera"].tokens


def test_a_window_may_be_asked_nothing_or_hold_nothing(case: Case) -> None:
    run = Run(case)
    (outcome,) = run.engine.step([StreamWork("camera", [], 0)])
    assert (outcome.frames_seen, list(outcome.answers)) == (0, [])
    empty = case.frames(np.random.default_rng(6), range(3), share=0)
    run.step(empty, 0)
    assert run.outcome.frames_seen == 3
    assert (run.outcome.tokens.kept, run.outcome.tokens.total) == (0, 3 * case.tokens)
    assert run.outcome.flops.vit == 0
    assert 0 <= (run.outcome.answers[0].p_yes or 0) <= 1

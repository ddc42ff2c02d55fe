"""Questions and their answers: branches after a stream's window that share its visual keys and values.

text     greedy, to a stop token or the question's limit.
yes-no   p(yes) from the first position's logits: softmax over all spellings of yes and no that are one token.
choice   each label's full log-likelihood, its end of turn included, softmaxed over the labels: the probability of each
         complete answer given that it is one of them. Not normalised by length: the end of turn already keeps a label that
         begins another one ("car", "car park") from being favoured.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from codecflow.errors import ConfigError
from codecflow.messages import Question
from codecflow.vlm.families.base import Family
from codecflow.vlm.packing import NOTHING, Branch, Pack, Run, Work
from codecflow.vlm.window import StreamWindow
from codecflow.vlm.work import Answer


@dataclass(slots=True)
class Asked:
    """One question of one stream in one step. `logits`: (vocabulary,) float32 at the first position of the answer."""

    question: Question
    window: StreamWindow
    suffix: list[int]
    labels: tuple[list[int], ...]
    branch: Branch | None = None
    logits: Tensor | None = None
    work: Work = NOTHING  # of its stream's questions together, kept with the first of them
    generated: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    scored: int = 0  # tokens that went through the head

    @property
    def reserve(self) -> int:
        """Slots that its suffix and its answer may take."""
        closing = self.window.family.closing()
        answer = self.question.max_tokens if self.question.type == "text" else sum(len(x) - 1 for x in self.labels)
        return len(self.suffix) + (0 if closing is None else len(closing)) + answer

    def begin(self, slot: int) -> tuple[Branch, Run]:
        """Its branch from `slot` on, and the tokens of its suffix."""
        window, family = self.window, self.window.family
        run = Run.of_text(slot, self.suffix, window.position, family.axes, family.closing())
        self.branch = Branch(slot, window.position)
        self.branch.advance(len(run))
        return self.branch, run

    def say(self, token: int) -> Run:
        """One more token of its branch."""
        assert self.branch is not None
        run = Run.of_text(self.branch.own[1], [token], self.branch.position, self.window.family.axes)
        self.branch.advance(1)
        return run


class Answers:
    """The answering part of a step, for all streams' questions at once."""

    def __init__(self, family: Family) -> None:
        self.family = family
        self.yes, self.no = _yes_no(family)

    def finish(self, asked: Sequence[Asked]) -> None:
        """After every question's first logits are known: decodes texts and scores labels, in common forwards."""
        self._score_labels([a for a in asked if a.question.type == "choice"])
        self._decode([a for a in asked if a.question.type == "text"])

    def answer(self, asked: Asked) -> Answer:
        question = asked.question
        assert asked.logits is not None
        if question.type == "yes-no":
            yes, no = (asked.logits[ids].logsumexp(0) for ids in (self.yes, self.no))
            p_yes = float(torch.sigmoid(yes - no))
            return Answer(question, "yes" if p_yes >= 0.5 else "no", p_yes=p_yes)
        if question.type == "choice":
            p = torch.tensor(asked.scores, dtype=torch.float64).softmax(0).tolist()
            best = max(range(len(p)), key=p.__getitem__)
            return Answer(
                question, question.labels[best], label_probabilities=dict(zip(question.labels, p, strict=True))
            )
        text: str = self.family.tokenizer.decode(asked.generated, skip_special_tokens=True)
        return Answer(question, text.strip())

    def _decode(self, asked: Sequence[Asked]) -> None:
        stops = self.family.stop_ids
        logits = [a.logits for a in asked if a.logits is not None]
        active = list(asked)
        while active:
            tokens = torch.stack(logits).argmax(1).tolist()
            going = []
            for one, token in zip(active, tokens, strict=True):
                if token not in stops:
                    one.generated.append(token)
                    if len(one.generated) < one.question.max_tokens:
                        going.append(one)
            active = going
            if active:
                hidden = self._forward([(a, [(a.branch, a.say(a.generated[-1]))]) for a in active if a.branch])
                logits = list(self.family.logits(hidden))
                for one in active:
                    one.scored += 1

    def _score_labels(self, asked: Sequence[Asked]) -> None:
        """Each label continues its question's suffix in a branch of its own."""
        family = self.family
        grown = []
        for one in asked:
            assert one.branch is not None
            slot = one.branch.own[1]
            branches = []
            for label in one.labels:
                if len(label) > 1:
                    run = Run.of_text(slot, label[:-1], one.branch.position, family.axes)
                    branch = one.branch.fork(slot)
                    branch.advance(len(run))
                    branches.append((branch, run))
                    slot = run.stop
            if branches:
                grown.append((one, branches))
        rows = iter(family.logits(self._forward(grown)).log_softmax(1) if grown else ())
        by_question = defaultdict(list)
        for one, branches in grown:
            for _, run in branches:
                by_question[id(one)].append([next(rows) for _ in range(len(run))])
        for one in asked:
            assert one.logits is not None
            first = one.logits.log_softmax(0)
            later = iter(by_question[id(one)])
            for label in one.labels:
                score = float(first[label[0]])
                if len(label) > 1:
                    score += sum(float(row[token]) for row, token in zip(next(later), label[1:], strict=True))
                    one.scored += len(label) - 1
                one.scores.append(score)

    def _forward(self, grown: Sequence[tuple[Asked, Sequence[tuple[Branch, Run]]]]) -> Tensor:
        """Hidden states of new branch tokens in the order given. Branches of one stream share one attention call."""
        pack = Pack(self.family)
        for _, group in groupby(grown, key=lambda entry: entry[0].window.stream):
            entries = list(group)
            first, window = entries[0][0], entries[0][0].window
            branches = [pair for _, pairs in entries for pair in pairs]
            first.work += pack.branches(window.buffers, window.start, window.slots, branches)
        return pack.run()


def compile_question(family: Family, window: StreamWindow, question: Question) -> Asked:
    """Tokenises a question and its labels. Raises ConfigError when a label has no tokens."""
    _, suffix = family.chat(question.prompt)
    labels = tuple([*family.ids(label), family.end_id] for label in question.labels)
    if any(len(label) < 2 for label in labels):
        raise ConfigError(f"question {question.id!r}: a label is empty")
    return Asked(question, window, suffix, labels)


def _yes_no(family: Family) -> tuple[list[int], list[int]]:
    """Ids of the one-token spellings of yes and no; where a vocabulary has none, the first tokens of "yes" and "no"."""
    found = []
    for word in ("yes", "no"):
        spellings = [family.ids(lead + w) for w in (word, word.capitalize(), word.upper()) for lead in ("", " ")]
        single = sorted({ids[0] for ids in spellings if len(ids) == 1})
        found.append(single or [family.ids(word)[0]])
    yes, no = found
    if set(yes) & set(no):
        raise ConfigError("this checkpoint's tokenizer does not tell yes from no in one token")
    return yes, no

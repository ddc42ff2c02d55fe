"""Questions and their answers: branches after a stream's window that share its visual keys and values.

text     greedy decoding up to a stop token or the question's limit.
yes-no   p(yes) from the first position's logits: softmax over all single-token spellings of yes and no.
choice   the full log-likelihood of each label, including its end of turn, with a softmax over the labels: the probability of
         each complete answer, given that it is one of them. Not normalised by length: the end of turn already prevents a
         bias towards a label that is a prefix of another one ("car", "car park").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from codecflow.errors import ConfigError
from codecflow.messages import Question
from codecflow.vlm.decoder import Layers
from codecflow.vlm.families.base import Family
from codecflow.vlm.flops import NOTHING, Work
from codecflow.vlm.kv_pool import KVPool
from codecflow.vlm.runner import Branch, Pack, Run
from codecflow.vlm.transfer import all_to_device
from codecflow.vlm.window import StreamWindow
from codecflow.vlm.work import Answer, Failure

HEAD_ROWS = 256
"""Maximum number of tokens whose full vocabulary scores exist at once: 150 MB in float32 for 152,000 words."""

BRANCH_TOKENS = 2048
"""Question tokens of one stream per forward, unless a single question has more. Their mask has as many rows."""


@dataclass(slots=True)
class Request:
    """One question of one stream in one step. `suffix`: its tokens. `labels`: tokens of its labels, with the end of turn.
    `slot`: where it starts, after its window.

    `first`: the result at the first position of the answer: p(yes), the most likely token, or log p of each label's first
    token. `error`: why this question is not answered. Other questions are not affected.
    """

    question: Question
    window: StreamWindow
    suffix: list[int] = field(default_factory=list)
    labels: tuple[list[int], ...] = ()
    slot: int = 0
    error: Failure | None = None
    answer: Answer | None = None
    branch: Branch | None = None
    first: float | list[float] = 0.0
    work: Work = NOTHING  # of all questions of its stream, stored with the first question of each forward
    later: Work = NOTHING  # likewise, after the first position of the answer
    generated: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    scored: int = 0  # tokens that went through the language model head

    @property
    def suffix_tokens(self) -> int:
        """Number of suffix tokens that one forward computes, including closing features."""
        closing = self.window.family.closing()
        return len(self.suffix) + (0 if closing is None else len(closing))

    @property
    def reserve(self) -> int:
        """Maximum number of slots for its suffix and answer."""
        answer = self.question.max_tokens if self.question.type == "text" else sum(len(x) - 1 for x in self.labels)
        return self.suffix_tokens + answer

    @property
    def span(self) -> int:
        """Maximum number of positions beyond the window for its suffix and answer."""
        longest = max((len(label) - 1 for label in self.labels), default=0)
        return self.suffix_tokens + (self.question.max_tokens if self.question.type == "text" else longest)

    def begin(self) -> tuple[Branch, Run]:
        """Its branch, and the tokens of its suffix."""
        window, family = self.window, self.window.family
        run = Run.of_text(self.slot, self.suffix, window.position, family.axes, family.closing())
        self.branch = Branch(self.slot, window.position)
        self.branch.advance(len(run))
        return self.branch, run

    def append(self, token: int) -> tuple[Branch, Run]:
        """Appends one token to its branch."""
        assert self.branch is not None
        run = Run.of_text(self.branch.own[1], [token], self.branch.position, self.window.family.axes)
        self.branch.advance(1)
        return self.branch, run


class Answers:
    """Answers the questions of all streams in a step together. `batch_tokens`: maximum tokens per forward. `beat` is called
    before each."""

    def __init__(
        self, family: Family, pool: KVPool, batch_tokens: int, layers: Layers | None, beat: Callable[[], None]
    ) -> None:
        self.family = family
        self.pool = pool
        self.layers = layers
        self.batch_tokens = batch_tokens
        self._beat = beat
        self._yes, self._no = (torch.tensor(ids, device=family.device) for ids in _yes_no(family))
        self._unread: list[tuple[list[Request], Tensor]] = []

    def read_first(self, requests: Sequence[Request], scores: Tensor) -> None:
        """`scores`: (questions, vocabulary) float32 at the first position of each answer. Does not wait for a GPU: `finish`
        reads the results."""
        yes, no = (scores.index_select(1, ids).logsumexp(1) for ids in (self._yes, self._no))
        labels = [[label[0] for label in one.labels] for one in requests if one.question.type == "choice"]
        chosen = [row for row, one in enumerate(requests) if one.question.type == "choice"]
        starts = scores.new_zeros(0)
        if chosen:
            each = np.repeat(chosen, [len(own) for own in labels])
            host = each, each * scores.shape[1] + np.concatenate(labels)
            rows, places = all_to_device(host, scores.device)
            starts = scores.flatten()[places] - scores.logsumexp(1)[rows]
        found = torch.cat([x.double() for x in (torch.sigmoid(yes - no), scores.argmax(1), starts)])
        self._unread.append((list(requests), found))

    def _settle(self) -> None:
        """Reads the results that `read_first` left on the device."""
        for requests, found in self._unread:
            values = found.tolist()
            starts = iter(values[2 * len(requests) :])
            for row, one in enumerate(requests):
                if one.question.type == "choice":
                    one.first = [next(starts) for _ in one.labels]
                else:
                    one.first = values[row] if one.question.type == "yes-no" else int(values[len(requests) + row])
        self._unread = []

    def finish(self, requests: Sequence[Request]) -> None:
        """After `read_first`: scores labels and decodes texts, batched over all questions. May be repeated."""
        self._settle()
        for one in requests:
            one.scored, one.later, one.generated, one.scores = 1, NOTHING, [], []
        self._score_labels([one for one in requests if one.question.type == "choice"])
        self._decode([one for one in requests if one.question.type == "text"])
        for one in requests:
            one.answer = self._answer(one)

    def _answer(self, request: Request) -> Answer:
        question = request.question
        if question.type == "yes-no":
            assert isinstance(request.first, float)
            return Answer(question, "yes" if request.first >= 0.5 else "no", p_yes=request.first)
        if question.type == "choice":
            p = torch.tensor(request.scores, dtype=torch.float64).softmax(0).tolist()
            best = max(range(len(p)), key=p.__getitem__)
            return Answer(
                question, question.labels[best], label_probabilities=dict(zip(question.labels, p, strict=True))
            )
        text: str = self.family.tokenizer.decode(request.generated, skip_special_tokens=True)
        return Answer(question, text.strip())

    def _decode(self, requests: Sequence[Request]) -> None:
        stops = self.family.stop_ids
        active = []
        for one in requests:
            assert one.branch is not None
            one.branch = replace(one.branch, length=one.suffix_tokens, position=one.window.position + one.suffix_tokens)
            assert isinstance(one.first, int)
            active.append((one, one.first))
        while active:
            going = []
            for one, token in active:
                if token not in stops:
                    one.generated.append(token)
                    if len(one.generated) < one.question.max_tokens:
                        going.append(one)
            grown = [(one, [one.append(one.generated[-1])]) for one in going]
            tokens = [token for rows in self._scores(grown) for token in rows.argmax(1).tolist()]
            for one in going:
                one.scored += 1
            active = list(zip(going, tokens, strict=True))

    def _score_labels(self, requests: Sequence[Request]) -> None:
        """Scores each label as a separate branch that continues its question's suffix."""
        grown, wanted = [], []
        for one in requests:
            assert one.branch is not None
            assert isinstance(one.first, list)
            one.scores = list(one.first)
            slot = one.branch.own[1]
            branches = []
            for number, label in enumerate(one.labels):
                if len(label) > 1:
                    run = Run.of_text(slot, label[:-1], one.branch.position, self.family.axes)
                    branch = one.branch.fork(slot)
                    branch.advance(len(run))
                    branches.append((branch, run))
                    wanted += [(one, number, token) for token in label[1:]]
                    slot = run.stop
            if branches:
                grown.append((one, branches))
        at = 0
        for rows in self._scores(grown):
            part = wanted[at : at + len(rows)]
            at += len(rows)
            tokens = torch.tensor([token for _, _, token in part], device=rows.device)
            found = (rows.gather(1, tokens[:, None])[:, 0] - rows.logsumexp(1)).tolist()
            for (one, number, _), score in zip(part, found, strict=True):
                one.scores[number] += score
                one.scored += 1

    def _scores(self, grown: Sequence[tuple[Request, Sequence[tuple[Branch, Run]]]]) -> Iterator[Tensor]:
        """(rows, vocabulary) float32 for new branch tokens in the given order, in chunks of at most HEAD_ROWS."""
        pieces = [(one, pair) for one, pairs in grown for pair in pairs]
        for batch in self._batches(pieces):
            hidden = self._forward(batch)
            for rows in torch.split(hidden, HEAD_ROWS):
                yield self.family.logits(rows)

    def _batches(
        self, pieces: Sequence[tuple[Request, tuple[Branch, Run]]]
    ) -> Iterator[list[tuple[Request, tuple[Branch, Run]]]]:
        batch: list[tuple[Request, tuple[Branch, Run]]] = []
        tokens = own = 0
        for one, pair in pieces:
            size = len(pair[1])
            own = own if batch and batch[-1][0].window is one.window else 0
            if batch and (tokens + size > self.batch_tokens or own + size > BRANCH_TOKENS):
                yield batch
                batch, tokens, own = [], 0, 0
            batch.append((one, pair))
            tokens, own = tokens + size, own + size
        if batch:
            yield batch

    def _forward(self, batch: Sequence[tuple[Request, tuple[Branch, Run]]]) -> Tensor:
        """Hidden states of new branch tokens in the given order. Branches of one stream share one attention call."""
        self._beat()
        pack = Pack(self.family, self.pool, self.layers)
        computed = []
        for _, group in groupby(batch, key=lambda piece: piece[0].window.stream):
            pieces = list(group)
            window = pieces[0][0].window
            computed.append((pieces[0][0], pack.branches(window, [pair for _, pair in pieces])))
        hidden = pack.run()
        for one, work in computed:
            one.later += work
        return hidden


def compile_question(family: Family, request: Request) -> None:
    """Tokenises a question and its labels. Raises ConfigError when a label has no tokens or two labels are identical."""
    question = request.question
    _, request.suffix = family.chat(question.prompt)
    request.labels = tuple([*family.ids(label), family.end_id] for label in question.labels)
    if any(len(label) < 2 for label in request.labels):
        raise ConfigError(f"question {question.id!r}: a label is empty")
    if len(set(question.labels)) != len(request.labels):
        raise ConfigError(f"question {question.id!r}: a label occurs twice")


def _yes_no(family: Family) -> tuple[list[int], list[int]]:
    """Ids of the single-token spellings of yes and no. A vocabulary without any: the first tokens of "yes" and "no"."""
    found = []
    for word in ("yes", "no"):
        spellings = [family.ids(lead + w) for w in (word, word.capitalize(), word.upper()) for lead in ("", " ")]
        single = sorted({ids[0] for ids in spellings if len(ids) == 1})
        found.append(single or [family.ids(word)[0]])
    yes, no = found
    if set(yes) & set(no):
        raise ConfigError("this checkpoint's tokenizer does not have yes and no as one token each")
    return yes, no

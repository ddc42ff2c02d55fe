"""Clips as token sequences, laid out as the product's engine lays them out, with questions after every stride."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from maker import NEWEST

ALWAYS = 1 << 30
"""The moment of tokens that belong to no frame: never too old."""

Asked = Mapping[int, Sequence[tuple[str, str, float]]]
"""(question, answer, weight) of each stride, by the frame before which it ends. An answer may be empty: then only its first
position is looked at."""


@dataclass(frozen=True, slots=True)
class Clip:
    """`keep`: (frames, tokens) bool. `first`: slot of the first frame. `window`: frames that a stride looks at.
    `background`: tokens outlive their frames, as with `--coverage background`."""

    keep: npt.NDArray[np.bool_]
    first: int
    window: int
    asked: Asked
    background: bool = False


@dataclass
class Batch:
    """Sequences padded to one length. numpy arrays when laid, tensors on the device.

    `ids`, `positions`: (n, length). `segment`: (n, length), 0 for what questions are asked of, a number for each question,
    -1 for padding. `moment`: (n, length) frame of each token, `ALWAYS` for those of none; `oldest`: (n, length) the first
    frame that a token may look at. `at`: (m, 2) positions whose next token is `target` (m,), with `weight` (m,).
    `question`: (m,) number of the question in the batch whose answer begins here, -1 elsewhere. `frames`: (n,) of each
    clip, how many frames are in its sequence.

    Once frames have left the window, a stride sees prefix and background where the product moves them: right before its
    oldest frame. They are further keys, of the tokens `carried` (n, c) at `places` (n, c), seen by the tokens whose
    `stride`, (n, length), is `seen_by` (n, c); -1 for padding. `stride` is 0 for tokens that see the prefix where it was
    computed.
    """

    ids: Any
    positions: Any
    segment: Any
    moment: Any
    oldest: Any
    at: Any
    target: Any
    weight: Any
    question: Any
    frames: Any
    carried: Any
    places: Any
    seen_by: Any
    stride: Any


class _Row:
    """One sequence as it grows."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.positions: list[int] = []
        self.segment: list[int] = []
        self.moment: list[int] = []
        self.oldest: list[int] = []
        self.stride: list[int] = []
        self.carried: list[int] = []
        self.places: list[int] = []
        self.seen_by: list[int] = []
        self.position = 0
        self.questions = 0
        self.frames = 0
        self.now = 0  # the stride that tokens are added to

    def add(self, ids: Sequence[int], positions: Sequence[int], segment: int, moment: int, oldest: int) -> None:
        n = len(ids)
        self.ids += ids
        self.positions += positions
        self.segment += [segment] * n
        self.moment += [moment] * n
        self.oldest += [oldest] * n
        self.stride += [self.now] * n

    def carry(self, tokens: Sequence[int], places: Sequence[int]) -> None:
        """Tokens that this stride sees at other places."""
        self.carried += tokens
        self.places += places
        self.seen_by += [self.now] * len(tokens)

    def follow(self, ids: Sequence[int], moment: int, oldest: int) -> None:
        """Tokens of the body that take the next places."""
        self.add(ids, range(self.position, self.position + len(ids)), 0, moment, oldest)
        self.position += len(ids)

    def cut(self, length: int, position: int) -> None:
        """Back to what it was at `length` tokens."""
        for values in (self.ids, self.positions, self.segment, self.moment, self.oldest, self.stride):
            del values[length:]
        self.position = position
        while self.seen_by and self.seen_by[-1] == self.now:
            del self.carried[-1], self.places[-1], self.seen_by[-1]


class Layout:
    """`FrameN: <img>…</img>`, places of dropped tokens left free, frames of which nothing is kept left out."""

    def __init__(self, tokenizer: Any, image_id: int) -> None:
        self.tokenizer, self.image_id = tokenizer, image_id
        self._cache: dict[str, list[int]] = {}
        self.prefix = self.ids_of("<|im_start|>user\n")
        self.closing = self.ids_of("</img>\n")
        self.after = self.ids_of("<|im_end|>\n<|im_start|>assistant\n")
        self.end = self.ids_of("<|im_end|>")

    def ids_of(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._cache[text]

    def lay(self, clips: Sequence[Clip], longest: int | None = None) -> Batch:
        """A batch of numpy arrays. `longest`: sequences end with the last stride that fits into so many tokens."""
        answers: list[tuple[int, int, int, float, int]] = []  # row, position, next token, weight, question
        rows = []
        asked = 0
        for number, clip in enumerate(clips):
            row = _Row()
            asked = self._clip(row, clip, number, asked, answers, longest)
            rows.append(row)
        length = -(-max(len(row.ids) for row in rows) // 64) * 64
        further = -(-max(len(row.carried) for row in rows) // 64) * 64

        def padded(name: str, filling: int, length: int = length) -> npt.NDArray[np.int64]:
            out = np.full((len(rows), length), filling, np.int64)
            for i, row in enumerate(rows):
                values = getattr(row, name)
                out[i, : len(values)] = values
            return out

        columns = list(zip(*answers, strict=True)) or [()] * 5
        return Batch(
            ids=padded("ids", 0),
            positions=padded("positions", 0),
            segment=padded("segment", -1),
            moment=padded("moment", ALWAYS),
            oldest=padded("oldest", 0),
            at=np.array(columns[:2], np.int64).T.reshape(-1, 2),
            target=np.array(columns[2], np.int64),
            weight=np.array(columns[3], np.float32),
            question=np.array(columns[4], np.int64),
            frames=np.array([row.frames for row in rows]),
            carried=padded("carried", 0, further),
            places=padded("places", 0, further),
            seen_by=padded("seen_by", -1, further),
            stride=padded("stride", 0),
        )

    def _clip(self, row: _Row, clip: Clip, number: int, asked: int, answers: list[Any], longest: int | None) -> int:
        row.follow(self.prefix, ALWAYS, 0)
        frames, tokens = clip.keep.shape
        at = np.full((frames, tokens), -1)  # where each kept token is in the row
        tags: dict[int, int] = {}  # the position at which each frame begins
        for begin in range(0, frames, NEWEST):
            end = min(begin + NEWEST, frames)
            oldest = max(0, end - clip.window)
            before, known, position = len(row.ids), len(answers), row.position
            row.now = end if oldest else 0
            if oldest:
                shown = [f for f in range(oldest, end) if clip.keep[f].any()]
                self._carry(row, clip, at, oldest, end, tags.get(shown[0], row.position) if shown else row.position)
            for frame in range(begin, end):
                kept = np.flatnonzero(clip.keep[frame])
                if not len(kept):
                    continue
                tags[frame] = row.position
                row.follow(self.ids_of(f"Frame{clip.first + frame + 1}: <img>"), frame, oldest)
                at[frame, kept] = len(row.ids) + np.arange(len(kept))
                places = (row.position + kept).tolist()
                row.add([self.image_id] * len(kept), places, 0, frame, oldest)
                row.position += tokens
                row.follow(self.closing, frame, oldest)
            for question, answer, weight in clip.asked.get(end, ()):
                ask = [*self.ids_of(question), *self.after]
                say = [*self.ids_of(answer), *self.end] if answer else [0]
                one = [*ask, *say[:-1]]
                row.questions += 1
                for j, token in enumerate(say):
                    first = j == 0
                    place = len(row.ids) + len(ask) - 1 + j
                    answers.append((number, place, token, weight if first else 0.3 * weight, asked if first else -1))
                row.add(one, range(row.position, row.position + len(one)), row.questions, ALWAYS, oldest)
                asked += 1
            if longest is not None and len(row.ids) > longest and begin:
                asked -= sum(1 for a in answers[known:] if a[4] >= 0)
                del answers[known:]
                row.cut(before, position)
                break
            row.frames = end
        return asked

    def _carry(self, row: _Row, clip: Clip, at: npt.NDArray[Any], oldest: int, end: int, position: int) -> None:
        """Prefix and background of a stride, right before `position`, at which its oldest frame begins."""
        cells = np.zeros(0, np.int64)
        if clip.background:
            # The newest token of each cell of which the window has none.
            past = clip.keep[:oldest] & ~clip.keep[oldest:end].any(0)
            cells = np.flatnonzero(past.any(0))
            newest = oldest - 1 - past[::-1, cells].argmax(0)
            position -= clip.keep.shape[1] if len(cells) else 0
            row.carry(at[newest, cells].tolist(), (position + cells).tolist())
        n = len(self.prefix)
        row.carry(list(range(n)), list(range(position - n, position)))

"""Windows as token sequences, laid out as the product's engine lays them out, several questions to each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass
class Batch:
    """`ids`, `positions`: (n, length) int64. `mask`: (n, 1, length, length) bool. `at`: (m, 2) positions whose next token is
    `target` (m,), with `weight` (m,). `asked`: (m,) index of the question each belongs to, -1 where it is not an answer's
    first token."""

    ids: Tensor
    positions: Tensor
    mask: Tensor
    at: Tensor
    target: Tensor
    weight: Tensor
    asked: Tensor


class Layout:
    """Windows as the engine's InternVL family has them: `FrameN: <img>…</img>`, positions of dropped tokens left free."""

    def __init__(self, tokenizer: Any, image_id: int) -> None:
        self.tokenizer, self.image_id = tokenizer, image_id
        self.prefix = self.ids_of("<|im_start|>user\n")
        self.closing = self.ids_of("</img>\n")
        self.after = self.ids_of("<|im_end|>\n<|im_start|>assistant\n")
        self.end = self.ids_of("<|im_end|>")
        self._cache: dict[str, list[int]] = {}

    def ids_of(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _known(self, text: str) -> list[int]:
        if text not in self._cache:
            self._cache[text] = self.ids_of(text)
        return self._cache[text]

    def lay(self, keeps: Any, first: list[int], questions: list[list[tuple[str, str, float]]], device: Any) -> Batch:
        """`keeps`: (n, frames, tokens) bool array. `first`: slot of each window's first frame. `questions`: of each window,
        (question, answer, weight). An answer may be empty: then only its first position is looked at."""
        rows = []
        for keep, slot, asked in zip(keeps, first, questions, strict=True):
            ids, positions, segment = [np.array(self.prefix)], [np.arange(len(self.prefix))], []
            position = len(self.prefix)
            for i, mask in enumerate(keep):
                kept = np.flatnonzero(mask)
                if not len(kept):
                    continue
                head = self._known(f"Frame{slot + i + 1}: <img>")
                ids += [np.array(head), np.full(len(kept), self.image_id), np.array(self.closing)]
                after = position + len(head) + len(mask)
                positions += [
                    position + np.arange(len(head)),
                    position + len(head) + kept,
                    after + np.arange(len(self.closing)),
                ]
                position = after + len(self.closing)
            body = sum(len(x) for x in ids)
            segment, at, target, weight = [np.zeros(body, np.int64)], [], [], []
            length = body
            for number, (question, answer, w) in enumerate(asked):
                ask = [*self._known(question), *self.after]
                say = [*self._known(answer), *self.end] if answer else []
                one = [*ask, *say[:-1]]
                ids.append(np.array(one))
                positions.append(position + np.arange(len(one)))
                segment.append(np.full(len(one), number + 1))
                for j, token in enumerate(say or [0]):
                    at.append(length + len(ask) - 1 + j)
                    target.append(token)
                    weight.append((w if j == 0 else 0.3 * w, number if j == 0 else -1))
                length += len(one)
            rows.append((np.concatenate(ids), np.concatenate(positions), np.concatenate(segment), at, target, weight))
        longest = -(-max(len(r[0]) for r in rows) // 64) * 64
        n = len(rows)
        ids = np.zeros((n, longest), np.int64)
        positions = np.zeros((n, longest), np.int64)
        segments = np.full((n, longest), -1, np.int64)
        at, target, weight, asked_at = [], [], [], []
        base = 0
        for i, (a, b, c, d, e, f) in enumerate(rows):
            ids[i, : len(a)], positions[i, : len(b)], segments[i, : len(c)] = a, b, c
            at += [(i, j) for j in d]
            target += e
            weight += [x for x, _ in f]
            asked_at += [base + q if q >= 0 else -1 for _, q in f]
            base += len(questions[i])

        def up(array: Any) -> Tensor:
            return torch.from_numpy(np.asarray(array)).to(device, non_blocking=True)

        seg = up(segments)
        causal = torch.ones(longest, longest, dtype=torch.bool, device=device).tril()
        mask = causal[None] & ((seg[:, None, :] == 0) | (seg[:, None, :] == seg[:, :, None]))
        mask |= torch.eye(longest, dtype=torch.bool, device=device)[None]  # padding must attend to something
        return Batch(
            up(ids),
            up(positions),
            mask[:, None],
            up(np.array(at).reshape(-1, 2)),
            up(np.array(target, np.int64)),
            up(np.array(weight, np.float32)),
            up(np.array(asked_at, np.int64)),
        )

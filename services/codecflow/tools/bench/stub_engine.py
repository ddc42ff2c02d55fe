"""A replacement for the engine that answers after a given time, to measure everything else in isolation."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from codecflow.errors import ModelError
from codecflow.messages import Flops, Tokens
from codecflow.vlm.families import FAMILIES, Family
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.shapes import shape_by_name
from codecflow.vlm.tiny.internvl import tiny_internvl
from codecflow.vlm.work import Answer, Pace, StreamOutcome, StreamWork


class StubEngine:
    """Takes `seconds` for each window, one after another, and answers yes. Holds no frames, only their token counts."""

    def __init__(self, family: Family, seconds: float) -> None:
        self.family, self.refresh = family, Refresh.parse("none")
        self.pace = Pace()
        self._seconds = seconds
        self._kept: dict[str, deque[tuple[int, int]]] = {}  # (slot, tokens kept) of each frame

    @property
    def memory_by_stream(self) -> Mapping[str, int]:
        return {}

    @property
    def lost(self) -> frozenset[str]:
        return frozenset()

    def drop(self, stream: str) -> None:
        self._kept.pop(stream, None)

    def unchanged(self, work: StreamWork) -> bool:
        return False

    def step(self, work: Sequence[StreamWork]) -> list[StreamOutcome]:
        answered = []
        for one in work:
            self.pace.beat()
            time.sleep(self._seconds)
            answered.append(self._answer(one))
        return answered

    def _answer(self, work: StreamWork) -> StreamOutcome:
        frames = self._kept.setdefault(work.stream, deque())
        while frames and frames[0][0] < work.first:
            frames.popleft()
        reused = sum(kept for _, kept in frames)
        frames.extend((frame.index, int(frame.keep.sum())) for frame in work.frames)
        kept = sum(int(frame.keep.sum()) for frame in work.frames)
        return StreamOutcome(
            work.stream,
            [Answer(question, "yes", 1.0) for question in work.questions],
            Tokens(kept, sum(int(frame.keep.size) for frame in work.frames), kept, reused),
            Flops(0, 0, 0),
            len(frames),
        )


def hollow_family(shape: str, device: torch.device) -> Family:
    """A tiny model with the input and the token grid of `shape`. Raises ModelError on an unknown name or one of another
    family."""
    model_shape = shape_by_name(shape)
    if model_shape.family != "internvl":
        raise ModelError(f"shape {shape!r}: the stub stands in for InternVL's shapes alone")
    model, tokenizer, files = tiny_internvl(image_size=model_shape.side)
    model.config.codecflow_untrained = True
    family = FAMILIES[model_shape.family]
    on_device: Any = model.to(device)  # type: ignore[arg-type]  # its decorator hides its signature
    return family(on_device.eval(), tokenizer, files["video_preprocessor_config.json"])

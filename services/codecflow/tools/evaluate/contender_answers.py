"""Contenders answer clips like a worker answers its streams; their answers are collected with the labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from codecflow.errors import ModelError
from codecflow.messages import Result
from codecflow.vlm.engine import Engine
from codecflow.vlm.families import Family
from codecflow.worker.answering import Answering, Provenance
from codecflow.worker.sampler_events import Sampling
from codecflow.worker.settings import DEFAULT_REUSE_S, reuse_slots
from codecflow.worker.window_plan import WindowPlan
from codecflow.worker.windows import Step

from .contenders import Contender
from .sampled_clips import Sampled
from .scoring import Key
from .spec import Spec, label


class Answers:
    """All answers by contender, and the labels. The first contender is the reference."""

    def __init__(self, spec: Spec, plan: WindowPlan, contenders: Sequence[Contender]) -> None:
        self.spec = spec
        self.by_contender: dict[str, dict[Key, Result]] = {one.name: {} for one in contenders}
        self.labels: dict[Key, str] = {}
        self.reference = contenders[0].name
        self._plan = plan

    def has(self, number: int) -> bool:
        """Whether any window of a clip was answered."""
        return any(key[0] == number for key in self.by_contender[self.reference])

    def add(self, contender: Contender, number: int, results: list[Result]) -> None:
        """Adds the results of one window of clip `number` of the spec."""
        clip = self.spec.clips[number]
        for result in results:
            key = (number, result.window, result.prompt)
            self.by_contender[contender.name][key] = result
            right = label(result.type, clip.labels[result.prompt], *self.stride(result.window))
            if right is not None:
                self.labels[key] = right

    def of(self, contender: str, number: int, prompt: str) -> dict[Key, Result]:
        """A contender's answers to one question about one clip, in order of time."""
        found = {key: result for key, result in self.by_contender[contender].items() if key[::2] == (number, prompt)}
        return dict(sorted(found.items()))

    def stride(self, window: int) -> tuple[float, float]:
        """Start and end, in seconds, of the newest stride of a window, on which it is scored. Not the window's own, which
        may be shorter than its stride, for example if it contains only the last frames."""
        start_s, end_s = (float(self._plan.time((window + k) * self._plan.stride_slots)) for k in (0, 1))
        return start_s, end_s


class ContenderWorker:
    """One contender's worker: its own streams, engine and KV, limited to `memory_bytes` (None: the engine's default)."""

    def __init__(
        self,
        contender: Contender,
        family: Family,
        model: str,
        decoders: ThreadPoolExecutor,
        memory_bytes: int | None = None,
    ) -> None:
        self.contender = contender
        self._input = family.input
        patches_of = self._all_patches if contender.whole else self._input.patches
        self.sampling = Sampling(contender.plan, contender.keep, family.grid, patches_of)
        self._engine = Engine(
            family, refresh=contender.refresh, background=contender.keep.background, memory_bytes=memory_bytes
        )
        self._answering = Answering(
            self._engine,
            contender.plan,
            Provenance(contender.name, model, family.trained),
            lambda line: None,
            reuse_slots=reuse_slots(DEFAULT_REUSE_S, contender.plan.fps),
        )
        self._decoders = decoders

    def close(self) -> None:
        self._answering.close()

    def answers(self, clips: Sequence[Sampled]) -> Iterator[tuple[int, list[Result]]]:
        """(a clip's number, the results of its next window), the windows of each clip in order.

        Raises ModelError when a window does not fit or the model does not accept such pictures.
        """
        questions = {one.clip.stream: one.clip.questions for one in clips}
        numbers = {one.clip.stream: one.clip.number for one in clips}
        going = {one.clip.stream: one.windows() for one in clips}
        steps = self._next(going)
        while steps:
            answering = self._answering.begin(steps, questions.__getitem__)
            steps = self._next(going)  # decoded while the engine computes
            for answered in answering.result():
                if answered.error is not None:
                    raise ModelError(
                        f"{self.contender.name}: {answered.error.text}; use a shorter window, or fewer --streams"
                    )
                if answered.results:
                    yield numbers[answered.step.state.stream], answered.results

    def _next(self, going: dict[str, Iterator[Step]]) -> list[Step]:
        """The next window of each clip. Finished clips leave `going`, and leave the engine after their last window."""
        steps = list(self._decoders.map(lambda windows: next(windows, None), going.values()))
        for stream in [stream for stream, step in zip(going, steps, strict=True) if step is None]:
            del going[stream]
            self._answering.drop(stream)
        return [self._thinned(step) for step in steps if step is not None]

    def _thinned(self, step: Step) -> Step:
        thin = self.contender.thin
        if step.window is None or thin is None:
            return step
        frames = tuple(thin(frame, self._input) for frame in step.window.frames)
        return replace(step, window=replace(step.window, frames=frames))

    def _all_patches(self, rgb: npt.NDArray[np.uint8], keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
        return self._input.patches(rgb, np.ones_like(keep))

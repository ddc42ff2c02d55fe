"""What was answered, and what would have been right."""

from __future__ import annotations

from collections.abc import Sequence

from codecflow.messages import Result
from codecflow.worker.windows import WindowPlan

from .contenders import REFERENCE, Contender
from .labels import label
from .scoring import Key
from .spec import Spec


class Answers:
    """Everything that was answered, by contender, and what would have been right."""

    def __init__(self, spec: Spec, plan: WindowPlan, contenders: Sequence[Contender]) -> None:
        self.spec = spec
        self.by_contender: dict[str, dict[Key, Result]] = {one.name: {} for one in contenders}
        self.labels: dict[Key, str] = {}
        self._plan = plan

    def has(self, number: int) -> bool:
        """Whether any window of a clip was answered."""
        return any(key[0] == number for key in self.by_contender[REFERENCE])

    def add(self, contender: Contender, number: int, results: list[Result]) -> None:
        """The results of one window of the clip at place `number` of the spec."""
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
        """Begin and end, in seconds, of the newest stride of a window: what it is scored on. Not the window's own, which may
        be shorter than its stride, as where only the last frames are looked at."""
        start_s, end_s = (float(self._plan.time((window + k) * self._plan.stride_slots)) for k in (0, 1))
        return start_s, end_s

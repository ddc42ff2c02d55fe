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
            # The stride, not the window: a window of the last few frames may be shorter than its stride.
            start_s, end_s = (float(self._plan.time((result.window + k) * self._plan.stride_slots)) for k in (0, 1))
            right = label(result.type, clip.labels[result.prompt], start_s, end_s)
            if right is not None:
                self.labels[key] = right

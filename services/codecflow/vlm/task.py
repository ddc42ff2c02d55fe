"""One stream's part of an engine step while it is in progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from codecflow.vlm.answers import Asked
from codecflow.vlm.costs import Spent
from codecflow.vlm.packing import Run
from codecflow.vlm.refresh import Refresh
from codecflow.vlm.window import HeldFrame, StreamWindow
from codecflow.vlm.work import StreamWork


@dataclass(slots=True)
class Task:
    """One stream's part of the step in progress. `moved`: tokens left its window, so what stays has lost context."""

    work: StreamWork
    window: StreamWindow
    asked: list[Asked]
    new: list[HeldFrame]
    moved: bool
    refreshed: list[Run] = field(default_factory=list)
    spent: Spent = field(default_factory=Spent)
    seconds: dict[str, float] = field(default_factory=dict)

    def trunk(self) -> list[Run]:
        """What is to be computed of prefix and frames, in order."""
        prefix = [] if self.window.prefix_known else [self.window.prefix_run()]
        return [*prefix, *self.refreshed, *(frame.run() for frame in self.window.live if frame.fresh)]

    def tokens(self, refresh: Refresh) -> int:
        """About how many tokens its part of the step computes; known before anything is."""
        held = sum(
            frame.tokens for frame in self.window.frames if refresh.name == "all" or refresh.holds_features(frame)
        )
        return held * self.moved + sum(frame.tokens for frame in self.new) + sum(len(a.suffix) for a in self.asked)

"""Spans of the windows of one transaction, each in the trace of its newest picture."""

from __future__ import annotations

import time
from collections.abc import Iterable

from codecflow.kafka.records import Headers
from codecflow.tracing import HEADER, Span, current

from .answering import Answered


class WindowSpans:
    """Create before a transaction of `answered`. `headers`, by stream: sent with its results. If this worker records no
    spans, that is the trace context of the picture itself."""

    def __init__(self, answered: Iterable[Answered]) -> None:
        self.headers: dict[str, Headers] = {}
        self._open: list[Span] = []
        tracing = current()
        for one in answered:
            window = one.step.window
            if window is None or window.trace is None:
                continue
            header: str | None = window.trace
            if tracing is not None:
                about: dict[str, str | int | float] = {
                    "codecflow.stream": window.stream,
                    "codecflow.epoch": window.epoch,
                    "codecflow.window": window.index,
                    "codecflow.questions": len(one.results),
                    **{f"codecflow.{stage}_s": seconds for stage, seconds in window.seconds.items()},
                }
                whole = tracing.begin("window", window.trace, window.closed_at_s, about)
                answered_at_s = max((r.answered_at_ms / 1000 for r in one.results), default=time.time())
                seconds = one.results[0].seconds if one.results else {}
                stages = {f"codecflow.{stage}_s": value for stage, value in seconds.items()}
                # It waited for the engine first; a result has only whole milliseconds.
                answer = tracing.begin("answer", whole.traceparent, window.closed_at_s, stages)
                answer.end(max(answered_at_s, window.closed_at_s), "" if one.error is None else one.error.text)
                commit = tracing.begin("commit", whole.traceparent)
                header = commit.traceparent
                self._open += [commit, whole]
            if header is not None:
                self.headers[window.stream] = [(HEADER, header.encode())]

    def end(self, error: str = "") -> None:
        """The transaction is over. `error`: why none of it was committed."""
        for span in self._open:
            span.end(error=error)

"""What a worker's parts report: counters per stream, dead letters, and lines for the operator."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from codecflow.logs import Notice
from codecflow.messages import DeadLetter, ResultError

_THROTTLE_S = 60.0


class Reports:
    """Where a worker's parts report: a counter per stream, unusable records, lines for the operator.

    `notice` may be called from any thread.
    """

    def __init__(
        self,
        counts: Callable[[str], Counter[str]],
        dead_letter: Callable[[DeadLetter], None],
        notice: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts, self.dead_letter, self.notice = counts, dead_letter, notice
        self._clock = clock
        self._reported: dict[str, float] = {}
        self._problems: dict[str, str] = {}

    def notice_throttled(self, key: str, line: str, **about: object) -> bool:
        """Say a line about `key`, unless there was one within the last minute; returns whether it was said. `about`: as
        Notice's."""
        now = self._clock()
        if now - self._reported.get(key, -_THROTTLE_S) < _THROTTLE_S:
            return False
        if len(self._reported) > 10_000:
            self._reported.clear()
        self._reported[key] = now
        self.notice(Notice(line, **about))
        return True

    def trouble(self, stream: str, trouble: ResultError | None) -> None:
        """Why a stream produces no frames at present: said when it begins, changes or ends."""
        before = self._problems.get(stream)
        if trouble is None:
            if before is not None:
                del self._problems[stream]
                self.notice(Notice(f"stream {stream!r}: its pictures can be used again", stream=stream))
        elif trouble.code != before:
            self._problems[stream] = trouble.code
            text = trouble.text if trouble.text.startswith("stream ") else f"stream {stream!r}: {trouble.text}"
            self.notice(Notice(text, stream=stream))

"""Records that could not be used: told by their coordinates, and at a rate that stops a bad deploy instead of a topic."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from codecflow.errors import MessageError
from codecflow.messages import DeadLetter


class DeadLetters:
    """Dead letters that wait for the next transaction.

    More than `most` within `within_s` seconds are no accident: a producer of another version, or a topic of something else.
    """

    def __init__(self, most: int = 100, within_s: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.total = 0
        self._most, self._within_s, self._clock = most, within_s, clock
        self._waiting: list[DeadLetter] = []
        self._times: deque[float] = deque()

    @property
    def waiting(self) -> tuple[DeadLetter, ...]:
        return tuple(self._waiting)

    def add(self, letter: DeadLetter) -> None:
        """Raises MessageError, which is to end the worker, when there are too many."""
        now = self._clock()
        self.total += 1
        self._waiting.append(letter)
        self._times.append(now)
        while self._times[0] < now - self._within_s:
            self._times.popleft()
        if len(self._times) > self._most:
            raise MessageError(
                f"{len(self._times)} records within {self._within_s:g} s could not be used, the last one in {letter.topic}"
                f"[{letter.partition}] at offset {letter.offset}: {letter.reason}; stopping before more are passed over"
            )

    def sent(self, letters: tuple[DeadLetter, ...]) -> None:
        """They are committed: forget them."""
        del self._waiting[: len(letters)]

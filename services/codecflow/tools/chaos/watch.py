"""Follows the results during a run, as a reader without a proxy."""

from __future__ import annotations

import threading

from codecflow import subscriber
from codecflow.errors import KafkaError
from codecflow.kafka.settings import KafkaSettings


class Watch:
    """Follows all results in a thread. `newest`: for each answered stream, the capture time of its newest answered picture,
    in seconds since 1970."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.newest: dict[str, float] = {}
        self.results = 0
        self.error: KafkaError | None = None
        self._settings = settings
        self._over = False
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over = True
        self._thread.join(30)

    def answered_since(self, streams: list[str], at: float) -> bool:
        """Whether each of `streams` has answers for pictures captured after `at`, in seconds since 1970."""
        return all(self.newest.get(stream, 0.0) > at for stream in streams)

    def _follow(self) -> None:
        try:
            with subscriber.Follower(self._settings, stopping=lambda: self._over) as follower:
                for result in follower:
                    self.newest[result.stream] = max(self.newest.get(result.stream, 0.0), result.captured_at_ms / 1000)
                    self.results += 1
        except KafkaError as error:
            self.error = error

"""Results, state, dead letters and offsets of one batch of turns: committed together, once, or not at all."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence

from confluent_kafka import TopicPartition

from codecflow.kafka.failures import TransactionAbortedError
from codecflow.kafka.records import Record
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.transactions import TransactionalEmitter
from codecflow.messages import DeadLetter, encode_dead_letter, encode_result, encode_state

from .answering import Answered

_ATTEMPTS = 5


class Emission:
    """The worker's end of a transaction. Its transactional id is its own: a worker that is replaced is stopped by its
    group, which refuses the offsets of one that it has given up on, and with them the whole transaction."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._topics = settings.topics
        name = f"{settings.worker_group}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._emitter = TransactionalEmitter(settings, name)
        self._emitter.open()

    def emit(
        self,
        answered: Sequence[Answered],
        letters: Sequence[DeadLetter],
        offsets: Sequence[TopicPartition],
        group: Callable[[], object],
    ) -> None:
        """Returns once all of it is committed.

        Raises FencedError when the partitions are somebody else's by now: nothing was emitted, the work must be dropped.
        Other KafkaErrors end the worker; what it had not emitted is for its successor.
        """
        records = [self._record(encode_result(r), self._topics.results, r.stream) for a in answered for r in a.results]
        records += [self._record(encode_state(a.turn.state), self._topics.state, a.turn.state.stream) for a in answered]
        records += [self._record(encode_dead_letter(x), self._topics.dead_letter, x.stream) for x in letters]
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._emitter.emit(records, offsets, group())
                return
            except TransactionAbortedError:
                if attempt == _ATTEMPTS:
                    raise
                time.sleep(0.1 * 2**attempt)

    def close(self) -> None:
        self._emitter.close()

    def _record(self, key_value: tuple[bytes, bytes], topic: str, stream: str) -> Record:
        return Record(topic, key_value[0], key_value[1], f"stream {stream!r}, for {topic}")

"""Results, state and offsets in one Kafka transaction: atomic, exactly once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message, TopicPartition

from codecflow.errors import KafkaError

from .clients import BrokerWatch, consumer, transactional_producer
from .failures import BrokersGoneError, FencedError, TransactionAbortedError, client_error, reason, serve
from .records import Record, delivery_failure, produce
from .retry_deadline import RetryDeadline
from .settings import KafkaSettings

_logger = logging.getLogger("codecflow.kafka")

# The group has reassigned these partitions, or removed this member: classic and KIP-848 protocols.
_MOVED_ON = frozenset(
    {
        ClientError.ILLEGAL_GENERATION,
        ClientError.UNKNOWN_MEMBER_ID,
        ClientError.FENCED_INSTANCE_ID,
        ClientError.FENCED_MEMBER_EPOCH,
        ClientError.STALE_MEMBER_EPOCH,
        ClientError.REBALANCE_IN_PROGRESS,
        ClientError._ASSIGNMENT_LOST,
    }
)
_RETRY_S = 0.5
# librdkafka resumes a timed-out call when it is made again; without a limit it may wait indefinitely.
_CALL_S = 2.0
# A call that takes this long will never finish: librdkafka (2.16) may wait indefinitely if a coordinator vanished during a
# request (confluentinc/librdkafka#5456, #5511), and so may the broker (Kafka 4.3.1, after a crash within a transaction).
_HANGS_S = 15.0

# The coordinator has ended the transaction, or another emitter has opened with the same transactional id.
_FENCING = frozenset({ClientError._FENCED, ClientError.PRODUCER_FENCED, ClientError.INVALID_PRODUCER_EPOCH})
# Neither a retry nor a new producer helps.
_REFUSED = frozenset(
    {
        ClientError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        ClientError.GROUP_AUTHORIZATION_FAILED,
        ClientError.TOPIC_AUTHORIZATION_FAILED,
        ClientError.CLUSTER_AUTHORIZATION_FAILED,
        ClientError.INVALID_TRANSACTION_TIMEOUT,
    }
)
# The transaction has timed out with records still unsent: the records are fine.
_ABORTING = frozenset({ClientError._MSG_TIMED_OUT, ClientError._PURGE_QUEUE, ClientError._PURGE_INFLIGHT})


class _UnusableError(KafkaError):
    """The producer is unusable; a new one with the same id ends its open transaction."""


class TransactionalEmitter:
    """Sends batches of records together with the consumer's offsets.

    `transactional_id` belongs to this process only, so a fenced producer was fenced by the coordinator, which ends
    transactions that last too long: a new one with the same id replaces it. A worker that is replaced is fenced by its group
    instead, through `group` in `emit`. `group_id`: the group whose offsets are committed. `stopping`: whether the service is
    to stop, so that it does not wait for brokers that are down.
    """

    def __init__(
        self,
        settings: KafkaSettings,
        transactional_id: str,
        group_id: str,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._settings = settings
        self._id, self._group_id = transactional_id, group_id
        self._watch = BrokerWatch(settings)
        self._deadline = RetryDeadline(settings, self._watch, stopping)
        self._producer = transactional_producer(settings, transactional_id, self._watch)
        self._in_transaction = False
        self._number = 0
        self._failure: KafkaError | None = None
        self._writes: list[str] = []  # topics of the transaction in progress

    def open(self) -> None:
        """Initialise: end what an earlier emitter of this id left open. Raises KafkaError (BrokersGoneError)."""
        self._deadline.begin()
        self._open()

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        """Send `records` and commit `offsets`, both or neither. Blocks until the outcome is known, through broker outages.

        `offsets`: the next offset to read of each partition. `group`: `consumer.consumer_group_metadata()`, taken after the
        last poll.

        Raises FencedError when another worker owns the partitions now: drop the work. RecordTooLargeError or DeliveryError
        when a record was refused: a retry would fail too. BrokersGoneError when the outcome of the transaction cannot be
        determined: end the process, whose successor will read the state.
        """
        self._deadline.begin()
        while True:
            try:
                self._transact(records, offsets, group)
            except TransactionAbortedError as error:
                _logger.debug("%s; again", error)
                self._deadline.check(self._producer, "no transaction was committed", str(error))
                time.sleep(_RETRY_S)
            else:
                return

    def close(self) -> None:
        """Nothing is open between two calls of `emit`; serve the remaining callbacks."""
        with suppress(KafkaException):  # of a fenced producer, or one whose brokers are down
            serve(lambda: self._producer.flush(1.0))

    def _transact(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        """One attempt. Raises TransactionAbortedError when nothing of it will ever be visible, and `emit`'s errors."""
        self._number += 1
        self._failure = None
        self._writes = sorted({record.topic for record in records})
        mark = f"{self._id}-{self._number}"
        marked = [TopicPartition(place.topic, place.partition, place.offset, mark) for place in offsets]
        committing = False
        try:
            self._retry(self._producer.begin_transaction, "no transaction was started")
            self._in_transaction = True
            for record in records:
                self._produce(record)
            # All records are in their logs before the group accepts the offsets. A successor reads the state up to the log's
            # end after the group has moved on, so it cannot miss anything that may still be committed.
            self._flush()
            self._retry(
                lambda: self._producer.send_offsets_to_transaction(marked, group, _CALL_S), "offsets were not taken"
            )
            committing = True
            self._retry(lambda: self._producer.commit_transaction(_CALL_S), "the transaction was not committed")
            self._in_transaction = False
        except _UnusableError as error:
            self._renew(error)
            if committing and self._committed(marked, mark):
                return
            raise TransactionAbortedError(str(error)) from error
        except BrokersGoneError:
            raise  # there is nothing to abort
        except KafkaError:
            # Only if the abort also failed may a commit have gone through.
            if not self._abort() and committing and self._committed(marked, mark):
                return
            raise

    def _produce(self, record: Record) -> None:
        def report(error: ClientError | None, message: Message) -> None:
            if error is not None and self._failure is None:
                self._failure = self._undelivered(record, error)

        while True:
            try:
                produce(record, self._producer, report)
            except BufferError:
                self._poll(0.1)
            except KafkaException as error:
                raise self._undelivered(record, client_error(error)) from error
            else:
                return

    def _flush(self) -> None:
        while self._typed_call(lambda: self._producer.flush(0.5), "records were not accepted"):
            self._deadline.check(self._producer, "records were not accepted")
        if self._failure is not None:
            raise self._cause() or self._failure

    def _cause(self) -> KafkaError | None:
        """Why the client gave up the records of the transaction in progress, if a retry does not help: a right that this
        user lacks. The records' own reports only say that they were purged."""
        if not isinstance(self._failure, TransactionAbortedError):
            return None
        # Within a transaction this starts nothing, and returns what has failed it.
        error = self._outcome(self._producer.begin_transaction, _CALL_S)
        refused = error is not None and error.code() in _REFUSED
        return self._typed(error, "records were not accepted") if error is not None and refused else None

    def _poll(self, timeout_s: float) -> None:
        self._typed_call(lambda: self._producer.poll(timeout_s), "the producer failed")

    def _typed_call(self, call: Callable[[], int], failed: str) -> int:
        try:
            return serve(call)
        except KafkaException as error:
            raise self._typed(client_error(error), failed) from error

    def _undelivered(self, record: Record, error: ClientError) -> KafkaError:
        if error.fatal() or error.code() in _ABORTING | _FENCING:
            return self._typed(error, f"{record.what} was not taken")
        return delivery_failure(record, error, self._settings)

    def _committed(self, offsets: Sequence[TopicPartition], mark: str) -> bool:
        """Whether the finished transaction whose offsets carry `mark` was committed.

        If another worker has committed since, the mark is gone; the group then refuses the next attempt.
        """
        if not offsets:
            return False
        unknown = "it is not known whether the transaction was committed"
        client = consumer(self._settings, self._group_id, self._watch)
        try:
            while True:
                try:
                    (place,) = client.committed([TopicPartition(offsets[0].topic, offsets[0].partition)], _CALL_S)
                    failure = place.error
                except KafkaException as error:
                    failure = client_error(error)
                if failure is None:
                    return bool(place.metadata == mark)
                if failure.code() in _REFUSED:
                    raise KafkaError(f"emitter {self._id}: {unknown}: {self._settings.scrub(failure.str())}")
                self._deadline.check(client, unknown, failure.str())
                time.sleep(_RETRY_S)
        finally:
            client.close()

    def _open(self) -> None:
        while True:
            try:
                self._retry(lambda: self._producer.init_transactions(_CALL_S), "transactions cannot be opened")
                return
            except _UnusableError as error:
                _logger.debug("%s; with a new producer", error)
                self._deadline.check(self._producer, "transactions cannot be opened", str(error))
            self._producer = transactional_producer(self._settings, self._id, self._watch)
            time.sleep(_RETRY_S)

    def _renew(self, error: KafkaError) -> None:
        """A new producer with the same id, which ends the previous one's transaction: a commit in progress completes,
        anything else is aborted."""
        _logger.debug("%s; going on with a new producer", error)
        self._in_transaction = False
        self._producer = transactional_producer(self._settings, self._id, self._watch)
        self._open()

    def _abort(self) -> bool:
        """Whether this producer itself has aborted the transaction; otherwise a new one has ended it."""
        if self._in_transaction:
            self._in_transaction = False
            try:
                self._retry(lambda: self._producer.abort_transaction(_CALL_S), "the transaction was not aborted")
            except (_UnusableError, TransactionAbortedError) as error:
                self._renew(error)
                return False
        return True

    def _retry(self, call: Callable[[], object], failed: str) -> None:
        """Repeat `call` while librdkafka says that retrying may help. Raises _UnusableError when it has not finished after
        `_HANGS_S` seconds."""
        hangs_at = time.monotonic() + _HANGS_S
        while True:
            error = self._outcome(call, hangs_at - time.monotonic() + _CALL_S)
            if error is None:
                return
            if not error.retriable() or error.txn_requires_abort():
                raise self._typed(error, failed)
            self._poll(0.1)  # serves librdkafka's callbacks
            self._deadline.check(self._producer, failed, error.str())
            if time.monotonic() > hangs_at:
                raise _UnusableError(
                    f"emitter {self._id}: {failed} within {_HANGS_S:g} s: {self._settings.scrub(error.str())}"
                )

    def _outcome(self, call: Callable[[], object], within_s: float) -> ClientError | None:
        """The error of `call`. Runs in its own thread, since librdkafka may never return from it, whatever its
        time-out; a daemon thread, so that the process can still exit."""
        outcome = SimpleQueue[ClientError | None]()

        def run() -> None:
            try:
                call()
            except KafkaException as error:
                outcome.put(client_error(error))
            else:
                outcome.put(None)

        Thread(target=run, name="transaction", daemon=True).start()
        try:
            return outcome.get(timeout=within_s)
        except Empty:
            raise _UnusableError(f"emitter {self._id}: the client does not answer; its coordinator was lost") from None

    def _typed(self, error: ClientError, failed: str) -> KafkaError:
        name = {
            ClientError.GROUP_AUTHORIZATION_FAILED: self._group_id,
            ClientError.TOPIC_AUTHORIZATION_FAILED: ", ".join(self._writes),
        }.get(error.code(), self._id)
        text = f"emitter {self._id}: {failed}: {reason(error, self._settings, 'Write', name)}"
        if error.code() in _REFUSED:
            return KafkaError(text)
        if error.fatal() or error.code() in _FENCING:
            return _UnusableError(text)
        if error.code() in _MOVED_ON:
            return FencedError(text)
        if error.txn_requires_abort() or error.code() in _ABORTING:
            return TransactionAbortedError(text)
        return KafkaError(text)

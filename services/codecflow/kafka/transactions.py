"""Results, state and offsets in one Kafka transaction: all of them or none, once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from confluent_kafka import KafkaError as ClientError
from confluent_kafka import KafkaException, Message, TopicPartition

from codecflow.errors import KafkaError

from .clients import BrokerWatch, transactional_producer
from .failures import BrokersGoneError, FencedError, TransactionAbortedError, client_error
from .records import Record, delivery_failure, hand_over
from .settings import KafkaSettings

# The group has given these partitions to somebody else, or this member away: classic and KIP-848 protocols.
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
# librdkafka resumes a call that timed out when it is made again; without a limit it may wait for ever.
_CALL_S = 5.0

# Another emitter has opened with the same transactional id.
_FENCING = frozenset({ClientError._FENCED, ClientError.PRODUCER_FENCED, ClientError.INVALID_PRODUCER_EPOCH})
# The transaction has run out of time with records still unsent: nothing wrong with the records.
_ABORTING = frozenset({ClientError._MSG_TIMED_OUT, ClientError._PURGE_QUEUE, ClientError._PURGE_INFLIGHT})


class TransactionalEmitter:
    """Sends batches of records together with the consumer's offsets.

    `transactional_id` is this worker's own: another emitter that opens with the same id fences this one. A worker that is
    replaced by one with another id is fenced by its group instead, through `group` in `emit`.
    """

    def __init__(self, settings: KafkaSettings, transactional_id: str) -> None:
        self._settings = settings
        self._id = transactional_id
        self._watch = BrokerWatch(settings)
        self._producer = transactional_producer(settings, transactional_id, self._watch)
        self._in_transaction = False
        self._failure: KafkaError | None = None

    def open(self) -> None:
        """Get ready: end what an earlier emitter of this id left open. Raises KafkaError (FencedError, BrokersGoneError)."""
        self._insist(lambda: self._producer.init_transactions(_CALL_S), "transactions cannot be opened")

    def emit(self, records: Sequence[Record], offsets: Sequence[TopicPartition], group: Any) -> None:
        """Send `records` and commit `offsets`, both or neither. Blocks until that is known.

        `offsets`: the next offset to read of each partition. `group`: `consumer.consumer_group_metadata()`, taken after the
        last poll.

        Raises FencedError when another worker owns the partitions now: drop the work. TransactionAbortedError when it may
        be sent again as it is. RecordTooLargeError or DeliveryError when a record was refused: it would be again.
        BrokersGoneError when it cannot be known whether the transaction is committed: end the process, whose successor will
        read the state.
        """
        self._failure = None
        try:
            self._insist(self._producer.begin_transaction, "no transaction can be begun")
            self._in_transaction = True
            for record in records:
                self._produce(record)
            # All records lie in their logs before the group accepts the offsets. A worker that takes over reads the state
            # up to the log's end after the group has moved on, so it can miss nothing that may still be committed.
            while self._producer.flush(0.5):
                self._watch.check(self._producer)
            if self._failure is not None:
                raise self._failure
            self._insist(lambda: self._send_offsets(list(offsets), group), "offsets were not taken")
            self._insist(lambda: self._producer.commit_transaction(_CALL_S), "the transaction was not committed")
            self._in_transaction = False
        except BaseException as error:
            # Without brokers, or as a producer that is fenced, there is nothing left to abort.
            if not isinstance(error, BrokersGoneError) and not (isinstance(error, FencedError) and error.fatal):
                self._abort()
            raise

    def close(self) -> None:
        """Nothing is open between two calls of `emit`; serve what is left of callbacks."""
        self._producer.flush(1.0)

    def _produce(self, record: Record) -> None:
        def report(error: ClientError | None, message: Message) -> None:
            if error is not None and self._failure is None:
                self._failure = self._undelivered(record, error)

        while True:
            try:
                hand_over(record, self._producer, report)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise self._undelivered(record, client_error(error)) from error
            else:
                return

    def _undelivered(self, record: Record, error: ClientError) -> KafkaError:
        if error.fatal() or error.code() in _ABORTING | _FENCING:
            return self._typed(error, f"{record.what} was not taken")
        return delivery_failure(record, error, self._settings)

    def _send_offsets(self, offsets: list[TopicPartition], group: Any) -> None:
        """As the producer's own, but it ends: librdkafka waits for ever, whatever its time-out, where the broker that
        coordinates the group has vanished in the meantime (confluentinc/librdkafka#5456 and #5511, in 2.16).

        The way out is a new producer of the same id: it aborts what the stuck one had open.
        """
        producer, outcome = self._producer, SimpleQueue[KafkaException | None]()

        def call() -> None:
            try:
                producer.send_offsets_to_transaction(offsets, group, _CALL_S)
            except KafkaException as error:
                outcome.put(error)
            else:
                outcome.put(None)

        # A daemon, so that a process can end while librdkafka hangs in it.
        Thread(target=call, name="send offsets", daemon=True).start()
        try:
            error = outcome.get(timeout=2 * _CALL_S)
        except Empty:
            self._in_transaction = False
            self._producer = transactional_producer(self._settings, self._id, self._watch)
            self.open()
            raise TransactionAbortedError(
                f"emitter {self._id}: the group's coordinator was lost; the transaction is aborted"
            ) from None
        if error is not None:
            raise error

    def _abort(self) -> None:
        if self._in_transaction:
            self._in_transaction = False
            self._insist(lambda: self._producer.abort_transaction(_CALL_S), "the transaction could not be aborted")

    def _insist(self, call: Callable[[], object], failed: str) -> None:
        """Repeat `call` while librdkafka says that this may help, up to `gone_after_s` seconds."""
        deadline = time.monotonic() + self._settings.gone_after_s
        while True:
            try:
                call()
                return
            except KafkaException as error:
                if not client_error(error).retriable() or client_error(error).txn_requires_abort():
                    raise self._typed(client_error(error), failed) from error
                if time.monotonic() > deadline:
                    raise BrokersGoneError(
                        f"Kafka at {self._settings.bootstrap_servers}: {failed} for {self._settings.gone_after_s:g} s; "
                        f"giving up"
                    ) from error
                self._producer.poll(0.1)

    def _typed(self, error: ClientError, failed: str) -> KafkaError:
        text = f"emitter {self._id}: {failed}: {self._settings.scrub(error.str())}"
        if error.fatal() or error.code() in _FENCING:
            return FencedError(text, fatal=True)
        if error.code() in _MOVED_ON:
            return FencedError(text, fatal=False)
        if error.txn_requires_abort() or error.code() in _ABORTING:
            return TransactionAbortedError(text)
        return KafkaError(text)

"""How far streams were answered, by whomever: codecflow.state read to its end."""

from __future__ import annotations

from collections.abc import Sequence

from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail, newest_by_key
from codecflow.messages import StreamState, decode_state

States = dict[int, dict[str, StreamState]]
"""By partition, by stream."""


def read_states(settings: KafkaSettings, partitions: Sequence[int]) -> States:
    """What is committed for the streams of `partitions`.

    To be called after the group's offsets were fetched: a worker that lost these partitions has by then either committed or
    can commit nothing any more, and what it may still be committing is waited for. Raises KafkaError; MessageError when
    a state is of another version.
    """
    states: States = {number: {} for number in partitions}
    if not partitions:
        return states
    with TopicTail(settings, settings.topics.state, partitions) as tail:
        records = tail.catch_up()
    for number in partitions:
        newest = newest_by_key(record for record in records if record.partition() == number)
        for key, value in newest.items():
            if value is not None:
                state = decode_state(key, value)
                states[number][state.stream] = state
    return states

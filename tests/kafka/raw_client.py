"""librdkafka itself, for records that confluent-kafka's own producer cannot make."""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka
import pytest

from codecflow.kafka.settings import KafkaSettings

_END, _TOPIC, _VALUE, _KEY, _FLAGS, _HEADER = 0, 1, 4, 5, 7, 9
_COPY = 2


def publish_with_header_name(settings: KafkaSettings, topic: str, name: bytes) -> None:
    """A record with key `a` on `topic` and a header with exactly this name, which need not be text."""
    libraries = list((Path(confluent_kafka.__file__).parents[1] / "confluent_kafka.libs").glob("librdkafka*.so*"))
    if not libraries:
        pytest.skip("this confluent-kafka brings no librdkafka of its own")
    library = ctypes.CDLL(str(libraries[0]))
    library.rd_kafka_conf_new.restype = library.rd_kafka_new.restype = ctypes.c_void_p
    error = ctypes.create_string_buffer(512)
    configuration = ctypes.c_void_p(library.rd_kafka_conf_new())
    servers = settings.bootstrap_servers.encode()
    assert library.rd_kafka_conf_set(configuration, b"bootstrap.servers", servers, error, len(error)) == 0, error.value
    client = ctypes.c_void_p(library.rd_kafka_new(0, configuration, error, len(error)))
    one = ctypes.c_size_t(1)
    record = (
        *(_TOPIC, ctypes.c_char_p(topic.encode()), _FLAGS, _COPY),
        *(_KEY, ctypes.c_char_p(b"a"), one, _VALUE, ctypes.c_char_p(b"x"), one),
        *(_HEADER, ctypes.c_char_p(name), ctypes.c_char_p(b"1"), one),
    )
    assert library.rd_kafka_producev(client, *record, _END) == 0
    assert library.rd_kafka_flush(client, 30_000) == 0
    library.rd_kafka_destroy(client)

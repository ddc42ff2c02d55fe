"""One trace from a picture to the results of its window, through a real Kafka to a collector that speaks OTLP."""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from codecflow import tracing
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.tail import TopicTail
from codecflow.messages import decode_result
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from tests.worker.memory import encode_clip
from tests.worker.running import Running, until


@dataclass
class Collector:
    endpoint: str
    spans: list[Any] = field(default_factory=list)
    services: set[str] = field(default_factory=set)


@pytest.fixture
def collector() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found.services.update(
                    one.value.string_value for one in of_resource.resource.attributes if one.key == "service.name"
                )
                for of_scope in of_resource.scope_spans:
                    found.spans += of_scope.spans
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Collector(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return load_model(str(make_tiny(tmp_path_factory.mktemp("model") / "tiny", image_size=112)), "float32", "cpu")


def test_one_trace_from_a_picture_to_the_results_of_its_window(
    kafka_settings: KafkaSettings, family: Family, collector: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "60")  # a busy machine
    clip = encode_clip(tmp_path / "clip.mp4", 8, fps=4, gop=4)
    with tracing.traced("codecflow-worker"):
        produce(kafka_settings, str(clip), "gate", ProduceOptions(fast=True))
        Running(kafka_settings, family, samplers=1).join()
    assert tracing.current() is None
    until(lambda: len(collector.spans) >= 28, what="all spans are there")  # spans of a flush arrive in the background
    with TopicTail(kafka_settings, kafka_settings.topics.packets) as tail:
        contexts = [dict(record.headers() or []).get("traceparent") for record in tail.catch_up()]
    assert len(contexts) == 32
    assert sum(one is not None for one in contexts) == 16  # signal pictures alone: two per second
    with TopicTail(kafka_settings, kafka_settings.topics.results) as tail:
        results = {
            decode_result(record.key(), record.value()).window: dict(record.headers() or [])["traceparent"].decode()
            for record in tail.catch_up()
        }
    assert results.keys() == set(range(4))
    spans = {span.span_id.hex(): span for span in collector.spans}
    assert collector.services == {"codecflow-worker"}
    assert (
        sorted(span.name for span in spans.values())
        == ["answer"] * 4 + ["commit"] * 4 + ["publish"] * 16 + ["window"] * 4
    )
    seqs = []
    for number, context in results.items():
        commit = spans[context.split("-")[2]]
        window = spans[commit.parent_span_id.hex()]
        publish = spans[window.parent_span_id.hex()]
        about = {one.key: one.value for one in window.attributes}
        assert (commit.name, window.name, publish.name) == ("commit", "window", "publish")
        assert (about["codecflow.stream"].string_value, about["codecflow.window"].int_value) == ("gate", number)
        assert commit.trace_id == window.trace_id == publish.trace_id == bytes.fromhex(context.split("-")[1])
        assert publish.start_time_unix_nano <= window.start_time_unix_nano <= commit.start_time_unix_nano
        assert commit.end_time_unix_nano <= window.end_time_unix_nano
        seqs += [one.value.int_value for one in publish.attributes if one.key == "codecflow.seq"]
    assert len(set(seqs)) == 4


def test_without_a_collector_one_line_says_so_and_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracing.traced("worker"):
        assert tracing.current() is None  # off by default
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setattr(tracing, "_NOTICE_EVERY_S", 1e9)
    with caplog.at_level(logging.WARNING), tracing.traced("worker"):
        current = tracing.current()
        assert current is not None
        for _ in range(3):
            current.begin("window").end()
            current.close()
    assert [record.message for record in caplog.records if "traces are not exported" in record.message][1:] == []
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with tracing.traced("worker"):
        assert tracing.current() is None
    assert "no traces: OTLP by grpc is not supported" in capsys.readouterr().err
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    with tracing.traced("worker"):
        assert tracing.current() is None

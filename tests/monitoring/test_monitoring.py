"""Metrics and probes of real services, read as by Prometheus and an orchestrator."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.lifecycle import GracefulStop
from codecflow.localkafka.files import free_port
from codecflow.messages import ResultError
from codecflow.monitoring import metrics
from codecflow.monitoring.metrics import ANSWER_DELAY, MAX_STREAMS, MetricDefinition, Sample
from codecflow.monitoring.server import Health, MonitoringServer
from codecflow.notify.figures import NotifierFigures
from codecflow.page.health import PageHealth
from codecflow.producer.metrics import is_up, producer_samples
from codecflow.producer.options import ProduceOptions
from codecflow.producer.run import produce
from codecflow.producer.summary import Summary as ProducerSummary
from codecflow.recorder.figures import RecorderFigures
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from codecflow.worker.metrics import worker_samples
from codecflow.worker.stuck import StuckDetector
from codecflow.worker.summary import StageFigures, StreamFigures, Summary
from tests.debian import find_program
from tests.subscriber.example_results import RESULT
from tests.worker.memory import encode_clip, publish
from tests.worker.running import Running, send, until

OBSERVE = Path(__file__).parents[2] / "deploy" / "observe"
Values = dict[tuple[str, tuple[str, ...]], float]


def get(server: MonitoringServer, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scraped(server: MonitoringServer) -> Values:
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_worker_is_scraped_while_it_answers(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    send(kafka_settings, publish(encode_clip(tmp_path / "clip.mp4", 12), "gate"))
    family = load_model(str(make_tiny(tmp_path / "tiny", image_size=112)), "float32", "cpu")
    running = Running(kafka_settings, family, until_end=False)
    summary = running.summary  # the worker keeps this one up to date

    def samples() -> Iterable[Sample]:
        return worker_samples(running.summary)

    with MonitoringServer("0", lambda: running.summary.health, samples, [summary.delay]) as server:
        until(lambda: running.summary.answers >= 6, what="six answers")
        until(lambda: get(server, "/readyz")[0] == 200, what="ready")
        summary = running.stop()
        values = scraped(server)
        assert get(server, "/startupz") == (200, "started\n")
        assert get(server, "/livez") == (200, "alive\n")
    assert values["codecflow_windows_total", ("answered",)] == summary.windows >= 6
    assert values["codecflow_results_total", ("answer",)] == summary.answers
    assert values["codecflow_tokens_total", ("kept",)] == summary.tokens_kept > 0
    assert values["codecflow_tokens_total", ("dropped",)] == summary.tokens_total - summary.tokens_kept
    assert values["codecflow_flops_total", ("spent",)] < values["codecflow_flops_total", ("full",)]
    assert values["codecflow_pictures_total", ("published",)] == 120
    assert values["codecflow_transactions_total", ("committed",)] >= 1
    assert values["codecflow_answer_delay_seconds_count", ()] == 0  # a file is not live
    assert values["codecflow_stage_busy_seconds_total", ("engine",)] > 0
    assert values["codecflow_work_seconds_total", ("vit",)] > 0
    assert values["process_resident_memory_bytes", ()] > 0


def test_a_producer_is_scraped_while_its_clip_plays(kafka_settings: KafkaSettings, tmp_path: Path) -> None:
    clip = encode_clip(tmp_path / "clip.mp4", 4)
    stop, summary = GracefulStop(), ProducerSummary("gate", "clip.mp4")
    options = (kafka_settings, str(clip), "gate", ProduceOptions(loop=True), stop)
    playing = threading.Thread(target=produce, args=options, kwargs={"summary": summary})

    def health() -> Health:
        return Health(started=summary.pictures > 0, ready=is_up(summary))

    with MonitoringServer("127.0.0.1:0", health, lambda: producer_samples(summary)) as server:
        assert scraped(server)["codecflow_camera_up", ("gate",)] == 0
        assert get(server, "/readyz")[0] == get(server, "/startupz")[0] == 503
        playing.start()
        until(lambda: summary.pictures >= 5, what="five pictures")
        values = scraped(server)
        assert get(server, "/readyz")[0] == 200
        stop.request()
        playing.join()
    assert values["codecflow_camera_up", ("gate",)] == 1
    assert values["codecflow_camera_pictures_total", ("gate",)] >= 5
    assert time.time() - values["codecflow_camera_last_picture_timestamp_seconds", ("gate",)] < 600


def test_what_is_stuck_is_not_alive() -> None:
    summary, said = Summary(), list[str]()
    with (
        MonitoringServer("0", lambda: summary.health, lambda: ()) as server,
        StuckDetector(0.2, said.append, health=summary.health),
    ):
        until(lambda: get(server, "/livez")[0] == 503, what="no heartbeat")
        assert "the worker's loop has not finished" in get(server, "/livez")[1]
    assert len(said) == 1


def test_ten_thousand_streams_are_a_bounded_number_of_series() -> None:
    summary = Summary()
    summary.set_held({f"camera-{n}": StreamFigures(behind_s=float(n)) for n in range(10_000)})
    with MonitoringServer("0", lambda: summary.health, lambda: worker_samples(summary)) as server:
        values = scraped(server)
    late = [key for key in values if key[0] == "codecflow_stream_behind_seconds"]
    assert len(late) == MAX_STREAMS
    assert ("codecflow_stream_behind_seconds", ("camera-9999",)) in late
    assert values["codecflow_streams", ()] == 10_000


def test_the_delay_is_from_capture_to_commit() -> None:
    summary = Summary()
    summary.committed([RESULT], RESULT.captured_at_ms / 1000 + 2.5)
    failed = replace(RESULT, answer="", p_yes=None, error=ResultError("failed", "for a test"))
    summary.committed([failed], RESULT.captured_at_ms / 1000 + 900)
    with MonitoringServer("0", lambda: summary.health, lambda: (), [summary.delay]) as server:
        values = scraped(server)
    assert values[f"{ANSWER_DELAY}_sum", ()] == pytest.approx(2.5)
    assert (values[f"{ANSWER_DELAY}_bucket", ("2.0",)], values[f"{ANSWER_DELAY}_bucket", ("3.0",)]) == (0, 1)


@pytest.mark.parametrize("address", ["", "port", "127.0.0.1:", "1:2:99999", "nowhere.invalid:9100"])
def test_an_address_that_cannot_be_served_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"--metrics-port {address}")):
        MonitoringServer(address, Health, lambda: ())


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="in use"):
            MonitoringServer(str(port), Health, lambda: ())


def test_clients_that_leave_before_the_answer_leave_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """As a probe does whose time is up while the process is frozen."""
    with MonitoringServer("0", lambda: Health(started=True), lambda: ()) as server:
        for path in ("/livez", "/metrics") * 5:
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close resets
                client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert get(server, "/livez") == (200, "alive\n")
    assert "Traceback" not in capfd.readouterr().err


def test_other_paths_name_those_that_there_are() -> None:
    with MonitoringServer("0", Health, lambda: ()) as server:
        assert get(server, "/") == (404, "/metrics, /livez, /readyz, /startupz\n")


def published_names() -> set[str]:
    described = [one for one in vars(metrics).values() if isinstance(one, MetricDefinition)]
    names = {one.name + ("_total" if one.kind == "counter" else "") for one in described}
    return names | {f"{ANSWER_DELAY}_{end}" for end in ("bucket", "sum", "count")}


@pytest.mark.parametrize("file", ["alerts.yml", "grafana/dashboards/codecflow.json"])
def test_alerts_and_dashboard_ask_for_metrics_that_there_are(file: str) -> None:
    text = (OBSERVE / file).read_text(encoding="utf-8")
    document = json.loads(text) if file.endswith("json") else yaml.safe_load(text)
    expressions = (
        [target["expr"] for panel in document["panels"] for target in panel["targets"]]
        if "panels" in document
        else [rule["expr"] for group in document["groups"] for rule in group["rules"]]
    )
    asked = {name for one in expressions for name in re.findall(r"codecflow_\w+", one)}
    assert asked
    assert asked <= published_names()


def test_prometheus_takes_the_configuration() -> None:
    done = subprocess.run(
        [find_program("promtool"), "check", "config", OBSERVE / "prometheus.yml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_query_of_the_dashboard_has_an_answer(tmp_path: Path) -> None:
    """A real Prometheus scrapes what services publish and is queried as by Grafana."""
    worker, producer, page, notifier = (
        Summary(),
        ProducerSummary("gate", "clip.mp4"),
        PageHealth(),
        NotifierFigures(["ops"]),
    )
    worker.set_held({"gate": StreamFigures(behind_s=1.0)})
    worker.committed([RESULT], RESULT.captured_at_ms / 1000 + 2.5)
    worker.seconds["vit"] += 1.0
    worker.stages["engine"] = StageFigures((1.0,), (1.0,))
    producer.dropped["damaged"] += 1
    producer.corrected["backwards"] += 1
    page.beat({"viewers": 1, "replays": 0, "streams": 1, "video_bytes": 0})

    def samples() -> Iterable[Sample]:
        return [
            *worker_samples(worker),
            *producer_samples(producer),
            *page.samples(),
            *RecorderFigures().samples(),
            *notifier.samples(),
        ]

    document = json.loads((OBSERVE / "grafana/dashboards/codecflow.json").read_text(encoding="utf-8"))
    waiting = [target["expr"] for panel in document["panels"] for target in panel["targets"]]
    with MonitoringServer("0", Health, samples, [worker.delay]) as server, prometheus(tmp_path, server.port) as address:
        deadline = time.monotonic() + 90
        while waiting:
            waiting = [query for query in waiting if not answers(address, query.replace("$__rate_interval", "1m"))]
            assert not waiting or time.monotonic() < deadline, waiting
            time.sleep(0.2)


@contextmanager
def prometheus(folder: Path, port: int) -> Iterator[str]:
    """A Prometheus that scrapes a port every 0.5 s; returns its address."""
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms"},
        "scrape_configs": [{"job_name": "codecflow", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    options = (f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data")
    with subprocess.Popen(
        [find_program("prometheus"), *options, f"--web.listen-address={address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield address
        finally:
            process.kill()


def answers(address: str, query: str) -> bool:
    """Whether Prometheus has values for a query. Its errors fail the test."""
    try:
        question = urllib.parse.urlencode({"query": query})
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{question}", timeout=120) as answer:
            return bool(json.load(answer)["data"]["result"])
    except urllib.error.HTTPError as error:
        if error.code == 503:  # it is starting
            return False
        raise AssertionError(f"{query}: {error.read().decode()}") from error
    except OSError:
        return False

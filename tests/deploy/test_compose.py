"""docker-compose.yml says what the product can do. `make check` holds it to the compose specification's own schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from codecflow.cli.app import build
from codecflow.localkafka.distribution import KAFKA_VERSION
from codecflow.notify.config import read_config

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if service["image"].startswith("codecflow:")]


def with_defaults(text: str) -> str:
    """`text` as compose sees it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("name", OURS)
def test_each_command_is_one_that_the_command_line_has(name: str) -> None:
    service = SERVICES[name]
    words = [*service.get("entrypoint", ["codecflow"]), *service.get("command", [])]
    program, *arguments = [with_defaults(word) for word in words]
    assert program == "codecflow"
    examples = {"ask": ["gate", "Is a person in view?", "--yes-no"]}
    arguments += examples.get(name, [])
    command: Any = typer.main.get_command(build())
    while hasattr(command, "commands"):
        word = arguments.pop(0)
        assert word in command.commands, (name, word)
        command = command.commands[word]
    command.make_context(word, arguments)  # parses them; an unknown or missing option is an error


def test_every_variable_has_a_default_or_is_asked_for() -> None:
    assert not re.findall(r"\$\{\w+\}|\$\w+", (ROOT / "docker-compose.yml").read_text())


def test_the_camera_that_comes_with_it_is_the_bundled_clip() -> None:
    file = with_defaults(COMPOSE["secrets"]["camera"]["file"])
    folder, inside, _ = with_defaults(SERVICES["producer"]["volumes"][0]).split(":")
    named = Path((ROOT / file).read_text().split("\n")[0])
    assert (ROOT / folder / named.relative_to(inside)).is_file()


def test_the_notifications_that_come_with_it_can_be_read() -> None:
    assert len(read_config(ROOT / with_defaults(COMPOSE["secrets"]["notify"]["file"])).sinks) == 1


def test_the_broker_is_the_one_that_is_tested() -> None:
    assert SERVICES["kafka"]["image"] == f"apache/kafka:{KAFKA_VERSION}"


def test_a_worker_and_a_producer_in_each_profile() -> None:
    for profile in ("cpu", "gpu"):
        started = {name for name, service in SERVICES.items() if profile in service.get("profiles", [profile])}
        assert started == {"kafka", "topics", "producer", f"worker-{profile}", "results"}


def test_services_wait_for_the_topics_and_those_for_the_broker() -> None:
    assert SERVICES["topics"]["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    for name in ("producer", "worker-cpu", "worker-gpu", "results", "ask", "page", "recorder", "notify"):
        assert SERVICES[name]["depends_on"] == {"topics": {"condition": "service_completed_successfully"}}, name


def test_each_image_is_a_target_of_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    targets = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    built = {name: SERVICES[name]["build"]["target"] for name in OURS if "build" in SERVICES[name]}
    # Each service that says build has the image built and exported once more.
    assert built == {"topics": "cpu", "model": "cpu", "worker-gpu": "gpu"}
    assert set(built.values()) <= targets
    assert {SERVICES[name]["image"] for name in OURS} == {f"codecflow:{target}" for target in built.values()}
    for name, target in built.items():
        assert SERVICES[name]["image"] == f"codecflow:{target}"


def test_the_image_runs_as_nobody_in_particular() -> None:
    """The last user that each target sees is not root."""
    runtime = (ROOT / "Dockerfile").read_text().partition("AS runtime")[2]
    assert re.findall(r"^USER (\S+)$", runtime, re.MULTILINE)[-1:] == ["codecflow"]


def test_each_copied_file_of_the_build_is_there() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    for name in set(re.findall(r"/requirements/([\w.-]+)", dockerfile)):
        assert (ROOT / "requirements" / name).is_file(), name


def test_every_service_of_ours_is_locked_in_hears_signals_and_keeps_little() -> None:
    for name in OURS:
        service = SERVICES[name]
        assert service["init"], name  # as process 1 Python would not hear SIGTERM while it imports
        assert service["read_only"], name
        assert service["tmpfs"] == ["/tmp"]
        assert service["environment"]["HOME"] == "/tmp"
        assert with_defaults(service["user"]) == "10001"
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["logging"]["options"]["max-size"], name


def test_every_service_that_goes_on_has_a_cheap_health_check() -> None:
    for name, service in SERVICES.items():
        if "tools" not in service.get("profiles", []) and name != "topics":
            check = service["healthcheck"]["test"]
            assert check[0] == "CMD", name
            assert "kafka-broker-api-versions" not in str(check), "a JVM each"
            if "livez" in str(check):
                assert "0.0.0.0:9464" in service["command"], name


def test_what_is_observed_is_there_and_says_so_on_the_port_that_is_asked() -> None:
    observe = ROOT / "deploy" / "observe"
    jobs = yaml.safe_load((observe / "prometheus.yml").read_text())["scrape_configs"]
    for job in jobs:
        for target in job["dns_sd_configs"]:
            for name in target["names"]:
                assert f"0.0.0.0:{target['port']}" in SERVICES[name]["command"], name
    assert {job["job_name"] for job in jobs} >= set(re.findall(r'job="([\w-]+)"', (observe / "alerts.yml").read_text()))
    inside: dict[str, Path] = {}
    for name in ("prometheus", "grafana"):
        assert SERVICES[name]["profiles"] == ["observe"]
        assert all(port.startswith("127.0.0.1:") for port in SERVICES[name]["ports"])
        inside |= {v.split(":")[1]: ROOT / v.split(":")[0] for v in SERVICES[name]["volumes"] if v.startswith("./")}
    assert all(path.exists() for path in inside.values())
    (provider,) = yaml.safe_load((observe / "grafana/provisioning/dashboards/codecflow.yml").read_text())["providers"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(provider["options"]["path"] + "/")
    assert (inside[provider["options"]["path"]] / Path(home).name).is_file()
    (source,) = yaml.safe_load((observe / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert f'"uid": "{source["uid"]}"' in (observe / "grafana/dashboards/codecflow.json").read_text()


def test_what_starts_it_also_stops_it() -> None:
    """Plain up, stop and down mean all services only where COMPOSE_PROFILES says so."""
    readme = (ROOT / "README.md").read_text()
    for line in (
        "COMPOSE_PROFILES=cpu >> .env",
        "docker compose up -d",
        "docker compose stop",
        "compose run --rm model",
    ):
        assert line in readme, line


def test_the_model_that_is_answered_with_is_the_one_that_is_built() -> None:
    build_command = SERVICES["model"]["command"]
    built = build_command[build_command.index("--out") + 1]
    for name in ("worker-cpu", "worker-gpu"):
        assert with_defaults(SERVICES[name]["command"][2]) == built
    trained = build_command[build_command.index("--trained") + 1]
    dockerfile = (ROOT / "Dockerfile").read_text()
    (source, folder), *_ = re.findall(r"^COPY (models/\S+) (\S+)$", dockerfile, re.MULTILINE)
    assert trained == folder + Path(source).name
    assert (ROOT / source).is_file()
    assert f"!{Path(source).parent}" in (ROOT / ".dockerignore").read_text().split()
    for package in ("gguf", "onnx", "accelerate"):
        assert re.search(rf"^{package}==", (ROOT / "requirements" / "run-cpu.txt").read_text(), re.MULTILINE)

"""docker-compose.yml on a real engine, in the order of the README's lines: `make compose-check`.

It needs Docker with Compose, 5 GB of disk and some minutes, so its name keeps it out of `make test`. It builds the image
codecflow:cpu and runs as a project of its own, with its own ports and volumes, which it removes.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codecflow.kafka.settings import KafkaSettings
from codecflow.localkafka.files import free_port
from codecflow.messages import Result
from codecflow.subscriber import Follower

ROOT = Path(__file__).parents[2]
PROJECT = "codecflow-check"
LONGEST_STOP_S = {
    "producer": 20,
    "worker-cpu": 60,
    "results": 10,
    "page": 10,
    "recorder": 30,
    "notify": 60,
    "kafka": 30,
}
STARTING = {"worker-cpu", "producer", "results", "page", "recorder", "notify"}


class Project:
    """The compose file with everything that needs no camera, GPU or image of another project but Kafka's."""

    def __init__(self, folder: Path) -> None:
        self.token = secrets.token_hex(16)
        self.kafka_port, self.page_port = free_port(), free_port()
        camera = folder / "camera.txt"
        camera.write_text("/videos/intel_one-by-one-person-detection.mp4\n")
        camera.chmod(0o600)  # as a file with a password should be
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_PROFILES": "cpu,page,recorder,notify",
            "CAMERA_FILE": str(camera),
            "CODECFLOW_USER": str(os.getuid()),
            "KAFKA_PORT": str(self.kafka_port),
            "PAGE_PORT": str(self.page_port),
            "PAGE_TOKEN": self.token,
        }

    def docker(self, *words: str) -> str:
        command = ["docker", *words]
        ran = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=1800, check=False
        )
        assert ran.returncode == 0, (words, ran.stdout[-2000:], ran.stderr[-4000:])
        return ran.stdout

    def compose(self, *words: str) -> str:
        return self.docker("compose", *words)

    def signal(self, service: str, name: str) -> None:
        """To the program of a service, which is Java as process 1 or below the init process."""
        pids = "1" if service == "kafka" else "$(grep -lx codecflow /proc/[0-9]*/comm | cut -d / -f 3)"
        self.compose("exec", "-T", service, "bash", "-c", f"kill -{name} {pids}; true")

    def states(self) -> dict[str, dict[str, Any]]:
        """What the engine says about the container of each service."""
        containers = json.loads(self.docker("inspect", *self.compose("ps", "--all", "--quiet").split()))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one["State"] for one in containers}

    def is_healthy(self) -> bool:
        states = self.states()
        topics = states.pop("topics")
        return topics["ExitCode"] == 0 and all(state["Health"]["Status"] == "healthy" for state in states.values())

    def results(self) -> list[Result]:
        """All committed results up to now, as a program on this machine reads them."""
        now, found = time.time() * 1000, list[Result]()
        settings = KafkaSettings(f"localhost:{self.kafka_port}", reach_within_s=60.0)
        with Follower(settings, from_beginning=True, timeout_s=10.0) as follower:
            for result in follower:
                if result.answered_at_ms > now:
                    break
                found.append(result)
        return found

    def answers_more(self) -> None:
        before = len(self.results())
        until(lambda: len(self.results()) > before + 2)


def until(true: Callable[[], object], within_s: float = 900.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(2.0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    project = Project(tmp_path_factory.mktemp("compose"))
    project.compose("down", "--volumes")
    project.compose("build")
    try:
        yield project
    finally:
        print(project.compose("logs", "--tail", "20"))
        project.compose("down", "--volumes")


def test_it_answers(project: Project) -> None:
    project.compose("run", "--rm", "model")
    project.compose("up", "--detach")
    project.compose("run", "--rm", "ask", "gate", "Is a person in view?", "--yes-no")
    until(project.is_healthy)
    project.answers_more()
    assert "is-a-person-in-view: " in project.compose("logs", "results")


def test_the_page_wants_its_token(project: Project) -> None:
    address = f"http://localhost:{project.page_port}/"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(address, timeout=60)
    request = urllib.request.Request(address, headers={"Authorization": f"Bearer {project.token}"})
    assert urllib.request.urlopen(request, timeout=60).status == 200


@pytest.mark.parametrize("service", ["worker-cpu", "producer", "kafka"])
def test_what_ends_by_itself_comes_back(project: Project, service: str) -> None:
    """Signalled from within, so that it is a crash; `docker kill` is a stop by hand. Kafka ends cleanly: with one broker a
    crash can lose what was just committed."""
    began = project.states()[service]["StartedAt"]
    project.signal(service, "TERM" if service == "kafka" else "KILL")
    until(lambda: project.states()[service]["StartedAt"] != began)
    until(project.is_healthy)
    project.answers_more()


def test_stop_is_clean_and_up_goes_on(project: Project) -> None:
    began = time.monotonic()
    project.compose("stop")
    assert time.monotonic() - began < sum(LONGEST_STOP_S.values())
    statuses = {name: state["ExitCode"] for name, state in project.states().items()}
    assert statuses == dict.fromkeys(statuses, 0) | {"kafka": 143}  # Java's own status after SIGTERM
    project.compose("up", "--detach")
    until(project.is_healthy)
    project.answers_more()


def test_a_stop_during_the_start_is_heard(project: Project) -> None:
    project.compose("stop", *STARTING)
    project.compose("start", *STARTING)
    time.sleep(1.0)
    began = time.monotonic()
    project.compose("stop", *STARTING)
    assert time.monotonic() - began < 30
    assert {project.states()[name]["ExitCode"] for name in STARTING} <= {0, 143}
    project.compose("up", "--detach")
    until(project.is_healthy)
    project.answers_more()


def test_a_frozen_worker_is_unhealthy(project: Project) -> None:
    project.signal("worker-cpu", "STOP")
    try:
        until(lambda: project.states()["worker-cpu"]["Health"]["Status"] == "unhealthy", within_s=300)
    finally:
        project.signal("worker-cpu", "CONT")
    until(project.is_healthy)
    project.answers_more()


def test_all_that_was_answered_is_there_once(project: Project) -> None:
    """After all of the above. Windows that are missing were skipped because the worker was behind; the next result says how
    many, unless another worker skipped them."""
    results = project.results()
    keys = Counter((one.stream, one.epoch, one.window, one.question) for one in results)
    assert set(keys.values()) == {1}
    last: dict[int, int] = {}
    for one in results:
        if one.epoch in last:
            assert one.window >= last[one.epoch] + 1 + one.skipped
        last[one.epoch] = one.window
    logs = project.compose("logs")
    assert "Traceback" not in logs
    assert project.token not in logs


def test_down_leaves_nothing_but_named_volumes(project: Project) -> None:
    project.compose("down")
    assert project.docker("ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}") == ""
    volumes = project.docker("volume", "ls", "--quiet", "--filter", f"label=com.docker.compose.project={PROJECT}")
    assert set(volumes.split()) == {f"{PROJECT}_{name}" for name in ("kafka", "models", "evidence")}

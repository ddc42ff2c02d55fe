"""How to reach Kafka: brokers, topic prefix, and properties passed through to librdkafka unchanged."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from codecflow.errors import ConfigError

DEFAULT_BOOTSTRAP_SERVERS = "localhost:9092"
DEFAULT_TOPIC_PREFIX = "codecflow"

# Exactly-once and co-partitioning depend on these; a pass-through property must not override them.
FIXED_PROPERTIES = frozenset(
    {
        "acks",
        "auto.offset.reset",
        "enable.auto.commit",
        "enable.auto.offset.store",
        "enable.idempotence",
        "enable.partition.eof",
        "group.id",
        "isolation.level",
        "partitioner",
        "transactional.id",
    }
)
_NO_TEXT = frozenset({"default.topic.config", "logger"})
"""Like callbacks, properties of the Python client that no text can be given for."""
_PREFIX = re.compile(r"[A-Za-z0-9._-]{1,180}")
_SECRET = re.compile(
    r"password|secret|token|credential|oauthbearer\.config|jaas|\.pem$|key\.(data|bytes)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class TopicNames:
    """The topics of one prefix."""

    prefix: str

    @property
    def packets(self) -> str:
        return f"{self.prefix}.packets"

    @property
    def metadata(self) -> str:
        return f"{self.prefix}.metadata"

    @property
    def results(self) -> str:
        return f"{self.prefix}.results"

    @property
    def masks(self) -> str:
        return f"{self.prefix}.masks"

    @property
    def events(self) -> str:
        return f"{self.prefix}.events"

    @property
    def streams(self) -> str:
        return f"{self.prefix}.streams"

    @property
    def state(self) -> str:
        return f"{self.prefix}.state"

    @property
    def dead_letter(self) -> str:
        return f"{self.prefix}.dead-letter"


@dataclass(frozen=True, slots=True, repr=False)
class KafkaSettings:
    """How to reach Kafka. Its repr names the pass-through properties but never shows a value: some of them are secrets.

    `reach_within_s`: how long a command waits for a first answer. `give_up_after_s`: how long a service keeps trying when
    all brokers are down."""

    bootstrap_servers: str = DEFAULT_BOOTSTRAP_SERVERS
    topic_prefix: str = DEFAULT_TOPIC_PREFIX
    properties: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    reach_within_s: float = 10.0
    give_up_after_s: float = 120.0

    def __post_init__(self) -> None:
        if not self.bootstrap_servers.strip():
            raise ConfigError("bootstrap servers: HOST:PORT[,HOST:PORT...] is expected, not an empty text")
        if not _PREFIX.fullmatch(self.topic_prefix):
            raise ConfigError(f"topic prefix {self.topic_prefix!r}: use 1 to 180 letters, digits, '.', '_' or '-'")
        if not (self.reach_within_s > 0 and self.give_up_after_s > 0):
            raise ConfigError("Kafka time-outs: seconds above 0 are expected")
        for name in self.properties:
            if name in FIXED_PROPERTIES:
                raise ConfigError(f"Kafka property {name}: CodecFlow sets it itself; leave it out")
            if name.endswith("_cb") or name in _NO_TEXT:
                raise ConfigError(f"Kafka property {name}: its value is not a text; leave it out")

    def __repr__(self) -> str:
        return (
            f"KafkaSettings(bootstrap_servers={self.bootstrap_servers!r}, topic_prefix={self.topic_prefix!r}, "
            f"properties=<{', '.join(sorted(self.properties))}>)"
        )

    @classmethod
    def from_options(
        cls,
        bootstrap_servers: str | None = None,
        topic_prefix: str = DEFAULT_TOPIC_PREFIX,
        properties: Iterable[str] = (),
        config_file: Path | None = None,
    ) -> KafkaSettings:
        """Settings from KEY=VALUE texts, which override `config_file`'s lines; `bootstrap_servers` overrides both.

        Raises ConfigError, which never repeats a value.
        """
        merged: dict[str, str] = {}
        if config_file is not None:
            merged.update(_read_file(config_file))
        for item in properties:
            name, value = _split(item, "-X")
            merged[name] = value
        servers = merged.pop("bootstrap.servers", None) or merged.pop("metadata.broker.list", None)
        return cls(
            bootstrap_servers=bootstrap_servers or servers or DEFAULT_BOOTSTRAP_SERVERS,
            topic_prefix=topic_prefix,
            properties=MappingProxyType(merged),
        )

    def scrub(self, text: str) -> str:
        """`text` without the value of any secret property, in case librdkafka has repeated one."""
        for name, value in self.properties.items():
            if _SECRET.search(name) and len(value) >= 3:
                text = text.replace(value, "***")
        return text

    @property
    def topics(self) -> TopicNames:
        """Names of the topics under this prefix."""
        return TopicNames(self.topic_prefix)

    @property
    def worker_group(self) -> str:
        """The consumer group of this prefix's workers. There is one, as there is one codecflow.state: a second one would
        answer live windows again and leave earlier ones out."""
        return f"{self.topic_prefix}.worker"


def _read_file(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text file"
        raise ConfigError(f"Kafka config file {path}: {reason}") from error
    return dict(
        _split(line, f"Kafka config file {path}, line {number}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    )


def _split(item: str, where: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"{where}: KEY=VALUE is expected, there is no '=' in it")
    return name.strip(), value.strip()

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from codecflow.vlm.families import Family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny

from .memory import Published, Topics, encode_clip, publish
from .picture_inputs import BAD_SIZE
from .running import Running


@pytest.fixture(autouse=True)
def _no_worker_outlives_its_test() -> Iterator[None]:
    yield
    for worker in Running.all:
        worker.request_stop()
    Running.all.clear()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random InternVL: 112x112 pixels, 16 tokens per frame."""
    return make_tiny(tmp_path_factory.mktemp("model") / "tiny", image_size=112)


@pytest.fixture(scope="session")
def family(checkpoint: Path) -> Family:
    return load_model(str(checkpoint), "float32", "cpu")


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 seconds, 10 pictures per second, GOP 10, B-frames."""
    return encode_clip(tmp_path_factory.mktemp("clip") / "square.mp4", 20)


@pytest.fixture(scope="session")
def short_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 seconds, 10 pictures per second, GOP 20, B-frames."""
    return encode_clip(tmp_path_factory.mktemp("clip") / "short.mp4", 12, gop=20)


@pytest.fixture(scope="session")
def published(short_clip: Path) -> Published:
    """The same as stream a."""
    return publish(short_clip, "a")


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Published:
    """A stream of another size, 20 s."""
    return publish(encode_clip(tmp_path_factory.mktemp("clip") / "bad.mp4", 20, size=BAD_SIZE), "bad")


@pytest.fixture
def beside(published: Published, bad: Published) -> Topics:
    """That stream and a good one in one partition, one after the other."""
    topics = Topics()
    for n in range(0, 120, 10):
        topics.add(published[0][n : n + 10], published[1][n : n + 10])
        topics.add(bad[0][n : n + 10], bad[1][n : n + 10])
    return topics.add(bad[0][120:], bad[1][120:]).add([], published[1][120:])

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from codecflow.codec.source import Source
from codecflow.kafka.settings import KafkaSettings
from codecflow.kafka.topics import create_topics
from codecflow.lifecycle import GracefulStop
from codecflow.localkafka.daemon import LocalKafka
from codecflow.messages import CodedPicture
from codecflow.page.access import Access
from codecflow.page.serve import bind, serve
from tests.codec.clips import encode

from .browser import Browser
from .camera import Cameras

LOCAL = Access(None, frozenset({"127.0.0.1"}))


@pytest.fixture(scope="module")
def settings(kafka: LocalKafka) -> KafkaSettings:
    """Topics shared by all tests of a file."""
    found = KafkaSettings(kafka.bootstrap_servers, f"t{uuid.uuid4().hex[:12]}", reach_within_s=60.0)
    create_topics(found, partitions=2)
    return found


@contextmanager
def serving(settings: KafkaSettings, access: Access) -> Iterator[str]:
    """A page; its host and port."""
    stop, ready = GracefulStop(), threading.Event()
    failures: list[Exception] = []

    def run() -> None:
        try:
            serve(settings, access, listening, stop, ready.set)
        except Exception as error:  # noqa: BLE001  # the test's to see
            failures.append(error)
        finally:
            ready.set()

    with bind("127.0.0.1", 0) as listening:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        assert ready.wait(60)
        assert not failures, failures
        try:
            yield f"127.0.0.1:{listening.getsockname()[1]}"
        finally:
            stop.request()
            thread.join(60)
    assert not failures, failures
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def address(settings: KafkaSettings) -> Iterator[str]:
    """A page that needs no token."""
    with serving(settings, LOCAL) as found:
        yield found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser that resolves cams.test to this machine."""
    one = Browser(tmp_path_factory.mktemp("browser"), "--host-resolver-rules=MAP cams.test 127.0.0.1")
    yield one
    one.close()


def pictures(path: Path, size: tuple[int, int]) -> list[CodedPicture]:
    """As published by a producer."""
    with Source(str(path)) as source:
        return [replace(p, width=size[0], height=size[1]) for p in source.pictures("clip", 1)]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[CodedPicture]]:
    """By stream: 3 s each of what cameras send, with keyframes a second apart."""
    folder = tmp_path_factory.mktemp("clips")
    size, other = (160, 96), (130, 66)
    found = {
        codec: pictures(encode(folder / codec, codec, size=size), size)
        for codec in ("h264", "h264-open", "vp9", "av1", "hevc", "mjpeg")
    }
    second = pictures(encode(folder / "other", "h264", size=other), other)
    span = max(p.pts + p.duration for p in found["h264"])
    found["resized"] = [
        *found["h264"],
        *(replace(p, pts=p.pts + span, dts=None if p.dts is None else p.dts + span) for p in second),
    ]
    return found


@pytest.fixture(scope="module")
def cameras(settings: KafkaSettings, clips: dict[str, list[CodedPicture]]) -> Iterator[Cameras]:
    with Cameras(settings, clips) as running:
        yield running

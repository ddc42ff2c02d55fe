"""Parts of the page without a browser: the send queue of a slow one, access control, what is kept of streams."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from codecflow.errors import ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.localkafka.files import free_port
from codecflow.page import feed
from codecflow.page.access import Access, is_loopback, read_token
from codecflow.page.health import PageHealth
from codecflow.page.outbox import Outbox, Part
from tests.messages.test_refusals import PICTURE

from .camera import publish

TOKEN = "0123456789abcdef-secret"


def part(number: int, *, keyframe: bool = False, init: bool = False, session: int = 1) -> Part:
    return Part(session, {"number": number}, bytes(1000), keyframe, init)


def waiting(outbox: Outbox) -> list[str | bytes]:
    async def take() -> list[str | bytes]:
        found = []
        while True:
            try:
                found.append(await asyncio.wait_for(outbox.next(), 0.01))
            except TimeoutError:
                return found

    return asyncio.run(take())


def numbers(messages: list[str | bytes]) -> list[int]:
    return [int(m.split(b'"number":')[1].split(b",")[0]) for m in messages if isinstance(m, bytes)]


def test_a_slow_browser_is_given_the_next_keyframe_with_what_describes_it() -> None:
    outbox = Outbox(max_video_bytes=5500)
    outbox.begin(1)
    outbox.part(part(0, init=True))
    for number in range(1, 8):
        outbox.part(part(number, keyframe=number == 1))
    assert outbox.video_bytes == 0
    outbox.text({"k": "r"})
    outbox.part(part(9, init=True))  # a new size in the meantime
    outbox.part(part(10))
    outbox.part(part(11, keyframe=True))
    outbox.part(part(12))
    outbox.part(part(13, session=2))
    messages = waiting(outbox)
    assert messages[0] == '{"k":"r"}'
    assert numbers(messages) == [9, 11, 12]
    assert outbox.dropped == 8


def test_a_flood_does_not_grow_what_waits() -> None:
    outbox = Outbox(max_video_bytes=100_000)
    outbox.begin(1)
    for number in range(5000):
        outbox.part(part(number, keyframe=number % 50 == 0))
        outbox.still(Part(0, {"k": "t", "s": f"cam-{number % 30}"}, bytes(5000)))
        outbox.text({"k": "r", "number": number})
        assert outbox.video_bytes <= 100_000
    messages = waiting(outbox)
    assert sum(isinstance(m, str) for m in messages) == 2000
    assert sum(map(len, messages)) < 400_000


def test_a_leader_that_moves_while_a_camera_is_opened_is_waited_for(
    kafka_settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[Exception] = []
    seen: list[int] = []
    requests: list[int] = []
    watched = feed.Feed(kafka_settings, failures.append)
    client = watched._consumer

    class Moving:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def offsets_for_times(self, *arguments: Any, **options: Any) -> Any:
            requests.append(1)
            if len(requests) < 3:
                raise KafkaException(KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION))
            return client.offsets_for_times(*arguments, **options)

    monkeypatch.setattr(watched, "_consumer", Moving())
    watched.watch("gate", lambda picture: seen.append(picture.seq))
    deadline = time.monotonic() + 60
    while not seen and not failures and time.monotonic() < deadline:
        publish(kafka_settings, [replace(PICTURE, epoch=int(time.time() * 1000))])
        time.sleep(0.1)
    watched.close()
    assert failures == []
    assert seen
    assert len(requests) >= 3


def test_pictures_since_the_keyframe_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "_GOP_BYTES", 1000)
    monkeypatch.setattr(feed, "_ALL_BYTES", 2600)
    gops = feed._Gops()
    for number in range(40):
        for stream in ("a", "b", "c", "d"):
            size = 200 if stream != "d" else 30
            gops.add(replace(PICTURE, stream=stream, seq=number, data=bytes(size), keyframe=number % 4 == 0))
    assert [len(gops.of(stream)) for stream in "abcd"] == [4, 4, 4, 4]
    assert not gops.add(replace(PICTURE, stream="b", epoch=0))  # of an earlier epoch
    for number in range(40, 60):
        gops.add(replace(PICTURE, stream="a", seq=number, data=bytes(200), keyframe=number == 40))
    assert gops.of("a") == []  # no keyframe for too long: the next viewer waits for one
    for number in range(20):
        gops.add(replace(PICTURE, stream=f"new-{number}", data=bytes(500), keyframe=True))
    assert gops.streams() == [f"new-{number}" for number in range(15, 20)]  # the least recent are dropped


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://cams:8600", "cams:8600", True),
        ("https://cams.example", "cams.example", True),
        ("https://proxy.example", "127.0.0.1:8600", True),
        ("http://evil.test", "cams:8600", False),
        ("http://cams:8601", "cams:8600", False),
        ("null", "cams:8600", False),
        ("file://", "", False),
        (None, "cams:8600", False),
    ],
)
def test_requests_that_change_something_come_from_the_page_itself(origin: str | None, host: str, own: bool) -> None:
    access = Access(TOKEN, origins=frozenset({"https://proxy.example"}))
    headers = {"host": host} if origin is None else {"host": host, "origin": origin}
    assert access.is_own(headers) == own
    assert access.is_own({"host": host, "authorization": f"Bearer {TOKEN}"})
    assert not access.is_own({"host": host, "authorization": f"Bearer {TOKEN}x"})


def test_who_is_admitted() -> None:
    access = Access(TOKEN)
    assert access.admits({"authorization": f"bearer {TOKEN}"}, {})
    assert access.admits({}, {"codecflow_page": access.cookie()})
    for headers, cookies in (
        ({}, {}),
        ({"authorization": f"Basic {TOKEN}"}, {}),
        ({}, {"codecflow_page": Access(TOKEN).cookie()}),  # of another process
        ({}, {"codecflow_page": TOKEN}),
        ({}, {"codecflow_page": "é"}),
    ):
        assert not access.admits(headers, cookies)
    assert TOKEN not in access.cookie()
    local = Access(None, frozenset({"cams"}))
    assert [local.is_called(h) for h in ("cams:8600", "127.0.0.1:1", "[::1]:8600", "localhost", "evil.test", "[", "")] == [
        True, True, True, True, False, False, False
    ]  # fmt: skip
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "0.0.0.0", "10.0.0.1", "cams")] == [True, True] + [
        False
    ] * 3


def test_tokens_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    assert read_token(file, None) == TOKEN
    assert read_token(None, None) is None
    for content in (b"short", b"", b"two words that are long enough", "é".encode() * 20, b"\xff" * 30):
        file.write_bytes(content)
        with pytest.raises(ConfigError) as refused:
            read_token(file, None)
        assert content.decode(errors="replace") not in str(refused.value) or not content
    with pytest.raises(ConfigError, match="No such file"):
        read_token(tmp_path / "none", None)


def test_the_command_refuses_what_is_open_to_all_and_never_tells_the_token(kafka_settings: KafkaSettings) -> None:
    at = ["--bootstrap-servers", kafka_settings.bootstrap_servers, "--topic-prefix", kafka_settings.topic_prefix]
    command = [sys.executable, "-m", "codecflow", "page", *at]
    done = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert "0.0.0.0 can be reached from other machines: give a token with --token-file" in done.stderr
    environment = {**os.environ, "CODECFLOW_PAGE_TOKEN": TOKEN, "CODECFLOW_LOG": "debug"}
    metrics = free_port()
    with subprocess.Popen(
        [*command, "--host", "0.0.0.0", "--port", "0", "--metrics-port", str(metrics)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as page:
        assert page.stdout is not None
        said = page.stdout.readline()
        assert re.fullmatch(r"page: http://0\.0\.0\.0:\d+/  \(asks for the token\)\n", said)
        port = said.split(":")[-1].split("/")[0]
        for token, status in (("wrong", 401), (TOKEN, 200)):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/status?token={token}", headers={"Authorization": f"Bearer {token}"}
            )
            found = 200
            try:
                urllib.request.urlopen(request, timeout=60).close()
            except urllib.error.HTTPError as error:
                found = error.code
            assert found == status
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics", timeout=60) as answer:
            assert b'\ncodecflow_page_viewers{at="live"} 0.0\n' in answer.read()
        for probe in ("livez", "readyz", "startupz"):
            urllib.request.urlopen(f"http://127.0.0.1:{metrics}/{probe}", timeout=60).close()
        page.terminate()
        rest, log = page.communicate(timeout=300)
    assert page.returncode == 0, log
    assert TOKEN not in said + rest + log


def test_a_page_whose_loop_stands_still_is_not_alive() -> None:
    now = [0.0]
    one = PageHealth(lambda: now[0])
    assert (one.health().started, one.health().ready, one.health().stuck, one.samples()) == (False, False, None, [])
    one.beat({"viewers": 3, "replays": 1, "streams": 7, "video_bytes": 0})
    assert {(x.metric.name, x.labels): x.value for x in one.samples()} == {
        ("codecflow_page_viewers", ("live",)): 2,
        ("codecflow_page_viewers", ("past",)): 1,
        ("codecflow_page_streams", ()): 7,
        ("codecflow_page_video_bytes", ()): 0,
    }
    assert one.health().ready
    now[0] = 61.0
    assert one.health().stuck == "the page has stood still for 61 s"

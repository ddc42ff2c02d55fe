"""Cameras that fail: a code for counting, one line for people, and never a password."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest

from codecflow.codec.addresses import redact
from codecflow.codec.decode import Decoder
from codecflow.codec.opening import SourceOptions
from codecflow.codec.source import Source
from codecflow.errors import SourceError

from .cameras import answers, camera, plays, refuses, stalls
from .clips import encode, plainly_decoded
from .rtsp import rtsp_camera

SECRET = "hunter2-p@ss"


@contextmanager
def closed_port() -> Iterator[str]:
    """host:port without a listener."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def failure(url: str, timeout_s: float = 5.0) -> SourceError:
    with pytest.raises(SourceError) as failed:
        Source(url, SourceOptions(timeout_s=timeout_s))
    error = failed.value
    seen = f"{error} {error!r} {error.__cause__} {error.__context__ if not error.__suppress_context__ else ''}"
    assert SECRET not in seen
    assert "hunter2" not in seen
    assert "\n" not in str(error)
    return error


STATUSES = {
    401: "auth",
    403: "auth",
    404: "missing",
    400: "missing",
    410: "missing",
    429: "gone",
    500: "gone",
    204: "codec",
}


@pytest.mark.parametrize("status", STATUSES)
def test_what_an_http_camera_answers(status: int) -> None:
    with camera(refuses(status)) as address:
        error = failure(f"http://admin:{SECRET}@{address}/live?token={SECRET}")
    assert error.code == STATUSES[status]
    assert str(status) in str(error) or error.code == "auth" or status == 404 or (status == 500 and "5XX" in str(error))


@pytest.mark.parametrize(
    ("target", "code", "says"),
    [
        ("/again", "protocol", "redirected more than 8 times"),
        ("file:///etc/passwd", "protocol", "redirected to file:///etc/passwd: that is no HTTP address"),
        (f"rtsp://admin:{SECRET}@127.0.0.1:1/cam", "protocol", "redirected to rtsp://127.0.0.1:1/cam: that is no HTTP"),
        (
            "http://nowhere.invalid/cam?token=x",
            "dns",
            "redirected to http://nowhere.invalid/cam?***: cannot be opened: dns",
        ),
        ("", "codec", "the server answered 302 Found, and sends nothing"),
    ],
)
def test_an_http_camera_that_redirects_nowhere(target: str, code: str, says: str) -> None:
    def redirects(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        if target:
            request.send_header("Location", target)
        request.end_headers()

    with camera(redirects) as address:
        error = failure(f"http://admin:{SECRET}@{address}/live?token={SECRET}")
    assert error.code == code
    assert says in str(error)


def test_a_silent_camera_times_out() -> None:
    with camera(stalls) as address:
        assert failure(f"http://admin:{SECRET}@{address}/live", timeout_s=0.5).code == "timeout"


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_camera_that_is_not_there(scheme: str) -> None:
    with closed_port() as address:
        error = failure(f"{scheme}://admin:{SECRET}@{address}/stream1")
    assert error.code == "refused"
    assert f"{scheme}://***@{address}/stream1" in str(error)


def test_a_camera_that_does_not_speak_tls() -> None:
    with camera(refuses(404)) as address:
        error = failure(f"https://admin:{SECRET}@{address}/live")
    assert error.code == "tls"
    assert "the host does not speak TLS" in str(error)


def test_a_page_is_no_video() -> None:
    with camera(answers(b"<html>log in</html>" * 1000)) as address:
        assert failure(f"http://admin:{SECRET}@{address}/").code == "codec"


def test_a_camera_plays_until_it_hangs_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = encode(tmp_path / "clip", "h264-ts")
    seen: list[int] = []
    with (
        caplog.at_level(logging.DEBUG),
        camera(plays(clip)) as address,
        Source(f"http://admin:{SECRET}@{address}/live") as source,
    ):
        assert source.live
        pictures = takewhile(lambda picture: seen.append(picture.seq) is None, source.pictures("gate", 1))
        with pytest.raises(SourceError, match="failed: gone") as failed:
            deque(pictures, maxlen=0)
        assert failed.value.code == "gone"
    assert "hunter2" not in caplog.text
    assert len(seen) >= 28


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("rtsp://u:p@cam/1", "rtsp://***@cam/1"),
        ("rtsp://u:p@ss/w@rd@cam:554/1", "rtsp://***@cam:554/1"),
        ("http://cam/live?user=u&password=p", "http://cam/live?***"),
        ("http://cam/live#secret", "http://cam/live#***"),
        ("Connection to rtsp://u:p@cam/1 failed", "Connection to rtsp://***@cam/1 failed"),
        ("/videos/a@b.mp4", "/videos/a@b.mp4"),
    ],
)
def test_addresses_are_shown_without_secrets(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_an_rtsp_camera_with_a_password(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 40, (320, 240))
    with (
        rtsp_camera(clip, SECRET.replace("@", "")) as address,
        Source(f"rtsp://admin:{SECRET.replace('@', '')}@{address}/stream1") as source,
    ):
        assert source.live
        assert source.codec == "h264"
        seen = list(source.pictures("gate", 1))
    decoder = Decoder()
    shown = [one.luma().copy() for picture in seen for one in decoder.push(picture)]
    theirs = [luma for _, luma in plainly_decoded(clip)]
    assert len(shown) >= 38
    assert all(np.array_equal(one, other) for one, other in zip(shown, theirs, strict=False))


def test_a_camera_is_joined_in_the_middle_of_its_pictures(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 40, (320, 240))
    with rtsp_camera(clip, start=3) as address, Source(f"rtsp://{address}/stream1") as source:
        seen = list(source.pictures("gate", 1))
        assert source.dropped == {"before the first keyframe": 7}
    assert seen[0].keyframe
    assert [picture.seq for picture in seen] == list(range(len(seen)))


def test_an_rtsp_camera_refuses_a_wrong_password(tmp_path: Path) -> None:
    with rtsp_camera(encode(tmp_path / "clip", "h264-plain"), "right") as address:
        assert failure(f"rtsp://admin:{SECRET}@{address}/stream1").code == "auth"


def test_a_camera_of_few_pictures_is_opened_at_its_first_ones(tmp_path: Path) -> None:
    """Not after the eight that FFmpeg reads by default."""
    clip = encode(tmp_path / "clip", "h264-plain", 12, fps=1)
    options = SourceOptions(timeout_s=6.0)
    with rtsp_camera(clip, pace=1.0) as address, Source(f"rtsp://{address}/cam", options) as source:
        assert next(source.pictures("gate", 1)).keyframe

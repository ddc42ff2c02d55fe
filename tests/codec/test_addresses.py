"""Interpretation of SOURCE, for any file name; no secret of an address is ever shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codecflow.codec.addresses import Address, is_address, redact, shown
from codecflow.codec.source import Source
from codecflow.errors import SourceError

from .clips import encode

NAMES = [
    "2024-08-20T13:28:35.mp4",
    "a:b@c.mp4",
    "100%.mp4",
    "clip%03d.mp4",
    "%41.mp4",
    "-clip.mp4",
    "two words.mp4",
    "Überwachung 門.mp4",
    "rtsp:cam.mp4",
    "udp:5000.mp4",
    "pipe:0",
    "concat:a|b.mp4",
    "what?.mp4",
    "it's #1.mp4",
    "*.mp4",
    "[1].mp4",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("clip") / "clip", "h264-plain", 12)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files(name: str, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for source in (name, f"./{name}", str(tmp_path / name), f"file:{name}", f"file:{tmp_path / name}"):
        with Source(source) as opened:
            assert sum(1 for _ in opened.pictures("gate", 1)) == 12
            assert not opened.live


def test_a_name_that_looks_like_an_address(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of this name takes precedence."""
    (tmp_path / "rtsp:" / "cam").mkdir(parents=True)
    shutil.copy(clip, tmp_path / "rtsp:" / "cam" / "1")
    monkeypatch.chdir(tmp_path)
    with Source("rtsp://cam/1") as opened:
        assert not opened.live
    assert not is_address("rtsp://cam/1")
    assert is_address("rtsp://cam/2")


def test_addresses_of_files(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "two words.mp4")
    for source in ("file://{}/two words.mp4", "file://{}/two%20words.mp4", "file:{}/two%20words.mp4"):
        with Source(source.format(tmp_path)) as opened:
            assert opened.name == str(tmp_path / "two words.mp4")
    with pytest.raises(SourceError, match="no such file"):
        Source("file:///nowhere/clip.mp4")


@pytest.mark.parametrize(
    ("make", "code", "says"),
    [
        (lambda path: None, "missing", "no such file"),
        (Path.touch, "codec", "the file is empty"),
        (Path.mkdir, "missing", "is not a file but a folder"),
        (lambda path: path.symlink_to("nowhere"), "missing", "a link to a file that is not there"),
        (lambda path: path.write_text("no video\n" * 99), "codec", "not a video"),
        (lambda path: path.write_text("#EXTM3U\nmissing.ts\n"), "codec", "a playlist whose parts"),
        (lambda path: path.write_text("<?xml?><MPD>"), "codec", "DASH is not supported"),
        (lambda path: path.write_text("v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n"), "codec", "an SDP description"),
        (lambda path: path.write_text("ffconcat version 1.0\n"), "codec", "a list of files"),
        (lambda path: path.write_text("<!DOCTYPE html>"), "codec", "a web page"),
    ],
)
def test_what_is_no_video(make: object, code: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    make(path)  # type: ignore[operator]
    with pytest.raises(SourceError, match=says) as refused:
        Source(str(path))
    assert refused.value.code == code
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_devices_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a file but a device"):
        Source("/dev/null")
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x")
    path.chmod(0)
    if os.geteuid():  # root may read anything
        with pytest.raises(SourceError, match="no permission"):
            Source(str(path))


def test_a_name_cannot_forge_a_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as refused:
        Source(f"{tmp_path}/a\n\x1b[2Jb.mp4")
    assert str(refused.value).isprintable()


PIPED = """
import sys
from codecflow.codec.opening import SourceOptions
from codecflow.codec.source import Source
with Source("-", SourceOptions(piped_live=sys.argv[1] == "live")) as source:
    print(source.name, source.live, source.again, sum(1 for _ in source.pictures("gate", 1)))
"""


@pytest.mark.parametrize("source", ["rtsp://", "http://", "http:///live", "rtsp://admin:pw@/1", "rtmp://:1935/live"])
def test_an_address_without_a_host(source: str) -> None:
    with pytest.raises(SourceError, match="an address without a host") as refused:
        Address.parse(source)
    assert "pw" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"ffmpeg: no such device\n"])
def test_standard_input_without_a_video(content: bytes) -> None:
    piped = subprocess.run(
        [sys.executable, "-c", PIPED, "live"], input=content, capture_output=True, check=False, timeout=60
    )
    assert piped.returncode
    assert b"standard input: cannot be opened: codec: not a video that can be read, or it ended before" in piped.stderr


@pytest.mark.parametrize("codec", ["h264-ts", "h264-raw", "hevc-raw", "mjpeg-avi"])
def test_standard_input(codec: str, tmp_path: Path) -> None:
    path = encode(tmp_path / "clip", "mjpeg" if codec == "mjpeg-avi" else codec)
    live = codec != "h264-ts"
    piped = subprocess.run(
        [sys.executable, "-c", PIPED, "live" if live else "file"],
        input=path.read_bytes(),
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert piped.stdout.decode() == f"standard input {live} False 30\n"
    if live and codec != "h264-raw":
        return
    with path.open("rb") as file:  # `<` gives a seekable file with an end
        done = subprocess.run(
            [sys.executable, "-c", PIPED, "live"], stdin=file, capture_output=True, check=True, timeout=60
        )
    assert done.stdout.decode() == "standard input False False 30\n"


secrets = st.text(st.characters(exclude_categories=("Cs",)), min_size=6).map(lambda text: f"s3cr{text}3t")


@given(secrets, secrets, st.sampled_from(["rtsp://", "http://", "rtsps://", "foo://", "rtsp:/", ""]))
@example("it's", 'a "b" c', "rtsp://")
@example("a\x01b", "\x1b[2J\x7f\u200e\n", "rtsp://")
@example("ä?", "?\x00 \\n", "http://")
def test_users_and_passwords_are_not_shown(user: str, password: str, scheme: str) -> None:
    source = f"{scheme}{user.replace(':', '')}:{password}@camera.example:554/stream1"
    printed = shown(source)
    assert printed in (f"{scheme}***@camera.example:554/stream1", f"{scheme}***") or scheme == ""
    assert "s3cr" not in printed
    replaced = source.encode("ascii", "replace").decode()
    for text in (f"cannot open {source}: refused", f"Got unexpected ({source})", repr(source), ascii(source), replaced):
        assert "s3cr" not in redact(text, ["produce", source, "--stream"])


@given(secrets, st.sampled_from("?#;&="))
def test_parameters_are_not_shown(secret: str, mark: str) -> None:
    for source in (
        f"http://camera.example/live{mark}token={secret}",
        f"rtsp://camera.example/user=admin&password={secret}",
        f"http://camera.example/live{mark}{secret}",
    ):
        assert "s3cr" not in shown(source)
        assert "3t" not in shown(source)
        if "@" not in secret:  # otherwise it might be a password's
            assert shown(source).startswith(source[: source.index("/", 8)])
        assert "s3cr" not in redact(f"it failed: {source}", [source])


@given(st.text(st.characters(exclude_characters="'\" \t\n\r", exclude_categories=("Cs", "Cc", "Z")), min_size=4))
def test_an_address_that_nobody_knew_of_is_redacted_too(password: str) -> None:
    printed = redact(f"Connection to rtsp://admin:s3cr{password}3t@camera.example/1 failed: refused")
    assert printed == "Connection to rtsp://***@camera.example/1 failed: refused"
    assert redact(printed) == printed


@pytest.mark.parametrize(
    ("source", "url"),
    [
        ("rtsp://admin:pa/ss@cam/1", "rtsp://admin:pa%2Fss@cam/1"),
        ("rtsp://admin:pa#s?s@cam:554/1", "rtsp://admin:pa%23s%3Fs@cam:554/1"),
        ("rtsp://admin:p@ss@cam/1", "rtsp://admin:p%40ss@cam/1"),
        ("rtsp://admin:p%40ss@cam/1", "rtsp://admin:p%40ss@cam/1"),
        ("http://cam/live?mail=a@b", "http://cam/live?mail=a@b"),
        ("RTSP://cam/1", "rtsp://cam/1"),
        ("rtsp://[::1]:554/1", "rtsp://[::1]:554/1"),
    ],
)
def test_what_ffmpeg_is_given(source: str, url: str) -> None:
    address = Address.parse(source)
    assert address.url == url
    assert unquote(address.url).lower() == unquote(source).lower()
    assert address.host in ("cam", "::1")

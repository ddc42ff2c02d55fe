"""Reaching a source: errors are specific, a silent host blocks nobody, and nobody is trusted without a certificate."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from codecflow.codec.opening import SourceOptions
from codecflow.codec.reader import StoppedError
from codecflow.codec.source import Source
from codecflow.errors import ConfigError, SourceError

from .cameras import Behaviour, camera, plays
from .clips import encode
from .rtsp import rtsp_camera
from .serving import CERTIFICATES

QUICK = SourceOptions(timeout_s=1.0)


@contextmanager
def tarpit() -> Iterator[str]:
    """host:port of a host that accepts connections and never sends anything."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(5)
        yield f"127.0.0.1:{server.getsockname()[1]}"


def read(source: Source) -> int:
    return sum(1 for _ in source.pictures("gate", 1))


def refusal(url: str, options: SourceOptions = QUICK) -> SourceError:
    with pytest.raises(SourceError) as refused:
        Source(url, options)
    return refused.value


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp", "rtmp", "https", "rtsps"])
def test_a_host_that_accepts_and_says_nothing(scheme: str) -> None:
    with tarpit() as address:
        began = time.monotonic()
        error = refusal(f"{scheme}://{address}/cam")
    assert error.code == "timeout"
    assert "timeout: no video came within 1 s" in str(error)
    assert time.monotonic() - began < 40


def test_a_name_that_nobody_has() -> None:
    for scheme in ("rtsp", "http", "tcp"):
        error = refusal(f"{scheme}://camera.invalid:8554/cam")
        assert (error.code, "dns" in str(error)) == ("dns", True)


def test_rtsp_over_udp(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 40, (320, 240))
    notices: list[str] = []
    options = SourceOptions(timeout_s=2.0)
    with rtsp_camera(clip, transport="udp", hangs=True) as address:
        with Source(f"rtsp://{address}/cam", options, notice=notices.append) as source:
            pictures = source.pictures("gate", 1)
            assert [next(pictures).seq for _ in range(30)] == list(range(30))
        assert len(notices) == 1
        assert "the camera refuses RTSP over TCP; using UDP" in notices[0]
        with Source(f"rtsp://{address}/cam", SourceOptions(2.0, rtsp_transport="udp"), notice=notices.append) as source:
            next(source.pictures("gate", 1))
        assert len(notices) == 1
        error = refusal(f"rtsp://{address}/cam", SourceOptions(2.0, rtsp_transport="tcp"))
    assert error.code == "transport"
    assert "--rtsp-transport auto" in str(error)


def test_a_camera_that_takes_tcp_but_sends_nothing_that_way(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 40, (320, 240))
    notices: list[str] = []
    with (
        rtsp_camera(clip, silent_over_tcp=True, hangs=True) as address,
        Source(f"rtsp://{address}/cam", SourceOptions(timeout_s=2.0), notice=notices.append) as source,
    ):
        pictures = source.pictures("gate", 1)
        assert [next(pictures).seq for _ in range(30)] == list(range(30))
    assert len(notices) == 1
    assert "the camera sends no video over TCP; using UDP, which can lose packets" in notices[0]


@pytest.mark.parametrize("other", ["127.0.0.1", "localhost"])
def test_credentials_follow_a_redirection_only_to_the_same_host(other: str, tmp_path: Path) -> None:
    clip, asked = encode(tmp_path / "clip", "h264-plain", 40, (320, 240)), list[str]()
    with rtsp_camera(clip, "geheim" if other == "127.0.0.1" else None, asked=asked) as target:
        moved_to = f"rtsp://{other}:{target.partition(':')[2]}/http/cam"
        with (
            rtsp_camera(clip, "geheim", moved_to=moved_to) as address,
            Source(f"rtsp://admin:geheim@{address}/cam", QUICK) as source,
        ):
            assert read(source) >= 38
    assert any("Authorization" in request for request in asked) == (other == "127.0.0.1")


@pytest.mark.parametrize("moved_to", ["http://127.0.0.1:1/x", "file:///etc/hostname", "/etc/hostname", "rtsp://[", "@"])
def test_a_redirection_that_leads_nowhere(moved_to: str, tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 10)
    with rtsp_camera(clip, "geheim", moved_to=moved_to) as address:
        error = refusal(f"rtsp://admin:geheim@{address}/cam")
    assert error.code == "protocol"
    assert "geheim" not in str(error)
    assert address in str(error)


def test_rtsp_over_tcp_only(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 40, (320, 240))
    with rtsp_camera(clip) as address:
        assert refusal(f"rtsp://{address}/cam", SourceOptions(2.0, rtsp_transport="udp")).code == "transport"
        notices: list[str] = []
        with Source(f"rtsp://{address}/cam", notice=notices.append) as source:
            assert read(source) >= 38
    assert not notices


def test_a_camera_that_stops_in_mid_stream(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-plain", 40, (320, 240))
    with (
        rtsp_camera(clip, hangs=True) as address,
        Source(f"rtsp://{address}/cam", QUICK) as source,
        pytest.raises(SourceError, match="failed: timeout: no video came within 1 s") as failed,
    ):
        read(source)
    assert failed.value.code == "timeout"


def stalls_after(clip: Path) -> Behaviour:
    def behave(request: object) -> None:
        plays(clip)(request)  # type: ignore[arg-type]
        time.sleep(20)

    return behave


@pytest.mark.parametrize("where", ["opening", "reading"])
@pytest.mark.parametrize("kind", ["rtsp", "http", "pipe"])
def test_a_stop_is_heard_within_a_moment(where: str, kind: str, tmp_path: Path) -> None:
    stop = threading.Event()
    timer = threading.Timer(1.0, stop.set)

    def waited(url: str) -> float:
        """Seconds from the start of the timer to the end of reading."""
        timer.start()
        began = time.monotonic()
        with pytest.raises(StoppedError):
            open_and_read(url)
        return time.monotonic() - began

    def open_and_read(url: str) -> None:
        with Source(url, SourceOptions(30.0), stopped=stop.is_set) as source:
            assert where == "reading"
            read(source)

    clip = encode(tmp_path / "clip", "h264-ts" if kind != "rtsp" else "h264-plain", 40, (320, 240))
    if kind == "pipe":
        os.mkfifo(tmp_path / "pipe")
        if where == "reading":
            writer = os.open(tmp_path / "pipe", os.O_RDWR)
            threading.Thread(target=os.write, args=(writer, clip.read_bytes()), daemon=True).start()
        lasted = waited(str(tmp_path / "pipe"))
    elif where == "opening":
        with tarpit() as address:
            lasted = waited(f"{kind}://{address}/cam")
    elif kind == "http":
        with camera(stalls_after(clip)) as address:
            lasted = waited(f"http://{address}/cam")
    else:
        with rtsp_camera(clip, hangs=True) as address:
            lasted = waited(f"rtsp://{address}/cam")
    assert lasted < 3.0, "a second, and room for a busy machine"


def test_https_and_rtsps_cameras_must_prove_who_they_are(tmp_path: Path) -> None:
    """An impostor gets no password."""
    ts, mp4 = encode(tmp_path / "clip", "h264-ts"), encode(tmp_path / "clip", "h264-plain")
    trusted = SourceOptions(5.0, tls_ca=CERTIFICATES / "ca.pem")
    for name, options, code in [
        ("camera", trusted, None),
        ("camera", SourceOptions(5.0), "tls"),
        ("other", trusted, "tls"),
        ("other", SourceOptions(5.0, insecure=True), None),
    ]:
        asked: list[str] = []
        with (
            camera(plays(ts), CERTIFICATES / f"{name}.pem") as http,
            rtsp_camera(mp4, "secret", certificate=CERTIFICATES / f"{name}.pem", asked=asked) as rtsp,
        ):
            for url in (f"https://admin:secret@{http}/live", f"rtsps://admin:secret@{rtsp}/live"):
                if code:
                    error = refusal(url, options)
                    assert error.code == code
                    assert "its certificate is not trusted" in str(error)
                    assert "--tls-ca FILE" in str(error)
                    assert not asked
                else:
                    with Source(url, options) as source:
                        assert next(source.pictures("gate", 1)).keyframe


def playlist(*entries: str) -> bytes:
    lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:3"]
    for entry in entries:
        lines += ["#EXTINF:3,", entry]
    return "\n".join([*lines, "#EXT-X-ENDLIST", ""]).encode()


def serves(files: dict[str, Callable[[], bytes]], requests: list[str]) -> Behaviour:
    def behave(request: object) -> None:
        path = request.path  # type: ignore[attr-defined]
        requests.append(path)
        content = files[path]()
        request.send_response(200)  # type: ignore[attr-defined]
        request.send_header("Content-Length", str(len(content)))  # type: ignore[attr-defined]
        request.end_headers()  # type: ignore[attr-defined]
        request.wfile.write(content)  # type: ignore[attr-defined]

    return behave


def test_hls_over_https_is_checked_to_its_last_part(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-ts").read_bytes()
    options, asked = SourceOptions(5.0, tls_ca=CERTIFICATES / "ca.pem"), list[str]()
    with camera(serves({"/part.ts": lambda: clip}, asked), CERTIFICATES / "other.pem") as impostor:
        files = {
            "/own.m3u8": lambda: playlist("part.ts"),
            "/foreign.m3u8": lambda: playlist(f"https://{impostor}/part.ts"),
            "/part.ts": lambda: clip,
        }
        with camera(serves(files, list[str]()), CERTIFICATES / "camera.pem") as address:
            with Source(f"https://{address}/own.m3u8", options) as source:
                assert read(source) == 30
            with pytest.raises(SourceError):
                Source(f"https://{address}/foreign.m3u8", options)
    assert not asked


def test_a_playlist_opens_nothing_beside_its_own_folder(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-ts")
    folder = tmp_path / "recording"
    folder.mkdir()
    (folder / "part.ts").write_bytes(clip.read_bytes())
    (folder / "own.m3u8").write_bytes(playlist("part.ts"))
    with Source(str(folder / "own.m3u8")) as source:
        assert read(source) == 30
    for entry in (str(clip), f"file://{clip}", "../clip.ts", "http://127.0.0.1:1/part.ts"):
        (folder / "foreign.m3u8").write_bytes(playlist(entry))
        assert refusal(str(folder / "foreign.m3u8")).code == "codec"
    (folder / "list.mp4").write_text(f"ffconcat version 1.0\nfile '{folder}/part.ts'\n")
    assert "a list of files" in str(refusal(str(folder / "list.mp4")))


def test_a_playlist_from_the_network_opens_no_local_file(tmp_path: Path) -> None:
    clip = encode(tmp_path / "clip", "h264-ts")
    for entry in (str(clip), f"file://{clip}", f"concat:{clip}", f"subfile,,start,0,end,0,,:{clip}"):
        files = {"/x.m3u8": partial(playlist, entry)}
        with camera(serves(files, list[str]())) as address, pytest.raises(SourceError):
            Source(f"http://{address}/x.m3u8", QUICK)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("srt://camera.invalid:9000", "srt://"),
        ("rtspt://camera.invalid/cam", "--rtsp-transport tcp"),
        ("webrtc://camera.invalid/cam", "protocol webrtc:// is not supported"),
        ("onvif://camera.invalid/cam", "rtsp:// address"),
        ("concat:///etc/hostname", "protocol concat:// is not supported"),
        ("subfile://x", "protocol subfile:// is not supported"),
    ],
)
def test_protocols_that_are_not_supported(url: str, says: str) -> None:
    error = refusal(url)
    assert error.code == "protocol"
    assert says in str(error)


def test_options_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for options in (
        {"rtsp_transport": "http"},
        {"track": 0},
        {"tls_ca": tmp_path / "missing.pem"},
        {"tls_ca": tmp_path / "no.pem"},
        {"tls_ca": CERTIFICATES / "ca.pem", "insecure": True},
    ):
        with pytest.raises(ConfigError):
            SourceOptions(**options)  # type: ignore[arg-type]


def test_udp(tmp_path: Path) -> None:
    """A transport stream in datagrams of seven packets, as cameras and encoders send it."""
    content = encode(tmp_path / "clip", "h264-ts", 60, (320, 240)).read_bytes()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            while not ended.is_set():
                for at in range(0, len(content), 7 * 188):
                    sender.sendto(content[at : at + 7 * 188], ("127.0.0.1", port))
                    time.sleep(0.002)

    assert refusal(f"udp://127.0.0.1:{port}").code == "timeout"
    thread = threading.Thread(target=send)
    thread.start()
    try:
        with Source(f"udp://127.0.0.1:{port}", SourceOptions(timeout_s=5.0)) as source:
            assert source.live
            assert source.again
            pictures = source.pictures("gate", 1)
            assert [next(pictures).seq for _ in range(30)] == list(range(30))
    finally:
        ended.set()
        thread.join()


def test_of_an_hls_address_only_one_rendition_is_fetched(tmp_path: Path) -> None:
    """FFmpeg reads the first part of each to detect their types."""
    small = encode(tmp_path / "small", "h264-ts", 30, (96, 80)).read_bytes()
    large = encode(tmp_path / "large", "h264-ts", 30, (160, 128)).read_bytes()
    master = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=100000\nsmall.m3u8\n#EXT-X-STREAM-INF:BANDWIDTH=900000\nlarge.m3u8\n"
    files: dict[str, Callable[[], bytes]] = {"/master.m3u8": master.encode}
    for name, content in (("small", small), ("large", large)):
        files[f"/{name}.m3u8"] = partial(playlist, *(f"{name}{number}.ts" for number in range(6)))
        files |= {f"/{name}{number}.ts": partial(bytes, content) for number in range(6)}
    asked: list[str] = []
    notices: list[str] = []
    with camera(serves(files, asked)) as address:
        with Source(f"http://{address}/master.m3u8", SourceOptions(5.0, track=2), notice=notices.append) as source:
            assert not source.live
            assert read(source) == 180
            assert (source.width, source.height) == (160, 128)
        with Source(f"http://{address}/master.m3u8", SourceOptions(5.0), notice=notices.append):
            pass
    assert "2 video tracks: 1 h264 96x80, 2 h264 160x128; taking 1" in notices[-1]
    assert len([path for path in asked if path.startswith("/small") and path.endswith(".ts")]) <= 4

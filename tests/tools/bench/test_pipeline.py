"""`codecflow bench pipeline`: cameras from recordings, a whole worker under their load, and the reported figures."""

from __future__ import annotations

import inspect
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from msgspec import structs

from codecflow.cli.bench import pipeline as bench_command
from codecflow.cli.worker import worker as worker_command
from codecflow.errors import ConfigError, ModelError, SourceError
from codecflow.localkafka.daemon import LocalKafka
from codecflow.messages import decode_metadata, decode_packet
from codecflow.messages.metadata import PictureMetadata
from codecflow.tools.bench.camera_load import Camera, Cameras, Load
from codecflow.tools.bench.clip_recording import RecordedClip, load_recording, record_clip, save_recording
from codecflow.tools.bench.pipeline_measurement import Outcome, Timing, measure
from codecflow.tools.bench.pipeline_places import KafkaPlace, Place, ReplayPlace
from codecflow.tools.bench.pipeline_report import figures
from codecflow.tools.bench.pipeline_run import QUESTION, Options, find, run
from codecflow.tools.bench.stub_engine import StubEngine, hollow_family
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from codecflow.worker.answering import Provenance, WindowEngine
from codecflow.worker.options import WorkerOptions
from codecflow.worker.summary import BusyTime
from codecflow.worker.window_plan import WindowPlan
from tests.worker.memory import Committed, Topics, encode_clip
from tests.worker.memory import Worker as MemoryWorker
from tests.worker.running import KEEP

WORKER = WorkerOptions(window="4", stride="2", samplers=2, question=QUESTION.prompt, yes_no=True)
SETTINGS = WORKER.settings()
TIMING = Timing(3, 4)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9 s of a small clip with B-frames: loops of 8 s."""
    return encode_clip(tmp_path_factory.mktemp("clip") / "square.mp4", 9)


@pytest.fixture(scope="module")
def clip(file: Path) -> RecordedClip:
    return record_clip(file)


@pytest.fixture(scope="module")
def recording(clip: RecordedClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "square.rec"
    save_recording(path, [clip])
    return path


@pytest.fixture(scope="module")
def stub() -> WindowEngine:
    return StubEngine(hollow_family("codecflow-tiny", torch.device("cpu")), 0.01)


def under_load(place: Place, engine: WindowEngine, recording: Path, streams: int, timing: Timing = TIMING) -> Outcome:
    load = Load(str(recording), streams, 2.0, int(time.time() * 1000))
    return measure(place, load, SETTINGS, engine, Provenance("replenish", "test", trained=False), timing)


def kept(outcome: Outcome) -> dict[tuple[str, int], tuple[int, int]]:
    return {(one.stream, one.index): (one.result.tokens.kept, one.result.tokens.total) for one in outcome.windows}


def records(camera: Camera, count: int) -> Topics:
    topics = Topics()
    camera.start(100.0, 1000.0)
    for _ in range(count):
        one = camera.take()
        topics.packets.append((one.key, one.value, list(one.headers)))
        topics.metadata.append((one.key, one.document))
    return topics


def test_a_camera_goes_on_after_its_clip_in_the_same_epoch(clip: RecordedClip) -> None:
    assert (clip.seconds, len(clip.pictures), clip.ticks) == (8, 80, 16)
    topics = records(Camera("gate", clip, 0.0, 5), 200)
    packets = [decode_packet(*record) for record in topics.packets if record]
    documents = [decode_metadata(*record) for record in topics.metadata if record]
    assert {picture.epoch for picture in packets} == {document.epoch for document in documents} == {5}
    assert [picture.seq for picture in packets] == [document.seq for document in documents] == list(range(80, 280))
    assert all(picture.live for picture in packets)
    shown = sorted(float(picture.pts * picture.time_base) for picture in packets)
    assert {round(b - a, 6) for a, b in pairwise(shown[:-3])} == {0.1}
    captured = [picture.captured_at_ms for picture in packets]
    assert captured == sorted(captured)
    ticks = sorted(d.signal.tick for d in documents if isinstance(d, PictureMetadata) and d.signal is not None)
    assert ticks == list(range(ticks[0], ticks[0] + len(ticks)))


def test_a_worker_finds_nothing_missing_where_the_loop_begins_again(clip: RecordedClip) -> None:
    plan = WindowPlan.of(6, 2, 2)
    worker = MemoryWorker(records(Camera("gate", clip, 0.5, 5), 240), Committed(), plan, KEEP).run()
    assert not worker.dead
    counts = worker.counts["gate"]
    assert counts["lost-pictures"] == counts["windows-skipped"] == counts["picture-missing"] == 0
    indices = [window.index for window in worker.windows]
    assert indices == list(range(indices[0], indices[0] + len(indices)))
    assert len(indices) >= 10
    # All loops are the same, except for the frames that open the stream.
    tokens = {frame.index: int(frame.keep.sum()) for window in worker.windows for frame in window.frames}
    slots = sorted(tokens)
    assert [tokens[slot] for slot in slots[8:20]] == [tokens[slot + 16] for slot in slots[8:20]]


def test_windows_of_cameras_close_evenly_spread(clip: RecordedClip) -> None:
    cameras = Cameras([clip], 4, 8.0, 1)
    cameras.start(1000.0)
    closes = sorted((camera.due - camera.begins_at) % 8 for camera in cameras.cameras)
    gaps = [b - a for a, b in pairwise(closes)]
    assert gaps == pytest.approx([2.0, 2.0, 2.0])
    assert all(1000 <= camera.due < 1008 for camera in cameras.cameras)


def test_a_recording_is_read_as_it_was_written(clip: RecordedClip, recording: Path, file: Path) -> None:
    assert load_recording(recording) == [clip]
    assert recording.stat().st_size < 1.5 * file.stat().st_size + 200_000


def test_real_brokers_and_a_replay_give_the_same_windows(
    kafka: LocalKafka, stub: WindowEngine, recording: Path
) -> None:
    for measured_s in (6, 30):  # a busy machine answers few windows within a short run
        brokers = under_load(KafkaPlace(kafka, 2), stub, recording, 3, Timing(3, measured_s))
        replay = under_load(ReplayPlace(2), stub, recording, 3, Timing(3, measured_s))
        common = kept(brokers).keys() & kept(replay).keys()
        printed = figures(brokers)
        streams = {stream for stream, _ in common}
        if len(common) >= 6 and len(streams) == 3 and printed["frames_per_s"] > 2:
            break
    assert len(common) >= 6
    for outcome in (brokers, replay):
        assert {window.stream for window in outcome.windows} == {"camera-0", "camera-1", "camera-2"}
        assert all(window.result.error is None for window in outcome.windows)
    assert {key: kept(brokers)[key] for key in common} == {key: kept(replay)[key] for key in common}
    assert set(printed["stages"]) == {"consumer", "join", "sampler", "engine", "committer"}
    assert printed["frames_per_s"] > 2
    assert printed["delay_max_s"] > 0
    assert 0 < printed["stages"]["sampler"]["busy_share"] <= 1.05
    assert printed["stages"]["sampler"]["threads"] == 2
    assert printed["broker_cores"] > 0


def test_a_model_with_random_weights_answers_two_cameras(kafka: LocalKafka, recording: Path, tmp_path: Path) -> None:
    family = load_model(
        str(make_tiny(tmp_path / "tiny", image_size=112, hidden=32, vision_hidden=32)), "float32", "cpu"
    )
    outcome = under_load(KafkaPlace(kafka, 2), WORKER.engine(family), recording, 2)
    assert {window.stream for window in outcome.windows} == {"camera-0", "camera-1"}
    assert all(window.result.p_yes is not None for window in outcome.windows)
    assert figures(outcome)["kv_bytes_per_stream"] > 0


def test_a_thread_that_is_always_at_work_is_counted_while_it_is() -> None:
    busy = BusyTime()
    until = time.monotonic() + 0.3
    while time.monotonic() < until:
        busy.lap(0.01)
    assert busy.since is not None
    assert busy.wall_s > 0.25
    assert 0 < busy.cpu_s <= busy.wall_s + 0.05
    busy.end()
    wall_s = busy.wall_s
    time.sleep(0.05)
    assert busy.wall_s == wall_s


def test_an_engine_that_is_too_slow_is_not_sustained_and_named(recording: Path) -> None:
    slow = StubEngine(hollow_family("codecflow-tiny", torch.device("cpu")), 1.5)
    outcome = under_load(ReplayPlace(2), slow, recording, 4, Timing(2, 8))
    assert not outcome.sustained
    assert any("answered" in reason for reason in outcome.reasons)
    assert figures(outcome)["bottleneck"] == "engine"
    assert figures(outcome)["stages"]["engine"]["busy_share"] > 0.7


def test_the_command_ends_with_one_json_line(
    file: Path, recording: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    kept_file = tmp_path / "kept.rec"
    run(Options(clips=[file], record=kept_file))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["bytes"] == kept_file.stat().st_size
    run(Options(replay=kept_file, streams="1,2", engine="stub", worker=WORKER, seconds=4, warm_up=2))
    out = capsys.readouterr().out
    found = json.loads(out.splitlines()[-1])
    assert [one["streams"] for one in found["results"]] == [1, 2]
    assert found["kafka"] is False
    assert "sampler" in out


@dataclass
class _FakeBench:
    """Sustains up to `most` streams, one fewer in full-length runs."""

    most: int
    options: Options = field(default_factory=Options)
    stride_s: float = 8.0
    runs: list[tuple[int, bool]] = field(default_factory=list)

    def run(self, streams: int, measured: float, *, stop_early: bool = False) -> Outcome:
        assert (measured == self.options.seconds) == (not stop_early)
        self.runs.append((streams, stop_early))
        sustained = streams <= self.most - (not stop_early)
        return Outcome(streams, [], [], [] if sustained else ["too slow"])


@pytest.mark.parametrize(("most", "expected"), [(38, 37), (1, 0), (0, 0), (500, 100), (2, 1), (100, 99)])
def test_the_most_streams_are_found_between_bounds(most: int, expected: int) -> None:
    bench = _FakeBench(most)
    found = find(bench, (1, 100))
    sustained = [outcome.streams for outcome in found if outcome.sustained]
    assert sustained == ([expected] if expected else []) or (sustained and 0.92 * expected <= sustained[0] <= expected)
    assert len(bench.runs) < 16
    assert all(1 <= streams <= 100 for streams, _ in bench.runs)


def test_the_worker_is_measured_with_the_products_defaults() -> None:
    worker, bench = (
        {name: one.default for name, one in inspect.signature(command).parameters.items()}
        for command in (worker_command, bench_command)
    )
    shared = worker.keys() & bench.keys() - {"model"}
    assert {"window", "stride", "fps", "keep", "refresh", "samplers", "buffer", "memory", "when_behind"} <= shared
    assert {name: bench[name] for name in shared} == {name: worker[name] for name in shared}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give a CLIP, or --replay"),
        ({"clips": [Path("/no/such.mp4")]}, "no/such.mp4"),
        ({"replay": Path("/dev/null")}, "/dev/null: not a file that"),
        ({"replay": Path("/no/such.rec")}, "/no/such.rec: cannot be read"),
        ({"clips": [Path("a")], "replay": Path("b")}, "not both"),
        ({"clips": [Path("a")], "streams": "0"}, "--streams '0'"),
        ({"clips": [Path("a")], "streams": "3,x"}, "--streams '3,x'"),
        ({"clips": [Path("a")], "streams": "9,3", "find": True}, "lower and an upper bound"),
        ({"clips": [Path("a")], "engine": "none"}, "--engine 'none'"),
        ({"clips": [Path("a")], "shape": "huge"}, "'huge'"),
        ({"clips": [Path("a")], "worker": WorkerOptions(window="0.3")}, "--window 0.3 s"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, object], said: str) -> None:
    with pytest.raises((ConfigError, ModelError, SourceError), match=said) as error:
        run(Options(**options))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_a_damaged_recording_is_one_line(recording: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.rec"
    broken.write_bytes(recording.read_bytes()[:-500])
    with pytest.raises(ConfigError, match=r"broken\.rec: damaged"):
        run(Options(replay=broken, streams="1", engine="stub"))
    clip = load_recording(recording)[0]
    of_tomorrow = [structs.replace(one, document=one.document.replace(b'"v":', b'"v":9')) for one in clip.pictures]
    save_recording(broken, [structs.replace(clip, pictures=of_tomorrow)])
    with pytest.raises(ConfigError, match=r"broken\.rec: of another version .*record it again"):
        run(Options(replay=broken, streams="1", engine="stub"))

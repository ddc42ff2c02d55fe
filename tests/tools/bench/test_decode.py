from __future__ import annotations

import json
from pathlib import Path

import pytest

from codecflow.codec.nvdec import on_cpu, use_nvdec
from codecflow.errors import ConfigError
from codecflow.exact import counts
from codecflow.tools.bench.decode_rate import run
from tests.clips import BUNDLED, cut
from tests.tools.bench.clips import encode


def test_every_clip_has_rates_for_every_number_of_streams(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [cut(1, tmp_path / "a.mp4"), encode(tmp_path / "b.mkv", "mjpeg", 64, 48, 5)]
    run(clips, streams=[1, 2], pictures=20, seconds=0.1, every=2)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert {clip["codec"] for clip in figures.values()} == {"h264", "mjpeg"}
    for clip in figures.values():
        assert {"cpu/1", "cpu/2"} <= clip["pictures_per_s"].keys()
        assert all(rate > 0 for rate in clip["pictures_per_s"].values())
        assert clip["nvdec_luma_differs"] in (0, None)


@pytest.mark.skipif(use_nvdec("auto"), reason="this machine has an NVIDIA video decoder")
def test_without_a_gpu_nvdec_is_refused_and_auto_is_the_cpu() -> None:
    with pytest.raises(ConfigError, match="--decode nvdec: this machine has no NVIDIA video decoder"):
        use_nvdec("nvdec")
    assert not use_nvdec("cpu")


def test_where_to_decode_is_one_of_three_words() -> None:
    with pytest.raises(ConfigError, match="--decode 'gpu': use auto, cpu or nvdec"):
        use_nvdec("gpu")


def test_a_frame_in_memory_is_not_copied() -> None:
    import av

    with av.open(str(BUNDLED)) as container:
        frame = next(container.decode(video=0))
    assert on_cpu(frame) is frame


@pytest.mark.parametrize("streams", ["0", "1,x", ""])
def test_streams_that_are_none(streams: str) -> None:
    with pytest.raises(ConfigError, match="--streams"):
        counts(streams, "--streams")

"""The demo's measurements of a clip, and its summary of answers."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from codecflow.codec.source import clip_seconds
from codecflow.errors import ConfigError, SourceError
from codecflow.messages import Flops, Tokens
from codecflow.tools.demo.source_figures import fitting_stride, jpeg_bytes
from codecflow.tools.demo.tally import tally
from tests.clips import cut
from tests.subscriber.example_results import windows


def test_a_clip_is_measured(tmp_path: Path) -> None:
    clip = cut(4, tmp_path / "clip.mp4")
    assert clip_seconds(clip) == pytest.approx(4.1, abs=0.1)
    frames, size = jpeg_bytes(clip, Fraction(2))
    assert frames in (8, 9)
    assert 10_000 < size / frames < 100_000
    twice, larger = jpeg_bytes(clip, Fraction(4))
    assert 2 * frames - 2 <= twice <= 2 * frames
    assert larger > size


def test_no_video_is_reported(tmp_path: Path) -> None:
    (tmp_path / "note.mp4").write_text("no video")
    with pytest.raises(SourceError, match=r"note\.mp4"):
        clip_seconds(tmp_path / "note.mp4")


@pytest.mark.parametrize(("seconds", "stride"), [(0, 8), (139.0, 8), (8.0, 8), (7.9, 7), (1.0, 1)])
def test_a_stride_fits_the_clip(seconds: float, stride: int) -> None:
    assert fitting_stride(seconds, 8) == stride


def test_a_clip_of_less_than_a_second_has_no_window() -> None:
    with pytest.raises(ConfigError, match=r"lasts 0\.4 s"):
        fitting_stride(0.4, 8)


def test_tokens_are_counted_once_a_window_and_flops_once_a_question() -> None:
    first, second = (
        replace(result, tokens=Tokens(kept, 400, kept, reused), flops=Flops(vit=5, llm=5, full=100))
        for result, kept, reused in zip(windows("demo", 2), (400, 40), (0, 360), strict=True)
    )
    results = [replace(result, question=name) for result in (first, second) for name in ("person", "scene")]
    figures = tally(
        results, pictures=200, packets_bytes=1000, metadata_bytes=50, source_bytes=900, jpeg=(32, 9000), seconds=1.5
    )
    assert (figures.windows, figures.answers, figures.frames_missing) == (2, 4, 2)
    assert figures.tokens_kept_share == 440 / 800
    assert figures.kv_refreshed_share == 440 / 800
    assert figures.flops_share == 0.1
    assert figures.document()["metadata_bytes"] == 50
    assert "5.0% of it" in "\n".join(figures.lines())

"""`codecflow explain` on a real clip, and the bookkeeping behind its figures."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from codecflow.tools.bench.savings import QUESTION_TOKENS, REFRESHES, FrameRecord, savings, windows_of
from codecflow.vlm.flops import causal_pairs
from codecflow.worker.window_plan import WindowPlan
from tests.commands import Done, codecflow
from tests.tools.bench.clips import CLIP, encode


def explain(*arguments: str | Path) -> Done:
    return codecflow("explain", *arguments)


def record(slot: int, kept: int, *, anchor: bool = False, total: int = 256) -> FrameRecord:
    return FrameRecord(slot, slot / 2, total, kept, compared=0, certified=0, anchor=anchor, motion_kept=total)


def test_three_pictures_and_the_figures_of_the_bundled_clip(tmp_path: Path) -> None:
    done = explain(CLIP, "--out", tmp_path / "new" / "pictures", "--seconds", "30", "--window", "16", "--stride", "4")
    assert done.returncode == 0, done.stderr
    figures = orjson.loads(done.stdout.splitlines()[-1])
    assert [Path(name).name for name in figures["pictures"]] == [
        "frame.png",
        "window.png",
        "share.png",
        "background.png",
    ]
    for name in figures["pictures"]:
        with Image.open(name) as picture:
            assert min(picture.size) > 400
            assert len(picture.convert("RGB").resize((64, 64)).getcolors(4096) or ()) > 50, f"{name} is empty"
    flops = figures["flops"]
    assert flops["replenish + none"] < flops["replenish + anchors"] < flops["motion + anchors"] < flops["all + all"]
    assert flops["all + all"] > 8 * flops["replenish + none"]
    assert 0 < figures["kept_share"] < figures["motion_kept_share"] < 1
    assert 0 < figures["certified_share"] < 1
    assert 0 < figures["gops_decoded"] < figures["gops"] - 3, (
        "its first 5 s are empty: anchors are decoded, nothing else"
    )
    assert 0 < figures["decoded_pictures"] < figures["coded_pictures"] / 2


@pytest.mark.parametrize("fps", ["2", "1/2"])
def test_a_camera_of_one_picture_per_second_in_a_file_named_by_its_time(tmp_path: Path, fps: str) -> None:
    clip = encode(tmp_path / "2024-08-20T13:28:35.mp4", "libx264", 96, 64, pictures=60, rate=1)
    done = explain(clip, "--out", tmp_path, "--fps", fps)
    assert done.returncode == 0, done.stderr
    figures = orjson.loads(done.stdout.splitlines()[-1])
    assert figures["frames"] == (30 if fps == "1/2" else 60)
    assert figures["kept_share"] < 0.9


def test_a_codec_without_vectors_and_an_upright_picture_are_drawn_too(tmp_path: Path) -> None:
    clip = encode(tmp_path / "upright.mkv", "mjpeg", 90, 160, pictures=60)
    zones = tmp_path / "zones.json"
    zones.write_text('[{"name": "street", "use": "ignore", "polygon": [[0, 0], [0.4, 0], [0.2, 0.3]]}]')
    options = ("--window", "4", "--stride", "2", "--coverage", "rolling", "--refresh", "none", "--zones", zones)
    done = explain(clip, "--out", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "frame.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no-such-file.mp4"], 3, "no such file"),
        ([CLIP, "--refresh", "some"], 2, "refresh policy 'some'"),
        ([CLIP, "--seconds", "5"], 2, "use a shorter --stride"),
        ([CLIP, "--coverage", "41"], 2, "must lie within 40 s"),
        ([CLIP, "--window", "1/3"], 2, "window"),
    ],
)
def test_what_cannot_work_is_one_clear_line(tmp_path: Path, arguments: list[str | Path], code: int, words: str) -> None:
    done = explain(*arguments, "--out", tmp_path)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_file_where_the_folder_should_be_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    done = explain(CLIP, "--out", tmp_path / "taken")
    assert done.returncode == 2
    assert "taken: cannot be made" in done.stderr


@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.booleans()), min_size=4, max_size=60),
    st.integers(1, 6),
    st.integers(1, 4),
    st.sampled_from(REFRESHES),
)
def test_every_token_in_a_window_is_new_refreshed_or_reused(
    frames: list[tuple[bool, int, bool]], window: int, stride: int, refresh: str
) -> None:
    """Frames may be missing, but not the last one, so that windows close."""
    records = [record(slot, kept, anchor=anchor) for slot, (there, kept, anchor) in enumerate(frames[:-1]) if there]
    records.append(record(len(frames) - 1, 3))
    plan = WindowPlan(window, stride, Fraction(2))
    if plan.end(0) > len(frames):
        return
    held: dict[int, int] = {}
    for w in windows_of(records, plan, refresh):
        first, end = plan.first(w.window), plan.end(w.window)
        tokens = {r.slot: r.kept for r in records if first <= r.slot < end}
        assert sum(w.new) + sum(w.refreshed) + sum(w.reused) == sum(tokens.values())
        assert sum(w.evicted) == sum(kept for slot, kept in held.items() if slot < first)
        assert sum(w.new) == sum(kept for slot, kept in tokens.items() if slot not in held)
        assert w.full == 256 * len(tokens)
        held = tokens


def test_the_cost_of_a_whole_window_is_that_of_one_causal_forward() -> None:
    plan = WindowPlan(window_slots=4, stride_slots=2, fps=Fraction(2))
    windows = windows_of([record(slot, 256) for slot in range(6)], plan, "all")
    whole = savings(windows[-1:], from_scratch=True)
    assert whole.encoded == whole.computed == whole.held == 4 * 256
    # Qwen2.5-7B: 28 layers of q, k, v, o and a gated MLP; scores and weighted sums of every pair; one token's vocabulary.
    # In the last layer only the question's last token is computed beyond keys and values.
    projecting, rest = 2 * (3584 * 3584 + 3584 * 512 * 2), 2 * (3584 * 3584 + 3 * 3584 * 18944)
    tokens = 4 * 256 + QUESTION_TOKENS
    pairs = 27 * causal_pairs(tokens, tokens) + tokens
    assert whole.llm == tokens * (28 * projecting + 27 * rest) + rest + pairs * 4 * 3584 + 2 * 3584 * 151674


def test_what_is_dropped_or_reused_is_not_counted() -> None:
    plan = WindowPlan(window_slots=4, stride_slots=2, fps=Fraction(2))
    kept = [256, 0, 10, 0, 10, 0]
    none, anchors = (
        savings(windows_of([record(slot, k, anchor=slot == 2) for slot, k in enumerate(kept)], plan, refresh)[-1:])
        for refresh in ("none", "anchors")
    )
    assert (none.encoded, none.computed, none.held) == (10, 10, 20)
    assert (anchors.encoded, anchors.computed, anchors.held) == (10, 20, 20)
    assert anchors.vit == none.vit

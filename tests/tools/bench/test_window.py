"""`codecflow bench window` on the bundled clip: reported figures match what was executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codecflow.errors import ConfigError, ModelError
from codecflow.tools.bench.device_check import Precision, check_device
from codecflow.tools.bench.window_run import Options, run
from codecflow.vlm.loading import load_model
from codecflow.vlm.tiny import make_tiny
from tests.tools.bench.clips import encode

CLIP = Path(__file__).parents[2] / "data" / "intel_one-by-one-person-detection.mp4"
SHORT = {"window_s": "6", "stride_s": "2", "anchor_s": "4", "slides": 2, "device": "cpu", "dtype": "float32"}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    return str(make_tiny(folder, hidden=32, vision_hidden=32))


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    out = capsys.readouterr().out
    found: dict[str, object] = json.loads(out.splitlines()[-1])
    return found


def test_policies_are_compared_with_everything_from_scratch(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(Options(clips=[CLIP], model=model, streams="1,2", policies="replenish/none,motion/anchors,all/all", **SHORT))  # type: ignore[arg-type]
    out, err = capsys.readouterr()
    printed = json.loads(out.splitlines()[-1])
    assert printed["trained"] is False
    start = printed["start"]
    assert all(start[part] > 0 for part in ("imports_s", "model_s", "window_s"))
    assert f"first answer {sum(start.values()):.1f} s after the start" in err
    results = {(r["keep"], r["streams"]): r for r in printed["results"]}
    assert set(results) == {(keep, streams) for keep in ("all", "motion", "replenish") for streams in (1, 2)}
    for streams in (1, 2):
        whole, motion, replenish = (results[keep, streams] for keep in ("all", "motion", "replenish"))
        assert whole["flops_share"] == 1
        assert whole["max_logit_difference"] == 0
        assert whole["window_tokens"] == 12 * 256
        assert replenish["flops_share"] < motion["flops_share"] < 1
        assert replenish["flops"] == pytest.approx(replenish["flops_share"] * whole["flops"], rel=1e-3)
        assert replenish["kv_bytes"] < whole["kv_bytes"] <= whole["held_bytes"]
        assert replenish["max_logit_difference"] > 0
        assert replenish["streams_served"] == pytest.approx(2 * 1000 / replenish["ms"], rel=1e-3)
        assert replenish["speedup"] == pytest.approx(whole["ms"] / replenish["ms"], rel=1e-3)


def test_clips_of_the_same_name_and_budgets_are_distinguished(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    clips = []
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        clips.append(encode(tmp_path / folder / "gate.avi", "mpeg4", 64, 48, pictures=30))
    few = {**SHORT, "window_s": "1", "stride_s": "0.5", "anchor_s": "1", "model": model}
    run(Options(clips=clips, policies="all/budget,all/budget=0.5,all/all", **few))  # type: ignore[arg-type]
    printed = capsys.readouterr()
    results = json.loads(printed.out.splitlines()[-1])["results"]
    assert [(r["clip"], r["refresh"]) for r in results] == [
        (str(clip), refresh) for clip in clips for refresh in ("all", "budget", "budget=0.5")
    ]
    assert printed.out.count("all + budget=0.5") == 2  # a row in each clip's table
    assert "all + budget=0.5, 1 streams:" in printed.err
    some, half = (r["tokens_computed"] for r in results[1:3])
    assert some < half


def test_masks_from_a_file_are_those_of_the_clip(
    model: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = {"model": model, "policies": "replenish/none", **SHORT}
    run(Options(clips=[CLIP], **options))  # type: ignore[arg-type]
    direct = figures(capsys)["results"][0]  # type: ignore[index]
    file = tmp_path / "masks.npz"
    run(Options(clips=[CLIP], save_masks=file, **options))  # type: ignore[arg-type]
    assert figures(capsys)["frames"] == {CLIP.name: 20}
    run(Options(masks=file, **options))  # type: ignore[arg-type]
    stored = figures(capsys)["results"][0]  # type: ignore[index]
    for name in ("clip", "flops", "window_tokens", "tokens_kept", "tokens_computed", "kv_bytes"):
        assert stored[name] == direct[name], name


def test_masks_are_saved_on_the_grid_of_the_model_that_is_given(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small, file = (
        str(make_tiny(tmp_path / "model", image_size=112, hidden=32, vision_hidden=32)),
        tmp_path / "masks.npz",
    )
    few = {**SHORT, "window_s": "1", "stride_s": "0.5", "slides": 1, "model": small}
    run(Options(clips=[CLIP], save_masks=file, **few))  # type: ignore[arg-type]
    run(Options(masks=file, policies="all/all", **few))  # type: ignore[arg-type]
    assert figures(capsys)["results"][0]["window_tokens"] == 2 * 16  # type: ignore[index]


@pytest.mark.parametrize("family", ["qwen3_vl", "llava_onevision"])
def test_a_frames_tokens_are_the_models_for_its_size(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, family: str
) -> None:
    """Qwen3-VL takes pictures at their own size: rows and columns follow from it, and differ for the downsampled size."""
    made = make_tiny(tmp_path / family, family)
    upright = encode(tmp_path / "upright.avi", "mpeg4", 272, 480, pictures=20)
    expected = load_model(str(made), "float32", "cpu").grid(272, 480).tokens
    few = {**SHORT, "window_s": "1", "stride_s": "0.5", "anchor_s": "1", "slides": 1, "model": str(made)}
    run(Options(clips=[upright], policies="all/all", **few))  # type: ignore[arg-type]
    assert figures(capsys)["results"][0]["tokens_kept"] == 1  # type: ignore[index]
    run(Options(clips=[upright], save_masks=tmp_path / "masks.npz", **few))  # type: ignore[arg-type]
    run(Options(masks=tmp_path / "masks.npz", policies="all/all", **few))  # type: ignore[arg-type]
    found = figures(capsys)["results"][0]["window_tokens"]  # type: ignore[index]
    assert found - 2 * expected in range(30)  # in addition to a few words that the family puts before each frame


def test_the_demo_model_at_its_real_size_takes_28_gflop_a_frame(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "masks.npz"
    few = {**SHORT, "window_s": "1", "stride_s": "0.5", "slides": 1, "shape": "codecflow-tiny"}
    run(Options(clips=[CLIP], save_masks=file, **few))  # type: ignore[arg-type]
    capsys.readouterr()
    run(Options(masks=file, policies="all/all", **few))  # type: ignore[arg-type]
    whole = figures(capsys)["results"][0]  # type: ignore[index]
    assert whole["window_tokens"] == 2 * 64
    assert whole["flops"] / 2 == pytest.approx(28e9, rel=0.2)


def test_too_little_memory_is_reported_in_its_row(
    model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("codecflow.vlm.kv_pool.spare_memory", lambda device: 2**17)
    run(Options(clips=[CLIP], model=model, policies="all/all", **SHORT))  # type: ignore[arg-type]
    printed = figures(capsys)
    assert "camera-0: its window needs" in printed["results"][0]["failed"]  # type: ignore[index]
    assert printed["start"]["window_s"] is None  # type: ignore[index]


def test_a_device_is_checked_against_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecflow.tools.bench.device_check.MAKERS", ["internvl"])
    monkeypatch.setattr("codecflow.tools.bench.device_check.REFRESHES", ["anchors", "budget"])
    found = check_device(torch.device("cpu"))
    assert found["internvl float32"] == 0
    assert 0 < found["internvl bfloat16"] < 0.4
    assert found["internvl bfloat16, weights fp8"] < 0.8 > found["internvl bfloat16, KV fp8"]
    strict = [Precision("bfloat16", "auto", "auto", 1e-9)]
    monkeypatch.setattr("codecflow.tools.bench.device_check.PRECISIONS", strict)
    with pytest.raises(ModelError, match=r"bfloat16 on cpu: logits are .* off"):
        check_device(torch.device("cpu"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "give a CLIP"),
        ({"clips": [CLIP], "policies": "some/none"}, "'some/none'.*all, motion, replenish"),
        ({"clips": [CLIP], "policies": "all/some"}, "--policies 'all/some': .*none, anchors"),
        ({"clips": [CLIP], "policies": "all"}, "--policies 'all': .*none, anchors"),
        ({"clips": [CLIP], "streams": "0"}, "--streams '0'"),
        ({"clips": [CLIP], "streams": "one"}, "--streams 'one'"),
        ({"clips": [CLIP], "window_s": "0.3"}, "--window 0.3 s"),
        ({"clips": [CLIP], "fps": "x"}, "--fps 'x'"),
        ({"masks": CLIP}, "--save-masks"),
        ({"clips": [CLIP], "masks": CLIP}, "not both"),
        ({"masks": Path("/dev/null")}, "masks /dev/null: cannot be read"),
        ({"clips": [CLIP], "save_masks": Path("/dev/null/x"), "window_s": "1", "stride_s": "1"}, "cannot be written"),
        ({"clips": [CLIP], "shape": "huge"}, "'huge'.*internvl3-8b"),
    ],
)
def test_wrong_options_are_reported_in_one_line(options: dict[str, object], said: str) -> None:
    with pytest.raises((ConfigError, ModelError), match=said) as error:
        run(Options(device="cpu", **options))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)

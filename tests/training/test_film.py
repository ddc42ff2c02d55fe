"""Banks hold what the product would see of real H.264, and their facts match what was drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.grid import TokenGrid
from codecflow.keep.config import KeepConfig
from codecflow.keep.keep_state import KeepState
from codecflow.messages import Signal
from codecflow.tools.evaluate.spec import read_spec
from codecflow.vlm.preprocessing import Preprocessing

COLOURS = {"person": (230, 20, 20), "vehicle": (20, 20, 230), "animal": (20, 200, 20), "bag": (20, 200, 200)}
PERSON, MOVING, FALLEN, LEFT, FIGHTING = 0, 4, 5, 6, 7


SEED = 31
"""Seed of a batch of three windows in which people arrive, walk and leave, one falls, two fight, and an object is left."""


@dataclass
class Made:
    bank: Any
    folder: Path
    videos: Path

    def clips(self, kind: str) -> list[dict[str, Any]]:
        return [clip for clip in self.bank.clips if clip["name"].startswith(kind)]


def _pack(folder: Path) -> None:
    """A library of one empty grey background and one cut-out per class: upright or lying rectangles of their colours."""
    for name in ("photos", "cutouts"):
        (folder / name).mkdir(parents=True)
    ramp = np.linspace(70, 130, 128, dtype=np.uint8)
    Image.fromarray(np.stack([np.tile(ramp, (96, 1))] * 3, -1)).save(folder / "photos" / "place.png")
    place = {"file": "place.png", "boxes": [], "known": [True] * 4, "split": "train", "aspect": 4 / 3}
    (folder / "photos.json").write_text(json.dumps([place]))
    rows = []
    for name, colour in (COLOURS | {"other": (40, 40, 40)}).items():
        size = (24, 60) if name == "person" else (60, 40)
        Image.new("RGBA", size, (*colour, 255)).save(folder / "cutouts" / f"{name}.png")
        rows.append({"file": f"{name}.png", "kind": name, "split": "train", "aspect": size[0] / size[1]})
    (folder / "cutouts.json").write_text(json.dumps(rows))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    import bank
    import camera
    import clutter
    import scenes
    from film import Film, Order
    from library import load_library

    folder = tmp_path_factory.mktemp("film")
    _pack(folder / "pack")
    order = Order({"long": 0, "window": 3, "stride": 1, "single": 2}, SEED, folder / "videos", batch=48)
    with pytest.MonkeyPatch.context() as patch:
        for name, share in {"FALLS": 0.33, "PAIRS": 0.33, "FAR": 0.0, "CROWD": 0.0, "LEAVES": 0.33}.items():
            patch.setattr(scenes, name, share)
        for name in ("NIGHT", "NOISY", "GLARING", "GREY"):  # colours are to be seen
            patch.setattr(camera, name, 0.0)
        for name in ("CLUTTERED", "PARKED"):
            patch.setattr(clutter, name, 0.0)
        patch.setattr(scenes, "NUMBER", torch.zeros(10, dtype=torch.long))  # nothing else, which might hide somebody
        Film(load_library(folder / "pack", torch.device("cpu"), "train"), folder / "bank", order, workers=1).make()
    return Made(bank.load_bank(folder / "bank"), folder / "bank", folder / "videos")


def _red(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(SIDE, SIDE) bool: pixels of the drawn people."""
    red, green, blue = frame.astype(np.int16)
    return np.asarray((red - np.maximum(green, blue)) > 50)


def test_a_bank_has_every_frame_of_every_clip(made: Made) -> None:
    from bank import FACTS, finished

    bank, frames = made.bank, 3 * 16 + 4 + 2
    assert finished(made.folder)
    assert bank.frames.shape == (frames, 3, 224, 224)
    assert bank.keep.shape == (frames, 64)
    assert bank.cover.shape == (frames, 8, 8, 8)
    assert {name: (v.shape, v.dtype) for name, v in bank.facts.items()} == {
        name: ((frames, *shape), np.dtype(kind)) for name, (shape, kind, _) in FACTS.items()
    }
    assert [(c["start"], c["length"]) for c in bank.clips] == [(0, 16), (16, 16), (32, 16), (48, 4), (52, 1), (53, 1)]
    assert all(bank.keep[clip["start"]].all() for clip in bank.clips)
    assert not list(made.folder.glob("*.raw"))
    assert (bank.frames.reshape(frames, -1).std(1) > 1).all()


def _signals(video: Path) -> list[Signal]:
    """The signals that a producer publishes of a video, in the order of ticks."""
    extractor = SignalExtractor()
    with Source(str(video)) as source:
        found = [one for picture in source.pictures("clip", 1) for one in extractor.push(picture)]
    signals = [one.signal for one in (*found, *extractor.flush()) if one.signal is not None]
    return sorted(signals, key=lambda signal: signal.tick)


def test_frames_and_masks_are_what_the_product_makes_of_the_exported_bits(made: Made) -> None:
    resize = Preprocessing((0.5,) * 3, (0.5,) * 3).resize
    for clip in made.clips("window"):
        coding = clip["coding"]
        config = KeepConfig(fps=Fraction(2), period_s=Fraction(coding["period_s"]))
        state = KeepState(TokenGrid.regular(8, 8, 448, 448), config)
        video = made.videos / f"{clip['name']}.mp4"
        with av.open(str(video)) as container:
            pictures = list(container.decode(video=0))
        assert [float(p.time) for p in pictures] == [i / 2 for i in range(16)]
        for i, (picture, signal) in enumerate(zip(pictures, _signals(video), strict=True)):
            luma = picture.to_ndarray(format="yuv420p")[:448].astype(np.uint8)
            state.observe(signal)
            keyframe = bool(picture.key_frame)
            keep = state.step(coding["phase"] + i, lambda luma=luma: luma, keyframe=keyframe).keep  # type: ignore[misc]
            at = clip["start"] + i
            np.testing.assert_array_equal(made.bank.keep[at], keep)
            rgb = picture.to_ndarray(format="rgb24").astype(np.uint8)
            expected = resize(rgb, 224, 224)
            np.testing.assert_array_equal(made.bank.frames[at], expected.permute(2, 0, 1).numpy())
    assert 0.02 < made.bank.keep[:48].mean() < 0.9


def _shares(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """(8, 8) red share of each token."""
    return np.asarray(_red(frame).reshape(8, 28, 8, 28).mean((1, 3)))


def test_who_is_in_view_and_moves_is_what_was_drawn(made: Made) -> None:
    bank, facts = made.bank, made.bank.facts
    checked = {"person": 0, "nobody": 0, "moved": 0}
    for clip in bank.clips:
        previous = None
        for at in range(clip["start"], clip["start"] + clip["length"]):
            red, cover = _red(bank.frames[at]), bank.cover[at, PERSON]
            seen, slivers = facts["seen"][at, PERSON], facts["slivers"][at, PERSON]
            if seen == 0 and not slivers:
                assert red.mean() < 1e-3
                assert cover.max() < 25
                checked["nobody"] += 1
            if seen != 1 or slivers or facts["person_at"][at, 0] < 0:
                previous = None
                continue
            share = _shares(bank.frames[at])
            assert cover[share > 0.8].min(initial=255) > 150
            assert cover[share < 0.02].max(initial=0) < 60
            ys, xs = np.nonzero(red)
            middle = np.array([xs.mean(), ys.mean()]) / 224
            across = 1 if facts["left"][at] < 0 else 2  # what is put down hides the feet of who does it
            np.testing.assert_allclose(middle[:across], facts["person_at"][at, :across], atol=0.06)
            checked["person"] += 1
            moved = 0.0 if previous is None else np.abs(middle - previous).max()
            upright = facts["fall"][at] == 0 and previous is not None
            if facts["moving"][at] == 1 and upright and (facts["mover"] == facts["person_at"])[at].all():
                assert moved > 0.01
                assert bank.cover[at, MOVING].max() > 25
                checked["moved"] += 1
            elif facts["moving"][at] == 0:
                assert moved < 0.01
                assert bank.cover[at, MOVING].max() == 0
            previous = middle
    assert all(checked.values()), checked


def test_falls_fights_and_what_was_left_behind_are_where_they_were_drawn(made: Made) -> None:
    bank, facts = made.bank, made.bank.facts
    checked = {"lies": 0, "left": 0, "fight": 0}
    for clip in made.clips("window"):
        for at in range(clip["start"], clip["start"] + 16):
            fallen, left = bank.cover[at, FALLEN], bank.cover[at, LEFT]
            if facts["fall"][at] == 1:
                lying = (fallen > 40) & (fallen < 255)
                assert lying.any()
                assert _shares(bank.frames[at])[lying].min() > 0.08
                checked["lies"] += 1
            elif facts["fall"][at] == 0:
                assert fallen.max() == 0
            fights = bank.cover[at, FIGHTING]
            if facts["fight"][at] == 1:
                assert facts["fight"][at - 1] != 0  # a single picture does not show it
                assert _shares(bank.frames[at])[(fights > 40) & (fights < 255)].min() > 0.08
                here, before = _red(bank.frames[at]), _red(bank.frames[at - 1])
                assert (here != before).sum() > 0.15 * here.sum()
                checked["fight"] += 1
            elif facts["fight"][at] == 0:
                assert fights.max() == 0
            if facts["left"][at] == 1:
                assert left.max() > 25
                assert 0 <= facts["left_since"][at] <= at - clip["start"]
                checked["left"] += 1
            elif facts["left"][at] == 0:
                assert left.max() == 0
                assert facts["left_since"][at] == -1
    assert all(checked.values()), checked


def test_exported_clips_are_a_spec_that_eval_reads(made: Made) -> None:
    spec = read_spec(made.videos / "spec.csv")
    assert [clip.file.name for clip in spec.clips] == [f"window-0000{i}.mp4" for i in range(3)]
    facts = made.bank.facts
    for clip, start in zip(spec.clips, (0, 16, 32), strict=True):
        for one in clip.labels.get("Is a person in view?", []):
            frames = slice(start + round(one.start_s * 2), start + round(min(one.end_s, 8) * 2))
            there = facts["seen"][frames, PERSON] > 0
            assert there.mean() >= 0.5 if one.answer == "yes" else not there.any()
    assert {"Is a person in view?", "Is something moving?", "Did someone fall?", "Are people fighting?"} <= set(
        spec.questions
    )


def test_a_finished_bank_is_left_alone_and_travels_as_pictures(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import bank
    import film

    monkeypatch.setattr("sys.argv", ["film.py", "--pack", str(tmp_path / "none"), "--out", str(made.folder)])
    film.main()
    assert "finished" in capsys.readouterr().err
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    bank.fold(copy)
    assert not (copy / "frames.npy").exists()
    again = bank.load_bank(copy)
    assert again.clips == made.bank.clips
    assert np.abs(again.frames.astype(int) - made.bank.frames).mean() < 3

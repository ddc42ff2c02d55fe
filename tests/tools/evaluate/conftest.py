from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from codecflow.vlm.tiny import make_tiny
from tests.clips import cut
from tests.tools.evaluate.ucf import script, three_videos


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained checkpoint: 16 tokens per frame."""
    folder: Path = tmp_path_factory.mktemp("evaluate") / "model"
    return make_tiny(folder, "internvl", image_size=112, hidden=48, heads=4, kv_heads=2, layers=2, vision_hidden=32)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first ten seconds of the bundled clip: a person is in view from 6.0 s."""
    return cut(10, tmp_path_factory.mktemp("evaluate") / "clip.mp4")


@pytest.fixture(scope="session")
def make_spec() -> ModuleType:
    """UCF-Crime's make_spec.py."""
    return script("make_spec")


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three of UCF-Crime's videos."""
    return three_videos(tmp_path_factory.mktemp("ucf") / "videos")

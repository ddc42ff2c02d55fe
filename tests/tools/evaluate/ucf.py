"""UCF-Crime's scripts as modules, three videos in the layout of its archives, and their annotations."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tests.tools.bench.clips import encode

FOLDER = Path(__file__).parents[3] / "evaluation" / "ucf-crime"
ANNOTATIONS = """\
Fighting003_x264.mp4  Fighting  11  20  31  36
RoadAccidents004_x264.mp4  RoadAccidents  1  40  -1  -1

Normal_Videos_003_x264.mp4  Normal  -1  -1  -1  -1
"""

QUESTION = (
    "Is there abuse, an arrest, arson, an assault, a burglary, an explosion, a fight, a road accident, a robbery,"
    " a shooting, shoplifting, stealing or vandalism in this video? Answer with yes or no only."
)


def script(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module  # its dataclasses look themselves up there
    found.loader.exec_module(module)
    return module


def three_videos(folder: Path) -> Path:
    """One folder per class, as in the data set: 5 s at 10 frames/s each."""
    for name in (
        "Fighting/Fighting003_x264.mp4",
        "RoadAccidents/RoadAccidents004_x264.mp4",
        "Normal_Videos_003_x264.mp4",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        encode(folder / name, "libx264", 64, 48, 50)
    return folder


def converted(make_spec: ModuleType, folder: Path, videos: Path, text: str, *options: str) -> tuple[int, Path]:
    annotations, out = folder / "annotations.txt", folder / "specs" / "spec.csv"
    annotations.write_text(text, encoding="utf-8")
    code: int = make_spec.main([str(annotations), str(videos), "--out", str(out), *options])
    return code, out

"""The recipes of CONTRIBUTING.md work: patches are applied to a copy of the repository, and commands are run there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES: dict[str, str] = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##)", TEXT, re.MULTILINE | re.DOTALL))
COPIED = ("services", "tests", "schemas", "docs", "pyproject.toml", "CONTRIBUTING.md", "README.md")


def apply(patch: str, root: Path) -> None:
    """Applies hunks without line numbers: the lines that a hunk keeps and removes must occur in its file exactly once. A
    file whose patch has no hunks is a new one."""
    for name, body in re.findall(r"^--- a/(\S+)\n(.*?)(?=^--- a/|\Z)", patch, re.MULTILINE | re.DOTALL):
        path, hunks = root / name, body.split("@@\n")
        if len(hunks) == 1:
            assert not path.exists(), f"{name} exists"
            path.write_text("".join(f"{line[1:]}\n" for line in body.splitlines()), encoding="utf-8")
            continue
        text = path.read_text(encoding="utf-8")
        for hunk in hunks[1:]:
            lines = hunk.splitlines()
            old = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("+"))
            new = "".join(f"{line[1:]}\n" for line in lines if not line.startswith("-"))
            assert text.count(old) == 1, f"CONTRIBUTING.md patches what {name} does not have once:\n{old}"
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


def blocks(body: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", body, re.MULTILINE | re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize("heading", RECIPES)
def test_recipe(heading: str, tmp_path: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("*.egg-info", "images", "*.mp4"))
        else:
            shutil.copy(source, tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    for patch in blocks(RECIPES[heading], "diff"):
        apply(patch, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "COV_"))}
    environment |= {"PYTHONPATH": str(tmp_path / "services"), "PYTEST_ADDOPTS": "-p no:cacheprovider -p no:xdist"}
    for script in blocks(RECIPES[heading], "sh"):
        done = subprocess.run(
            ["bash", "-euc", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{heading}:\n{script}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"


def test_every_kind_of_extension_has_a_recipe() -> None:
    wanted = ("keep policy", "model family", "field to a message", "metric", "sink for notifications")
    assert {f"Add a {kind}" for kind in wanted} <= set(RECIPES)
    for heading, body in RECIPES.items():
        assert blocks(body, "diff"), heading
        assert blocks(body, "sh"), heading

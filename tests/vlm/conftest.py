from __future__ import annotations

from pathlib import Path

import pytest

from .cases import Case
from .families import CASES


@pytest.fixture(scope="session", params=sorted(CASES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Each family in turn."""
    folder: Path = tmp_path_factory.mktemp(request.param) / "model"
    return CASES[request.param](folder)

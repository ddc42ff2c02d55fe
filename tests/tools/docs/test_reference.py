"""docs/reference/ matches the code, and contains every variable and metric of the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from codecflow.monitoring import metrics
from codecflow.tools.docs import ROOT
from codecflow.tools.docs.reference import PAGES


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_current(name: str) -> None:
    written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
    assert written == PAGES[name](), f"docs/reference/{name} is not what the code says: run `make docs`"


def test_every_variable_that_the_code_reads_is_a_setting() -> None:
    page = PAGES["settings.md"]()
    for path in (ROOT / "services").rglob("*.py"):
        for name in set(re.findall(r"\bCODECFLOW_[A-Z_]+\b", path.read_text(encoding="utf-8"))):
            assert f"`{name}`" in page, f"{path.name} reads {name}, which the page does not name"


def test_every_metric_is_listed() -> None:
    page = PAGES["metrics.md"]()
    for value in vars(metrics).values():
        if isinstance(value, metrics.MetricDefinition):
            assert f"`{value.name}" in page
    assert metrics.ANSWER_DELAY in page


def test_no_page_holds_what_belongs_to_one_machine() -> None:
    for name, written in PAGES.items():
        page = written()
        assert str(Path.home()) not in page, name
        assert not re.search(r"0x[0-9a-f]{6,}", page), name

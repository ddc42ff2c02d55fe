"""How benchmarks display their figures, for any file name or question."""

from __future__ import annotations

import pytest

from codecflow.tools.report.table import print_table, progress

ODD = ("Yes or no [yes/no]?", "clip[/1].mp4", "[red]gate[/red].mp4", "Is a :car: in view?")


@pytest.mark.parametrize("name", ODD)
def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str], name: str) -> None:
    print_table(f"title {name}", ["names"], [[f"row {name}"]], note=f"note {name}")
    printed = " ".join(capsys.readouterr().out.split())
    for part in ("row", "note"):
        assert f"{part} {name}" in printed
    assert printed.startswith(f"title {name}")


@pytest.mark.parametrize("columns", [60, 80, 140])
def test_no_word_is_cut_off_on_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("codecflow.tools.report.table.PIPED_WIDTH", columns)
    names = [
        "policy",
        "coverage",
        "certified %",
        "exposure corrected %",
        "background",
        *map("figure {}".format, range(15)),
    ]
    print_table("title", names, [["replenish-mean", "anchors every 8 s", *(f"{100.0 + i}" for i in range(18))]])
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= columns
    shown = printed.split()
    for word in (*" ".join(names).split(), "anchors", "replenish-mean", *(f"{100.0 + i}" for i in range(18))):
        assert word in shown


@pytest.mark.parametrize("name", ODD)
def test_progress_names_what_is_under_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # as on a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with progress("windows") as bar:
        bar.add_task(name, total=None)
        bar.refresh()
        bar.console.print(f"{name}: done", highlight=False)
    shown = capsys.readouterr().err
    assert f"{name}: done" in shown
    assert f"{name} " in shown

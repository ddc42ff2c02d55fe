"""The last words of a service: one JSON document, whatever was counted and whatever ended it."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import nullcontext
from fractions import Fraction

import pytest

from codecflow.cli.status import last_words, print_json
from codecflow.errors import CodecFlowError, SourceError
from codecflow.producer.summary import Summary
from codecflow.worker.summary import StreamFigures
from codecflow.worker.summary import Summary as WorkerSummary


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    document = json.loads(lines[0], parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert isinstance(document, dict)
    return document


def test_anything_becomes_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json(
        {
            "dropped": Counter({"corrupt": 3, "before the first keyframe": 1}),
            "keys": {1: "a", ("b", 2): "c", None: "d"},
            "large": 2**200,
            "numbers": (1.5, float("nan"), float("inf"), Fraction(1, 3)),
            "text": "line\nand \x1b[2J",
            "set": {7},
            "object": StreamFigures(),
        }
    )
    document = printed(capsys)
    assert document["dropped"] == {"corrupt": 3, "before the first keyframe": 1}
    assert document["keys"] == {"1": "a", "('b', 2)": "c", "None": "d"}
    assert document["large"] == 2**200
    assert document["numbers"] == [1.5, None, None, "1/3"]
    assert document["set"] == [7]


@pytest.mark.parametrize("kind", ["producer", "worker"])
@pytest.mark.parametrize("error", [None, SourceError("source x: gone"), RuntimeError("secret"), KeyboardInterrupt()])
def test_every_summary_is_printed_however_the_run_ends(
    kind: str, error: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> None:
    summary: Summary | WorkerSummary
    if kind == "producer":
        summary = Summary("gate", "clip.mp4")
        summary.dropped["corrupt"] += 2
        summary.dropped["after a corrupt one"] += 5
    else:
        summary = WorkerSummary()
        summary.flops = summary.flops_full = 2**70
        summary.seconds["decode"] = float("inf")
        summary.counts("gate")["lost-pictures"] += 3
        summary.set_held({"gate": StreamFigures(behind_s=float("nan"))})
    with nullcontext() if error is None else pytest.raises(type(error)), last_words(summary, as_json=True):
        if error is not None:
            raise error
    document = printed(capsys)
    expected = {CodecFlowError: "source x: gone", RuntimeError: "unexpected: RuntimeError"}
    assert document["error"] == next((text for of, text in expected.items() if isinstance(error, of)), None)


def test_what_was_lost_is_said_as_it_is() -> None:
    summary = Summary("gate", "clip.mp4", pictures=90)
    summary.dropped["before the first keyframe"] += 4
    assert summary.loss() == "all pictures of clip.mp4 were published"
    summary.dropped["corrupt"] += 1
    summary.dropped["after a corrupt one"] += 9
    assert summary.loss() == (
        "10 of the 100 pictures of clip.mp4 were not published (1 corrupt, 9 after a corrupt one)"
    )
    summary.pictures = 0
    assert summary.loss() == "none of the 10 pictures of clip.mp4 was published (1 corrupt, 9 after a corrupt one)"

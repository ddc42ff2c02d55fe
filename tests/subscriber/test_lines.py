"""Results as lines: for people, and as JSON."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given

from codecflow.errors import MessageError
from codecflow.messages import Result, ResultError
from codecflow.subscriber.lines import read_result_json, result_json, result_line
from tests.messages.strategies import results

from .example_results import RESULT

HOSTILE = "\x1b[2J\x1b]0;owned\x07\r yes \x9b31m\u202e\n\x00"


@given(results())
def test_a_line_of_json_is_the_result(result: Result) -> None:
    line = result_json(result)
    assert "\n" not in line
    assert read_result_json(line) == result


def test_nothing_in_a_result_controls_the_terminal() -> None:
    hostile = replace(RESULT, type="text", p_yes=None, answer=HOSTILE, question=HOSTILE, prompt=HOSTILE, model=HOSTILE)
    for result in (hostile, replace(hostile, answer="", error=ResultError("failed", HOSTILE))):
        line = result_line(result)
        assert line.isprintable()
        assert "yes" in line
        assert result_json(result).isprintable()
        assert read_result_json(result_json(result)) == result


def test_an_error_and_skipped_windows_are_in_the_line() -> None:
    failed = replace(RESULT, answer="", p_yes=None, error=ResultError("no-room", "its window needs 3 GB"), skipped=4)
    line = result_line(failed)
    assert "person: no answer: its window needs 3 GB (no-room)  [" in line
    assert "4 windows skipped before" in line


def test_a_line_begins_with_the_time_of_day_of_its_newest_picture() -> None:
    today = datetime.now().replace(hour=14, minute=3, second=22, microsecond=900_000)
    then = replace(RESULT, captured_at_ms=int(today.timestamp() * 1000), end_s=75.5)
    assert result_line(then).startswith("gate  14:03:22  1:15.5  person: ")
    older = replace(then, captured_at_ms=int((today - timedelta(days=3)).timestamp() * 1000))
    assert result_line(older).startswith(f"gate  {today - timedelta(days=3):%Y-%m-%d} 14:03:22  1:15.5  person: ")


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", "{}", '{"stream":"gate"}', '{"stream":["gate"],"v":1}'])
def test_what_is_no_result_is_refused(text: str) -> None:
    with pytest.raises(MessageError):
        read_result_json(text)

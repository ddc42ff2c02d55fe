"""Untrusted text cannot control a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codecflow.text import escape_controls, one_line

TEXTS = st.text(max_size=400) | st.text(st.sampled_from("a \n\r\t\x00\x07\x1b[\x7f\x9b\u2028\u202e\u2066\ud800\ufeff"))


@given(TEXTS, st.none() | st.integers(1, 60))
def test_a_line_has_no_controls_and_at_most_the_length(text: str, most: int | None) -> None:
    line = one_line(text, most)
    assert most is None or len(line) <= most
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in line)
    assert line == line.strip()
    line.encode()


@pytest.mark.parametrize("text", ["a person", "größer als 3 °C", "خروج الآن", "می‌خواهم", "👩‍🚒", "日本語", "a�b"])
def test_words_of_any_language_stay(text: str) -> None:
    assert one_line(text) == text


def test_what_is_cut_says_so() -> None:
    assert one_line("word " * 100_000, 10) == "word word…"
    assert one_line("word", 4) == "word"


@given(st.dictionaries(TEXTS, TEXTS))
def test_an_escaped_document_is_the_same_document(document: dict[str, str]) -> None:
    escaped = escape_controls(json.dumps(document, ensure_ascii=False))
    assert json.loads(escaped) == document
    assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in escaped)

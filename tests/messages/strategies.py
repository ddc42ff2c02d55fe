"""Hypothesis strategies: every message that the types allow, within what the wire can hold."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st

from codecflow.messages import (
    CodedPicture,
    DeadLetter,
    EndOfEpoch,
    Flops,
    Frames,
    Grid,
    PictureMetadata,
    Question,
    QuestionType,
    Result,
    Signal,
    StreamDescription,
    StreamState,
    Tokens,
    round_change,
    round_motion,
)

INT64 = 2**63 - 1

counts = st.integers(0, INT64)
stamps = st.integers(-INT64, INT64)
small = st.integers(0, 10**6)
seconds = st.floats(0, 1e9, allow_nan=False)
shares = st.floats(0, 1)
texts = st.text(st.characters(exclude_categories=["Cs"]))
words = texts.filter(str.strip)
stream_ids = st.from_regex(r"[A-Za-z0-9._:-]{1,200}", fullmatch=True)
codecs = st.sampled_from(["h264", "hevc", "mpeg4", "vp9", "av1", "mjpeg"])
fractions = st.builds(Fraction, st.integers(1, 10**6), st.integers(1, 10**6))

pictures = st.builds(
    CodedPicture,
    stream=stream_ids,
    epoch=counts,
    seq=counts,
    data=st.binary(min_size=1, max_size=200),
    codec=codecs,
    keyframe=st.booleans(),
    pts=stamps,
    dts=st.none() | stamps,
    duration=counts,
    time_base=fractions,
    captured_at_ms=counts,
    width=small,
    height=small,
    discard=st.booleans(),
    extradata=st.none() | st.binary(max_size=50),
)


@st.composite
def signals(draw: st.DrawFn) -> Signal:
    """Grids of every small size: empty, sparse and full of noise, with and without vectors."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))

    def grid(high: int) -> Grid:
        seed, density = draw(st.integers(0, 2**32 - 1)), draw(st.sampled_from([0.0, 0.1, 1.0]))
        random = np.random.default_rng(seed)
        values = random.integers(0, high, shape, np.uint8, endpoint=True)
        return np.asarray(values * (random.random(shape) < density), np.uint8)

    vectors, intra = draw(st.booleans()), grid(1)
    return Signal(
        tick=draw(small),
        interval=draw(fractions),
        change=round_change(grid(255)),
        motion=round_motion(grid(255), intra) if vectors else None,
        intra=intra if vectors else None,
    )


picture_metadata = st.builds(
    PictureMetadata,
    stream=stream_ids,
    epoch=counts,
    seq=counts,
    pts=stamps,
    start_pts=stamps,
    time_base=fractions,
    codec=codecs,
    picture_type=st.sampled_from("IPB?"),
    size=counts,
    signal=st.none() | signals(),
)
metadata = picture_metadata | st.builds(EndOfEpoch, stream=stream_ids, epoch=counts, pictures=counts)


@st.composite
def questions(draw: st.DrawFn, identifier: st.SearchStrategy[str] = words) -> Question:
    kind: QuestionType = draw(st.sampled_from(get_args(QuestionType)))
    return Question(
        id=draw(identifier),
        prompt=draw(words),
        type=kind,
        labels=tuple(draw(st.lists(words, min_size=2, max_size=4, unique=True))) if kind == "choice" else (),
        max_tokens=draw(st.integers(1, 1024)) if kind == "text" else 32,
    )


@st.composite
def descriptions(draw: st.DrawFn) -> StreamDescription:
    identifiers = draw(st.lists(words, max_size=3, unique=True))
    return StreamDescription(draw(stream_ids), tuple(draw(questions(st.just(name))) for name in identifiers))


@st.composite
def results(draw: st.DrawFn) -> Result:
    question = draw(questions())
    expected = draw(small)
    specific: dict[str, Any] = {"p_yes": None, "label_probabilities": None}
    if question.type == "yes-no":
        specific["p_yes"] = draw(shares)
    if question.type == "choice":
        specific["label_probabilities"] = {label: draw(shares) for label in question.labels}
    return Result(
        stream=draw(stream_ids),
        epoch=draw(counts),
        window=draw(counts),
        start_s=draw(seconds),
        end_s=draw(seconds),
        captured_at_ms=draw(counts),
        answered_at_ms=draw(counts),
        question=question.id,
        prompt=question.prompt,
        type=question.type,
        answer=draw(texts),
        frames=Frames(expected, draw(st.integers(0, expected))),
        tokens=draw(st.builds(Tokens, counts, counts, counts, counts)),
        flops=draw(st.builds(Flops, counts, counts, counts)),
        seconds=draw(st.dictionaries(words, seconds, max_size=3)),
        keep=draw(st.sampled_from(["all", "motion", "replenish"])),
        refresh=draw(st.sampled_from(["none", "anchors", "budget", "all"])),
        model=draw(words),
        trained=draw(st.booleans()),
        restarted=draw(st.booleans()),
        **specific,
    )


states = st.builds(
    StreamState,
    stream=stream_ids,
    epoch=counts,
    next_window=counts,
    packets_offset=counts,
    metadata_offset=counts,
    ended=st.booleans(),
)

dead_letters = st.builds(
    DeadLetter,
    topic=words,
    partition=small,
    offset=counts,
    stream=stream_ids,
    code=st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True),
    reason=texts,
)

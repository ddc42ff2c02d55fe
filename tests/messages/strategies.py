"""Hypothesis strategies: every message that the types allow, within what the wire can hold."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any, get_args

import numpy as np
from hypothesis import strategies as st

from codecflow.messages import (
    EVENT_KINDS,
    MAX_INTERVAL,
    MIN_INTERVAL,
    UNCHANGED,
    VIDEO_CODECS,
    CameraLost,
    CodedPicture,
    Condition,
    DeadLetter,
    Decoding,
    EndOfEpoch,
    Event,
    EventRule,
    EventState,
    Exposure,
    Flops,
    FrameMask,
    Frames,
    Grid,
    OpenEvent,
    PictureMetadata,
    Question,
    QuestionType,
    Result,
    ResultError,
    RuleState,
    Signal,
    StreamDescription,
    StreamState,
    Tokens,
    WindowGrid,
    WindowMasks,
    Zone,
    ZonesInForce,
    round_change,
    round_motion,
)

INT32, INT64 = 2**31 - 1, 2**63 - 1
SIZES = st.sampled_from([0, 1, 8191, 8192])

counts = st.integers(0, INT64)
clocks = st.integers(0, 4_102_444_800_000)
seqs = st.integers(0, 2**53 - 1)
stamps = st.integers(-INT64, INT64)
small = st.integers(0, 10**6)
seconds = st.floats(0, 2**31, allow_nan=False)
shares = st.floats(0, 1)
characters = st.characters(exclude_categories=["Cs"])
texts = st.text(characters)
words = st.text(characters, max_size=200).filter(str.strip)
lines = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=300)
stream_ids = st.from_regex(r"[A-Za-z0-9._:-]{1,200}", fullmatch=True)
codes = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
codecs = st.sampled_from(sorted(VIDEO_CODECS))
int32s = st.integers(1, INT32) | st.sampled_from([1, INT32])
fractions = st.builds(Fraction, int32s, int32s)

pictures = st.builds(
    CodedPicture,
    stream=stream_ids,
    epoch=clocks,
    seq=seqs,
    data=st.binary(min_size=1, max_size=200),
    codec=codecs,
    keyframe=st.booleans(),
    pts=stamps,
    dts=st.none() | stamps,
    duration=counts,
    time_base=fractions,
    captured_at_ms=clocks,
    width=SIZES,
    height=SIZES,
    discard=st.booleans(),
    extradata=st.none() | st.binary(max_size=50),
    live=st.booleans(),
    orientation=st.integers(1, 8),
    disposable=st.booleans(),
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
    tick = draw(small)
    change = round_change(grid(255))
    return Signal(
        tick=tick,
        since=draw(st.none() | st.integers(0, tick - 1)) if tick else None,
        previous=draw(st.integers(0, tick - 1)) if tick else None,
        reference=draw(st.booleans()),
        exposure=draw(st.just(UNCHANGED) | st.builds(Exposure, st.integers(128, 512), st.integers(-512, 512))),
        noise=draw(st.integers(0, 255)),
        luma_crc32=draw(st.none() | st.integers(0, 2**32 - 1)),
        interval=draw(st.fractions(MIN_INTERVAL, MAX_INTERVAL, max_denominator=10**6)),
        change=change,
        motion=round_motion(grid(255), intra) if vectors else None,
        intra=intra if vectors else None,
    )


@st.composite
def picture_metadata(draw: st.DrawFn) -> PictureMetadata:
    """Presentation times up to 68 years after or before the epoch's start."""
    time_base, start = draw(fractions), draw(stamps)
    most = min(INT64, 2**31 * time_base.denominator // time_base.numerator)
    pts = start + draw(st.integers(max(-most, -INT64 - start), min(most, INT64 - start)))
    return PictureMetadata(
        stream=draw(stream_ids),
        epoch=draw(clocks),
        seq=draw(seqs),
        pts=pts,
        start_pts=start,
        time_base=time_base,
        codec=draw(codecs),
        picture_type=draw(st.sampled_from("IPB?")),
        size=draw(st.integers(0, INT32)),
        signal=draw(st.none() | signals()),
    )


metadata = picture_metadata() | st.builds(EndOfEpoch, stream=stream_ids, epoch=clocks, pictures=seqs)
metadata |= st.builds(CameraLost, stream_ids, clocks, codes)


times = st.floats(0, 604_800)
levels = st.floats(0.001, 0.999)
windows = st.integers(1, 32).flatmap(lambda of: st.tuples(st.integers(1, of), st.just(of)))
labels = st.text(characters, max_size=200)
event_ids = st.from_regex(r"[0-9a-f]{16}", fullmatch=True)


@st.composite
def rules(draw: st.DrawFn, answers: tuple[str, ...]) -> EventRule:
    label, above = draw(st.none() | st.sampled_from(answers)), draw(levels)
    below = None if label is None else draw(st.none() | st.floats(0.001, above))
    return EventRule(label, above, below, draw(windows), draw(times), draw(times), draw(times))


@st.composite
def questions(draw: st.DrawFn, identifier: st.SearchStrategy[str] = words) -> Question:
    kind: QuestionType = draw(st.sampled_from(get_args(QuestionType)))
    asked = Question(
        id=draw(identifier),
        prompt=draw(words),
        type=kind,
        labels=tuple(draw(st.lists(words, min_size=2, max_size=4, unique_by=str.strip))) if kind == "choice" else (),
        max_tokens=draw(st.integers(1, 1024)) if kind == "text" else 32,
    )
    return replace(asked, event=draw(st.none() | rules(asked.answers))) if asked.answers else asked


@st.composite
def rectangles(draw: st.DrawFn) -> tuple[tuple[float, float], ...]:
    left, top = draw(st.floats(0, 0.5)), draw(st.floats(0, 0.5))
    right, bottom = draw(st.floats(0.51, 1)), draw(st.floats(0.51, 1))
    return (left, top), (right, top), (right, bottom), (left, bottom)


zones = st.lists(
    st.builds(Zone, words.map(str.strip), st.sampled_from(["ignore", "only", "place"]), rectangles()),
    max_size=3,
    unique_by=lambda zone: zone.name.casefold(),
)


@st.composite
def descriptions(draw: st.DrawFn) -> StreamDescription:
    identifiers = draw(st.lists(words, max_size=3, unique=True))
    return StreamDescription(
        draw(stream_ids), tuple(draw(questions(st.just(name))) for name in identifiers), tuple(draw(zones))
    )


@st.composite
def results(draw: st.DrawFn) -> Result:
    question = draw(questions())
    expected = draw(small)
    specific: dict[str, Any] = {"p_yes": None, "label_probabilities": None}
    error = draw(st.none() | st.builds(ResultError, codes, lines))
    if question.type == "yes-no" and error is None:
        specific["p_yes"] = draw(shares)
    if question.type == "choice" and error is None:
        specific["label_probabilities"] = {label: draw(shares) for label in question.labels}
    return Result(
        stream=draw(stream_ids),
        epoch=draw(clocks),
        window=draw(counts),
        start_s=draw(seconds),
        end_s=draw(seconds),
        captured_at_ms=draw(clocks),
        answered_at_ms=draw(clocks),
        question=question.id,
        prompt=question.prompt,
        type=question.type,
        answer=draw(texts) if error is None else "",
        frames=Frames(expected, draw(st.integers(0, expected))),
        tokens=draw(st.builds(Tokens, counts, counts, counts, counts)),
        flops=draw(st.builds(Flops, counts, counts, counts)),
        seconds=draw(st.dictionaries(words, seconds, max_size=3)),
        keep=draw(st.sampled_from(["all", "motion", "replenish"])),
        refresh=draw(st.sampled_from(["none", "anchors", "budget", "all"])),
        model=draw(words),
        trained=draw(st.booleans()),
        restarted=draw(st.booleans()),
        error=error,
        skipped=draw(st.integers(0, INT32)),
        **specific,
    )


open_events = st.builds(OpenEvent, event_ids, clocks, st.integers(0, INT32), seconds, shares, counts)
answer_indices = st.integers(-1, 63)
rule_states = st.builds(
    RuleState,
    words,
    event_ids,
    st.lists(answer_indices, max_size=32).map(tuple),
    answer_indices,
    seconds,
    answer_indices,
    answer_indices,
    clocks,
    seconds,
    st.none() | open_events,
    labels,
)
event_states = st.builds(
    EventState,
    clocks,
    seconds,
    clocks,
    st.lists(rule_states, max_size=2).map(tuple),
    st.lists(st.builds(Condition, st.sampled_from(EVENT_KINDS), open_events), max_size=2).map(tuple),
)
events = st.builds(
    Event,
    stream_ids,
    event_ids,
    st.integers(0, INT32),
    st.sampled_from(["opened", "updated", "closed"]),
    st.sampled_from(EVENT_KINDS),
    clocks,
    clocks,
    clocks,
    clocks,
    texts,
    st.none() | words,
    st.none() | texts,
    st.none() | labels,
    st.none() | labels,
    st.none() | counts,
    st.none() | seconds,
    st.none() | seconds,
    st.none() | shares,
    st.none() | shares,
    st.none() | counts,
)

states = st.builds(
    StreamState,
    stream=stream_ids,
    epoch=clocks,
    answered_until=st.builds(Fraction, counts, int32s),
    plan=st.builds(WindowGrid, fractions, int32s, int32s),
    packets_offset=counts,
    metadata_offset=counts,
    ended=st.booleans(),
    events=event_states,
    zones=st.none() | st.builds(ZonesInForce, st.integers(0, INT32), st.builds(Fraction, counts, int32s)),
    skipped=st.integers(0, INT32),
)


@st.composite
def frame_masks(draw: st.DrawFn) -> FrameMask:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    keep = random.random((draw(st.integers(1, 20)), draw(st.integers(1, 20)))) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return FrameMask(draw(seqs), draw(seconds), (draw(SIZES), draw(SIZES)), keep, draw(st.booleans()))


masks = st.builds(
    WindowMasks,
    stream=stream_ids,
    epoch=clocks,
    window=counts,
    captured_at_ms=clocks,
    policy=words,
    frames=st.lists(frame_masks(), max_size=3).map(tuple),
    pictures=st.builds(Decoding, counts, counts),
)

dead_letters = st.builds(
    DeadLetter,
    topic=st.text(st.sampled_from("abc._-9"), min_size=1, max_size=249),
    partition=small,
    offset=counts,
    stream=stream_ids | texts,
    code=codes,
    reason=texts,
)

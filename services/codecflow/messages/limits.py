"""The bounds of the wire format: of every number, text and list in a record. schemas/ publishes the same ones.

A type here is a Python type with bounds that msgspec checks while it reads a document.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Literal, get_args

from msgspec import Meta

MAX_INT32 = 2**31 - 1
MAX_INT64 = 2**63 - 1

MAX_CLOCK_MS = 4_102_444_800_000
"""2100-01-01 UTC. A clock beyond it is wrong, and an epoch beyond it would outrank every later one of its stream."""

MAX_EPOCH_AHEAD_MS = 3_600_000
"""How far the epoch of a record may be ahead of the broker's receive time; the same limit as Kafka's for time stamps. Epochs
start as wall clock in ms and only increase: one in the future, from a machine with a wrong clock or a stray record, would
silence its stream until that time."""

MAX_SEQ = 2**53 - 1
"""Pictures of an epoch; exact in JSON readers that store all numbers as floating-point."""

MAX_TIME_S = 2**31
"""Presentation time of a picture since the start of its epoch, in seconds, positive or negative: 68 years."""

MAX_SIDE = 8192
"""Width and height of a coded picture, in luma samples."""

MAX_GRID_SIDE = MAX_SIDE // 16
"""Rows and columns of a signal's grids: one block per 16x16 samples."""

MAX_EXTRADATA = 1 << 18
"""Bytes of a codec's extradata."""

MAX_PICTURE_BYTES = 32 << 20
"""Bytes of a coded picture."""

MAX_DOCUMENT = 8 << 20
"""Bytes of a JSON document. A record of a few kilobytes may unpack to a hundred megabytes."""

MAX_PICTURE_HEADER = 1024
"""Bytes of the header `picture`. Encoders write less than half of it; the rest is for unknown members."""

MAX_PROMPT, MAX_LABEL, MAX_NAME = 4000, 200, 200
"""Characters of a question, of one of its labels, and of a name such as a question's."""

MAX_LABELS, MAX_QUESTIONS, MAX_ANSWER_TOKENS = 64, 64, 1024
"""Labels of a question, questions of a stream, and tokens of a free-text answer."""

MAX_HISTORY = 32
"""Windows that an event rule looks back at."""

MAX_RULE_S = 604_800
"""Seconds of a rule's times: a week."""

MIN_PROBABILITY = 0.001
"""Minimum of a rule's thresholds, and of their distance from 1. A probability of exactly 0 or 1 may never come."""

MAX_ZONES, MAX_CORNERS = 32, 32
"""Zones of a stream, and corners of one."""

MAX_LINE = 300
"""Characters of a line for people, such as the reason in a dead letter."""

Natural = Annotated[int, Meta(ge=0, le=MAX_INT64)]
Count32 = Annotated[int, Meta(ge=0, le=MAX_INT32)]
Positive32 = Annotated[int, Meta(ge=1, le=MAX_INT32)]
Stamp = Annotated[int, Meta(ge=-MAX_INT64, le=MAX_INT64)]  # without -2**63, which is FFmpeg's "no time stamp"
ClockMs = Annotated[int, Meta(ge=0, le=MAX_CLOCK_MS)]
Seq = Annotated[int, Meta(ge=0, le=MAX_SEQ)]
Side = Annotated[int, Meta(ge=0, le=MAX_SIDE)]
GridSide = Annotated[int, Meta(ge=1, le=MAX_GRID_SIDE)]
Seconds = Annotated[float, Meta(ge=0, le=MAX_TIME_S)]
Share = Annotated[float, Meta(ge=0, le=1)]
Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
Line = Annotated[str, Meta(max_length=MAX_LINE)]
Ratio = tuple[Positive32, Positive32]  # numerator, denominator

# With \Z: in Python, unlike in JSON Schema, $ also matches before a line feed at the end.
STREAM_ID = r"^[A-Za-z0-9._:-]{1,200}\Z"
TOPIC = r"^[A-Za-z0-9._-]{1,249}\Z"
"""Names of topics that Kafka allows."""

CODE = r"^[a-z][a-z0-9-]{0,39}\Z"
"""A short word for counting: the reason of a dead letter, the kind of an error."""

EVENT_ID = r"^[0-9a-f]{16}\Z"

Codec = Literal[
    "apng", "av1", "cavs", "cfhd", "cinepak", "dirac", "dnxhd", "dvvideo", "ffv1", "ffvhuff", "flashsv", "flv1", "gif",
    "h261", "h263", "h263i", "h263p", "h264", "hevc", "huffyuv", "jpeg2000", "magicyuv", "mjpeg", "mjpegb",
    "mpeg1video", "mpeg2video", "mpeg4", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3", "msvideo1", "mxpeg", "png", "prores",
    "qtrle", "rv10", "rv20", "rv30", "rv40", "sp5x", "svq1", "svq3", "theora", "utvideo", "vc1", "vp3", "vp6", "vp6f",
    "vp7", "vp8", "vp9", "vvc", "wmv1", "wmv2", "wmv3",
]  # fmt: skip
VIDEO_CODECS: frozenset[str] = frozenset(get_args(Codec))
"""FFmpeg's names of the codecs that may be published: those of cameras and of recordings, which it decodes in software. A
record cannot select any other of FFmpeg's decoders."""


@lru_cache(maxsize=4096)
def fraction(numerator: int, denominator: int) -> Fraction:
    """The fraction of two bounded integers. Cached: all pictures of a stream have one time base."""
    return Fraction(numerator, denominator)

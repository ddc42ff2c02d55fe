"""The wire in types. schemas/ is its authority; this package is the only place that knows bytes."""

from ._wire import SCHEMA_VERSION, Headers
from .dead_letters import DeadLetter, decode_dead_letter, encode_dead_letter
from .grids import (
    CHANGE_LEVELS,
    MOTION_LEVELS,
    QUARTER_LEVELS,
    Grid,
    detailed,
    round_change,
    round_motion,
    round_quarters,
)
from .limits import MAX_CLOCK_MS, MAX_EPOCH_AHEAD_MS, MAX_SIDE, VIDEO_CODECS
from .metadata import (
    BLOCK,
    MAX_INTERVAL,
    MIN_INTERVAL,
    NO_BOUND,
    EndOfEpoch,
    PictureMetadata,
    Signal,
    decode_metadata,
    encode_metadata,
)
from .packets import ANNEX_B_CODECS, CodedPicture, decode_packet, encode_packet
from .results import Flops, Frames, Result, ResultError, Tokens, decode_result, encode_result
from .state import StreamState, WindowGrid, decode_state, encode_state
from .streams import (
    QUESTION_TYPES,
    Question,
    QuestionType,
    StreamDescription,
    check_stream_id,
    decode_stream,
    encode_stream,
)

__all__ = [
    "ANNEX_B_CODECS",
    "BLOCK",
    "CHANGE_LEVELS",
    "MAX_CLOCK_MS",
    "MAX_EPOCH_AHEAD_MS",
    "MAX_INTERVAL",
    "MAX_SIDE",
    "MIN_INTERVAL",
    "MOTION_LEVELS",
    "NO_BOUND",
    "QUARTER_LEVELS",
    "QUESTION_TYPES",
    "SCHEMA_VERSION",
    "VIDEO_CODECS",
    "CodedPicture",
    "DeadLetter",
    "EndOfEpoch",
    "Flops",
    "Frames",
    "Grid",
    "Headers",
    "PictureMetadata",
    "Question",
    "QuestionType",
    "Result",
    "ResultError",
    "Signal",
    "StreamDescription",
    "StreamState",
    "Tokens",
    "WindowGrid",
    "check_stream_id",
    "decode_dead_letter",
    "decode_metadata",
    "decode_packet",
    "decode_result",
    "decode_state",
    "decode_stream",
    "detailed",
    "encode_dead_letter",
    "encode_metadata",
    "encode_packet",
    "encode_result",
    "encode_state",
    "encode_stream",
    "round_change",
    "round_motion",
    "round_quarters",
]

"""Annex B: what is added to a keyframe, and where; the rest of a picture is unchanged."""

from __future__ import annotations

import pytest

from codecflow.codec.annexb import START_CODE, AnnexB, split_annex_b

SPS, OTHER_SPS, PPS, SECOND_PPS = (
    b"\x67\x42\xc0\x1e\xda",
    b"\x67\x4d\x40\x1f\x96",
    b"\x68\xce\x0f\xc8",
    b"\x68\x4e\x0f\xc8",
)
IDR, SLICE, DELIMITER = b"\x65\x88\x84\x21", b"\x41\x9a\x24\x6c", b"\x09\x10"
AVCC = b"\x01\x42\xc0\x1e\xff\xe1\x00\x05" + SPS + b"\x01\x00\x04" + PPS


def stream(*units: bytes) -> bytes:
    return b"".join(START_CODE + unit for unit in units)


def prefixed(*units: bytes) -> bytes:
    return b"".join(len(unit).to_bytes(4) + unit for unit in units)


@pytest.mark.parametrize("extradata", [AVCC, stream(SPS, PPS)])
def test_a_keyframe_gets_the_sets_of_the_container(extradata: bytes) -> None:
    given = prefixed if extradata is AVCC else stream
    annex_b = AnnexB("h264", extradata)
    assert annex_b.convert(given(IDR), keyframe=True) == (stream(SPS, PPS, IDR), True)
    assert annex_b.convert(given(SLICE), keyframe=False) == (stream(SLICE), False)


def test_sets_come_behind_a_delimiter() -> None:
    annex_b = AnnexB("h264", stream(SPS, PPS))
    units = list(split_annex_b(annex_b.convert(stream(DELIMITER, IDR), keyframe=True)[0]))
    assert units == [DELIMITER, SPS, PPS, IDR]


def test_only_what_a_keyframe_lacks_is_added() -> None:
    annex_b = AnnexB("h264", stream(SPS, PPS, SECOND_PPS))
    assert list(split_annex_b(annex_b.convert(stream(SPS, PPS, IDR), keyframe=True)[0])) == [SECOND_PPS, SPS, PPS, IDR]


def test_the_newest_sets_are_repeated() -> None:
    annex_b = AnnexB("h264", stream(SPS, PPS, SECOND_PPS))
    annex_b.convert(stream(OTHER_SPS, PPS, IDR), keyframe=True)
    units = list(split_annex_b(annex_b.convert(stream(IDR), keyframe=True)[0]))
    assert units == [OTHER_SPS, PPS, IDR], "a set of the sequence before must not come back"


def test_lengths_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(ValueError, match="longer than its picture"):
        AnnexB("h264", AVCC).convert(prefixed(IDR)[:-1], keyframe=True)


def test_sets_of_layers_above_the_base_are_not_repeated() -> None:
    """In multi-view HEVC a second layer has its own sets, with the same ids and types as those of the base."""
    vps, sps, pps, slices = b"\x40\x01\x0c\x01", b"\x42\x01\x01\x01", b"\x44\x01\xc0\x73", b"\x26\x01\xaf\x08"
    layer = [bytes([unit[0], unit[1] | 8]) + unit[2:] + b"\x01" for unit in (vps, sps, pps, slices)]
    annex_b = AnnexB("hevc", None)
    annex_b.convert(stream(vps, sps, pps, slices, *layer), keyframe=True)
    assert list(split_annex_b(annex_b.convert(stream(slices), keyframe=True)[0])) == [vps, sps, pps, slices]

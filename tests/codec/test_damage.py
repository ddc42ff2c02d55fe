"""Damage: if samples stay correct, no picture is lost; otherwise it is never shown, or known to have no bound."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from codecflow.codec.annexb import START_CODE, nal_type, split_annex_b
from codecflow.codec.decode import Decoder
from codecflow.codec.headers import Bits, h264_sequence
from codecflow.codec.opening import SourceOptions
from codecflow.codec.pictures import MAX_PIXELS, PictureDecoder, luma_checksum
from codecflow.codec.signal import SignalExtractor
from codecflow.codec.source import Source
from codecflow.errors import SourceError
from codecflow.kafka.settings import TopicNames
from codecflow.messages import NO_BOUND, CodedPicture, decode_packet
from codecflow.producer.epoch import EpochPublisher, RecordCollector
from codecflow.producer.summary import Summary
from codecflow.tools.bench.rtsp_camera import lossy_camera
from tests.keep.random_pictures import cell_changes

from .clips import CODECS, encode
from .published import checksums, decoded, pictures_of, published, renumbered, x264

TS_PACKET = 188


def with_units(pictures: Iterable[CodedPicture], *units: bytes) -> list[CodedPicture]:
    """Each picture with additional NAL units before its first slice."""

    def changed(picture: CodedPicture) -> CodedPicture:
        parts = []
        slices = (1, 5) if picture.codec == "h264" else range(32)
        for unit in split_annex_b(picture.data):
            if nal_type(unit, picture.codec) in slices:
                parts += units
                units_left[0] = ()
            parts.append(unit)
        return replace(picture, data=b"".join(START_CODE + part for part in parts))

    units_left: list[tuple[bytes, ...]] = [units]
    return [changed(picture) for picture in pictures]


FAULTY_BESIDE = {
    "h264": {
        "SEI that is longer than it is": b"\x06\x05\xa2" + bytes(range(1, 124)) + b"\x80",
        "buffering period of an unknown sequence": b"\x06\x00\x02\x11\x80\x80",
        "picture timing of nothing": b"\x06\x01\x01\xff\x80",
        "recovery point without contents": b"\x06\x06\x01",
        "empty SEI": b"\x06",
        "SEI of 0xff": b"\x06" + b"\xff" * 40,
        "reserved type": b"\x1f\x42\x43\x44",
        "unspecified type": b"\x00\x42\x43\x44",
        "filler": b"\x0c\xff\xff\xff\x80",
        "picture parameters that no slice uses": b"\x68\x20\xff\xff",
        "picture parameters of no sequence": b"\x68\x13\x80\x80",
        "sequence parameters that no slice uses": b"\x67\x64\x00\x0a\x18\xff\xff",
    },
    "hevc": {
        "SEI that is longer than it is": b"\x4e\x01\x05\xa2" + bytes(range(1, 124)) + b"\x80",
        "buffering period of an unknown sequence": b"\x4e\x01\x00\x02\x11\x80\x80",
        "decoded picture hash that is too short": b"\x4e\x01\x84\x11\x00\x80",
        "empty SEI": b"\x4e\x01",
        "reserved type": b"\x58\x01\x42\x43",
        "unspecified type": b"\x7c\x01\x42\x43",
        "picture parameters that no slice uses": b"\x44\x01\x20\xff\xff",
        "sequence parameters of nothing": b"\x42\x01\x0f\xff\xff",
        "video parameters that no sequence uses": b"\x40\x01\x5f\xff\xff",
        "another layer": b"\x02\x09\x42\x43\x44\x45",
    },
}


@pytest.mark.parametrize(("codec", "what"), [(codec, what) for codec in FAULTY_BESIDE for what in FAULTY_BESIDE[codec]])
def test_a_fault_beside_the_samples_loses_nothing(codec: str, what: str, tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", codec))
    faulty = with_units(pictures, FAULTY_BESIDE[codec][what])
    assert faulty[3].data != pictures[3].data
    sent, documents, lost = published(faulty)
    assert (lost, len(documents)) == ({}, len(pictures))
    assert sent == faulty, "published as the camera sent it"
    assert checksums(sent) == checksums(pictures)


def jpegs(tmp_path: Path) -> list[CodedPicture]:
    pictures = pictures_of(encode(tmp_path / "clip", "mjpeg"))
    assert all(picture.data.endswith(b"\xff\xd9") for picture in pictures)
    return pictures


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2],
        lambda data: data[:-2] + bytes(16),
        lambda data: data + b"trailing rubbish",
        lambda data: data[:2] + b"\xff\xe1\x00\x10Exif\0\0II*\0\xff\xff\xff\xff" + data[2:],
        lambda data: data[:2] + b"\xff\xfe\x00\x05abc" + data[2:],
    ],
    ids=["no end", "zeros for the end", "rubbish behind the end", "faulty EXIF", "comment"],
)
def test_a_jpeg_whose_scan_is_complete_is_sound(change: Callable[[bytes], bytes], tmp_path: Path) -> None:
    pictures = jpegs(tmp_path)
    changed = [replace(picture, data=change(picture.data)) for picture in pictures]
    assert checksums(changed) == checksums(pictures)
    assert published(changed)[2] == {}


def test_a_jpeg_whose_scan_is_cut_off_is_not(tmp_path: Path) -> None:
    pictures = jpegs(tmp_path)
    right = checksums(pictures)
    for missing in (8, 40, 400):
        cut = [replace(p, data=p.data[:-missing]) if p.seq % 3 == 1 else p for p in pictures]
        assert checksums(cut) == {seq: value for seq, value in right.items() if seq % 3 != 1}
        assert published(cut)[2] == {"corrupt": 10}


def lossy(data: bytes, rate: float, seed: int) -> bytes:
    chance = random.Random(seed)
    packets = [data[at : at + TS_PACKET] for at in range(0, len(data), TS_PACKET)]
    return b"".join(packet for index, packet in enumerate(packets) if index < 8 or chance.random() >= rate)


def x265(path: Path) -> Path:
    clip = encode(path.with_name("clip"), "hevc", pictures=60)
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        track = source.streams.video[0]
        copy = target.add_stream_from_template(track)
        for packet in source.demux(track):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return path


@pytest.mark.parametrize(
    "parameters", ["bframes=2", "bframes=0", "bframes=3:open-gop=1", "bframes=0:intra-refresh=1", "hevc"]
)
def test_lost_transport_packets_never_show_a_wrong_picture(parameters: str, tmp_path: Path) -> None:
    """The decoder alone would accept many of these pictures, most of those in HEVC."""
    stream = tmp_path / "stream.ts"
    x265(stream) if parameters == "hevc" else x264(stream, parameters, (96, 80))
    right = set(checksums(pictures_of(stream)).values())
    sound = stream.read_bytes()
    shown = lost = 0
    for seed in range(8):
        stream.write_bytes(lossy(sound, (0.01, 0.03)[seed % 2], seed))
        with Source(str(stream)) as source:
            sent, documents, _ = published(source.pictures("gate", 7))
            lost += source.dropped["corrupt"]
        ours = checksums(sent)
        shown += len(ours)
        assert set(ours.values()) <= right
        assert {d.signal.luma_crc32 for d in documents if d.signal} <= right
    assert shown
    assert lost


@pytest.mark.parametrize("transport", ["udp", "tcp"])
@pytest.mark.parametrize("codec", ["h264-plain", "hevc-open"])
def test_lost_rtp_packets_never_show_a_wrong_picture(codec: str, transport: str, tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", codec, pictures=60))
    right = set(checksums(pictures).values())
    shown = lost = 0
    for seed in range(2):
        options = SourceOptions(timeout_s=3.0, rtsp_transport=transport)  # type: ignore[arg-type]
        received: list[CodedPicture] = []
        with lossy_camera(pictures, 0.02, seed, speed=20.0) as url, Source(url, options) as source:
            with suppress(SourceError):  # the camera hung up
                received.extend(source.pictures("gate", 7))
            lost += source.dropped["corrupt"]
        ours = checksums(published(received)[0])
        shown += len(ours)
        assert set(ours.values()) <= right
    assert shown
    assert lost


@pytest.mark.parametrize("codec", ["h264", "h264-plain", "h264-open", "hevc", "hevc-open"])
def test_pictures_that_never_came_are_noticed(codec: str, tmp_path: Path) -> None:
    """A camera or network that drops whole pictures: pictures that refer to them are not valid."""
    pictures = pictures_of(encode(tmp_path / "clip", codec))
    right = set(checksums(pictures).values())
    noticed = 0
    for gone in (3, 4, 5, 12, 13, 17, 24):
        rest = renumbered(picture for picture in pictures if picture.seq != gone)
        sent, _, lost = published(rest)
        assert set(checksums(sent).values()) <= right
        assert len(sent) + sum(lost.values()) == len(rest)
        noticed += bool(lost)
        if picture_is_disposable(pictures[gone]):
            assert lost == {}
    assert noticed


def picture_is_disposable(picture: CodedPicture) -> bool:
    units = [unit for unit in split_annex_b(picture.data) if nal_type(unit, picture.codec) in (1, 5)]
    return picture.codec == "h264" and all(not unit[0] & 0x60 for unit in units)


def without_reorder_depth(picture: CodedPicture) -> CodedPicture:
    """The picture with sequence parameter sets that state only the size: as many cameras send them."""

    def plain(unit: bytes) -> bytes:
        payload = unit[1:].replace(b"\0\0\3", b"\0\0")
        bits, length = int.from_bytes(payload), 8 * len(payload)
        reader = Bits(unit, 1)  # profile high, no scaling lists: as x264 writes
        assert reader.u(8) == 100
        reader.u(16)
        for _ in range(4):
            reader.ue()
        reader.u(2)
        reader.ue()
        assert reader.ue() == 0  # type of picture order count
        reader.ue()
        reader.ue()
        reader.u(1)
        reader.ue()
        reader.ue()
        assert reader.u(2) == 3  # frames only, and direct_8x8_inference_flag
        for _ in range(4 * reader.u(1)):
            reader.ue()
        read = length - reader.left
        ended = ((bits >> (length - read)) << 2 | 1) << (-(read + 2) % 8)
        escaped = re.sub(rb"\0\0([\0-\3])", lambda match: b"\0\0\3" + match[1], ended.to_bytes((read + 9) // 8))
        return unit[:1] + escaped

    units = [plain(unit) if nal_type(unit, "h264") == 7 else unit for unit in split_annex_b(picture.data)]
    return replace(picture, data=b"".join(START_CODE + unit for unit in units))


def test_the_first_b_pictures_are_shown_where_the_sequence_does_not_say_how_far_it_reorders(tmp_path: Path) -> None:
    pictures = pictures_of(x264(tmp_path / "clip.ts", "bframes=3:open-gop=1", (96, 80)))
    plain = [without_reorder_depth(picture) for picture in pictures]
    sps = next(unit for unit in split_annex_b(plain[0].data) if nal_type(unit, "h264") == 7)
    assert h264_sequence(sps)[1].depth is None
    assert checksums(plain) == checksums(pictures)
    # Without decoding times it is unknown. What is missing then is counted.
    blind = [replace(picture, dts=None) for picture in plain]
    extractor = SignalExtractor()
    documents = [document for picture in blind for document in extractor.push(picture)] + extractor.flush()
    assert len(documents) == len(pictures)
    assert extractor.not_shown == len(pictures) - len(checksums(blind)) > 0


def test_where_times_tell_of_no_reordering_nothing_waits(tmp_path: Path) -> None:
    """Many cameras could send B-pictures, do not, and do not say so: a picture is shown immediately."""
    pictures = pictures_of(x264(tmp_path / "clip.ts", "bframes=1:b-adapt=2:direct=none", (96, 80)))
    decoder, keyframe = Decoder(), without_reorder_depth(pictures[0])
    assert len(decoder.push(replace(keyframe, dts=keyframe.pts))) == 1
    decoder = Decoder()
    assert decoder.push(replace(keyframe, dts=keyframe.pts - keyframe.duration)) == []


def flipped(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 1, 4, 16))):
        changed[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def holed(data: bytes, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(data)), chance.choice((1, 8, 64, 184, 1400))
    return data[:start] + data[start + length :]


def cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(1, len(data) + 1)]


def overwritten(data: bytes, chance: random.Random) -> bytes:
    start, length = chance.randrange(len(data)), chance.choice((4, 32, 256))
    return data[:start] + chance.randbytes(min(length, len(data) - start)) + data[start + length :]


def mutated(pictures: list[CodedPicture], seed: int) -> list[CodedPicture]:
    """The pictures with one to four of them damaged, dropped or repeated."""
    chance = random.Random(seed)
    changed = list(pictures)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at = chance.randrange(len(changed))
        kind = chance.randrange(6)
        if kind == 4:
            del changed[at]
        elif kind == 5:
            changed.insert(at, changed[at])
        else:
            damage = (flipped, holed, cut, overwritten)[kind]
            changed[at] = replace(changed[at], data=damage(changed[at].data, chance) or b"\0")
    return renumbered(changed)


def bounds_hold(pictures: list[CodedPicture]) -> tuple[int, int]:
    """Checks every bound that a worker takes from a signal against its own samples. Returns (bounds, refused signals)."""
    sent, documents, _ = published(pictures)
    signals = {document.seq: document.signal for document in documents if document.signal}
    references: dict[int, npt.NDArray[np.uint8]] = {}
    bounds = mismatches = 0
    for shown in decoded(sent):
        signal = signals.get(shown.seq)
        if signal is None:
            continue
        if not shown.matches(signal):
            mismatches += 1
            continue
        now = shown.luma()
        if signal.since in references:
            measured = cell_changes(now, references[signal.since], signal.exposure)
            assert (measured <= signal.change)[signal.change < NO_BOUND].all()
            bounds += 1
        if signal.reference:
            references[signal.tick] = now
    return bounds, mismatches


@pytest.mark.parametrize("codec", CODECS)
def test_a_bound_holds_for_the_samples_that_a_worker_sees(codec: str, tmp_path: Path) -> None:
    """Whatever the producer's decoder and FFmpeg make of damaged pictures."""
    pictures = pictures_of(encode(tmp_path / "clip", codec))
    assert bounds_hold(pictures)[1] == 0
    assert sum(bounds_hold(mutated(pictures, seed))[0] for seed in range(25)) > 20


def test_a_checksum_is_of_the_samples_alone() -> None:
    wide = np.arange(40 * 60, dtype=np.uint8).reshape(40, 60)
    assert luma_checksum(wide[:, :50]) == luma_checksum(wide[:, :50].copy())
    assert luma_checksum(wide) != luma_checksum(wide ^ np.uint8(1))


def test_deep_samples_lose_their_lowest_bits_everywhere_alike(tmp_path: Path) -> None:
    frames = list(PictureDecoder().push(pictures_of(encode(tmp_path / "clip", "hevc-10-bit"))[0]))
    shown = decoded(pictures_of(encode(tmp_path / "clip", "hevc-10-bit")))
    frame = shown[0].frame
    words = np.frombuffer(frame.planes[0], "<u2").reshape(frame.height, -1)[:, : frame.width]  # type: ignore[call-overload]
    assert frame.format.name == "yuv420p10le"
    assert np.array_equal(shown[0].luma(), words >> 2)
    assert len(frames) <= 1


def test_two_pictures_in_one_are_shown_as_one(tmp_path: Path) -> None:
    """AV1 whose delimiter between them was lost."""
    pictures = pictures_of(encode(tmp_path / "clip", "av1"))
    sound = checksums(pictures)
    both = replace(pictures[4], data=pictures[4].data + pictures[5].data)
    joined = [*pictures[:4], both, *(replace(picture, seq=picture.seq - 1) for picture in pictures[6:])]
    shown = decoded(joined)
    assert [one.seq for one in shown] == [picture.seq for picture in joined]
    assert {luma_checksum(one.luma()) for one in shown} <= set(sound.values())


def test_a_codec_that_nobody_knows_is_one_error_per_keyframe_and_nothing_else(tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", "h264-plain"))
    decoder = Decoder()
    for picture in pictures[:25]:
        unknown = replace(picture, codec="h2645")
        if picture.keyframe:
            with pytest.raises(SourceError, match="no decoder for codec 'h2645'"):
                decoder.push(unknown)
        else:
            assert decoder.push(unknown) == []
    assert decoder.lost == 22
    assert decoded(pictures[25:], decoder) == []
    later = [replace(picture, seq=picture.seq + 30) for picture in pictures]
    assert len(decoded(later, Decoder())) == 30


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", "mjpeg"))
    with pytest.raises(SourceError, match=r"stream gate: pictures of 8193x8192 are larger than 67108864 samples"):
        Decoder().push(replace(pictures[0], width=8193, height=8192))
    with pytest.raises(SourceError, match="are larger than 7679 samples"):
        PictureDecoder(max_pixels=96 * 80 - 1).push(pictures[0])
    assert len(PictureDecoder(max_pixels=96 * 80).push(pictures[0])) == 1
    # One that is marked only in its own header.
    start = pictures[0].data.index(b"\xff\xc0") + 5
    side = int((2 * MAX_PIXELS) ** 0.5) + 8
    size = side.to_bytes(2) * 2
    hidden = pictures[0].data[:start] + size + pictures[0].data[start + 4 :]
    decoder = Decoder()
    assert decoder.push(replace(pictures[0], data=hidden)) == []
    assert decoder.lost == 1


def test_a_time_that_a_decoder_cannot_hold_loses_the_picture(tmp_path: Path) -> None:
    pictures = pictures_of(encode(tmp_path / "clip", "h264-plain"))
    decoder = Decoder()
    decoded([replace(p, pts=2**80) if p.seq == 4 else p for p in pictures], decoder)
    assert decoder.lost == 6


def test_a_published_picture_has_its_own_size(tmp_path: Path) -> None:
    """With two sequences in one stream: also the pictures that the decoder shows after it has started the second."""
    first = pictures_of(x264(tmp_path / "first.ts", "bframes=3", (96, 80)))
    second = pictures_of(x264(tmp_path / "second.ts", "bframes=3", (128, 64)))
    shift = first[-1].seq + 1
    ahead = max(p.pts for p in first) + first[0].duration - min(p.pts for p in second) + 2 * first[0].duration
    later = [replace(p, seq=p.seq + shift, pts=p.pts + ahead, dts=(p.dts or 0) + ahead) for p in second]
    packets, metadata = RecordCollector(), RecordCollector()
    publisher = EpochPublisher(
        "gate", 7, Fraction(1, 2), (packets, metadata), TopicNames("x"), 2**20, Summary("gate", "clip")
    )
    for picture in first + later:
        publisher.push(replace(picture, width=96, height=80))  # as the container says throughout
    publisher.finish()
    sizes = [(p.width, p.height) for p in (decode_packet(r.key, r.value, r.headers) for r in packets.records)]
    assert sizes == [(96, 80)] * len(first) + [(128, 64)] * len(later)


def test_a_camera_without_a_keyframe_after_a_loss_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codecflow.codec.source.KEYFRAME_WITHIN_S", 0.0)
    path, notices = encode(tmp_path / "clip", "h264-ts", 30, (320, 240)), list[str]()
    packets = [path.read_bytes()[at : at + 188] for at in range(0, path.stat().st_size, 188)]
    path.write_bytes(b"".join(packet for index, packet in enumerate(packets) if index != len(packets) // 2))
    with Source(str(path), notice=notices.append) as source:
        pictures = list(source.pictures("gate", 1))
    assert source.dropped["corrupt"] == 1
    assert source.dropped["after a corrupt one"]
    assert len(pictures) + sum(source.dropped.values()) == 30
    assert "no keyframe for" in notices[0]

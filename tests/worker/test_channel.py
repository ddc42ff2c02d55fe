"""Messages to and from sampler processes: the same on both sides, and nothing of them is left behind."""

from __future__ import annotations

import os
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from codecflow.vlm.work import Frame
from codecflow.worker.channel import Channel
from codecflow.worker.join import Joined

from .memory import Published


def test_pictures_and_metadata_arrive_as_they_were_sent(published: Published) -> None:
    pictures, documents = published
    sent = [
        Joined(1, n, picture, replace(document, signal=None), n, n + 1)  # type: ignore[type-var]
        for n, (picture, document) in enumerate(zip(pictures, documents, strict=False))
    ]
    near, far = ends()
    near.send([*sent, Joined(1, 500, None, sent[0].metadata, 1, 2), Joined(1, 501, sent[0].picture, None, 1, 2)])
    found = far.receive()
    assert found[:-2] == sent
    assert (found[-2].picture, found[-1].metadata) == (None, None)
    near.send([documents[0]])  # with arrays
    signal, expected = far.receive()[0].signal, documents[0].signal  # type: ignore[union-attr]
    assert expected is not None
    assert np.array_equal(signal.change, expected.change)
    assert (signal.tick, signal.interval, signal.luma_crc32) == (0, Fraction(1, 2), expected.luma_crc32)
    assert far.receive() is None


def test_frames_that_wait_hold_no_descriptors_and_their_memory_is_given_back() -> None:
    near, far = ends()
    before, held = set(os.listdir("/proc/self/fd")), []
    for number in range(40):
        patches = np.full((256, 14, 14, 3), number, np.uint8)
        near.send([Frame(n, n / 2, np.ones(64, bool), patches + np.uint8(n), (320, 240)) for n in range(3)])
        held.append(far.receive())
    # The directory being read, and files that other tests' threads have opened meanwhile; not one per message.
    assert len(set(os.listdir("/proc/self/fd")) - before) < 20
    assert [int(frame.patches[-1, -1, -1, 0]) for frames in held for frame in frames] == [
        number + n for number in range(40) for n in range(3)
    ]
    assert maps() == 40
    held.clear()
    assert maps() == 0


def ends() -> tuple[Channel, Channel]:
    near, far = Channel.pair()
    return near, Channel(far)


def maps() -> int:
    return Path("/proc/self/maps").read_text().count("memfd:codecflow-message")

"""Cameras for the page: coded pictures of a clip, published repeatedly at their own pace."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

from codecflow.kafka.records import Record
from codecflow.kafka.sending import RecordSender
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import CodedPicture, PictureMetadata, encode_metadata, encode_packet


def publish(settings: KafkaSettings, pictures: Iterable[CodedPicture]) -> None:
    """Pictures and their metadata, unchanged."""
    with RecordSender(settings, **{"linger.ms": 5}) as sender:
        for picture in pictures:
            _send(sender, settings, picture)


def _send(sender: RecordSender, settings: KafkaSettings, picture: CodedPicture) -> None:
    key, value, headers = encode_packet(picture)
    sender.send(Record(settings.topics.packets, key, value, "a picture", headers))
    kind = "I" if picture.keyframe else "P"
    metadata = PictureMetadata(
        picture.stream, picture.epoch, picture.seq, picture.pts, 0, picture.time_base, picture.codec, kind, len(value)
    )
    key, value = encode_metadata(metadata)
    sender.send(Record(settings.topics.metadata, key, value, "metadata"))


class Cameras:
    """Each of `clips` is a stream, live while the context is entered. `sent`: by stream, each published picture, by seq."""

    def __init__(self, settings: KafkaSettings, clips: dict[str, Sequence[CodedPicture]]) -> None:
        self.sent: dict[str, dict[int, CodedPicture]] = {name: {} for name in clips}
        self._settings, self._clips = settings, clips
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        epoch = int(time.time() * 1000)
        begun = time.monotonic()
        with RecordSender(self._settings, **{"linger.ms": 5}) as sender:
            turns = dict.fromkeys(self._clips, 0)
            while not self._stop.is_set():
                for name, clip in self._clips.items():
                    turn, at = divmod(turns[name], len(clip))
                    one = clip[at]
                    span = max(p.pts + p.duration for p in clip) - min(p.pts for p in clip)
                    # By their position in the clip, as a camera sends what it has coded.
                    due = begun + float(turns[name] * span * one.time_base) / len(clip)
                    if due > time.monotonic():
                        continue
                    picture = replace(
                        one,
                        stream=name,
                        epoch=epoch,
                        seq=turns[name],
                        pts=one.pts + turn * span,
                        dts=None if one.dts is None else one.dts + turn * span,
                        captured_at_ms=int(time.time() * 1000),
                        live=True,
                    )
                    self.sent[name][picture.seq] = picture
                    _send(sender, self._settings, picture)
                    turns[name] += 1
                sender.poll(0)
                self._stop.wait(0.01)

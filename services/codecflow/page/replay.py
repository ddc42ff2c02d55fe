"""Replays retained packets to one browser from a given time, at the browser's playing speed."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

import orjson

from codecflow.codec.mp4 import Fragmenter, Init
from codecflow.errors import CodecFlowError, MessageError, SourceError
from codecflow.kafka.partition_reader import PartitionReader
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import decode_masks
from codecflow.subscriber.recording import NotThereError, Recording, WallClock

from .board import masks_document
from .channels import fragment_part, init_part, still_part
from .outbox import Part
from .stills import Stills

AHEAD_S = 8.0
"""Seconds of media that a browser gets ahead of playing."""

_MASKS_AHEAD_MS = 60_000
_JUMP_S = 60.0
_logger = logging.getLogger("codecflow.page")


class Replay:
    """Plays `stream` from a wall clock in ms on, in its own thread. `take` gets parts, `send_text` texts and `over` why it
    ended (None: it was stopped), all in the event loop."""

    def __init__(
        self,
        settings: KafkaSettings,
        stream: str,
        at_ms: int,
        jpeg: bool,
        loop: asyncio.AbstractEventLoop,
        take: Callable[[Part], None],
        send_text: Callable[[str], None],
        over: Callable[[str | None], None],
    ) -> None:
        self._settings, self._stream, self._at_ms, self._jpeg = settings, stream, at_ms, jpeg
        self._loop, self._take, self._publish, self._over = loop, take, send_text, over
        self._stop = threading.Event()
        self._played_s: float | None = None
        self._started = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="page-replay", daemon=True)
        self._thread.start()

    def played(self, media_s: float) -> None:
        """The browser's current position."""
        self._played_s = media_s

    def stop(self) -> None:
        """Ends it soon, without waiting."""
        self._stop.set()

    def _run(self) -> None:
        why: str | None = None
        try:
            with (
                Recording(self._settings, self._stream, self._stop.is_set) as recording,
                _PastMasks(self._settings, self._stream, self._at_ms) as masks,
            ):
                self._play(recording, masks)
        except NotThereError as error:
            why = str(error)
        except SourceError:
            why = "jpeg"  # no browser plays it
        except CodecFlowError as error:
            why = str(error)
        except Exception:  # one browser's replay must not end the page
            _logger.debug("stream %r", self._stream, exc_info=True)
            why = "this part cannot be played"
        if not self._stop.is_set():
            self._post(lambda: self._over(why))

    def _play(self, recording: Recording, masks: _PastMasks) -> None:
        fragmenter, stills = Fragmenter(), Stills()
        first_s: float | None = None
        for picture in recording.pictures(WallClock(self._at_ms), follow=True):
            for text in masks.until(picture.captured_at_ms + _MASKS_AHEAD_MS):
                self._post(lambda text=text: self._publish(text))  # type: ignore[misc]
            if self._jpeg:
                parts = [still_part(shown.picture, data) for shown, data in stills.push(picture)]
            else:
                parts = [
                    init_part(one) if isinstance(one, Init) else fragment_part(one) for one in fragmenter.push(picture)
                ]
            for part in parts:
                if "t" in part.header:
                    first_s = part.header["t"] if first_s is None else first_s
                    if not self._may_send(part.header["t"], first_s):
                        return
                self._post(lambda part=part: self._take(part))  # type: ignore[misc]

    def _may_send(self, media_s: float, first_s: float) -> bool:
        """Waits until the browser is close enough; False when the replay is to end."""
        started = time.monotonic()
        while not self._stop.is_set():
            if self._jpeg:  # JPEGs have no player clock
                played = first_s + started - self._started
                ahead_s = 0.0
            else:
                played = first_s if self._played_s is None else self._played_s
                ahead_s = AHEAD_S
            # A jump in the stream's time is played without delay.
            if media_s - played <= ahead_s or media_s - played > _JUMP_S:
                return True
            self._stop.wait(0.05)
            started = time.monotonic()
        return False

    def _post(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the page is ending
            self._stop.set()


class _PastMasks:
    """Masks of one stream from a given time, read as needed."""

    def __init__(self, settings: KafkaSettings, stream: str, at_ms: int) -> None:
        self._key = stream.encode()
        self._history = PartitionReader(settings, settings.topics.masks, stream)
        begin = self._history.offset_at(at_ms)
        self._reached_ms = at_ms
        self._history.seek(self._history.range()[1] if begin is None else begin)

    def __enter__(self) -> _PastMasks:
        return self

    def __exit__(self, *_: object) -> None:
        self._history.close()

    def until(self, ms: int) -> list[str]:
        """Masks of windows up to a capture time that were not returned yet, as far as they exist."""
        found: list[str] = []
        while self._reached_ms < ms:
            messages = self._history.poll(0.0 if self._history.at_end else 0.2)
            for message in messages:
                self._reached_ms = max(self._reached_ms, message.timestamp()[1])
                if message.key() != self._key:
                    continue
                try:
                    masks = decode_masks(message.key(), message.value())
                except MessageError:
                    continue
                found.append(orjson.dumps(masks_document(masks)).decode())
            if not messages and self._history.at_end:
                break
        return found

"""One muxer per stream for any number of viewers: parts are made once, in the feed's thread, and passed to the event
loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from codecflow.codec.mp4 import Fragment, Fragmenter, Init
from codecflow.errors import SourceError
from codecflow.messages import CodedPicture
from codecflow.orientation import shown_size

from .feed import Feed
from .outbox import Part
from .stills import Stills, tile

_GOP_BYTES = 16 << 20
_TILE_EVERY_S = 1.0
_MAX_WAITING = 64
_logger = logging.getLogger("codecflow.page")


def init_part(init: Init) -> Part:
    header = {
        "k": "i",
        "mime": init.mime,
        "codec": init.codec,
        "size": init.size,
        "e": init.epoch,
        "shift": init.shift_s,
    }
    return Part(0, header, init.data, init=True)


def fragment_part(fragment: Fragment) -> Part:
    header = {
        "k": "f",
        "t": fragment.time_s,
        "q": fragment.seq,
        "c": fragment.captured_at_ms,
        "y": fragment.keyframe,
    }
    return Part(0, header, fragment.data, keyframe=fragment.keyframe)


def still_part(picture: CodedPicture, data: bytes) -> Part:
    """A large JPEG. Its time is that of the stamp, on the timeline of fragment players."""
    header = {
        "k": "j",
        "t": float(picture.pts * picture.time_base),
        "q": picture.seq,
        "c": picture.captured_at_ms,
        "codec": picture.codec,
        "size": shown_size(picture.width, picture.height, picture.orientation),
        "e": picture.epoch,
    }
    return Part(0, header, data)


class Watcher(Protocol):
    """Receives parts, in the event loop."""

    def take(self, part: Part) -> None: ...

    def unplayable(self, stream: str, codec: str) -> None: ...


class Channel:
    """Video of one stream for all its viewers."""

    def __init__(self, stream: str, feed: Feed, loop: asyncio.AbstractEventLoop) -> None:
        self.stream = stream
        self.watchers: set[Watcher] = set()
        self._feed, self._loop = feed, loop
        self._fragmenter = Fragmenter()
        self._init: Part | None = None
        self._gop: list[Part] = []
        self._gop_bytes = 0
        self._unplayable: str | None = None
        feed.watch(stream, self._picture)

    def add(self, watcher: Watcher) -> None:
        self.watchers.add(watcher)
        if self._unplayable is not None:
            watcher.unplayable(self.stream, self._unplayable)
        elif self._init is not None and self._gop:
            for part in (self._init, *self._gop):
                watcher.take(part)

    def remove(self, watcher: Watcher) -> None:
        self.watchers.discard(watcher)

    def close(self) -> None:
        self._feed.unwatch(self.stream, self._picture)

    def _picture(self, picture: CodedPicture) -> None:
        """In the feed's thread."""
        try:
            parts = [
                init_part(one) if isinstance(one, Init) else fragment_part(one)
                for one in self._fragmenter.push(picture)
            ]
        except SourceError:
            self._loop.call_soon_threadsafe(self._refuse, picture.codec)
            return
        if parts:
            self._loop.call_soon_threadsafe(self._take, parts)

    def _refuse(self, codec: str) -> None:
        self._unplayable = codec
        for watcher in tuple(self.watchers):
            watcher.unplayable(self.stream, codec)

    def _take(self, parts: list[Part]) -> None:
        self._unplayable = None
        for part in parts:
            if part.init:
                self._init, self._gop, self._gop_bytes = part, [], 0
            else:
                if part.keyframe:
                    self._gop, self._gop_bytes = [], 0
                if part.keyframe or self._gop:
                    self._gop.append(part)
                    self._gop_bytes += len(part.payload)
                if self._gop_bytes > _GOP_BYTES:
                    self._gop, self._gop_bytes = [], 0
            for watcher in tuple(self.watchers):
                watcher.take(part)


class StillChannel:
    """JPEGs of one stream for all its viewers: from all of its pictures, one or two per second."""

    def __init__(self, stream: str, feed: Feed, loop: asyncio.AbstractEventLoop, pool: ThreadPoolExecutor) -> None:
        self.stream = stream
        self.watchers: set[Watcher] = set()
        self._feed, self._loop, self._pool = feed, loop, pool
        self._lock = threading.Lock()
        self._waiting: list[CodedPicture] = []
        self._working = False
        self._stills = Stills()
        self._last: Part | None = None
        feed.watch(stream, self._picture)

    def add(self, watcher: Watcher) -> None:
        self.watchers.add(watcher)
        if self._last is not None:
            watcher.take(self._last)

    def remove(self, watcher: Watcher) -> None:
        self.watchers.discard(watcher)

    def close(self) -> None:
        self._feed.unwatch(self.stream, self._picture)

    def _picture(self, picture: CodedPicture) -> None:
        with self._lock:
            self._waiting.append(picture)
            if len(self._waiting) > _MAX_WAITING:
                # Slower than the camera: skip to the newest keyframe.
                keys = [at for at, one in enumerate(self._waiting) if one.keyframe]
                if len(self._waiting) > 8 * _MAX_WAITING or (keys and keys[-1] > 0):
                    del self._waiting[: keys[-1] if keys else len(self._waiting)]
            if self._working or not self._waiting:
                return
            self._working = True
        self._pool.submit(self._work)

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    return
                picture = self._waiting.pop(0)
            try:
                for shown, data in self._stills.push(picture):
                    self._loop.call_soon_threadsafe(self._take, still_part(shown.picture, data))
            except Exception:  # one stream's picture must not stop the others
                _logger.debug("stream %r", self.stream, exc_info=True)
                self._stills = Stills()

    def _take(self, part: Part) -> None:
        self._last = part
        for watcher in tuple(self.watchers):
            watcher.take(part)


class TileChannel:
    """Thumbnails of one stream for the grid: from its keyframes, at most one per second."""

    def __init__(
        self,
        stream: str,
        feed: Feed,
        loop: asyncio.AbstractEventLoop,
        pool: ThreadPoolExecutor,
        show: Callable[[str, Part], None],
    ) -> None:
        self.stream = stream
        self.last: Part | None = None
        self.count = 0
        """Current viewers."""
        self._feed, self._loop, self._pool, self._show = feed, loop, pool, show
        self._busy = False
        self._next = 0.0
        feed.watch(stream, self._picture)

    def close(self) -> None:
        self._feed.unwatch(self.stream, self._picture)

    def _picture(self, picture: CodedPicture) -> None:
        now = time.monotonic()
        if not picture.keyframe or self._busy or now < self._next:
            return
        self._busy, self._next = True, now + _TILE_EVERY_S
        self._pool.submit(self.work, picture)

    def work(self, picture: CodedPicture) -> None:
        """Decode a keyframe and send its thumbnail."""
        try:
            data = tile(picture)
        except Exception:  # one stream's picture must not stop the others
            _logger.debug("stream %r", self.stream, exc_info=True)
            data = None
        finally:
            self._busy = False
        if data is not None:
            part = Part(0, {"k": "t", "s": self.stream, "c": picture.captured_at_ms}, data)
            self._loop.call_soon_threadsafe(self._take, part)

    def _take(self, part: Part) -> None:
        self.last = part
        self._show(self.stream, part)

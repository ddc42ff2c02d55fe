"""Send queue of one browser: bounded; video is dropped first."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Any

import orjson

MAX_VIDEO_BYTES = 8 << 20
"""Limit on queued pictures. A browser that is slower gets the next keyframe instead of them."""

MAX_TEXTS = 2_000


@dataclass(frozen=True, slots=True)
class Part:
    """A binary message: its description, and bytes. `session`: the watch session that it belongs to. `keyframe`: a player
    can start there. `init`: data that precedes any picture."""

    session: int
    header: dict[str, Any]
    payload: bytes
    keyframe: bool = True
    init: bool = False

    def message(self) -> bytes:
        """Four bytes with the length of a JSON document, the document, the payload."""
        header = orjson.dumps({**self.header, "n": self.session})
        return len(header).to_bytes(4) + header + self.payload


class Outbox:
    """Texts go first, in order; parts keep their order. For one event loop."""

    def __init__(self, max_video_bytes: int = MAX_VIDEO_BYTES) -> None:
        self.dropped = 0
        """Pictures dropped because the browser was too slow."""
        self._limit = max_video_bytes
        self._texts: deque[str] = deque(maxlen=MAX_TEXTS)
        self._parts: deque[Part] = deque()
        self._bytes = 0
        self._init: Part | None = None
        self._session = 0
        self._waiting = False  # for a keyframe, after parts were dropped
        self._unsent_init = False
        self._ready = asyncio.Event()

    @property
    def video_bytes(self) -> int:
        return self._bytes

    def text(self, document: dict[str, Any]) -> None:
        self._texts.append(orjson.dumps(document).decode())
        self._ready.set()

    def raw(self, text: str) -> None:
        """A document that is already JSON."""
        self._texts.append(text)
        self._ready.set()

    def begin(self, session: int) -> None:
        """From now on parts of other sessions are dropped."""
        self._session = session
        self._parts.clear()
        self._bytes = 0
        self._init, self._waiting, self._unsent_init = None, False, False

    def part(self, part: Part) -> None:
        if part.session != self._session:
            return
        if part.init:
            self._init, self._unsent_init = part, self._waiting
            if self._waiting:
                return
        elif self._waiting:
            if not part.keyframe:
                self.dropped += 1
                return
            self._waiting = False
            if self._unsent_init and self._init is not None:
                self._unsent_init = False
                self._put(self._init)
        self._put(part)
        if self._bytes > self._limit:
            self._unsent_init = any(one.init for one in self._parts)
            self.dropped += sum(not one.init for one in self._parts)
            self._parts.clear()
            self._bytes, self._waiting = 0, True

    def still(self, part: Part) -> None:
        """A still picture: only the newest one of its stream is kept."""
        key = part.header.get("s")
        kept = [one for one in self._parts if not (one.header.get("k") == "t" and one.header.get("s") == key)]
        if len(kept) < len(self._parts):
            self._parts = deque(kept)
            self._bytes = sum(len(one.payload) for one in kept)
        if self._bytes + len(part.payload) <= self._limit:
            self._put(part)

    async def next(self) -> str | bytes:
        """The next message; waits for one."""
        while True:
            if self._texts:
                return self._texts.popleft()
            if self._parts:
                part = self._parts.popleft()
                self._bytes -= len(part.payload)
                return part.message()
            self._ready.clear()
            await self._ready.wait()

    def _put(self, part: Part) -> None:
        self._parts.append(part)
        self._bytes += len(part.payload)
        self._ready.set()

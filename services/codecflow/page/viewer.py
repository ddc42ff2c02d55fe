"""One browser: what it watches, and what is sent to it."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from codecflow.errors import CodecFlowError, ConfigError
from codecflow.kafka.settings import KafkaSettings
from codecflow.messages import check_stream_id
from codecflow.subscriber.recording import Recording

from .channels import Channel, StillChannel
from .outbox import Outbox, Part
from .replay import Replay

if TYPE_CHECKING:
    from .hub import Hub

MAX_TILES = 64
"""Maximum number of grid streams visible at once in one browser."""

_logger = logging.getLogger("codecflow.page")


class Viewer:
    """Takes a browser's commands and fills its outbox."""

    def __init__(self, hub: Hub) -> None:
        self.outbox = Outbox()
        self.stream: str | None = None
        """The stream that it watches."""
        self.live = True
        self.tiles: set[str] = set()
        self._hub = hub
        self._session = 0
        self._channel: Channel | StillChannel | None = None
        self._replay: Replay | None = None

    def command(self, text: str | bytes) -> None:
        """Handles a browser's command. Anything else is ignored."""
        try:
            wanted = orjson.loads(text)
            kind = wanted["do"]
            if kind == "watch":
                self.watch(check_stream_id(wanted["s"]), int(wanted["n"]), wanted.get("at"), wanted.get("jpeg") is True)
            elif kind == "tiles":
                self.show({check_stream_id(name) for name in wanted["s"][:MAX_TILES]})
            elif kind == "close":
                self.unwatch()
            elif kind == "played" and self._replay is not None and math.isfinite(played := float(wanted["t"])):
                self._replay.played(played)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, OverflowError, ConfigError):
            _logger.debug("not a command: %r", text[:200])

    def watch(self, stream: str, session: int, at_ms: float | None, jpeg: bool) -> None:
        """Watch a stream: live, or from a wall clock in ms on."""
        self.unwatch()
        self.stream, self._session, self.live = stream, session, at_ms is None
        self.outbox.begin(session)
        info = self._hub.board.streams.get(stream)
        if info is not None:
            self.outbox.text(
                {"k": "h", "s": stream, "n": session, "r": list(info.history), "e": list(info.events.values())}
            )
            if self.live:
                for masks in info.masks:
                    self.outbox.raw(masks)
        if at_ms is not None:
            if not self._hub.may_replay():
                self.outbox.text({"k": "notice", "n": session, "text": "too many replays at once; try again later"})
                return
            self._replay = Replay(
                self._hub.settings, stream, int(at_ms), jpeg, self._hub.loop, self.take, self.outbox.raw, self._over
            )
            self._hub.replays.add(self._replay)
            return
        self._channel = self._hub.still(stream) if jpeg else self._hub.channel(stream)
        self._channel.add(self)
        self._hub.look_up(stream, self, session)

    def unwatch(self) -> None:
        """Stop watching the large stream."""
        self.stream = None
        if self._replay is not None:
            self._replay.stop()
            self._hub.replays.discard(self._replay)
            self._replay = None
        if self._channel is not None:
            self._channel.remove(self)
            self._hub.release(self._channel)
            self._channel = None

    def show(self, streams: set[str]) -> None:
        """Set the visible tiles."""
        for stream in self.tiles - streams:
            self._hub.drop_tile(stream)
        for stream in sorted(streams - self.tiles):
            tile = self._hub.tile(stream)
            if tile.last is not None:
                self.outbox.still(tile.last)
        self.tiles = streams

    def take(self, part: Part) -> None:
        self.outbox.part(replace(part, session=self._session))

    def unplayable(self, stream: str, codec: str) -> None:
        """No browser plays this codec."""
        if stream == self.stream:
            self.outbox.text({"k": "jpeg", "n": self._session, "codec": codec})

    def close(self) -> None:
        self.unwatch()
        self.show(set())

    def _over(self, why: str | None) -> None:
        if self._replay is not None:
            self._hub.replays.discard(self._replay)
            self._replay = None
        if why == "jpeg":
            self.outbox.text({"k": "jpeg", "n": self._session, "codec": ""})
        elif why is not None:
            self.outbox.text({"k": "notice", "n": self._session, "text": why})


def oldest_ms(settings: KafkaSettings, stream: str) -> int:
    """Since when packets hold a stream: from now on, if they hold none of it."""
    with Recording(settings, stream) as recording:
        picture = recording.oldest()
    return int(time.time() * 1000) if picture is None else picture.captured_at_ms


async def in_pool(pool: ThreadPoolExecutor, call: Any, *arguments: Any) -> Any:
    """The result of a call made in a thread; None if it failed."""
    try:
        return await asyncio.get_running_loop().run_in_executor(pool, call, *arguments)
    except CodecFlowError as error:
        _logger.debug("%s", error)
        return None

"""State shared by all browsers: the board, the feed, and one channel per watched stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from codecflow.kafka.settings import KafkaSettings
from codecflow.subscriber.recording import Recording

from .board import Board
from .channels import Channel, StillChannel, TileChannel
from .feed import LOOK_BACK_MS, Feed
from .outbox import Part
from .replay import Replay
from .viewer import Viewer, in_pool, oldest_ms

MAX_REPLAYS = 16
"""Maximum number of concurrent replays: each reads its own partition."""

MAX_VIEWERS = 200

_THREADS = 2


class Hub:
    """For one event loop. `failed` is called in it with the error that ends the page. Raises KafkaError."""

    def __init__(
        self, settings: KafkaSettings, loop: asyncio.AbstractEventLoop, failed: Callable[[Exception], None]
    ) -> None:
        self.settings, self.loop = settings, loop
        self.viewers: set[Viewer] = set()
        self.replays: set[Replay] = set()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="page-pictures")
        self._lookups = ThreadPoolExecutor(_THREADS, thread_name_prefix="page-lookups")
        self._channels: dict[str, Channel] = {}
        self._stills: dict[str, StillChannel] = {}
        self._tiles: dict[str, TileChannel] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.closed = False

        def post(call: Callable[[], None]) -> None:
            with suppress(RuntimeError):  # the loop is closed: the page ends
                loop.call_soon_threadsafe(call)

        def failing(error: Exception) -> None:
            post(lambda: failed(error))

        self.feed = Feed(settings, failing)
        self.board = Board(settings, post, self._publish, failing)
        self.board.start()

    def close(self) -> None:
        """Waits for threads."""
        self.closed = True
        for replay in self.replays:
            replay.stop()
        for task in self._tasks:
            task.cancel()
        self._pool.shutdown(cancel_futures=True)
        self._lookups.shutdown(wait=False, cancel_futures=True)
        self.board.close()
        self.feed.close()

    def figures(self) -> dict[str, int]:
        """Current figures."""
        return {
            "viewers": len(self.viewers),
            "channels": len(self._channels) + len(self._stills),
            "tiles": len(self._tiles),
            "replays": len(self.replays),
            "streams": len(self.board.streams),
            "video_bytes": sum(viewer.outbox.video_bytes for viewer in self.viewers),
        }

    def may_replay(self) -> bool:
        return len(self.replays) < MAX_REPLAYS

    def join(self) -> Viewer | None:
        """A new browser; None if there are too many."""
        if len(self.viewers) >= MAX_VIEWERS:
            return None
        viewer = Viewer(self)
        self.viewers.add(viewer)
        viewer.outbox.text(
            {"k": "all", "now": int(time.time() * 1000), "s": [one.document() for one in self.board.streams.values()]}
        )
        return viewer

    def leave(self, viewer: Viewer) -> None:
        viewer.close()
        self.viewers.discard(viewer)

    def channel(self, stream: str) -> Channel:
        if stream not in self._channels:
            self._channels[stream] = Channel(stream, self.feed, self.loop)
        return self._channels[stream]

    def still(self, stream: str) -> StillChannel:
        if stream not in self._stills:
            self._stills[stream] = StillChannel(stream, self.feed, self.loop, self._pool)
        return self._stills[stream]

    def release(self, channel: Channel | StillChannel) -> None:
        """One viewer fewer; the last one closes the channel."""
        if channel.watchers:
            return
        channel.close()
        held: dict[str, Any] = self._channels if isinstance(channel, Channel) else self._stills
        held.pop(channel.stream, None)

    def tile(self, stream: str) -> TileChannel:
        if stream not in self._tiles:
            self._tiles[stream] = TileChannel(stream, self.feed, self.loop, self._pool, self._show_tile)
            info = self.board.streams.get(stream)
            if info is not None and time.time() * 1000 - info.seen_ms > LOOK_BACK_MS:
                self._lookups.submit(self._last_picture, stream, self._tiles[stream])
        tile = self._tiles[stream]
        tile.count += 1
        return tile

    def drop_tile(self, stream: str) -> None:
        tile = self._tiles[stream]
        tile.count -= 1
        if not tile.count:
            tile.close()
            del self._tiles[stream]

    def look_up(self, stream: str, viewer: Viewer, session: int) -> None:
        """Send a browser the time since when packets hold the stream that it watches."""

        async def send_since() -> None:
            since = await in_pool(self._lookups, oldest_ms, self.settings, stream)
            if since is not None and viewer.stream == stream:
                viewer.outbox.text({"k": "since", "n": session, "s": stream, "at": since})

        task = self.loop.create_task(send_since())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _last_picture(self, stream: str, tile: TileChannel) -> None:
        """In a thread: the last keyframe of a silent camera."""
        if self.closed or not tile.count:
            return
        with suppress(Exception), Recording(self.settings, stream, lambda: self.closed) as recording:
            if gop := recording.newest_gop():
                tile.work(gop[0])

    def _show_tile(self, stream: str, part: Part) -> None:
        for viewer in self.viewers:
            if stream in viewer.tiles:
                viewer.outbox.still(part)

    def _publish(self, stream: str, kind: str, text: str) -> None:
        for viewer in self.viewers:
            if kind != "masks" or (viewer.stream == stream and viewer.live):
                viewer.outbox.raw(text)

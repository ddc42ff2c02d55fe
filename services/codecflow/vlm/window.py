"""One stream's sliding window: its frames, and where their keys and values lie.

The live region of the buffers is contiguous: prefix, frames oldest first, then room for questions. When the window moves,
the video stays where it is, in slots and in positions; the prefix alone is moved to stand right before the first live
frame, its keys turned there from the copy that was computed at position 0. Thousands of keys never move, so nothing drifts.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from codecflow.errors import ModelError
from codecflow.vlm.cache import StreamBuffers
from codecflow.vlm.families.base import Family
from codecflow.vlm.packing import Run
from codecflow.vlm.work import Frame


@dataclass(slots=True)
class HeldFrame:
    """A frame in the window. With nothing kept it holds no tokens at all, but still counts as seen.

    `total`: tokens of the whole frame, `kept`: those that it holds, `text`: tokens of its tags. `slot`, `position`: where
    its first token stands. `positions`: (axes, tokens), relative to `position`; `span`: positions that it takes.
    `features`: (kept, levels, hidden) and `source`, the frame as it was given: held only if the refresh policy needs them.
    """

    index: int
    total: int
    text: int
    anchor: bool = False
    kept: int = 0
    ids: Tensor | None = None
    visual: Tensor | None = None
    positions: Tensor | None = None
    span: int = 0
    features: Tensor | None = None
    source: Frame | None = None
    slot: int = 0
    position: int = 0
    fresh: bool = True  # computed in the present step

    @property
    def tokens(self) -> int:
        return 0 if self.ids is None else len(self.ids)

    @property
    def held_bytes(self) -> int:
        return 0 if self.features is None else self.features.numel() * self.features.element_size()

    def run(self) -> Run:
        assert self.ids is not None
        assert self.visual is not None
        assert self.positions is not None
        return Run(self.slot, self.ids, self.visual, self.positions + self.position, self.features)


class StreamWindow:
    """See the module. `capacity`: tokens of prefix and frames; `limit`: the first position that may not be used."""

    def __init__(
        self, stream: str, family: Family, prefix: list[int], capacity: int, buffers: StreamBuffers, limit: int
    ) -> None:
        self.stream = stream
        self.family = family
        self.prefix = prefix
        self.capacity = capacity
        self.limit = limit
        self.buffers = buffers
        self.frames: list[HeldFrame] = []
        self.start = 0  # slot of the prefix
        self.slots = len(prefix)  # prefix and frames: first free slot
        self.position = len(prefix)  # of the next token
        self._prefix_keys: Tensor | None = None  # (layers, kv_heads, prefix, head_dim), as computed at position 0
        self._prefix_values: Tensor | None = None

    @property
    def live(self) -> list[HeldFrame]:
        """Frames that hold tokens."""
        return [frame for frame in self.frames if frame.tokens]

    @property
    def tokens(self) -> int:
        """Tokens of prefix and frames."""
        return self.slots - self.start

    @property
    def prefix_known(self) -> bool:
        return self._prefix_keys is not None

    def prefix_run(self) -> Run:
        return Run.of_text(self.start, self.prefix, 0, self.family.axes)

    def evict(self, first: int, room: int) -> bool:
        """Frames before slot `first` leave, and more of the oldest when `room` tokens would not fit. True: tokens left.

        Raises ModelError when `room` alone is more than this stream may hold.
        """
        held = self.frames
        keep = [frame for frame in held if frame.index >= first]
        while keep and len(self.prefix) + sum(frame.tokens for frame in keep) + room > self.capacity:
            keep.pop(0)
        if len(self.prefix) + room > self.capacity:
            raise ModelError(
                f"stream {self.stream!r}: {room} new tokens do not fit in a window of {self.capacity};"
                " allow more kv tokens a stream or shorten the stride"
            )
        self.frames = keep
        moved = any(frame.tokens for frame in held[: len(held) - len(keep)])
        if moved:
            self._follow()
        return moved

    def _follow(self) -> None:
        """Puts the prefix right before the first live frame."""
        live = self.live
        if live:
            self.start = live[0].slot - len(self.prefix)
            self._place_prefix(live[0].position - len(self.prefix))
        else:
            self.start, self.slots, self.position = 0, len(self.prefix), len(self.prefix)
            self._place_prefix(0)

    def _place_prefix(self, distance: int) -> None:
        if self._prefix_keys is None or self._prefix_values is None:
            return
        slots = slice(self.start, self.start + len(self.prefix))
        self.buffers.keys[:, :, slots] = self.family.shift(self._prefix_keys, distance)
        self.buffers.values[:, :, slots] = self._prefix_values

    def remember_prefix(self) -> None:
        """After the first forward: keeps what was computed for the prefix at position 0."""
        slots = slice(self.start, self.start + len(self.prefix))
        self._prefix_keys = self.buffers.keys[:, :, slots].clone()
        self._prefix_values = self.buffers.values[:, :, slots].clone()

    def restart(self) -> None:
        """From scratch: every frame held is to be computed again, from slot and position 0 on."""
        self.start, self.slots, self.position = 0, len(self.prefix), len(self.prefix)
        self._prefix_keys = self._prefix_values = None
        for frame in self.frames:
            frame.fresh = True
            self._place(frame)

    def make_room(self, tokens: int, span: int) -> None:
        """Before `tokens` more are written, of which the positions reach `span` further."""
        if self.slots + tokens > self.buffers.capacity:
            if self.tokens + tokens > self.buffers.capacity:
                self.buffers.grow(self.tokens + tokens, self.start, self.slots)
            else:
                self.buffers.to_front(self.start, self.slots)
            for frame in self.frames:
                frame.slot -= self.start
            self.start, self.slots = 0, self.slots - self.start
        if self.position + span > self.limit:
            self._rebase()
        if self.position + span > self.limit:
            raise ModelError(
                f"stream {self.stream!r}: its window spans {self.position + span} positions, but the model takes"
                f" {self.limit}: use a shorter window or fewer frames a second"
            )

    def _rebase(self) -> None:
        """Positions start from 0 again: every live key is turned back by the same distance, which changes no difference."""
        live = self.live
        distance = live[0].position - len(self.prefix) if live else 0
        if not distance:
            return
        slots = slice(live[0].slot, self.slots)
        for layer in self.buffers.keys:
            layer[:, slots] = self.family.shift(layer[:, slots], -distance)
        for frame in self.frames:
            frame.position -= distance
        self.position -= distance
        self._place_prefix(0)

    def take(self, frame: HeldFrame) -> None:
        """A new frame, after those held. Its keys and values are yet to be computed."""
        self.frames.append(frame)
        self._place(frame)

    def _place(self, frame: HeldFrame) -> None:
        if frame.tokens:
            frame.slot, frame.position = self.slots, self.position
            self.slots += frame.tokens
            self.position += frame.span

    @property
    def held_bytes(self) -> int:
        """Bytes that this stream takes: keys and values, and what is held for refreshing."""
        return self.buffers.nbytes + sum(frame.held_bytes for frame in self.frames)

    def check_integrity(self) -> None:
        """The bookkeeping's own invariants; for tests and for idle moments."""
        slot, position = self.start + len(self.prefix), None
        for frame in self.live:
            assert frame.slot == slot, f"{self.stream}: frame {frame.index} lies at {frame.slot}, not {slot}"
            assert position is None or frame.position == position, f"{self.stream}: positions leave a gap"
            slot, position = frame.slot + frame.tokens, frame.position + frame.span
        assert slot == self.slots, f"{self.stream}: {self.slots} slots in use, frames end at {slot}"
        assert position is None or position == self.position
        assert self.slots <= self.buffers.capacity

"""Decoding on demand: a group of pictures (GOP) is decoded only as far as needed, and not at all if nothing of it is needed.

Pictures are added in decode order and held, coded. Sampled ones are returned in presentation order, as soon as their
decoding times show that nothing that is shown earlier can still come; each is decoded when its samples are requested. The
result equals that of a decoder that decodes everything, sample for sample:

- Decoding starts at a keyframe after which nothing refers to earlier pictures (references.py). Pictures that follow a
  keyframe but are shown before it (an open GOP) are decoded from the previous keyframe, which is held until then.
- Pictures that nothing refers to are skipped, unless they are requested.
- A requested keyframe is decoded by itself. Any other picture may need some after it: a decoder that reorders outputs a
  picture only after receiving that many more.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from codecflow.messages import CodedPicture

from .decode import ShownPicture
from .pictures import DecodedPicture, PictureDecoder
from .presentation import MAX_DELAY
from .references import clean_start

MAX_BYTES = 16 << 20
"""Limit on the coded bytes of held GOPs. Longer GOPs are decoded completely as they arrive."""


@dataclass(slots=True)
class _Gop:
    """Coded pictures from a keyframe on, in decode order.

    `joined`: the previous GOP is there too, so pictures shown before the keyframe can be decoded. `fed`: how many of its
    pictures the decoder has received or skipped; `chained`: it came from the previous GOP. `leading`: more pictures shown
    before the keyframe may come. `whole`: all of its pictures are held. `lost_from`: seq of a damaged picture, from which on
    nothing can be shown. `newest`: seq of its last picture.
    """

    joined: bool
    pictures: list[CodedPicture] = field(default_factory=list)
    fed: int = 0
    chained: bool = False
    leading: bool = True
    whole: bool = True
    lost_from: int | None = None
    newest: int = -1
    bytes: int = 0

    def add(self, picture: CodedPicture) -> None:
        if self.pictures and not self.leads(picture):
            self.leading = False
        self.pictures.append(picture)
        self.newest = picture.seq
        self.bytes += len(picture.data)

    def leads(self, picture: CodedPicture) -> bool:
        """Whether `picture` is shown before the keyframe."""
        return picture.pts < self.pictures[0].pts

    def restart(self) -> None:
        self.fed, self.chained = 0, False


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A sampled picture whose turn has not come. `published`: how many pictures had arrived, including it."""

    picture: CodedPicture
    gop: _Gop
    published: int


class LazyPicture:
    """A sampled picture whose turn has come. Decode it before the next picture is pushed, or never."""

    def __init__(self, waiting: _Waiting, decoder: LazyDecoder) -> None:
        self.picture = waiting.picture
        self._waiting, self._decoder = waiting, decoder
        self._decoded: tuple[ShownPicture | None] | None = None

    @property
    def coded_size(self) -> tuple[int, int]:
        """(width, height) of the coded picture, as stated by the producer."""
        return self.picture.width, self.picture.height

    @property
    def alone(self) -> bool:
        """Whether it is decoded by itself: it starts a GOP."""
        return self._waiting.gop.pictures[0] is self.picture

    def decode(self) -> ShownPicture | None:
        """The picture; None if it, or one that it refers to, is damaged. Raises SourceError for an unknown codec."""
        if self._decoded is None:
            self._decoded = (self._decoder.decode(self._waiting),)
        return self._decoded[0]


class LazyDecoder:
    """Decodes pictures on demand from the coded pictures of one stream's epoch, given in decode order.

    `published`: pictures pushed. `decoded`: pictures that went through a decoder, repeated ones included. `lost`: pictures
    before the first keyframe or between a gap in `seq` and the next keyframe; among decoded ones, damaged pictures.
    `vectors`: export motion vectors as side data of frames.
    """

    def __init__(self, max_bytes: int = MAX_BYTES, *, vectors: bool = False, nvdec: bool = False) -> None:
        self.published = 0
        self.decoded = 0
        self._max_bytes = max_bytes
        self._unusable = 0
        self._decoder = PictureDecoder(vectors=vectors, nvdec=nvdec)
        self._gops: deque[_Gop] = deque()
        self._at: _Gop | None = None  # the GOP that the decoder is in; None: it must start with a keyframe
        self._frames: dict[int, ShownPicture] = {}  # sampled pictures that came out before they were requested
        self._waiting: dict[int, _Waiting] = {}
        self._asked_of: _Gop | None = None  # the newest GOP of which more than the keyframe was requested
        self._extra_pictures = 0  # pictures to wait for in addition to what decoding times say
        self._lag = 0  # by how much decoding times exceed presentation times, if a container has them wrong
        self._over_pts: int | None = None
        self._newest: int | None = None  # pts of the last returned picture
        self._next_seq: int | None = None
        self._open = False  # whether the newest GOP continues

    @property
    def lost(self) -> int:
        return self._unusable

    @property
    def over_pts(self) -> int | None:
        """Everything that is shown before this pts has arrived; None if unknown."""
        return self._over_pts

    @property
    def held_bytes(self) -> int:
        """Coded bytes held."""
        return sum(gop.bytes for gop in self._gops)

    def push(self, picture: CodedPicture, sampled: bool = False) -> list[LazyPicture]:
        """Add the next picture in decode order; returns the sampled ones whose turn has come, in presentation order.

        Raises SourceError for an unknown codec, if a GOP is too long to be held.
        """
        self.published += 1
        self._tidy()
        ready: list[LazyPicture] = []
        if self._next_seq is not None and picture.seq != self._next_seq:
            ready = self.flush()
        self._next_seq = picture.seq + 1
        if not self._open and not picture.keyframe:
            self._unusable += 1
            return ready
        if not self._open or clean_start(picture):
            self._gops.append(_Gop(joined=self._open))
            self._open = True
        gop = self._gops[-1]
        gop.add(picture)
        self._unusable += gop.lost_from is not None
        if picture.dts is not None:
            self._lag = max(self._lag, picture.dts - picture.pts)
            self._over_pts = picture.dts - self._lag
        if sampled and not picture.discard and (gop.joined or not gop.leads(picture)):
            self._waiting[picture.seq] = _Waiting(picture, gop, self.published)
        if not gop.whole or self.held_bytes > self._max_bytes:
            self._decode_along(gop)
        return ready + self._due(picture)

    def flush(self) -> list[LazyPicture]:
        """The sampled pictures that still wait, at the end of the epoch. Continues at a keyframe."""
        self._next_seq, self._open = None, False
        return self._take(list(self._waiting.values()))

    def decode(self, wanted: _Waiting) -> ShownPicture | None:
        """A picture that was returned, before the next one is pushed."""
        picture, gop = wanted.picture, wanted.gop
        if gop.lost_from is not None and picture.seq >= gop.lost_from:
            return None
        if picture.seq not in self._frames:
            self._go_to(picture, gop)
        if picture.seq not in self._frames:
            self._go_on(picture, gop)
        if picture is not gop.pictures[0]:
            self._asked_of = gop
        return self._frames.pop(picture.seq, None)

    def _go_to(self, picture: CodedPicture, gop: _Gop) -> None:
        """Decodes up to and including `picture`."""
        if not gop.whole:
            return
        before = self._before(gop) if gop.leads(picture) else None
        place = picture.seq - gop.pictures[0].seq  # a gap would have ended it
        in_reach = self._at is gop and place >= gop.fed and (before is None or gop.chained)
        if not in_reach:
            gop.restart()
            if before is not None:
                self._chain(before, gop, picture)
        self._feed(gop, place + 1, picture)

    def _chain(self, before: _Gop, gop: _Gop, wanted: CodedPicture) -> None:
        """Advances the decoder to the end of the GOP before `gop`, for pictures that refer to both."""
        if before.whole:
            if self._at is not before:
                before.restart()
            self._feed(before, len(before.pictures), wanted)
        gop.chained = True

    def _go_on(self, picture: CodedPicture, gop: _Gop) -> None:
        """The decoder has `picture` but holds it back: feed it more pictures, or drain it."""
        alone = picture is gop.pictures[0]
        before = self._before(gop)
        busy = self._asked_of is not None and (self._asked_of is gop or self._asked_of is before)
        if self._at is gop and gop.whole and (busy or not alone):
            while picture.seq not in self._frames and gop.fed < len(gop.pictures):
                self._feed(gop, gop.fed + 1, picture, all_of_them=True)
        # Not if the GOP could not be restarted.
        may_empty = self._at is not None and (self._at.whole or not self._open or self._at is not self._gops[-1])
        if picture.seq not in self._frames and may_empty:
            self._extra_pictures += not alone and self._open and gop is self._gops[-1]
            self._accept(self._decoder.flush(), picture)
            self._at = None

    def _feed(self, gop: _Gop, end: int, wanted: CodedPicture, *, all_of_them: bool = False) -> None:
        """Feeds the decoder the pictures of `gop` up to `end` that it has not received, skipping those that nothing refers
        to, unless `all_of_them`."""
        self._at = gop
        for picture in gop.pictures[gop.fed : end]:
            wanted_too = all_of_them or picture is wanted or picture.seq in self._waiting
            if picture.disposable and not wanted_too:
                self._decoder.skip(picture)
            else:
                self.decoded += 1
                self._accept(self._decoder.push(picture), wanted)
        gop.fed = max(gop.fed, end)

    def _accept(self, frames: list[DecodedPicture], wanted: CodedPicture | None) -> None:
        for seq, _ in self._decoder.take_lost():
            gop = next((gop for gop in reversed(self._gops) if gop.pictures[0].seq <= seq), None)
            if gop is not None and (gop.lost_from is None or seq < gop.lost_from):
                self._unusable += (gop.newest + 1 if gop.lost_from is None else gop.lost_from) - seq
                gop.lost_from = seq
        for one in frames:
            picture = one.picture
            if one.shown and (picture is wanted or picture.seq in self._waiting):
                self._frames[picture.seq] = ShownPicture(picture.seq, picture.pts, picture, one.frame)

    def _decode_along(self, gop: _Gop) -> None:
        """A GOP that is too long to be held is decoded completely as it arrives."""
        if self._at is not gop:
            gop.restart()
            before = self._before(gop)
            if before is not None and gop.leading:
                self._chain(before, gop, gop.pictures[-1])
        self._feed(gop, len(gop.pictures), gop.pictures[-1])
        gop.pictures, gop.fed, gop.bytes, gop.whole = gop.pictures[:1], 1, 0, False

    def _due(self, newest: CodedPicture) -> list[LazyPicture]:
        if not self._waiting:
            return []
        return self._take([one for one in self._waiting.values() if self._has_come(one, newest)])

    def _has_come(self, one: _Waiting, newest: CodedPicture) -> bool:
        """Whether the turn of `one` has come: no later picture in decode order is shown before it."""
        since = self.published - one.published
        if since >= MAX_DELAY:
            return True
        if not one.gop.whole and one.picture.seq not in self._frames and not self._gops[-1].whole:
            return False
        if newest.dts is None or since < self._extra_pictures:
            return False
        return newest.dts - self._lag >= one.picture.pts

    def _take(self, waiting: list[_Waiting]) -> list[LazyPicture]:
        """Returns pictures, and with each those shown before it."""
        if not waiting:
            return []
        last = max(one.picture.pts for one in waiting)
        due = sorted(
            (one for one in self._waiting.values() if one.picture.pts <= last), key=lambda one: one.picture.pts
        )
        for one in due:
            del self._waiting[one.picture.seq]
        return [LazyPicture(one, self) for one in due]

    def _tidy(self) -> None:
        """Releases what can no longer be requested."""
        self._frames = {seq: frame for seq, frame in self._frames.items() if seq in self._waiting}
        needed = {id(one.gop) for one in self._waiting.values()}
        leading = [one.gop for one in self._waiting.values() if one.gop.leads(one.picture)]
        if self._open:
            needed.add(id(self._gops[-1]))
            leading += [self._gops[-1]] if self._gops[-1].leading else []
        needed.update(id(self._before(gop)) for gop in leading)
        while self._gops and id(self._gops[0]) not in needed:
            self._gops.popleft()

    def _before(self, gop: _Gop) -> _Gop | None:
        """The previous GOP, if it is held."""
        if not gop.joined:
            return None
        previous = None
        for one in self._gops:
            if one is gop:
                return previous
            previous = one
        return None

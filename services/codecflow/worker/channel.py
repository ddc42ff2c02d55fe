"""Messages between a worker and its sampler processes: pickled, over a pair of Unix sockets.

Large payloads go into a memory file (memfd); only its descriptor is sent. So sending never waits for the reader, messages
have no size limit, and the patches of sampled frames are mapped by the receiver instead of copied. The kernel frees such a
file with its last descriptor and mapping, however the processes end. It does not count against the size of /dev/shm, which
is 64 MiB in a container. Measurements: docs/decisions/024.
"""

from __future__ import annotations

import errno
import io
import os
import pickle
import select
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import fields
from fractions import Fraction
from operator import attrgetter
from typing import Any

import torch

from codecflow.messages import CodedPicture, PictureMetadata, Signal
from codecflow.vlm.work import Frame

from .join import Joined

_INLINE = 16 << 10
"""Up to this many bytes, a message is sent over the socket itself. A socket's buffer holds several of these."""
_APART = 64 << 10
"""Buffers of at least this many bytes are mapped by the receiver, and keep their message's whole file in memory."""
_ALIGN = 64
_HEADER = struct.Struct("<BI")  # number of buffers behind the pickled bytes, length of the pickled bytes
_LENGTH = struct.Struct("<Q")


class Channel:
    """One end of a pair of connected sockets (SOCK_SEQPACKET). `send` and `receive` never block."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._socket = end
        self._unsent: deque[tuple[bytes, int | None]] = deque()

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """One end, and the socket of the other end, to be passed to another process."""
        mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(mine), theirs

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: object) -> None:
        """Queue a message; the next `flush` that can will send it."""
        self._unsent.append(_packed(message))
        self.flush()

    def flush(self) -> bool:
        """Send what can be sent; True if nothing is left. Raises EOFError when the other end is closed."""
        while self._unsent:
            data, file = self._unsent[0]
            try:
                socket.send_fds(self._socket, [data], [] if file is None else [file])
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno == errno.ETOOMANYREFS:  # too many descriptors in flight: later
                    return False
                raise EOFError from error
            self._unsent.popleft()
            if file is not None:
                os.close(file)
        return True

    def receive(self) -> Any:
        """The next message, or None. Raises EOFError when the other end is closed."""
        try:
            data, files, _, _ = socket.recv_fds(self._socket, 2 * _INLINE, 1)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return _unpacked(data, files[0] if files else None)

    def wait(self, *, to_send: bool = False) -> None:
        """Wait until there is something to receive or, with `to_send`, room for unsent messages."""
        select.select([] if to_send else [self._socket], [self._socket] if to_send else [], [])

    def close(self) -> None:
        self._socket.close()
        for _, file in self._unsent:
            if file is not None:
                os.close(file)
        self._unsent.clear()


def _packed(message: object) -> tuple[bytes, int | None]:
    """The bytes for the socket, and the descriptor of the memory file that accompanies them."""
    out, buffers = io.BytesIO(), list[memoryview]()

    def apart(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < _APART:
            return True  # stays in the pickled bytes
        buffers.append(view)
        return False

    pickler = pickle.Pickler(out, pickle.HIGHEST_PROTOCOL, buffer_callback=apart)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(message)
    pickled = out.getbuffer()
    header = _HEADER.pack(len(buffers), len(pickled)) + b"".join(_LENGTH.pack(one.nbytes) for one in buffers)
    if len(header) + len(pickled) <= _INLINE and not buffers:
        return header + pickled, None
    parts: list[bytes | memoryview] = [pickled]
    for one in buffers:
        parts += [bytes(-sum(map(len, parts)) % _ALIGN), one]
    file = os.memfd_create("codecflow-message")
    try:
        _write(file, parts)
    except OSError:
        os.close(file)
        raise
    return header, file


def _write(file: int, parts: list[bytes | memoryview]) -> None:
    for part in parts:
        view = memoryview(part)
        while view:
            view = view[os.write(file, view) :]


def _unpacked(data: bytes, file: int | None) -> Any:
    count, length = _HEADER.unpack_from(data)
    lengths = [_LENGTH.unpack_from(data, _HEADER.size + number * _LENGTH.size)[0] for number in range(count)]
    if file is None:
        return pickle.loads(memoryview(data)[_HEADER.size :])
    try:
        # Not mmap.mmap: it keeps a descriptor, and windows of hundreds of streams may be waiting.
        path, size = f"/proc/self/fd/{file}", os.fstat(file).st_size
        content = torch.from_file(path, shared=True, size=size, dtype=torch.uint8)
    finally:
        os.close(file)
    view, end, buffers = memoryview(content.numpy()), length, []  # type: ignore[arg-type]  # arrays are buffers
    for nbytes in lengths:
        begin = end + -end % _ALIGN
        end = begin + nbytes
        buffers.append(view[begin:end])
    return pickle.loads(view[:length], buffers=buffers)


_picture_values = attrgetter(*(field.name for field in fields(CodedPicture)))
_metadata_values = attrgetter(*(field.name for field in fields(PictureMetadata)))
_signal_values = attrgetter(*(field.name for field in fields(Signal)))
_frame_values = attrgetter(*(field.name for field in fields(Frame)))


def _joined(
    picture: tuple[Any, ...] | None, metadata: tuple[Any, ...] | None, epoch: int, seq: int, *offsets: int
) -> Joined:
    return Joined(
        epoch,
        seq,
        None if picture is None else CodedPicture(*picture),
        None if metadata is None else PictureMetadata(*metadata),
        *offsets,
    )


def _reduced_joined(one: Joined) -> tuple[Any, ...]:
    """Three times as fast as pickle's default: there is one of these per coded picture."""
    picture, metadata = one.picture, one.metadata
    return _joined, (
        None if picture is None else _picture_values(picture),
        None if metadata is None else _metadata_values(metadata),
        one.epoch,
        one.seq,
        one.packets_offset,
        one.metadata_offset,
    )


_REDUCERS: dict[type, Callable[[Any], Any]] = {
    Joined: _reduced_joined,
    Signal: lambda one: (Signal, _signal_values(one)),
    Frame: lambda one: (Frame, _frame_values(one)),
    Fraction: lambda one: (Fraction, (one.numerator, one.denominator)),
}

"""Outliving abort() in one thread. FFmpeg calls it when one of its assertions fails, and damaged data can cause that.

abort() sends SIGABRT to its own thread, and ends the process once the handler has returned. Python's handlers only set a
flag and return, so this one is installed with C's signal(): it reports the abort and never returns, which gives up the
thread. The thread keeps what it holds: memory, and a camera's connection.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

_installing = threading.Lock()
_reports: dict[int, Callable[[], object]] = {}
"""By thread: what to call if it aborts."""


@contextmanager
def aborts_reported(report: Callable[[], object]) -> Iterator[None]:
    """If this thread calls abort() within the context, `report` is called, and the thread does not go on.

    Not for code that holds a lock which others need. An abort of another thread, and SIGABRT from outside, end the process
    as ever.
    """
    with _installing:
        _former_handler()
    thread = threading.get_ident()
    _reports[thread] = report
    try:
        yield
    finally:
        del _reports[thread]


def _on_abort(number: int) -> None:
    report = _reports.get(threading.get_ident())
    if report is None:
        _set_handler(_former_handler())
        os.kill(os.getpid(), signal.SIGABRT)  # delivered when this handler returns
        return
    report()
    threading.Event().wait()


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)(_on_abort)


@cache
def _former_handler() -> int | None:
    """Installs the handler, once. Returns the address of the one before: the default, or faulthandler's."""
    return _set_handler(ctypes.cast(_HANDLER, ctypes.c_void_p).value)


def _set_handler(address: int | None) -> int | None:
    set_handler = ctypes.CDLL(None).signal
    set_handler.argtypes, set_handler.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    former: int | None = set_handler(signal.SIGABRT, address)
    return former

"""Entry point of the `codecflow` script and `python -m codecflow`. It imports almost nothing before it handles Ctrl-C and
SIGTERM, so that they end a command quietly from the first milliseconds."""

from __future__ import annotations

import gc
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:  # without importing typing
    from types import FrameType


def main() -> None:
    """Import the command line, then run it."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:  # not if a shell's background job ignores it
        signal.signal(signal.SIGINT, _quit)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Linux drops signals without a handler for the first process of a container. Services replace this one.
        signal.signal(signal.SIGTERM, _quit)
    # torch and transformers create a million objects that stay. Scanning them for every 700 new ones, as the collector
    # does, takes a quarter of their import time.
    gc.set_threshold(10_000)
    from codecflow.cli.app import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _quit(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)  # nothing has been started


if __name__ == "__main__":
    main()

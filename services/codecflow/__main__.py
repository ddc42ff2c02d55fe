"""Where the `codecflow` script and `python -m codecflow` begin. It imports almost nothing before it minds Ctrl-C, so that
this ends a command quietly from its first milliseconds on."""

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
    if interruptible:  # not where a shell's background job ignores it
        signal.signal(signal.SIGINT, _quit)
    # torch and transformers make a million objects that stay. To look through them again and again, as the collector does
    # every 700 new ones, takes a quarter of the time of their import.
    gc.set_threshold(10_000)
    from codecflow.cli.app import main as run

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


def _quit(number: int, frame: FrameType | None) -> None:
    os._exit(130)  # nothing was begun


if __name__ == "__main__":
    main()

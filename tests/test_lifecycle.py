"""The first signal requests a stop, the second ends the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from codecflow.lifecycle import GracefulStop


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_former_handler_comes_back(number: signal.Signals) -> None:
    former = signal.getsignal(number)
    with GracefulStop() as stop:
        assert not stop.requested
        threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
        assert stop.wait(120)
        assert stop.requested
    assert signal.getsignal(number) is former


def test_the_second_signal_ends_the_process_at_once() -> None:
    code = (
        "from codecflow.lifecycle import GracefulStop\n"
        "import time\n"
        "with GracefulStop() as stop:\n"
        "    print('ready', flush=True)\n"
        "    while not stop.requested: time.sleep(0.01)\n"
        "    print('asked', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGTERM)  # the same signal, sent to the group as well
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 128 + signal.SIGTERM

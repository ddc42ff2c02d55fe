"""A headless Chromium, driven by its DevTools protocol over a WebSocket."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")
HOW = (
    "no Chromium is installed: apt-get install chromium-headless-shell (Debian), or CODECFLOW_CHROMIUM=/path/to/one that "
    "plays H.264"
)


def find() -> str:
    """The browser's program. Skips the test if there is none, except in CI, which must have one."""
    found = os.environ.get("CODECFLOW_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(HOW)
        pytest.skip(HOW)
    return found


class Browser:
    """One browser with one page. `errors`: errors in the page, and what its policy refused."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.errors: list[str] = []
        self._number = 0
        self._stack = ExitStack()
        port_file = folder / "DevToolsActivePort"
        self._process = subprocess.Popen(
            [
                find(),
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--mute-audio",
                "--autoplay-policy=no-user-gesture-required",
                "--remote-debugging-port=0",
                f"--user-data-dir={folder}",
                "--window-size=1400,1000",
                *options,
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            address = self._page_address(port_file)
            self._socket = self._stack.enter_context(
                connect(address, max_size=None, open_timeout=60, ping_interval=None)
            )
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def _page_address(self, port_file: Path) -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the browser ended"
            if port_file.exists() and (words := port_file.read_text().split()):
                with urllib.request.urlopen(f"http://127.0.0.1:{words[0]}/json", timeout=120) as answer:
                    pages = [target for target in json.load(answer) if target["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            time.sleep(0.05)
        raise AssertionError("the browser did not start")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a protocol command; returns its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                result: dict[str, Any] = answer["result"]
                return result
            self._hear(answer)

    def _hear(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif event.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            entry = parameters["entry"]
            self.errors.append(f"{entry['text']} {entry.get('url', '')}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def go(self, address: str) -> None:
        self.call("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """The value of an expression, or of its promise."""
        result = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def until(self, script: str, what: str = "", within_s: float = 60.0) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                if value := self.run(script):
                    return value
            except AssertionError as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{what or script}: {error}") from error
            assert time.monotonic() < deadline, f"not within {within_s:g} s: {what or script}; errors {self.errors}"
            time.sleep(0.1)

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Ends it."""
        with suppress(ConnectionClosed, OSError):
            self._stack.close()
        # Debian's command is a script that starts the browser, which starts processes: all of them must end.
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)

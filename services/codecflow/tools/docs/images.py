"""Pictures of commands for the how-to guides, from a real run of the bundled clip.

`python -m codecflow.tools.docs.images` writes them to docs/images/. It takes a few minutes, and a Chromium for the e-mail.
"""

from __future__ import annotations

import base64
import email
import html
import io
import os
import re
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from email.policy import default
from pathlib import Path
from typing import cast

from rich.console import Console
from rich.text import Text

from codecflow.localkafka.daemon import LocalKafka
from codecflow.tools.demo.children import Children

from . import ROOT

CLIP = ROOT / "tests" / "data" / "intel_one-by-one-person-detection.mp4"
IMAGES = ROOT / "docs" / "images"
COLUMNS = 128
_EVENTS = 6
_QUESTION = ("ask", "corridor", "Is a person in view?", "--yes-no", "--id", "person")
_RULE = "yes>=0.8,below=0.5,windows=2/3"
_CONFIG = """\
evidence = "{evidence}"

[[apprise]]
name = "mail"
url = "mailto://127.0.0.1:{port}?mode=insecure&from=cameras@example.org&to=guard@example.org"
text = "$stream: $change: $question $label ($reason), $time"
picture = true
"""


class MailServer(socketserver.ThreadingTCPServer):
    """Accepts mails. `mails`: their sources."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.mails: list[bytes] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Session(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self._reply("220 ready")
        while line := self.rfile.readline():
            command = line[:4].upper()
            if command == b"DATA":
                self._reply("354 go on")
                lines = iter(self.rfile.readline, b".\r\n")
                cast(MailServer, self.server).mails.append(b"".join(one.removeprefix(b".") for one in lines))
            self._reply("221 closing" if command == b"QUIT" else "250 ok")

    def _reply(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())


def terminal(commands: list[tuple[str, str]], path: Path, title: str) -> None:
    """Draws commands with their output, which may contain colours, as a terminal."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), highlight=False)
    for number, (command, output) in enumerate(commands):
        console.print(Text("\n" * bool(number) + "$ ", style="bold green") + Text(command, style="bold"))
        console.print(Text.from_ansi(output.rstrip()))
    svg = console.export_svg(title=title, unique_id="terminal")
    # Fonts of other hosts are not loaded in an image anyway.
    path.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL))


def mail_page(mail: bytes) -> str:
    """A mail as a reader shows it."""
    message = email.message_from_bytes(mail, policy=default)
    body = message.get_body(("plain", "html"))
    text = "" if body is None else re.sub(r"<[^>]+>", "", body.get_content()).strip()
    pictures = [part.get_payload(decode=True) for part in message.walk() if part.get_content_maintype() == "image"]
    shown = "".join(
        f'<img src="data:image/jpeg;base64,{base64.b64encode(cast(bytes, one)).decode()}">' for one in pictures
    )
    heads = "".join(f"<tr><th>{name}<td>{html.escape(str(message[name]))}" for name in ("From", "To", "Subject"))
    return (
        "<!doctype html><meta charset=utf-8><style>body{margin:24px;font:16px/1.5 sans-serif;color:#222}table{color:#555}"
        "th{text-align:left;padding-right:1em;font-weight:600}img{max-width:100%;border-radius:6px}p{margin:1em 0}"
        f"</style><table>{heads}</table><hr><p>{html.escape(text)}</p>{shown}"
    )


def screenshot(page: str, path: Path, size: str) -> None:
    browser = os.environ.get("CODECFLOW_CHROMIUM") or shutil.which("chromium-headless-shell") or "chromium"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "page.html").write_text(page)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--window-size={size}"]
        subprocess.run([browser, *options, f"--screenshot={path}", f"file://{folder}/page.html"], check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, LocalKafka() as broker:
        folder, mails = Path(name), MailServer()
        environment = {"CODECFLOW_BOOTSTRAP_SERVERS": broker.bootstrap_servers}
        shown = {**os.environ, **environment, "COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}

        def run(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "codecflow", *command], capture_output=True, text=True, check=True, env=shown
            )
            return done.stdout

        config = folder / "notify.toml"
        config.write_text(_CONFIG.format(evidence=folder / "evidence", port=mails.server_address[1]))
        run("topics", "create")
        question = run(*_QUESTION, "--event", _RULE)
        run("ask", "corridor", "What is to be seen?", "--id", "scene", "--max-tokens", "8")
        with Children(folder, environment) as services:
            services.start("recorder", str(folder / "evidence"))
            services.start("notify", str(config))
            time.sleep(10)  # a new sink starts with future events
            services.start("produce", str(CLIP), "--stream", "corridor", "--fast")
            run("worker", "--model", "codecflow-tiny", "--window", "8", "--stride", "4", "--until-end")
            deadline = time.monotonic() + 120
            while len(mails.mails) < _EVENTS and time.monotonic() < deadline:
                time.sleep(1)
            services.check()
        ask = f"codecflow {_QUESTION[0]} {_QUESTION[1]} {_QUESTION[2]!r} {' '.join(_QUESTION[3:])} --event {_RULE!r}"
        follow = run("events", "--from-beginning", "--timeout", "5")
        terminal([(ask, question), ("codecflow events --from-beginning", follow)], IMAGES / "events.svg", "events")
        history = ("history", "corridor", "--question", "person", "--changes")
        table = run("history", "corridor", "--events")
        terminal(
            [
                (f"codecflow {' '.join(history)}", run(*history)),
                ("codecflow history corridor --events", table),
            ],
            IMAGES / "history.svg",
            "history",
        )
        screenshot(mail_page(mails.mails[0]), IMAGES / "notification.png", "820,660")


if __name__ == "__main__":
    main()
